"""Faults in the middle of a call: the ledger fails at any step, the clock steps, and states and answers that make no sense.

Nothing runs unpaid, nothing is charged twice, and no money is held for longer than its hold's life.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client, MCPError
from mcp.server.mcpserver import Context, RequestStateSecurity
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ElicitRequestURLParams, ElicitResult, InputRequiredResult

from payre_mcp import PaidMCPServer, Price, report_usage
from payre_mcp.clock import US_PER_S, ManualClock
from payre_mcp.connection import open_ledger
from payre_mcp.ledger.lanes import LedgerWriter
from payre_mcp.ledger.model import Kind
from payre_mcp.ledger.state import Decision
from payre_mcp.ledger.store import StoreBusy, StoreUnavailable
from payre_mcp.ledger.writer import HOLD_LIFE_US, Writer
from tests.fakes import PATIENCE_S, Gate, ScriptedStore, counters_in, file_of, finish, fund, start_python
from tests.server.conftest import Shop, code_of, facts_of, meta_of, text_of
from tests.server.test_rounds import MODERN, Asker, answers, asking, first_round, next_round, question

PRICE = 5_000
SHARED = RequestStateSecurity(keys=["k" * 32])


def scripted(writer: LedgerWriter) -> ScriptedStore:
    """Put a store that the test may break between a writer and its database."""
    assert isinstance(writer, Writer)
    writer._store = store = ScriptedStore(writer._store)  # pyright: ignore[reportPrivateUsage]
    return store


@pytest.fixture
def store(shop: Shop) -> ScriptedStore:
    """The database of the shop's ledger, which the test may break."""
    return scripted(shop.connection.ledger.writer)


async def end_of_life(shop: Shop, clock: ManualClock) -> None:
    """As if every hold's life were over."""
    clock.advance(HOLD_LIFE_US / US_PER_S + 1)
    await sweep(shop)


async def sweep(shop: Shop) -> None:
    """Do what the ledger does every few seconds."""
    await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)


# The database fails at a step.


def writes(kind: Kind) -> Callable[[Decision], bool]:
    """Whether a decision has a row of this kind."""
    return lambda decision: any(row.kind == kind for row in decision.transfers)


def extends(decision: Decision) -> bool:
    """Whether a decision moves the end of a hold."""
    return bool(decision.extended)


class Trouble:
    """Breaks the first commit that does a thing: before it is written, or after, so that its writer never hears of it."""

    def __init__(self, store: ScriptedStore, error: Exception, does: Callable[[Decision], bool], *, after: bool) -> None:
        self._store, self._error, self._does, self.struck = store, error, does, False
        store.on_apply, store.after_commit = (_nothing, self._after) if after else (self._strike, _pass)

    def _after(self) -> None:
        self._strike(self._store.committed[-1])

    def _strike(self, decision: Decision) -> None:
        if not self.struck and self._does(decision):
            self.struck = True
            raise self._error


def _nothing(decision: Decision) -> None:
    pass


def _pass() -> None:
    pass


HOLD, CAPTURE, VOID = writes(Kind.HOLD), writes(Kind.CAPTURE), writes(Kind.VOID)
STEPS: list[Any] = [
    pytest.param(HOLD, False, ["HOLD", "CAPTURE"], id="authorize"),
    pytest.param(HOLD, True, ["HOLD", "HOLD", "CAPTURE", "EXPIRE"], id="authorize, unseen"),
    pytest.param(extends, False, ["HOLD", "VOID", "HOLD", "CAPTURE"], id="suspend"),
    pytest.param(extends, True, ["HOLD", "VOID", "HOLD", "CAPTURE"], id="suspend, unseen"),
    pytest.param(CAPTURE, False, ["HOLD", "CAPTURE"], id="capture"),
    pytest.param(CAPTURE, True, ["HOLD", "CAPTURE"], id="capture, unseen"),
]
"""Where a call of two rounds is struck, whether the commit went through all the same, and what is in the journal then."""


class Slow(Asker):
    """Takes so long that its hold's end has to move before it may wait for its caller."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    async def ask(self, ctx: Context) -> str | InputRequiredResult:
        self._clock.advance(300)
        return await super().ask(ctx)


@pytest.mark.parametrize(("does", "after", "journal"), STEPS)
async def test_a_call_whose_database_fails_once_is_paid_once(
    shop: Shop, store: ScriptedStore, clock: ManualClock, does: Any, after: bool, journal: list[str]
) -> None:
    asker = Slow(clock=clock)
    async with Client(asking(shop, asker), mode=MODERN, elicitation_callback=answers) as client:
        trouble = Trouble(store, StoreUnavailable("no disk"), does, after=after)
        result = await client.call_tool("ask", {}, meta=shop.meta())
        if does is HOLD:
            assert (code_of(result), asker.seen) == ("payre_unavailable", [])
            result = await client.call_tool("ask", {}, meta=shop.meta())
    assert text_of(result) == "asked 1 times"
    assert meta_of(result).get("dev.payre/settlement") == ("pending" if does is CAPTURE else None)
    assert trouble.struck
    await end_of_life(shop, clock)
    assert shop.journal() == journal
    assert shop.spent() == PRICE


@pytest.mark.parametrize("after", [False, True])
async def test_a_round_whose_hold_cannot_be_taken_up_again_does_not_run_and_may_be_tried_again(
    shop: Shop, store: ScriptedStore, clock: ManualClock, after: bool
) -> None:
    """Where the commit went through unseen, nobody knows whose the hold is: the next try has one of its own."""
    asker = Asker()
    async with Client(asking(shop, asker), mode=MODERN) as client:
        before = await first_round(client, shop)
        Trouble(store, StoreUnavailable("no disk"), extends, after=after)
        assert code_of(await next_round(client, shop, before)) == "payre_unavailable"
        assert len(asker.seen) == 1
        assert text_of(await next_round(client, shop, before)) == "asked 1 times"
    await end_of_life(shop, clock)
    assert shop.journal() == (["HOLD", "HOLD", "CAPTURE", "EXPIRE"] if after else ["HOLD", "CAPTURE"])
    assert shop.spent() == PRICE


async def test_a_hold_that_cannot_be_given_back_is_given_back_at_the_next_sweep(shop: Shop, store: ScriptedStore) -> None:
    async def fails(city: str) -> str:
        raise ToolError("no")

    async with Client(shop.server(fails)) as client:
        Trouble(store, StoreUnavailable("no disk"), VOID, after=False)
        assert (await shop.call(client, "fails")).is_error
    assert shop.journal() == ["HOLD"]
    await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)
    assert shop.journal() == ["HOLD", "VOID"]
    assert shop.spent() == 0


@pytest.mark.parametrize("does", [HOLD, extends, CAPTURE])
async def test_another_process_that_has_the_database_for_a_moment_is_not_noticed(
    shop: Shop, store: ScriptedStore, does: Any
) -> None:
    async with Client(asking(shop, Asker()), mode=MODERN, elicitation_callback=answers) as client:
        Trouble(store, StoreBusy("locked"), does, after=False)
        result = await client.call_tool("ask", {}, meta=shop.meta())
    assert shop.receipt(result).amount_micros == PRICE
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


async def test_a_call_that_waits_behind_its_key_is_refused_when_the_database_fails_and_the_first_one_is_paid(
    shop: Shop, store: ScriptedStore
) -> None:
    inside, release, runs = anyio.Event(), anyio.Event(), list[str]()

    async def work(city: str) -> str:
        runs.append(city)
        inside.set()
        await release.wait()
        return city

    results: dict[str, CallToolResult] = {}

    async def call(name: str) -> None:
        results[name] = await shop.call(client, "work", idempotency_key="one")

    async with Client(shop.server(work)) as client:
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, "first")
                await inside.wait()
                asked = Gate()
                store.on_begin = asked
                tasks.start_soon(call, "second")
                await anyio.to_thread.run_sync(asked.wait_reached)
                store.on_begin = _no_disk
                asked.open()
                while "second" not in results:
                    await anyio.lowlevel.checkpoint()
                store.on_begin = _pass
                release.set()
        again = await shop.call(client, "work", idempotency_key="one")
    assert (code_of(results["second"]), text_of(results["first"])) == ("payre_unavailable", "Oslo")
    assert meta_of(again)["dev.payre/replayed"] is True
    assert len(runs) == 1
    assert shop.spent() == PRICE


def _no_disk() -> None:
    raise StoreUnavailable("no disk")


async def test_a_call_that_waits_for_money_is_refused_when_the_database_fails(ledger_path: Path, clock: ManualClock) -> None:
    page = "http://127.0.0.1:8402/top-ups"
    with closing(open_ledger(f"sqlite:///{ledger_path}", clock=clock, top_up_page=page)) as connection:
        shop = Shop(connection, fund(connection.ledger, 1_000))
        store = scripted(connection.ledger.writer)
        ran: list[str] = []

        async def work(city: str) -> str:
            ran.append(city)
            return city

        async def breaks(context: Any, params: Any) -> ElicitResult:
            assert isinstance(params, ElicitRequestURLParams)
            store.on_begin = _no_disk
            return ElicitResult(action="accept")

        for era in ("auto", "legacy"):
            store.on_begin = _pass
            async with Client(shop.server(work), mode=era, elicitation_callback=breaks) as client:  # pyright: ignore[reportArgumentType]
                with anyio.fail_after(PATIENCE_S):
                    assert code_of(await shop.call(client, "work")) == "payre_unavailable"
        assert (ran, shop.journal()) == ([], [])


async def test_a_ledger_that_was_closed_between_rounds_refuses_the_next_one(shop: Shop, clock: ManualClock) -> None:
    asker = Asker()
    async with Client(asking(shop, asker), mode=MODERN) as client:
        before = await first_round(client, shop)
        await anyio.to_thread.run_sync(shop.connection.close)
        assert code_of(await next_round(client, shop, before)) == "payre_unavailable"
    assert len(asker.seen) == 1
    clock.advance(HOLD_LIFE_US / US_PER_S + 1)
    with closing(open_ledger(f"sqlite:///{file_of(shop.connection.ledger)}", clock=clock)) as connection:
        connection.ledger.writer.sweep()
    assert shop.journal() == ["HOLD", "EXPIRE"]


# The database is slow. Time runs a hundred times as fast while it is.


def hold_back(store: ScriptedStore, fast: trio.testing.MockClock) -> Gate:
    """From now on the database waits, and time runs."""
    gate = Gate()
    store.on_begin, fast.rate = gate, 100
    return gate


def on_fast_trio() -> pytest.MarkDecorator:
    """Runs in trio, on a clock whose speed the test sets."""
    return pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(rate=1)})], ids=["trio"])


@on_fast_trio()
async def test_a_ledger_that_does_not_answer_in_time_refuses_and_takes_its_hold_back(
    shop: Shop, store: ScriptedStore, anyio_backend: Any
) -> None:
    asker, fast = Asker(many=0), anyio_backend[1]["clock"]
    async with Client(asking(shop, asker), mode=MODERN) as client:
        gate = hold_back(store, fast)
        try:
            result = await client.call_tool("ask", {}, meta=shop.meta())
        finally:
            fast.rate = 1
            gate.open()
    assert (code_of(result), asker.seen) == ("payre_unavailable", [])
    await sweep(shop)  # after it, the hold that came too late is in the journal
    with anyio.fail_after(PATIENCE_S):
        while shop.journal() != ["HOLD", "VOID"]:
            await anyio.lowlevel.checkpoint()
    assert shop.spent() == 0


@on_fast_trio()
@pytest.mark.parametrize(("many", "journal"), [(0, ["HOLD", "CAPTURE"]), (1, ["HOLD", "VOID"])], ids=["capture", "suspend"])
async def test_the_end_of_a_call_waits_for_a_slow_ledger_and_then_lets_its_caller_go(
    shop: Shop, store: ScriptedStore, anyio_backend: Any, many: int, journal: list[str]
) -> None:
    gates, fast = list[Gate](), anyio_backend[1]["clock"]
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price="0.005")
    async def ask() -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        gates.append(hold_back(store, fast))
        return question() if many else "done"

    async with Client(server, mode=MODERN) as client:
        try:
            result = await client.session.call_tool("ask", {}, meta=shop.meta(), allow_input_required=True)
        finally:
            fast.rate = 1
            gates[0].open()
    settled = result.meta and result.meta.get("dev.payre/settlement")
    assert settled == (None if many else "pending")
    with anyio.fail_after(PATIENCE_S):
        while shop.journal() != journal:  # the late answer finds its caller gone, and only then is the hold given back
            await sweep(shop)
    assert shop.spent() == (0 if many else PRICE)


# The process forks, and the clock steps.


FORKING = """
import os, sys
import anyio
from mcp import Client
from payre_mcp import PaidMCPServer, Payre
from payre_mcp.connection import open_ledger
from tests.fakes import fund

connection = open_ledger(f"sqlite:///{sys.argv[1]}")
consumer = fund(connection.ledger, 1_000_000)
server = PaidMCPServer("shop", payre=Payre(gateway=connection.gateway))
ran = []

@server.tool(price="0.005")
async def work() -> str:
    ran.append(os.getpid())
    return "done"

async def call():
    async with Client(server) as client:
        result = await client.call_tool("work", {}, meta={"dev.payre/key": consumer.key.text})
    return (result.structured_content or {}).get("error", "paid")

before = anyio.run(call)
child = os.fork()
if child == 0:
    print("child", anyio.run(call), len(ran), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", before, anyio.run(call), len(ran), consumer.account().balance_micros)
connection.close()
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_in_a_process_that_forked_the_child_sells_nothing_and_the_parent_goes_on(ledger_path: Path) -> None:
    out = await anyio.to_thread.run_sync(lambda: finish(start_python(FORKING, ledger_path)))
    assert out.splitlines() == ["child payre_unavailable 1", "parent paid paid 2 990000"]


@pytest.mark.parametrize(
    ("seconds", "swept", "journal"),
    [
        (-86_400, True, ["HOLD", "CAPTURE"]),
        (-1, False, ["HOLD", "CAPTURE"]),
        (86_400, False, ["HOLD", "CAPTURE"]),
        (86_400, True, ["HOLD", "EXPIRE", "HOLD", "CAPTURE"]),
    ],
)
async def test_a_clock_that_steps_between_rounds_makes_no_second_charge(
    shop: Shop, clock: ManualClock, seconds: int, swept: bool, journal: list[str]
) -> None:
    asker = Asker()
    async with Client(asking(shop, asker), mode=MODERN) as client:
        before = await first_round(client, shop)
        clock.advance(seconds)
        if swept:
            await sweep(shop)
        assert text_of(await next_round(client, shop, before)) == "asked 1 times"
        again = await next_round(client, shop, before)
    assert shop.receipt(again).amount_micros == PRICE
    assert shop.journal() == [*journal, "HOLD", "CAPTURE"]
    assert shop.spent() == 2 * PRICE


# What a client may send.


def briefly(value: object) -> str:
    """A value as the name of a test."""
    return repr(value)[:60]


def rewriting(server: PaidMCPServer, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Have the calls arrive as a client could have sent them that is not the SDK's."""

    async def rewrite(ctx: Any, call_next: Any) -> Any:
        is_call = ctx.method == "tools/call"
        return await call_next(replace(ctx, params={**ctx.params, **change(ctx.params)}) if is_call else ctx)

    server.middleware.insert(0, rewrite)


@pytest.mark.parametrize("state", [7, ["x"], {"dev.payre/round": {}}, "", "x" * 1_000_000, "v1.AAAA"], ids=briefly)
async def test_a_state_that_no_server_made_is_refused_before_anything_is_held(shop: Shop, state: Any) -> None:
    asker = Asker()
    server = asking(shop, asker)
    rewriting(server, lambda params: {"requestState": state})
    async with Client(server, mode=MODERN) as client:
        with pytest.raises(MCPError, match="Invalid or expired requestState"):
            await first_round(client, shop)
    assert (asker.seen, shop.journal()) == ([], [])


@pytest.mark.parametrize("responses", ["text", ["list"], 7, {"city": "text"}, {"city": None}], ids=briefly)
async def test_answers_that_are_none_do_not_run_the_tool_and_its_round_may_still_be_answered(
    shop: Shop, clock: ManualClock, responses: Any
) -> None:
    asker, wrong = Asker(), list[Any]()
    server = asking(shop, asker)
    rewriting(server, lambda params: {"inputResponses": wrong.pop()} if wrong else {})
    async with Client(server, mode=MODERN) as client:
        before = await first_round(client, shop)
        wrong.append(responses)
        with pytest.raises(MCPError) as refused:
            await next_round(client, shop, before)
        assert text_of(await next_round(client, shop, before)) == "asked 1 times"
    assert -32700 <= refused.value.error.code <= -32600
    await end_of_life(shop, clock)
    assert shop.spent() == PRICE


@pytest.mark.parametrize("answer", [{"action": "accept"}, {"action": 7}, {"action": None}, {}, "accept", None, 3], ids=briefly)
async def test_an_answer_to_a_question_that_nobody_asked_changes_nothing(shop: Shop, answer: Any) -> None:
    asker = Asker()
    server = asking(shop, asker)
    rewriting(
        server,
        lambda params: (
            {"inputResponses": {**params["inputResponses"], "payre_top_up": answer}} if "requestState" in params else {}
        ),
    )
    async with Client(server, mode=MODERN, elicitation_callback=answers) as client:
        result = await client.call_tool("ask", {}, meta=shop.meta())
    assert text_of(result) == "asked 1 times"
    assert asker.seen[1] == ("1", {"city": {"city": "Oslo"}})
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


@pytest.mark.parametrize("many", [100, 1_000_000])
async def test_a_tool_may_keep_a_large_state(shop: Shop, many: int) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price="0.005")
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        return question(state="s" * many) if ctx.request_state is None else str(len(ctx.request_state))

    async with Client(server, mode=MODERN, elicitation_callback=answers) as client:
        assert text_of(await client.call_tool("ask", {}, meta=shop.meta())) == str(many)
    assert shop.spent() == PRICE


async def test_the_state_of_one_tool_is_refused_by_another_and_by_other_arguments(shop: Shop, clock: ManualClock) -> None:
    asker, other = Asker(), Asker()
    server = asking(shop, asker)
    server.tool(name="other", price="0.001")(other.ask)
    async with Client(server, mode=MODERN) as client:
        before = await first_round(client, shop)
        with pytest.raises(MCPError, match="Invalid or expired requestState"):
            await next_round(client, shop, before, tool="other")
    assert (len(asker.seen), other.seen) == (1, [])
    await end_of_life(shop, clock)
    assert shop.spent() == 0


class PlainText:
    """A codec that a server's author could write: nothing is sealed, and clients write what they like."""

    def seal(self, payload: bytes) -> str:
        return payload.decode()

    def unseal(self, token: str) -> bytes:
        return token.encode()


EMPTY: dict[str, Any] = {"payer": "", "hold": None, "asked": False, "usage": [{}, {}], "took_us": 0}
WRONG: dict[str, list[Any]] = {
    "payer": [1, None, []],
    "hold": [[], {}, "x", 7, [1, 2, 3], [1, 2, 3, "v", "", 5], ["a"] * 6, [1, 0, 1, "v", "", None]],
    "asked": ["yes", None, []],
    "usage": [None, 3],
    "took_us": ["x", None, [], -5, 2**80],
}
CONTENTS: list[Any] = [{}, [], "x", None, *({**EMPTY, name: each} for name, values in WRONG.items() for each in values)]


@pytest.mark.parametrize("left", CONTENTS, ids=briefly)
async def test_whatever_a_client_could_write_into_an_open_state_nothing_runs_unpaid_and_nothing_stays_held(
    shop: Shop, clock: ManualClock, left: Any
) -> None:
    asker, paid = Asker(), list[CallToolResult]()
    server = PaidMCPServer("shop", payre=shop.payre(), request_state_security=RequestStateSecurity(codec=PlainText()))
    server.tool(price=Price.per("seconds", 1, "0.005", max_units=100))(asker.ask)
    async with Client(server, mode=MODERN) as client:
        before = await first_round(client, shop)
        claims = json.loads(before.request_state or "")
        state = json.loads(claims["s"])
        claims["s"] = json.dumps({**state, "dev.payre/round": left})
        with contextlib.suppress(MCPError):
            result = await next_round(client, shop, before.model_copy(update={"request_state": json.dumps(claims)}))
            paid += [] if result.is_error else [result]
    await end_of_life(shop, clock)
    assert shop.journal().count("CAPTURE") == len(paid)
    assert shop.spent() == sum(shop.receipt(each).amount_micros for each in paid)


# Rounds together with everything else.


@pytest.mark.parametrize(("meta", "charges"), [({}, 8), ({"idempotency_key": "one"}, 1)], ids=["without a key", "with a key"])
@pytest.mark.parametrize("servers", [1, 2])
async def test_of_a_round_that_many_clients_answer_at_once_each_run_is_paid(
    shop: Shop, clock: ManualClock, servers: int, meta: dict[str, str], charges: int
) -> None:
    asker = Asker()
    doors = [asking(shop, asker, request_state_security=SHARED) for _ in range(servers)]
    async with Client(doors[0], mode=MODERN) as client:
        before = await first_round(client, shop, **meta)
    results: list[CallToolResult] = []

    async def answer(number: int) -> None:
        async with Client(doors[number % servers], mode=MODERN) as client:
            results.append(await next_round(client, shop, before, **meta))

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(answer, number)
    assert {text_of(each) for each in results} == {"asked 1 times"}
    assert len(asker.seen) == 1 + charges
    await end_of_life(shop, clock)
    assert shop.journal().count("CAPTURE") == charges
    assert shop.spent() == charges * PRICE


async def test_rounds_with_a_key_and_a_limit_are_one_call_and_replayed_whole(shop: Shop) -> None:
    asker = Asker(2)
    async with Client(asking(shop, asker), mode=MODERN, elicitation_callback=answers) as client:
        refused = await client.call_tool("ask", {}, meta=shop.meta(idempotency_key="one", max_price="0.004"))
        first, again = [
            await client.call_tool("ask", {}, meta=shop.meta(idempotency_key="one", max_price="0.005")) for _ in range(2)
        ]
    assert (code_of(refused), facts_of(refused)["price_usd"]) == ("price_above_limit", "0.005")
    assert meta_of(again)["dev.payre/receipt"] == meta_of(first)["dev.payre/receipt"]
    assert len(asker.seen) == 3
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


async def test_the_quota_of_rounds_that_are_abandoned_is_free_again(shop: Shop, clock: ManualClock) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())
    server.tool(price=Price.per_call("0.005", free_quota={"amount": 1, "window": "all_time"}))((asker := Asker()).ask)
    async with Client(server, mode=MODERN, elicitation_callback=answers) as client:
        await first_round(client, shop)
        await end_of_life(shop, clock)
        free, paid = [await client.call_tool("ask", {}, meta=shop.meta()) for _ in range(2)]
    assert [shop.receipt(each).amount_micros for each in (free, paid)] == [0, PRICE]
    assert asker.held == [0, 0, 0, PRICE, PRICE]
    assert all(reserved == 0 for _, reserved in counters_in(shop.connection.ledger).values())
    assert shop.spent() == PRICE


async def test_a_free_call_that_waits_for_its_caller_is_not_given_away_twice(shop: Shop, clock: ManualClock) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())
    server.tool(price=Price.per_call("0.005", free_quota={"amount": 1, "window": "all_time"}))(Asker().ask)
    async with Client(server, mode=MODERN, elicitation_callback=answers) as client:
        before = await first_round(client, shop)
        paid = await client.call_tool("ask", {}, meta=shop.meta())
        free = await next_round(client, shop, before)
    assert [shop.receipt(each).amount_micros for each in (paid, free)] == [PRICE, 0]
    assert shop.spent() == PRICE


async def test_what_a_round_reported_before_it_was_abandoned_is_nobodys_debt(shop: Shop, clock: ManualClock) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price=Price.per("tokens", 1, "0.001", max_units=100))
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        report_usage("tokens", 50)
        return "done" if ctx.input_responses else question()

    async with Client(server, mode=MODERN) as client:
        before = await first_round(client, shop)
        assert shop.consumer.account().held_micros == 100_000
        await end_of_life(shop, clock)
        await next_round(client, shop, before)
    assert shop.journal() == ["HOLD", "EXPIRE", "HOLD", "CAPTURE"]
    assert shop.spent() == 50_000


async def test_a_charge_by_hand_in_the_last_round_is_captured_with_its_call(shop: Shop, clock: ManualClock) -> None:
    payre = shop.payre(prices={"extra": "0.003"})
    server = PaidMCPServer("shop", payre=payre)
    server.tool()(extra)

    @server.tool(price="0.005")
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        if not ctx.input_responses:
            return question()
        await payre.charge(shop.consumer.key.text, "extra", "0.003")
        return "done"

    async with Client(server, mode=MODERN, elicitation_callback=answers) as client:
        await client.call_tool("ask", {}, meta=shop.meta())
    assert shop.journal() == ["HOLD", "HOLD", "CAPTURE", "CAPTURE"]
    assert shop.spent() == PRICE + 3_000


async def extra(city: str) -> str:
    return city


# Any order of events.


class Model:
    """What must be true after any number of events, kept with four numbers and a list."""

    def __init__(self) -> None:
        self.balance, self.held, self.runs, self.charges = 12_000, 0, 0, 0
        self.states: list[bool] = []
        """For every state that was given out, whether it still is a claim to a hold."""

    def begin(self, state: int | None) -> bool:
        """A call starts, or goes on from a state; whether it can be paid."""
        if state is not None and self.states[state]:
            self.states[state] = False
        elif self.balance - self.held < PRICE:
            return False
        else:
            self.held += PRICE
        self.runs += 1
        return True

    def end(self, way: str) -> None:
        """Its round ends: `ask`, `answer`, `fail` or `cancel`."""
        if way == "ask":
            self.states.append(True)
            return
        self.held -= PRICE
        if way == "answer":
            self.balance, self.charges = self.balance - PRICE, self.charges + 1

    def expire(self) -> None:
        """Every hold's life is over."""
        self.held, self.states = 0, [False] * len(self.states)


class Walk:
    """The real thing beside the model."""

    def __init__(self, shop: Shop, clock: ManualClock) -> None:
        self.shop, self.clock, self.model = shop, clock, Model()
        self.states: list[InputRequiredResult] = []
        self.runs, self.way, self.top_ups, self.inside = 0, "", 0, anyio.Event()
        self.server = PaidMCPServer("shop", payre=shop.payre())
        self.server.tool(price="0.005")(self.ask)

    async def ask(self) -> str | InputRequiredResult:
        self.runs += 1
        match self.way:
            case "ask":
                return question()
            case "fail":
                raise ToolError("no")
            case "cancel":
                self.inside.set()
                await anyio.sleep_forever()
            case _:
                pass
        return "done"

    async def step(self, client: Client, event: str, way: str, number: int) -> None:
        if event == "expire":
            await end_of_life(self.shop, self.clock)
            self.model.expire()
        elif event == "top up":
            self.top_ups += 1
            command = self.shop.consumer.top_up(PRICE, key=str(self.top_ups))
            await anyio.to_thread.run_sync(self.shop.connection.ledger.writer.ask, command)
            self.model.balance += PRICE
        else:
            await self.call(client, way, number % len(self.states) if event == "go on" and self.states else None)
        account = self.shop.consumer.account()
        assert (account.balance_micros, account.held_micros) == (self.model.balance, self.model.held)
        assert (self.runs, self.shop.journal().count("CAPTURE")) == (self.model.runs, self.model.charges)

    async def call(self, client: Client, way: str, state: int | None) -> None:
        self.way, self.inside = way, anyio.Event()
        begins = self.model.begin(state)
        if begins and way == "cancel":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.round, client, state)
                await self.inside.wait()
                tasks.cancel_scope.cancel()
            self.model.end(way)
            return
        result = await self.round(client, state)
        if not begins:
            assert code_of(result) == "insufficient_balance"
            return
        self.model.end(way)
        if isinstance(result, InputRequiredResult):
            self.states.append(result)

    async def round(self, client: Client, state: int | None) -> Any:
        if state is None:
            return await client.session.call_tool("ask", {}, meta=self.shop.meta(), allow_input_required=True)
        return await next_round(client, self.shop, self.states[state])


EVENTS = st.tuples(
    st.sampled_from(["start", "start", "go on", "go on", "go on", "expire", "top up"]),
    st.sampled_from(["ask", "ask", "answer", "fail", "cancel"]),
    st.integers(0, 5),
)


@settings(max_examples=20, deadline=None)
@given(events=st.lists(EVENTS, min_size=4, max_size=16))
def test_in_any_order_of_rounds_replays_cancellations_and_expiries_the_books_agree_with_a_small_model(
    events: Sequence[tuple[str, str, int]], blank_ledger: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("walk")
    shutil.copy(blank_ledger / "payre.db", folder)
    shutil.copy(blank_ledger / "payre.keys", folder)
    anyio.run(walked, folder / "payre.db", events)


async def walked(path: Path, events: Sequence[tuple[str, str, int]]) -> None:
    clock = ManualClock()
    with closing(open_ledger(f"sqlite:///{path}", clock=clock)) as connection:
        walk = Walk(Shop(connection, fund(connection.ledger, Model().balance)), clock)
        async with Client(walk.server, mode=MODERN) as client:
            with anyio.fail_after(PATIENCE_S):
                for event in events:
                    await walk.step(client, *event)
                await end_of_life(walk.shop, clock)
        walk.shop.spent()
