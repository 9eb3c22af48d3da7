"""Calls of several rounds: one hold across them, one charge at the end, and no way to run twice on one payment."""

import json
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.server.mcpserver import Context, MCPServer, RequestStateSecurity
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from pydantic import BaseModel

from payre_mcp import PaidMCPServer, Price, current_call, report_usage
from payre_mcp.clock import ManualClock
from payre_mcp.server import rounds
from tests.fakes import PATIENCE_S, fund
from tests.server.conftest import Shop, meta_of, text_of

PRICE = 5_000
MODERN: Any = "2026-07-28"


def question(name: str = "city", state: str | None = None) -> InputRequiredResult:
    schema: Any = {"type": "object", "properties": {name: {"type": "string"}}}
    ask = ElicitRequest(params=ElicitRequestFormParams(message=f"Which {name}?", requested_schema=schema))
    return InputRequiredResult(input_requests={name: ask}, request_state=state)


@dataclass
class Asker:
    """A tool that asks `many` times before it answers, and remembers what it was given each time."""

    many: int = 1
    seen: list[tuple[str | None, dict[str, Any]]] = field(default_factory=list[tuple[str | None, dict[str, Any]]])
    held: list[int] = field(default_factory=list[int])

    async def ask(self, ctx: Context) -> str | InputRequiredResult:
        """Ask, then answer."""
        given = {name: each.content for name, each in (ctx.input_responses or {}).items() if isinstance(each, ElicitResult)}
        self.seen.append((ctx.request_state, given))
        call = current_call()
        self.held.append(call.held.micros if call else 0)
        number = int(ctx.request_state or 0)
        return f"asked {number} times" if number >= self.many else question(state=str(number + 1))


async def answers(context: Any, params: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"city": "Oslo"})


async def first_round(client: Client, shop: Shop, tool: str = "ask", **meta: Any) -> InputRequiredResult:
    """The first round alone, as a client sends it that answers later."""
    result = await client.session.call_tool(tool, {}, meta=shop.meta(**meta), allow_input_required=True)
    assert isinstance(result, InputRequiredResult)
    return result


async def next_round(client: Client, shop: Shop, before: InputRequiredResult, tool: str = "ask", **meta: Any) -> Any:
    """The round that answers `before`."""
    return await client.session.call_tool(
        tool,
        {},
        meta=shop.meta(**meta),
        input_responses={"city": ElicitResult(action="accept", content={"city": "Oslo"})},
        request_state=before.request_state,
        allow_input_required=True,
    )


def asking(shop: Shop, asker: Asker, **options: Any) -> PaidMCPServer:
    server = PaidMCPServer("shop", payre=shop.payre(), **options)
    server.tool(price="0.005")(asker.ask)
    return server


@pytest.mark.parametrize("many", [0, 1, 2, 5])
async def test_a_call_keeps_one_hold_through_its_rounds_and_is_charged_once(shop: Shop, many: int) -> None:
    asker = Asker(many)
    async with Client(asking(shop, asker), mode=MODERN, elicitation_callback=answers) as client:
        result = await client.call_tool("ask", {}, meta=shop.meta())
    assert text_of(result) == f"asked {many} times"
    assert shop.receipt(result).amount_micros == PRICE
    assert asker.held == [PRICE] * (many + 1)
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


async def test_a_tool_sees_its_own_state_and_answers_and_nothing_of_ours(shop: Shop) -> None:
    asker = Asker(2)
    async with Client(asking(shop, asker), mode=MODERN, elicitation_callback=answers) as client:
        await client.call_tool("ask", {}, meta=shop.meta())
    assert asker.seen == [(None, {}), ("1", {"city": {"city": "Oslo"}}), ("2", {"city": {"city": "Oslo"}})]


async def test_prompts_and_resources_keep_one_hold_too(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.prompt(price="0.005")
    async def brief(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        return "brief" if ctx.input_responses else question()

    @server.resource("report://{year}", price="0.005")
    async def report(year: str, ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        return year if ctx.input_responses else question()

    async with Client(server, mode=MODERN, elicitation_callback=answers) as client:
        await client.get_prompt("brief", meta=shop.meta())
        await client.read_resource("report://2026", meta=shop.meta())
    assert shop.journal() == ["HOLD", "CAPTURE"] * 2
    assert shop.spent() == 2 * PRICE


async def test_a_tool_that_fails_in_a_later_round_is_not_charged(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price="0.005")
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        if ctx.input_responses:
            raise ToolError("no")
        return question()

    async with Client(server, mode=MODERN, elicitation_callback=answers) as client:
        assert (await client.call_tool("ask", {}, meta=shop.meta())).is_error
    assert shop.journal() == ["HOLD", "VOID"]
    assert shop.spent() == 0


async def test_abandoned_rounds_give_their_money_back_when_their_state_has_expired(shop: Shop, clock: ManualClock) -> None:
    async with Client(asking(shop, Asker()), mode=MODERN) as client:
        for _ in range(5):
            await first_round(client, shop)
        assert shop.consumer.account().held_micros == 5 * PRICE
        clock.advance(901)
        assert await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep) == 5
    assert shop.journal() == ["HOLD"] * 5 + ["EXPIRE"] * 5
    assert shop.spent() == 0


async def test_a_hold_waits_as_long_as_its_state_is_good(shop: Shop, clock: ManualClock) -> None:
    """The last moment at which the SDK takes the state: ten minutes after a round that ended just before its hold."""
    inside = anyio.Event()
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price="0.005")
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        if ctx.input_responses:
            return "done"
        clock.advance(899)
        inside.set()
        return question()

    async with Client(server, mode=MODERN) as client:
        before = await first_round(client, shop)
        clock.advance(600)
        assert await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep) == 0
        result = await next_round(client, shop, before)
    assert text_of(result) == "done"
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


async def test_an_answer_after_the_hold_has_expired_is_a_call_of_its_own(shop: Shop, clock: ManualClock) -> None:
    async with Client(asking(shop, Asker()), mode=MODERN) as client:
        before = await first_round(client, shop)
        clock.advance(901)
        await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)
        result = await next_round(client, shop, before)
    assert shop.receipt(result).amount_micros == PRICE
    assert shop.journal() == ["HOLD", "EXPIRE", "HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


async def test_a_state_that_is_sent_again_after_its_call_was_paid_is_a_new_call_and_paid_again(shop: Shop) -> None:
    """The SDK's seal does not stop a state from being replayed: never a run without a payment."""
    asker = Asker()
    async with Client(asking(shop, asker), mode=MODERN) as client:
        before = await first_round(client, shop)
        receipts = {meta_of(await next_round(client, shop, before))["dev.payre/receipt"] for _ in range(3)}
    assert len(receipts) == 3
    assert len(asker.seen) == 4
    assert shop.spent() == 3 * PRICE


async def test_with_an_idempotency_key_a_replayed_state_gets_the_first_answer_free(shop: Shop) -> None:
    asker = Asker()
    async with Client(asking(shop, asker), mode=MODERN) as client:
        before = await first_round(client, shop, idempotency_key="one")
        first, again = [await next_round(client, shop, before, idempotency_key="one") for _ in range(2)]
    assert meta_of(again)["dev.payre/replayed"] is True
    assert meta_of(first)["dev.payre/receipt"] == meta_of(again)["dev.payre/receipt"]
    assert len(asker.seen) == 2
    assert shop.spent() == PRICE


async def test_of_rounds_that_are_retried_at_once_each_run_has_a_hold_of_its_own(shop: Shop) -> None:
    at_once, ran = 8, 0
    everyone = anyio.Event()
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price="0.005")
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        nonlocal ran
        if not ctx.input_responses:
            return question()
        ran += 1
        if ran == at_once:
            everyone.set()
        await everyone.wait()
        return "done"

    async with Client(server, mode=MODERN) as client:
        before = await first_round(client, shop)
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                for _ in range(at_once):
                    tasks.start_soon(next_round, client, shop, before)
    assert shop.journal().count("HOLD") == shop.journal().count("CAPTURE") == at_once
    assert shop.spent() == at_once * PRICE


async def test_another_callers_state_is_refused_as_the_sdk_refuses_a_forged_one(shop: Shop) -> None:
    other, asker = fund(shop.connection.ledger, 1_000_000, name="eve"), Asker()
    async with Client(asking(shop, asker), mode=MODERN) as client:
        before = await first_round(client, shop)
        for key in (other.key.text, None):
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await next_round(client, shop, before, key=key)
        assert len(asker.seen) == 1
        assert text_of(await next_round(client, shop, before)) == "asked 1 times"
    assert other.account().balance_micros == 1_000_000
    assert shop.spent() == PRICE


async def test_what_a_tool_reports_in_every_round_is_charged_together(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price=Price.per("tokens", 1, "0.001", max_units=100))
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        number = int(ctx.request_state or 0)
        report_usage("tokens", 10**number)
        return "done" if number == 1 else question(state=str(number + 1))

    async with Client(server, mode=MODERN, elicitation_callback=answers) as client:
        result = await client.call_tool("ask", {}, meta=shop.meta())
    assert shop.receipt(result).quantities == {"requests": 1, "tokens": 11}
    assert shop.spent() == 11_000


async def test_usage_of_a_call_that_was_paid_is_not_charged_to_the_next_one(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price=Price.per("tokens", 1, "0.001", max_units=100))
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        report_usage("tokens", 1)
        return "done" if ctx.input_responses else question()

    async with Client(server, mode=MODERN) as client:
        before = await first_round(client, shop)
        await next_round(client, shop, before)
        await next_round(client, shop, before)
    assert shop.spent() == 2_000 + 1_000


async def test_time_is_charged_for_the_running_of_all_rounds_and_not_for_the_waiting(shop: Shop, clock: ManualClock) -> None:
    server = PaidMCPServer("shop", payre=shop.payre(clock=clock))

    @server.tool(price=Price.per("seconds", 1, "0.001", max_units=100))
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        clock.advance(3)
        return "done" if ctx.input_responses else question()

    async with Client(server, mode=MODERN) as client:
        before = await first_round(client, shop)
        clock.advance(300)
        await next_round(client, shop, before)
    assert shop.spent() == 6_000


async def test_a_price_that_rises_between_rounds_does_not_change_the_call(shop: Shop) -> None:
    """A new process with new prices: what the hold was made for is known to the ledger's side while it runs."""
    asker = Asker()
    security = RequestStateSecurity(keys=["k" * 32])
    async with Client(asking(shop, asker, request_state_security=security), mode=MODERN) as client:
        before = await first_round(client, shop)
    dearer = PaidMCPServer("shop", payre=shop.payre(), request_state_security=security)
    dearer.tool(price="0.5")(asker.ask)
    async with Client(dearer, mode=MODERN) as client:
        result = await next_round(client, shop, before)
    assert shop.receipt(result).amount_micros == PRICE
    assert shop.spent() == PRICE


@pytest.mark.parametrize("comes", [True, False])
async def test_a_price_that_comes_or_goes_between_rounds_leaves_the_tool_its_state(shop: Shop, comes: bool) -> None:
    asker, security = Asker(), RequestStateSecurity(keys=["k" * 32])
    free, paid = (PaidMCPServer("shop", payre=shop.payre(), request_state_security=security) for _ in range(2))
    free.tool()(asker.ask)
    paid.tool(price="0.005")(asker.ask)
    first, second = (free, paid) if comes else (paid, free)
    async with Client(first, mode=MODERN) as client:
        before = await first_round(client, shop)
    async with Client(second, mode=MODERN) as client:
        assert text_of(await next_round(client, shop, before)) == "asked 1 times"
    assert shop.journal() == (["HOLD", "CAPTURE"] if comes else ["HOLD"])
    assert asker.seen == [(None, {}), ("1", {"city": {"city": "Oslo"}})]


async def test_a_forged_state_is_refused_before_anything_is_held(shop: Shop) -> None:
    asker = Asker()
    async with Client(asking(shop, asker), mode=MODERN) as client:
        before = await first_round(client, shop)
        forged = str(rounds.wrapped({"requestState": rounds.Left(rounds.Round(asked=True), "1")})["requestState"])
        for state in (forged, (before.request_state or "")[:-2] + "xx"):
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await next_round(client, shop, before.model_copy(update={"request_state": state}))
    assert len(asker.seen) == 1


async def test_a_server_without_the_sdks_seal_gets_one_when_payre_is_installed(shop: Shop) -> None:
    """Without it a client could write the state itself."""
    asker = Asker()
    server = MCPServer("bare")
    server.tool()(asker.ask)
    del server.middleware[1:]
    shop.payre(prices={"ask": "0.005"}).install(server)
    async with Client(server, mode=MODERN) as client:
        before = await first_round(client, shop)
        with pytest.raises(MCPError, match="Invalid or expired requestState"):
            await next_round(client, shop, before.model_copy(update={"request_state": json.dumps({"dev.payre/round": {}})}))
        assert text_of(await next_round(client, shop, before)) == "asked 1 times"
    assert shop.spent() == PRICE


class Name(BaseModel):
    """What is asked."""

    name: str


async def test_a_question_that_the_server_pushes_keeps_the_one_hold_of_its_call(shop: Shop) -> None:
    """The era before: the call stays open while its caller is asked."""
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price="0.005")
    async def greet(ctx: Context) -> str:  # pyright: ignore[reportUnusedFunction]
        answer = await ctx.elicit("Your name?", Name)
        if answer.action != "accept":
            raise ToolError("nobody there")
        return f"hello {answer.data.name}"

    replies = iter([ElicitResult(action="accept", content={"name": "Ada"}), ElicitResult(action="decline")])

    async def reply(context: Any, params: Any) -> ElicitResult:
        return next(replies)

    async with Client(server, mode="legacy", elicitation_callback=reply) as client:
        greeted = await client.call_tool("greet", {}, meta=shop.meta())
        declined = await client.call_tool("greet", {}, meta=shop.meta())
    assert (text_of(greeted), declined.is_error) == ("hello Ada", True)
    assert shop.journal() == ["HOLD", "CAPTURE", "HOLD", "VOID"]
    assert shop.spent() == PRICE
