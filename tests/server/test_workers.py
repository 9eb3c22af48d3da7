"""Several worker processes over one ledger, as behind one address: a call may go on in another one, and is paid once.

Each worker listens on an address of its own too, so that a test says which one a request reaches.
"""

import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ElicitResult, InputRequiredResult

from payre_mcp.clock import US_PER_S, ManualClock, SystemClock
from payre_mcp.connection import open_ledger
from payre_mcp.dev.web import listen, origin
from payre_mcp.ledger.model import Kind
from payre_mcp.ledger.writer import HOLD_LIFE_US
from tests.fakes import PATIENCE_S, ROOT, Funded, fund, journal_of, open_holds_of
from tests.server.conftest import code_of, meta_of, text_of

PRICE, BALANCE = 5_000, 1_000_000
MODERN: Any = "2026-07-28"
PAGE = "http://127.0.0.1:8402/top-ups"

WORKER = """
import os, socket, sys

import anyio
import uvicorn
from mcp.server.mcpserver import Context, RequestStateSecurity
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from payre_mcp import PaidMCPServer, Payre
from payre_mcp.connection import open_ledger

url, page, keys, *ports = sys.argv[1:]
security = RequestStateSecurity(keys=keys.split(",")) if keys else None
payre = Payre(gateway=open_ledger(url, top_up_page=page).gateway)
server = PaidMCPServer("shop", payre=payre, request_state_security=security, log_level="WARNING")

def question(name, state):
    schema = {"type": "object", "properties": {name: {"type": "string"}}}
    params = ElicitRequestFormParams(message=f"Which {name}?", requested_schema=schema)
    return InputRequiredResult(input_requests={name: ElicitRequest(params=params)}, request_state=state)

@server.tool(price="0.005")
async def ask(ctx: Context) -> str | InputRequiredResult:
    number = int(ctx.request_state or 0)
    return f"asked {number} times by {os.getpid()}" if number >= 3 else question("city", str(number + 1))

@server.tool(price="0.005")
async def work(door: int) -> str:
    "Call the test from inside, and wait for its word."
    async with await anyio.connect_tcp("127.0.0.1", door) as line:
        await line.send(b"inside")
        await line.receive()
    return f"worked in {os.getpid()}"

@server.tool(price="0.005")
async def who() -> str:
    return f"answered by {os.getpid()}"

listeners = [socket.socket(fileno=int(number)) for number in ports]
app = server.streamable_http_app()
uvicorn.Server(uvicorn.Config(app, http="h11", log_level="info")).run(sockets=listeners)
"""


class Worker(NamedTuple):
    """A process that serves, and its own address."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def name(self) -> str:
        """How its tools call it."""
        return str(self.process.pid)


class House:
    """A ledger in a file and processes that sell over it: two of one seal behind one address, and one of another seal."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path, self._stack = path, stack
        self._script = path.with_name("worker.py")
        self._script.write_text(WORKER)
        self._shared = stack.enter_context(closing(listen()))
        self.address = origin(self._shared)
        self.connection = stack.enter_context(closing(open_ledger(f"sqlite:///{path}", top_up_page=PAGE)))
        self.first, self.second = self.start("k" * 32), self.start("k" * 32)

    def start(self, key: str = "") -> Worker:
        """One more worker, behind the shared address if it has the shared key. Connections queue until it serves."""
        with closing(listen()) as own:
            listeners = [own, self._shared] if key else [own]
            numbers = [each.fileno() for each in listeners]
            command = [sys.executable, "-B", str(self._script), f"sqlite:///{self.path}", PAGE, key, *map(str, numbers)]
            env = {"PYTHONPATH": str(ROOT)}
            process = subprocess.Popen(command, pass_fds=numbers, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self._stack.callback(process.wait, PATIENCE_S)
            self._stack.callback(process.kill)
            return Worker(process, origin(own))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(tmp_path_factory.mktemp("house") / "payre.db", stack)


@dataclass
class Till:
    """A consumer of the house, and what their calls left."""

    house: House
    consumer: Funded
    owned: int

    def journal(self) -> list[str]:
        """What calls wrote, by kind."""
        rows = [row for row in journal_of(self.house.path) if row.consumer_id == self.consumer.id and row.kind != Kind.TOP_UP]
        return sorted(Kind(row.kind).name for row in rows)

    def pass_a_holds_life(self) -> None:
        """As if it were that much later."""
        ahead = ManualClock(SystemClock().now_us() + HOLD_LIFE_US + US_PER_S)
        with closing(open_ledger(f"sqlite:///{self.house.path}", clock=ahead)) as connection:
            connection.ledger.writer.sweep()

    def spent(self) -> int:
        """Micros that left the account; fails if money is still held after every hold's life, or the audit finds fault."""
        self.pass_a_holds_life()
        account, report = self.consumer.account(), self.house.connection.audit()
        held = [hold for hold in open_holds_of(self.house.path).values() if hold.consumer_id == self.consumer.id]
        assert (report.violations, account.held_micros, held) == ([], 0, [])
        return self.owned - account.balance_micros

    @asynccontextmanager
    async def client(self, url: str, **options: Any) -> AsyncGenerator[Client]:
        """A client that pays, with a connection of its own for each request."""
        limits = httpx2.Limits(max_keepalive_connections=0)
        headers = {"X-Payre-Key": self.consumer.key.text}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S * 2, limits=limits) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=MODERN, **options) as client,
        ):
            yield client

    async def round(self, worker: Worker, before: InputRequiredResult | None = None, **meta: Any) -> Any:
        """One round of `ask` at this worker, that answers `before`."""
        async with self.client(worker.url) as client:
            return await one_round(client, before, **meta)


CITY = ElicitResult(action="accept", content={"city": "Oslo"})


async def one_round(client: Client, before: InputRequiredResult | None, **meta: Any) -> Any:
    """A round of `ask`, the first one or the one that answers `before`."""
    answers: Any = dict.fromkeys(before.input_requests or {}, CITY) if before else None
    return await client.session.call_tool(
        "ask", {}, meta=marks(meta), allow_input_required=True,
        input_responses=answers, request_state=before.request_state if before else None,
    )  # fmt: skip


def marks(meta: dict[str, Any]) -> Any:
    """The `_meta` of a call, from names with underscores."""
    return {f"dev.payre/{name.replace('_', '-')}": value for name, value in meta.items()} or None


@pytest.fixture
def till(house: House) -> Till:
    return Till(house, fund(house.connection.ledger, BALANCE), BALANCE)


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is; the clients need no other."""
    return "asyncio"


async def asked(till: Till, *workers: Worker, before: InputRequiredResult | None = None, **meta: Any) -> Any:
    """Rounds of one call, one at each of these workers; the last answer."""
    for worker in workers:
        before = await till.round(worker, before, **meta)
    return before


# Rounds.


@pytest.mark.parametrize("meta", [{}, {"idempotency_key": "one"}], ids=["without a key", "with a key"])
async def test_a_call_whose_rounds_reach_different_workers_keeps_one_hold_and_is_charged_once(
    till: Till, meta: dict[str, Any]
) -> None:
    """mcp-seam.md section 14: the same keys and the same server name."""
    one, two = till.house.first, till.house.second
    with anyio.fail_after(PATIENCE_S * 2):
        result = await asked(till, one, two, one, two, **meta)
    assert text_of(result) == f"asked 3 times by {two.name}"
    assert till.journal() == ["CAPTURE", "HOLD"]
    assert till.spent() == PRICE


async def test_a_state_that_was_used_at_one_worker_is_a_new_call_at_the_other(till: Till) -> None:
    one, two = till.house.first, till.house.second
    before = await asked(till, one, two, one)
    first, again = await till.round(two, before), await till.round(one, before)
    assert meta_of(first)["dev.payre/receipt"] != meta_of(again)["dev.payre/receipt"]
    assert till.journal() == ["CAPTURE", "CAPTURE", "HOLD", "HOLD"]
    assert till.spent() == 2 * PRICE


@pytest.mark.parametrize(("meta", "charges"), [({}, 2), ({"idempotency_key": "one"}, 1)], ids=["without a key", "with a key"])
async def test_a_round_that_is_answered_to_both_workers_at_once_never_runs_twice_on_one_hold(
    till: Till, meta: dict[str, Any], charges: int
) -> None:
    one, two = till.house.first, till.house.second
    before = await asked(till, one, two, one, **meta)
    results: list[CallToolResult] = []

    async def answer(worker: Worker) -> None:
        results.append(await till.round(worker, before, **meta))

    with anyio.fail_after(PATIENCE_S * 2):
        async with anyio.create_task_group() as tasks:
            for worker in (one, two):
                tasks.start_soon(answer, worker)
    assert len({meta_of(each)["dev.payre/receipt"] for each in results}) == charges
    assert till.journal().count("CAPTURE") == charges
    assert till.spent() == charges * PRICE


async def test_with_the_default_seal_another_workers_state_is_refused_and_its_hold_expires(till: Till) -> None:
    stranger = till.house.start()
    with anyio.fail_after(PATIENCE_S * 2):
        before = await till.round(stranger)
        async with till.client(till.house.first.url) as client:
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await one_round(client, before)
    assert till.journal() == ["HOLD"]
    assert till.spent() == 0
    assert till.journal() == ["EXPIRE", "HOLD"]


async def test_the_rounds_of_a_worker_that_was_killed_go_on_in_another_one(till: Till) -> None:
    mortal = till.house.start("k" * 32)
    with anyio.fail_after(PATIENCE_S * 2):
        before = await asked(till, mortal, till.house.first, mortal)
        mortal.process.kill()
        result = await till.round(till.house.second, before)
    assert text_of(result) == f"asked 3 times by {till.house.second.name}"
    assert till.journal() == ["CAPTURE", "HOLD"]
    assert till.spent() == PRICE


# Duplicates.


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """Where the tool `work` calls from inside."""
    with closing(socket.create_server(("127.0.0.1", 0))) as door:
        door.settimeout(PATIENCE_S)
        yield door


async def worked(till: Till, worker: Worker, door: socket.socket, into: list[CallToolResult]) -> None:
    async with till.client(worker.url) as client:
        arguments = {"door": door.getsockname()[1]}
        into.append(await client.call_tool("work", arguments, meta=marks({"idempotency_key": "one"})))


async def test_duplicates_at_both_workers_at_once_run_once_and_get_one_answer(till: Till, door: socket.socket) -> None:
    results: list[CallToolResult] = []
    with anyio.fail_after(PATIENCE_S * 2):
        async with anyio.create_task_group() as tasks:
            for worker in (till.house.first, till.house.second) * 4:
                tasks.start_soon(worked, till, worker, door, results)
            line, _ = await anyio.to_thread.run_sync(door.accept)
            with line:
                line.send(b"!")
    assert len({text_of(each) for each in results}) == 1
    assert sum("dev.payre/replayed" in meta_of(each) for each in results) == 7
    door.setblocking(False)
    with pytest.raises(BlockingIOError):
        door.accept()
    assert till.spent() == PRICE


async def test_a_call_in_flight_at_one_worker_is_in_progress_at_the_other(till: Till, door: socket.socket) -> None:
    first, second = list[CallToolResult](), list[CallToolResult]()
    with anyio.fail_after(PATIENCE_S * 2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worked, till, till.house.first, door, first)
            line, _ = await anyio.to_thread.run_sync(door.accept)
            with line:
                await worked(till, till.house.second, door, second)
                assert code_of(second.pop()) == "in_progress"
                line.send(b"!")
        await worked(till, till.house.second, door, second)
    assert text_of(first[0]) == text_of(second[0]) == f"worked in {till.house.first.name}"
    assert meta_of(second[0])["dev.payre/replayed"] is True
    assert till.spent() == PRICE


async def test_the_key_of_a_call_whose_worker_was_killed_is_free_when_its_hold_expires(till: Till, door: socket.socket) -> None:
    mortal, results = till.house.start(), list[CallToolResult]()
    with anyio.fail_after(PATIENCE_S * 3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worked, till, mortal, door, results)
            line, _ = await anyio.to_thread.run_sync(door.accept)
            with line:
                mortal.process.kill()
                line.recv(1)
            tasks.cancel_scope.cancel()
        await worked(till, till.house.first, door, results)
        assert code_of(results.pop()) == "in_progress"
        till.pass_a_holds_life()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worked, till, till.house.first, door, results)
            line, _ = await anyio.to_thread.run_sync(door.accept)
            with line:
                line.send(b"!")
    assert text_of(results[0]) == f"worked in {till.house.first.name}"
    assert till.journal() == ["CAPTURE", "EXPIRE", "HOLD", "HOLD"]
    assert till.spent() == PRICE


# Adding money.


async def test_a_question_that_one_worker_asked_is_answered_to_the_other(house: House) -> None:
    till = Till(house, fund(house.connection.ledger, 1_000), 1_000)

    async def declares_links(context: Any, params: Any) -> ElicitResult:
        raise AssertionError("this test answers by itself")

    async def who(worker: Worker, **more: Any) -> Any:
        async with till.client(worker.url, elicitation_callback=declares_links) as client:
            return await client.session.call_tool("who", {}, allow_input_required=True, **more)

    with anyio.fail_after(PATIENCE_S * 2):
        question = await who(house.first)
        (asks,) = question.input_requests.values()
        await house.connection.top_ups.pay_test_top_up(asks.params.url.rpartition("/")[2])
        answers = {name: ElicitResult(action="accept") for name in question.input_requests}
        result = await who(house.second, request_state=question.request_state, input_responses=answers)
    assert text_of(result) == f"answered by {house.second.name}"
    assert till.journal() == ["CAPTURE", "HOLD"]
    till.owned += 5_000_000
    assert till.spent() == PRICE


# One address.


async def test_behind_one_address_every_call_is_paid_once_whoever_takes_its_rounds(till: Till) -> None:
    """Which worker takes a connection is the kernel's choice, so calls go on until both have taken some."""

    async def answer(context: Any, params: Any) -> ElicitResult:
        return CITY

    names, calls = set[str](), 0
    async with till.client(till.house.address, elicitation_callback=answer) as client:
        with anyio.fail_after(PATIENCE_S * 2):
            while len(names) < 2:
                async with anyio.create_task_group() as tasks:
                    for _ in range(8):
                        tasks.start_soon(client.call_tool, "ask")
                names.add(text_of(await client.call_tool("ask")))
                calls += 9
    assert till.journal() == ["CAPTURE"] * calls + ["HOLD"] * calls
    assert till.spent() == calls * PRICE
