"""Calls that end where nobody looks: cancelled between two steps, outlived by a task of their own, asked again in other words."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from mcp import Client, MCPError
from mcp.server.mcpserver import Context, RequestStateSecurity
from mcp_types import ElicitResult, InputRequiredResult

from payre_mcp import PaidMCPServer, Payre
from payre_mcp.clock import ManualClock
from payre_mcp.connection import open_ledger
from payre_mcp.gateway.base import Gateway
from tests.fakes import PATIENCE_S, Gate, ScriptedStore, fund, open_holds_of
from tests.server.conftest import Shop, code_of, meta_of, text_of
from tests.server.test_rounds import MODERN, Asker, answers, asking, first_round, next_round, question

PRICE = 5_000


async def live_out(shop: Shop, clock: ManualClock) -> None:
    """Sweep until every hold that nobody keeps alive is over."""
    for _ in range(3):
        clock.advance(1_000)
        await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)


async def stubborn(result: str) -> str:
    """What a sync tool is to a cancelled caller: it runs to its end."""
    with anyio.CancelScope(shield=True):
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
    return result


async def leave(inside: anyio.Event, call: Callable[[], Any], shop: Shop, *journal: str) -> None:
    """Call, leave when the call is inside, and wait until this stands in the journal and everyone has come to rest."""
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await inside.wait()
            tasks.cancel_scope.cancel()
        while any(shop.journal().count(each) < journal.count(each) for each in journal):
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()


class Watched:
    """The real gateway, and what happens right after its verbs."""

    def __init__(self, inner: Gateway, **after: Callable[[], Any]) -> None:
        self._inner, self._after = inner, after

    def __getattr__(self, verb: str) -> Any:
        real, after = getattr(self._inner, verb), self._after.get(verb)
        if after is None:
            return real

        async def watched(*arguments: Any, **options: Any) -> Any:
            answer = await real(*arguments, **options)
            await after()
            return answer

        return watched


@pytest.fixture
def scripted(shop: Shop) -> ScriptedStore:
    """The ledger's own store, which a test may hold back."""
    writer: Any = shop.connection.ledger.writer
    writer._store = store = ScriptedStore(writer._store)
    return store


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_caller_who_leaves_when_their_top_up_has_come_leaves_no_hold(ledger_path: Path, clock: ManualClock) -> None:
    with closing(open_ledger(f"sqlite:///{ledger_path}", clock=clock, top_up_page="http://127.0.0.1:1/t")) as connection:
        shop, held = Shop(connection, fund(connection.ledger, 1_000)), anyio.Event()

        async def wait_for_the_end() -> None:
            held.set()
            while anyio.current_effective_deadline() != -float("inf"):
                await anyio.lowlevel.cancel_shielded_checkpoint()

        gateway: Any = Watched(connection.gateway, authorize=wait_for_the_end)
        server = PaidMCPServer("shop", payre=Payre(gateway=gateway))

        @server.tool(price="0.005")
        async def forecast(city: str) -> str:  # pyright: ignore[reportUnusedFunction]
            return city

        async def person(context: Any, params: Any) -> ElicitResult:
            await connection.top_ups.pay_test_top_up(params.url.rpartition("/")[2])
            return ElicitResult(action="accept")

        async with Client(server, mode="legacy", elicitation_callback=person) as client:
            await leave(held, lambda: shop.call(client, "forecast"), shop)
            await client.list_tools()
        await live_out(shop, clock)
        assert open_holds_of(ledger_path) == {}


async def test_a_task_that_outlives_its_call_charges_at_once(shop: Shop, clock: ManualClock) -> None:
    payre = shop.payre(prices={})
    payre.pricing({"job": "0.005"}, by_hand=True)
    server, go, charged = PaidMCPServer("shop", payre=payre), anyio.Event(), list[Any]()
    async with anyio.create_task_group() as tasks:

        @server.tool()
        async def start(city: str) -> str:  # pyright: ignore[reportUnusedFunction]
            async def later() -> None:
                await go.wait()
                charged.append(await payre.charge(shop.consumer.key.text, "job", "0.005"))

            tasks.start_soon(later)
            return city

        async with Client(server) as client:
            await shop.call(client, "start")
            go.set()
    await live_out(shop, clock)
    assert charged[0].receipt
    assert shop.journal() == ["CHARGE"]
    assert shop.spent() == PRICE


async def test_a_round_that_is_cancelled_while_its_hold_is_taken_up_frees_money_and_key(
    shop: Shop, scripted: ScriptedStore
) -> None:
    async with Client(asking(shop, Asker()), mode=MODERN) as client:
        before = await first_round(client, shop, idempotency_key="k")
        scripted.on_begin = gate = Gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: next_round(client, shop, before, idempotency_key="k"))
            await anyio.to_thread.run_sync(gate.wait_reached)
            tasks.cancel_scope.cancel()
        gate.open()
        result = await next_round(client, shop, before, idempotency_key="k")
    assert text_of(result) == "asked 1 times"
    assert shop.spent() == PRICE


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_round_waits_for_a_ledger_that_hangs_no_longer_than_a_call_does(shop: Shop, scripted: ScriptedStore) -> None:
    async with Client(asking(shop, Asker()), mode=MODERN) as client:
        before = await first_round(client, shop)
        scripted.on_begin = gate = Gate()
        try:
            with anyio.fail_after(PATIENCE_S):
                result = await next_round(client, shop, before)
        finally:
            gate.open()
    assert code_of(result) == "payre_unavailable"


async def test_what_a_charged_call_charged_by_hand_is_charged_whoever_leaves(shop: Shop) -> None:
    payre, inside = shop.payre(), anyio.Event()
    payre.pricing({"extra": "0.003"}, by_hand=True)
    server = PaidMCPServer("shop", payre=payre)

    @server.tool(price="0.005")
    async def work(city: str) -> str:  # pyright: ignore[reportUnusedFunction]
        await payre.charge(shop.consumer.key.text, "extra", "0.003")
        inside.set()
        return await stubborn(city)

    async with Client(server) as client:
        await leave(inside, lambda: shop.call(client, "work"), shop, "CAPTURE", "CAPTURE")
        again = await shop.call(client, "work")
    assert meta_of(again)["dev.payre/replayed"] is True
    assert shop.spent() == PRICE + 3_000


async def test_an_undelivered_answer_goes_to_the_round_that_it_answered_and_no_other(shop: Shop) -> None:
    server, inside = PaidMCPServer("shop", payre=shop.payre()), anyio.Event()

    @server.tool(price="0.005")
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        given = (ctx.input_responses or {}).get("city")
        if not isinstance(given, ElicitResult):
            return question()
        inside.set()
        return await stubborn(str((given.content or {})["city"]))

    async with Client(server, mode=MODERN) as client:
        before, other = await first_round(client, shop), await first_round(client, shop)
        await leave(inside, lambda: next_round(client, shop, before), shop, "CAPTURE")
        bergen: Any = {"city": ElicitResult(action="accept", content={"city": "Bergen"})}
        result: Any = await client.session.call_tool(
            "ask", {}, meta=shop.meta(), request_state=other.request_state, input_responses=bergen, allow_input_required=True
        )  # fmt: skip
        retried = await next_round(client, shop, before)
    assert (text_of(result), text_of(retried)) == ("Bergen", "Oslo")
    assert meta_of(retried)["dev.payre/replayed"] is True
    assert shop.spent() == 2 * PRICE


async def test_a_key_that_was_revoked_meanwhile_gets_no_undelivered_answer(shop: Shop) -> None:
    inside = anyio.Event()

    async def work(city: str) -> str:
        inside.set()
        return await stubborn(city)

    async with Client(shop.server(work)) as client:
        await leave(inside, lambda: shop.call(client, "work"), shop, "CAPTURE")
        shop.connection.ledger.directory.revoke_key(shop.consumer.record.id)
        assert code_of(await shop.call(client, "work")) == "invalid_api_key"


@pytest.mark.parametrize(("first", "second"), [(None, "k"), ("k", None), ("k", "l")])
async def test_a_round_under_another_idempotency_key_is_a_call_of_its_own(
    shop: Shop, first: str | None, second: str | None
) -> None:
    async with Client(asking(shop, Asker()), mode=MODERN) as client:
        before = await first_round(client, shop, idempotency_key=first)
        result = await next_round(client, shop, before, idempotency_key=second)
        again = await next_round(client, shop, before, idempotency_key=second)
    assert shop.journal()[:4] == ["HOLD", "VOID", "HOLD", "CAPTURE"]
    assert (text_of(result), text_of(again)) == ("asked 1 times", "asked 1 times")
    assert ("dev.payre/replayed" in meta_of(again)) == (second is not None)
    assert shop.spent() == (PRICE if second else 2 * PRICE)


async def test_a_limit_that_a_later_round_brings_is_kept(shop: Shop) -> None:
    async with Client(asking(shop, Asker()), mode=MODERN) as client:
        before = await first_round(client, shop)
        assert code_of(await next_round(client, shop, before, max_price="0.001")) == "price_above_limit"
    assert shop.journal() == ["HOLD", "VOID"]
    assert shop.spent() == 0


async def test_a_question_that_reaches_nobody_keeps_neither_money_nor_key(shop: Shop) -> None:
    server, inside = PaidMCPServer("shop", payre=shop.payre()), anyio.Event()

    @server.tool(price="0.005")
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        if ctx.input_responses:
            return "done"
        inside.set()
        await stubborn("")
        return question()

    async with Client(server, mode=MODERN, elicitation_callback=answers) as client:
        await leave(inside, lambda: first_round(client, shop, idempotency_key="k"), shop, "VOID")
        result = await client.call_tool("ask", {}, meta=shop.meta(idempotency_key="k"))
    assert text_of(result) == "done"
    assert shop.spent() == PRICE


async def test_nobody_asked_for_an_answer_about_money_and_no_tool_sees_one(shop: Shop) -> None:
    seen: list[Any] = []
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price="0.005")
    async def ask(ctx: Context) -> str:  # pyright: ignore[reportUnusedFunction]
        seen.append(dict(ctx.input_responses or {}))
        return "done"

    async with Client(server, mode=MODERN) as client:
        unasked: Any = {"payre_top_up": ElicitResult(action="accept")}
        await client.session.call_tool("ask", {}, meta=shop.meta(), input_responses=unasked, allow_input_required=True)
    assert seen == [{}]


OURS: dict[str, Any] = {"payer": "", "hold": None, "asked": False, "answer": "", "usage": [{}, {}], "took_us": 0}
LOOKALIKES = [
    json.dumps({"dev.payre/round": {}, "inner": "a", "responses": {}}),
    json.dumps({"dev.payre/round": OURS, "inner": "another", "responses": {"city": "Bergen"}}),
    "[" * 100_000 + '"dev.payre/round"',
]


@pytest.mark.parametrize("text", LOOKALIKES, ids=["empty", "whole", "deep"])
async def test_a_free_tool_whose_state_its_caller_wrote_gets_it_back_as_it_was(shop: Shop, text: str) -> None:
    """A state that looks like ours is the tool's own: ours is always around it."""
    seen: list[str | None] = []
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool()
    async def echo(text: str, ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        seen.append(ctx.request_state)
        return "done" if ctx.input_responses else question(state=text)

    async with Client(server, mode=MODERN) as client:
        first: Any = await client.session.call_tool("echo", {"text": text}, allow_input_required=True)
        city: Any = {"city": ElicitResult(action="accept", content={"city": "Oslo"})}
        last: Any = await client.session.call_tool(
            "echo", {"text": text}, request_state=first.request_state, input_responses=city, allow_input_required=True
        )
    assert text_of(last) == "done"
    assert seen == [None, text]


class Plain:
    """A codec that seals nothing: what a server's own custom one might let through."""

    def seal(self, payload: bytes) -> str:
        return payload.decode()

    def unseal(self, token: str) -> bytes:
        return token.encode()


WRONG_HOLDS: list[Any] = [[], {}, "x", [1, 2, 3], ["a"] * 6, 7, [1, 0, 1, "v", "", None]]
WRONG_USAGE: list[Any] = [None, [], [{}], [{"tokens": "-5"}, {}], [{"tokens": "x"}, {}], [{"tokens": "1/0"}, {}]]
WRONG: list[Any] = [
    *({}, [], "x", None),
    *({**OURS, "hold": each} for each in WRONG_HOLDS),
    *({**OURS, "usage": each} for each in WRONG_USAGE),
    *({**OURS, "took_us": each} for each in (-5, "x", None)),
]


@pytest.mark.parametrize("left", WRONG, ids=str)
async def test_a_state_with_wrong_contents_is_the_tools_own_and_leaves_no_hold(shop: Shop, clock: ManualClock, left: Any) -> None:
    security = RequestStateSecurity(codec=Plain())
    async with Client(asking(shop, Asker(0), request_state_security=security), mode=MODERN) as client:
        forged = json.dumps({"dev.payre/round": left, "inner": "7", "responses": {}})
        async with Client(asking(shop, Asker(1), request_state_security=security), mode=MODERN) as other:
            envelope = json.loads((await first_round(other, shop)).request_state or "")
        before = InputRequiredResult(request_state=json.dumps({**envelope, "s": forged}))
        try:
            await next_round(client, shop, before)
        except MCPError as error:
            assert "requestState" in str(error)  # noqa: PT017 - either is right, and neither leaves anything
    await live_out(shop, clock)
    assert shop.spent() in {0, PRICE}
