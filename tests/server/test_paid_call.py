"""One paid call, as the MCP client sees it and as the ledger remembers it, in both eras of the protocol."""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from mcp import Client, MCPError
from mcp.client.context import ClientRequestContext
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitResult,
    ImageContent,
    InputRequiredResult,
    TextContent,
)
from pydantic import AfterValidator, BaseModel, Field

from payre_mcp import current_call
from payre_mcp.clock import US_PER_S, ManualClock
from payre_mcp.connection import open_ledger
from payre_mcp.ids import format_id
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.ledger.model import HOLD_ENDS, Kind
from payre_mcp.ledger.writer import HOLD_LIFE_US
from payre_mcp.pricing import Target
from payre_mcp.server.calls import PaidCall
from payre_mcp.server.extension import Payre
from payre_mcp.server.paid_server import PaidMCPServer
from tests.fakes import PATIENCE_S, audited, file_of, fund, journal_of
from tests.server.conftest import Shop, code_of, facts_of, meta_of, text_of

PRICE = 5_000
HOLD_LIFE_S = HOLD_LIFE_US / US_PER_S
LONGER_THAN_IS_KEPT = 256 * 1024 + 1


class Weather(BaseModel):
    city: str
    degrees: int
    notes: str | None = None


def forecast(city: str) -> str:
    """Tomorrow's weather."""
    return f"{city}: sunny"


async def report(city: str) -> Weather:
    return Weather(city=city, degrees=21)


async def cities(city: str) -> list[str]:
    return [city, "Bergen"]


def picture(city: str) -> list[TextContent | ImageContent]:
    return [TextContent(type="text", text=city), ImageContent(type="image", data="AAAA", mime_type="image/png")]


async def stamped(city: str) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=city)],
        structured_content={"city": city, "none": None},
        _meta={"example.com/trace": "t1"},
    )


async def nothing(city: str) -> None:
    """Answers an empty result."""


async def says_no(city: str) -> str:
    raise ToolError(f"no weather in {city}")


async def crashes(city: str) -> str:
    raise RuntimeError("the station burns")


async def protocol_error(city: str) -> str:
    raise MCPError(code=-32001, message="not today")


async def returns_an_error(city: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text="out of order")], is_error=True)


async def breaks_its_schema(city: str) -> Annotated[CallToolResult, Weather]:
    return CallToolResult(content=[], structured_content={"city": city, "degrees": "warm"})


async def breaks_the_protocol(city: str) -> CallToolResult:
    return CallToolResult.model_construct(content=[{"type": "smell", "of": city}])


async def exits_quietly(city: str) -> str:
    raise TimeoutError


SUCCESSES = [forecast, report, cities, picture, stamped, nothing]
FAILURES = [says_no, crashes, protocol_error, returns_an_error, breaks_its_schema, breaks_the_protocol, exits_quietly]

Tool = Callable[..., Any]


def unpaid_server(*tools: Tool) -> MCPServer:
    """The same shop without Payre."""
    server = MCPServer("shop")
    for tool in tools:
        server.tool()(tool)
    return server


async def outcomes_of(server: MCPServer[Any], mode: Any, tools: Sequence[Tool], meta: Any = None) -> dict[Tool, dict[str, Any]]:
    """What a client learns of one call of each of `tools`."""
    async with Client(server, mode=mode) as client:
        return {tool: await outcome_of(client, tool, meta) for tool in tools}


async def outcome_of(client: Client, tool: Tool, meta: Any = None) -> dict[str, Any]:
    """All that a client learns of a call of `tool`, a protocol error included."""
    try:
        result = await client.call_tool(tool.__name__, {"city": "Oslo"}, meta=meta)
    except MCPError as error:
        return {"code": error.code, "message": error.message}
    return result.model_dump(by_alias=True, mode="json")


def remembering(ran: list[str]) -> Tool:
    """A tool that writes down that it ran."""

    def remember(city: str) -> str:
        ran.append(city)
        return city

    return remember


def without(result: dict[str, Any], *names: str) -> dict[str, Any]:
    """A dumped result without these of its `_meta`."""
    meta: dict[str, Any] = result.get("_meta") or {}
    return {**result, "_meta": {name: value for name, value in meta.items() if name not in names}}


# Success.


async def test_a_successful_call_is_charged_once_and_its_receipt_verifies(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(forecast), mode=mode) as client:
        result = await shop.call(client, "forecast")
    assert (result.is_error, text_of(result)) == (False, "Oslo: sunny")
    receipt = shop.receipt(result)
    assert (receipt.amount_micros, receipt.name, receipt.kind, receipt.server) == (PRICE, "forecast", "tool", "shop")
    assert (receipt.consumer, receipt.mode) == (format_id("con", shop.consumer.id), "test")
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


async def test_a_paid_result_differs_from_the_unpaid_one_by_its_receipt_alone(shop: Shop, mode: Any) -> None:
    unpaid = await outcomes_of(unpaid_server(*SUCCESSES), mode, SUCCESSES)
    paid = await outcomes_of(shop.server(*SUCCESSES), mode, SUCCESSES, shop.meta())
    for tool in SUCCESSES:
        assert "dev.payre/receipt" in paid[tool]["_meta"]
        assert without(paid[tool], "dev.payre/receipt") == without(unpaid[tool])
    assert shop.spent() == PRICE * len(SUCCESSES)


async def test_a_tool_without_a_price_is_untouched(shop: Shop, mode: Any) -> None:
    async with Client(unpaid_server(report), mode=mode) as client:
        expected, listed = await outcome_of(client, report), (await client.list_tools()).tools
    async with Client(shop.server(forecast, free=[report]), mode=mode) as client:
        assert await outcome_of(client, report) == expected
        assert await outcome_of(client, report, shop.meta()) == expected
        assert [tool for tool in (await client.list_tools()).tools if tool.name == "report"] == listed
    assert shop.journal() == []


async def test_every_call_without_an_idempotency_key_is_a_charge_of_its_own(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(forecast), mode=mode) as client:
        results = [await shop.call(client, "forecast") for _ in range(3)]
    assert len({shop.receipt(result).charge_id for result in results}) == 3
    assert shop.spent() == 3 * PRICE


async def test_calls_that_race_for_the_last_money_are_charged_as_often_as_it_lasts(shop: Shop, mode: Any) -> None:
    results: list[CallToolResult] = []
    async with Client(shop.server(forecast, price="0.3"), mode=mode) as client, anyio.create_task_group() as tasks:

        async def race() -> None:
            results.append(await shop.call(client, "forecast"))

        for _ in range(8):
            tasks.start_soon(race)
    assert sorted(code_of(result) for result in results) == ["", "", "", *["insufficient_balance"] * 5]
    assert shop.spent() == 900_000


async def test_the_receipts_digests_are_of_the_arguments_and_the_result(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(forecast), mode=mode) as client:
        calls = [await shop.call(client, "forecast", city) for city in ("Oslo", "Oslo", "Bergen")]
    first, again, other = (shop.receipt(call) for call in calls)
    assert (first.args_sha256, first.result_sha256) == (again.args_sha256, again.result_sha256)
    assert first.args_sha256 != other.args_sha256
    assert first.result_sha256 != other.result_sha256


# Prices in lists.


async def test_a_price_is_listed_in_meta_and_at_the_end_of_the_description(shop: Shop, mode: Any) -> None:
    async with Client(unpaid_server(forecast), mode=mode) as client:
        (unpriced,) = (await client.list_tools()).tools
    async with Client(shop.server(forecast), mode=mode) as client:
        (priced,) = (await client.list_tools()).tools
    assert priced.description == "Tomorrow's weather. Costs $0.005 per call."
    card = (priced.meta or {})["dev.payre/price"]
    assert (card["currency"], card["max_micros"], card["max_usd"]) == ("USD", PRICE, "0.005")
    assert priced.model_copy(update={"description": unpriced.description, "meta": unpriced.meta}) == unpriced


async def test_the_price_stays_out_of_descriptions_when_asked(shop: Shop, mode: Any) -> None:
    server = shop.payre(prices={"forecast": "0.005"}, in_description=False).install(unpaid_server(forecast))
    async with Client(server, mode=mode) as client:
        (listed,) = (await client.list_tools()).tools
    assert listed.description == "Tomorrow's weather."
    assert (listed.meta or {})["dev.payre/price"]["max_micros"] == PRICE


# Refusals.


async def test_a_call_without_a_key_is_told_the_price_and_does_not_run(shop: Shop, mode: Any) -> None:
    ran: list[str] = []
    async with Client(shop.server(remembering(ran)), mode=mode) as client:
        result = await shop.call(client, "remember", key=None)
    facts = facts_of(result)
    assert (result.is_error, facts["error"], facts["price_micros"]) == (True, "payment_required", PRICE)
    assert facts == meta_of(result)["dev.payre/payment-required"]
    assert "$0.005" in text_of(result)
    assert '"env": {"PAYRE_KEY": "pyr_ck_..."}' in text_of(result)
    assert (ran, shop.journal()) == ([], [])


@pytest.mark.parametrize("page", ["http://127.0.0.1:8402/top-ups", None])
async def test_too_little_money_is_told_whole_in_text_structured_content_and_meta(
    ledger_path: Path, clock: ManualClock, mode: Any, page: str | None
) -> None:
    """Some hosts show the model only one of the three."""
    connection = open_ledger(f"sqlite:///{ledger_path}", clock=clock, top_up_page=page)
    shop = Shop(connection, fund(connection.ledger, 1_000_000))
    ran: list[str] = []
    async with Client(shop.server(remembering(ran), price="2.5"), mode=mode) as client:
        result, again = [await shop.call(client, "remember") for _ in range(2)]
    connection.close()
    facts, text = facts_of(result), text_of(result)
    assert result.is_error
    assert facts["error"] == "insufficient_balance"
    assert (facts["price_micros"], facts["balance_micros"], facts["shortfall_micros"]) == (2_500_000, 1_000_000, 1_500_000)
    assert (facts["price_usd"], facts["balance_usd"], facts["shortfall_usd"]) == ("2.50", "1.00", "1.50")
    assert meta_of(result)["dev.payre/payment-required"] == facts
    where = facts["hint"] if page is None else facts["top_up_url"]
    assert where.startswith(page or "Top up with `payre top-up`")
    for fact in ("insufficient_balance", "$2.50", "$1.00", "$1.50", where):
        assert fact in text
    assert facts_of(again) == facts, "the same link again, not a new one"
    assert (ran, shop.journal()) == ([], [])


async def test_a_key_that_cannot_pay_is_refused_and_never_repeated(shop: Shop, mode: Any) -> None:
    keys = ["${PAYRE_KEY}", "pyr_ck_test_" + "0" * 38, "", "another ledger's", "developer", "bound", "revoked"]
    async with Client(shop.server(forecast), mode=mode) as client:
        for key in keys:
            text = a_key(shop, key)
            result = await shop.call(client, "forecast", key=text)
            assert code_of(result) == ("forbidden" if key in ("developer", "bound") else "invalid_api_key"), key
            assert not text or text not in result.model_dump_json()
    assert shop.journal() == []


def a_key(shop: Shop, which: str) -> str:
    """A real key of the kind that is named, or the text itself."""
    directory = shop.connection.ledger.directory
    match which:
        case "another ledger's":
            return new_key(Role.CONSUMER, Mode.TEST).text
        case "revoked":
            directory.revoke_key(shop.consumer.record.id)
            return shop.consumer.key.text
        case "developer":
            return directory.create_key(Role.DEVELOPER, shop.consumer.developer_id).text
        case "bound":
            elsewhere = directory.ensure_server(shop.consumer.developer_id, "another shop")
            return directory.create_key(Role.CONSUMER, shop.consumer.id, server_id=elsewhere.id).text
        case _:
            return which


async def test_a_call_above_the_callers_own_limit_is_refused(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(forecast), mode=mode) as client:
        for limit in ("0.004999", "$0.001", 0.004, 0):
            result = await shop.call(client, "forecast", max_price=limit)
            assert (code_of(result), facts_of(result)["price_micros"]) == ("price_above_limit", PRICE)
            assert facts_of(result)["limit_micros"] < PRICE
            assert "$0.005" in text_of(result)
    assert shop.journal() == []


async def test_a_call_within_the_callers_limit_costs_its_price_and_no_more(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(forecast), mode=mode) as client:
        for limit in ("0.005", "$1", 0.005, 100):
            assert shop.receipt(await shop.call(client, "forecast", max_price=limit)).amount_micros == PRICE
    assert shop.spent() == 4 * PRICE


async def test_a_wish_that_cannot_be_read_is_an_error_and_not_ignored(shop: Shop, mode: Any) -> None:
    wishes: list[tuple[str, Any]] = [
        *(("max_price", limit) for limit in ("cheap", -1, ["1"])),
        *(("idempotency_key", key) for key in (7, "", "two words", "x" * 256, "\u00e9")),
    ]
    async with Client(shop.server(forecast), mode=mode) as client:
        for name, wish in wishes:
            assert code_of(await shop.call(client, "forecast", **{name: wish})) == "invalid_request", (name, wish)
    assert shop.journal() == []


# Failures.


async def test_a_call_that_fails_is_never_charged_and_tells_what_it_would_tell_unpaid(shop: Shop, mode: Any) -> None:
    unpaid = await outcomes_of(unpaid_server(*FAILURES), mode, FAILURES)
    paid = await outcomes_of(shop.server(*FAILURES), mode, FAILURES, shop.meta())
    assert paid == unpaid
    assert all("code" in each or each["isError"] for each in paid.values())
    assert shop.journal() == ["HOLD", "VOID"] * len(FAILURES)
    assert shop.spent() == 0


async def test_an_unknown_tool_or_bad_arguments_never_make_a_hold(shop: Shop, mode: Any) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [("forcast", {"city": "Oslo"}), ("forecast", {"town": "Oslo"}), ("forecast", {})]
    async with Client(unpaid_server(forecast), mode=mode) as plain, Client(shop.server(forecast), mode=mode) as client:
        for tool, arguments in calls:
            result = await client.call_tool(tool, arguments, meta=shop.meta())
            assert result.is_error
            assert result == await plain.call_tool(tool, arguments)
    assert shop.journal() == []


async def test_a_validator_that_crashes_is_held_and_voided(shop: Shop, mode: Any) -> None:
    def burn() -> str:
        raise RuntimeError("the validator burns")

    async def visit(city: str, place: Annotated[str, Field(default_factory=burn)]) -> str:
        return place

    async with Client(shop.server(visit), mode=mode) as client:
        assert (await shop.call(client, "visit")).is_error
    assert shop.journal() == ["HOLD", "VOID"]


# Cancellation.


async def test_a_cancelled_async_tool_is_not_charged(shop: Shop, mode: Any) -> None:
    started = anyio.Event()

    async def wait(city: str) -> str:
        started.set()
        await anyio.sleep_forever()
        return city

    async with Client(shop.server(wait), mode=mode) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(shop.call, client, "wait")
        with anyio.fail_after(PATIENCE_S):
            await started.wait()
        tasks.cancel_scope.cancel()
    assert shop.journal() == ["HOLD", "VOID"]
    assert shop.spent() == 0


async def test_a_cancelled_tool_in_a_thread_runs_to_its_end_and_is_charged(shop: Shop, mode: Any) -> None:
    """Its work is done and cannot be undone; DESIGN.md section 4.3."""
    started, leave = anyio.Event(), threading.Event()

    def work(city: str) -> str:
        anyio.from_thread.run_sync(started.set)
        assert leave.wait(PATIENCE_S)
        return city

    async with Client(shop.server(work), mode=mode) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shop.call, client, "work")
            with anyio.fail_after(PATIENCE_S):
                await started.wait()
            tasks.cancel_scope.cancel()
            if mode == "auto":  # the caller's own task runs the thread, and waits for it
                leave.set()
        await client.list_tools()  # what was sent before, the cancellation too, has arrived
        leave.set()
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


async def test_however_a_call_is_cancelled_its_hold_is_captured_or_voided_exactly_once(shop: Shop, mode: Any) -> None:
    dice = random.Random(2026)
    inside, release = anyio.Event(), anyio.Event()

    async def work(city: str) -> str:
        inside.set()
        await release.wait()
        return city

    async def cancel_after(steps: int, scope: anyio.CancelScope) -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async def call(done: anyio.Event, number: int) -> None:
        await shop.call(client, "work", f"city {number}")
        done.set()

    async with Client(shop.server(work), mode=mode) as client:
        with anyio.fail_after(PATIENCE_S):
            for number in range(250):  # a thousand in all
                inside, release, done = anyio.Event(), anyio.Event(), anyio.Event()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(call, done, number)
                    match number % 4:
                        case 0:  # on its way to the tool
                            await cancel_after(dice.randrange(40), tasks.cancel_scope)
                        case 1:  # inside the tool
                            await inside.wait()
                            tasks.cancel_scope.cancel()
                        case 2:  # on its way back
                            await inside.wait()
                            release.set()
                            await cancel_after(dice.randrange(40), tasks.cancel_scope)
                        case _:  # when it has arrived
                            release.set()
                            await done.wait()
                            tasks.cancel_scope.cancel()
    shop.connection.close()  # and with it everything that was on its way to the ledger
    path = file_of(shop.connection.ledger)
    rows = journal_of(path)
    holds = [row.id for row in rows if row.kind == Kind.HOLD]
    ends = [row.ref_id for row in rows if row.kind in HOLD_ENDS]
    kinds = [row.kind for row in rows]
    assert sorted(holds) == sorted(ends)
    assert kinds.count(Kind.VOID) >= 60
    assert kinds.count(Kind.CAPTURE) >= 60
    assert kinds.count(Kind.EXPIRE) == 0
    assert audited(path, 0).violations == []


# The same call again.


async def test_the_same_idempotency_key_gives_the_stored_result_and_charges_once(shop: Shop, mode: Any) -> None:
    ran: list[str] = []
    async with Client(shop.server(remembering(ran)), mode=mode) as client:
        first, again = [await shop.call(client, "remember", idempotency_key="k-1") for _ in range(2)]
    assert meta_of(again) == meta_of(first) | {"dev.payre/replayed": True}
    assert again.model_copy(update={"meta": None}) == first.model_copy(update={"meta": None})
    assert shop.receipt(first).idempotency_key_sha256
    assert ran == ["Oslo"]
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


async def test_a_result_is_replayed_by_a_server_that_was_started_anew(shop: Shop, mode: Any) -> None:
    ran: list[str] = []
    for _ in range(2):
        async with Client(shop.server(remembering(ran)), mode=mode) as client:
            assert text_of(await shop.call(client, "remember", idempotency_key="k-1")) == "Oslo"
    assert (ran, shop.spent()) == (["Oslo"], PRICE)


async def test_an_idempotency_key_with_other_arguments_or_another_tool_is_a_conflict(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(forecast, report), mode=mode) as client:
        await shop.call(client, "forecast", "Oslo", idempotency_key="k-1")
        other_arguments = await shop.call(client, "forecast", "Bergen", idempotency_key="k-1")
        other_tool = await shop.call(client, "report", "Oslo", idempotency_key="k-1")
    assert (code_of(other_arguments), code_of(other_tool)) == ("idempotency_conflict", "idempotency_conflict")
    assert shop.spent() == PRICE


async def test_an_idempotency_key_belongs_to_one_consumer(shop: Shop, mode: Any) -> None:
    stranger = fund(shop.connection.ledger, 1_000_000, name="bob")
    async with Client(shop.server(forecast), mode=mode) as client:
        await shop.call(client, "forecast", idempotency_key="k-1")
        result = await shop.call(client, "forecast", idempotency_key="k-1", key=stranger.key.text)
    assert "dev.payre/replayed" not in meta_of(result)
    assert shop.receipt(result).consumer == format_id("con", stranger.id)


async def test_while_the_first_call_runs_its_idempotency_key_is_in_progress(shop: Shop, mode: Any) -> None:
    ran: list[str] = []
    inside, release = anyio.Event(), anyio.Event()

    async def work(city: str) -> str:
        ran.append(city)
        inside.set()
        await release.wait()
        return city

    async with Client(shop.server(work), mode=mode) as client:
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: shop.call(client, "work", idempotency_key="k-1"))
                await inside.wait()
                early = await shop.call(client, "work", idempotency_key="k-1")
                assert code_of(early) == "in_progress"
                assert facts_of(early)["retry_after_s"] > 0
                release.set()
        late = await shop.call(client, "work", idempotency_key="k-1")
    assert meta_of(late)["dev.payre/replayed"] is True
    assert (ran, shop.spent()) == (["Oslo"], PRICE)


async def test_an_answer_too_long_to_keep_is_not_charged_again_and_the_receipt_says_so(shop: Shop, mode: Any) -> None:
    ran: list[str] = []

    def long(city: str) -> str:
        ran.append(city)
        return "x" * LONGER_THAN_IS_KEPT

    async with Client(shop.server(long), mode=mode) as client:
        first, again = [await shop.call(client, "long", idempotency_key="k-1") for _ in range(2)]
    assert len(text_of(first)) == LONGER_THAN_IS_KEPT
    assert code_of(again) == "result_not_stored"
    assert shop.receipt(again) == shop.receipt(first)
    assert facts_of(again)["receipt"] == meta_of(first)["dev.payre/receipt"]
    assert (ran, shop.spent()) == (["Oslo"], PRICE)


async def test_a_failure_leaves_the_idempotency_key_free(shop: Shop, mode: Any) -> None:
    moods = iter(["bad", "good"])

    async def moody(city: str) -> str:
        if next(moods) == "bad":
            raise ToolError("not in the mood")
        return city

    async with Client(shop.server(moody), mode=mode) as client:
        first, second, third = [await shop.call(client, "moody", idempotency_key="k-1") for _ in range(3)]
    assert first.is_error
    assert (text_of(second), text_of(third)) == ("Oslo", "Oslo")
    assert meta_of(third)["dev.payre/replayed"] is True
    assert shop.journal() == ["HOLD", "VOID", "HOLD", "CAPTURE"]
    assert shop.spent() == PRICE


async def test_a_refusal_for_money_leaves_the_idempotency_key_free(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(forecast, price="1.5"), mode=mode) as client:
        refused = await shop.call(client, "forecast", idempotency_key="k-1")
        shop.connection.ledger.writer.ask(shop.consumer.top_up(1_000_000, key="more"))
        paid = await shop.call(client, "forecast", idempotency_key="k-1")
    assert code_of(refused) == "insufficient_balance"
    assert shop.receipt(paid).amount_micros == 1_500_000


async def test_a_call_goes_on_being_the_same_call_when_the_price_changes(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(forecast), mode=mode) as client:
        first = await shop.call(client, "forecast", idempotency_key="k-1")
    async with Client(shop.server(forecast, price="0.5"), mode=mode) as client:
        again = await shop.call(client, "forecast", idempotency_key="k-1")
        new = await shop.call(client, "forecast", idempotency_key="k-2")
    assert shop.receipt(again) == shop.receipt(first)
    assert shop.receipt(new).amount_micros == 500_000
    assert shop.spent() == PRICE + 500_000


# Rounds that ask for input.


async def choose(city: str, ctx: Context) -> str | InputRequiredResult:
    if not ctx.input_responses:
        schema = {"type": "object", "properties": {"date": {"type": "string"}}}
        question = ElicitRequest(params=ElicitRequestFormParams(message=f"When in {city}?", requested_schema=schema))
        return InputRequiredResult(input_requests={"date": question})
    return f"{city}: booked"


@pytest.mark.parametrize("key", [None, "k-1"])
async def test_a_round_that_asks_for_input_costs_nothing_and_the_final_result_its_price(shop: Shop, key: str | None) -> None:
    """mcp-seam.md section 8: input_required is not final."""
    spent_when_asked: list[int] = []

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        spent_when_asked.append(1_000_000 - shop.consumer.account().balance_micros)
        return ElicitResult(action="accept", content={"date": "tomorrow"})

    async with Client(shop.server(choose), elicitation_callback=answer) as client:
        result = await shop.call(client, "choose", idempotency_key=key)
    assert text_of(result) == "Oslo: booked"
    assert shop.receipt(result).amount_micros == PRICE
    assert spent_when_asked == [0]
    assert shop.journal().count("CAPTURE") == 1
    assert shop.spent() == PRICE


async def test_a_round_that_asks_what_the_connection_cannot_carry_costs_nothing(shop: Shop) -> None:
    async with Client(shop.server(choose), mode="legacy") as client:
        with pytest.raises(MCPError):
            await shop.call(client, "choose")
    assert shop.journal() == ["HOLD", "VOID"]
    assert shop.spent() == 0


# Inside the tool.


async def test_a_tool_and_its_child_tasks_see_the_call_that_pays_for_them(shop: Shop, mode: Any) -> None:
    seen: dict[str, PaidCall | None] = {}

    def in_thread(city: str) -> str:
        seen["thread"] = current_call()
        return city

    async def in_task(city: str) -> str:
        seen["task"] = current_call()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_child)
        await anyio.to_thread.run_sync(in_worker)
        return city

    async def in_child() -> None:
        seen["child"] = current_call()

    def in_worker() -> None:
        seen["worker"] = current_call()

    def gratis(city: str) -> str:
        seen["free"] = current_call()
        return city

    async with Client(shop.server(in_thread, in_task, free=[gratis]), mode=mode) as client:
        for tool in ("in_thread", "in_task", "gratis"):
            await shop.call(client, tool)
    assert seen.pop("free") is None
    assert current_call() is None
    expected = format_id("con", shop.consumer.id)
    assert {call.consumer for call in seen.values() if call} == {expected}
    assert {call.held.micros for call in seen.values() if call} == {PRICE}
    tools = {"thread": "in_thread", "task": "in_task", "child": "in_task", "worker": "in_task"}
    assert {name: call.target for name, call in seen.items() if call} == {
        name: Target("tool", tool) for name, tool in tools.items()
    }


# When the ledger is gone, or the hold.


async def test_without_its_ledger_a_priced_call_does_not_run_and_a_free_one_does(shop: Shop, mode: Any) -> None:
    ran: list[str] = []
    async with Client(shop.server(remembering(ran), free=[forecast]), mode=mode) as client:
        shop.connection.close()
        refused, free = await shop.call(client, "remember"), await shop.call(client, "forecast")
        listed = (await client.list_tools()).tools
    assert code_of(refused) == "payre_unavailable"
    assert facts_of(refused)["retry_after_s"] > 0
    assert (ran, text_of(free), len(listed)) == ([], "Oslo: sunny", 2)


async def test_when_the_database_itself_fails_a_priced_call_is_refused_and_no_sql_reaches_the_client(
    shop: Shop, mode: Any
) -> None:
    ran: list[str] = []
    tool = remembering(ran)
    async with Client(shop.server(tool), mode=mode) as client:
        shop.connection.close()
        for file in file_of(shop.connection.ledger).parent.iterdir():
            file.unlink()
        outcome = await outcome_of(client, tool, shop.meta())
    assert ran == []
    assert outcome["structuredContent"]["error"] == "payre_unavailable"


@pytest.mark.parametrize("fails", [True, False])
async def test_when_the_ledger_goes_while_a_tool_runs_its_result_is_delivered_as_pending(
    shop: Shop, mode: Any, fails: bool
) -> None:
    """DESIGN.md section 10: capture cannot reach the ledger. The hold is given back when the ledger is opened again."""

    async def work(city: str) -> str:
        await anyio.to_thread.run_sync(shop.connection.close)
        if fails:
            raise ToolError("and the tool too")
        return city

    async with Client(shop.server(work), mode=mode) as client:
        result = await shop.call(client, "work")
    assert result.is_error == fails
    assert text_of(result) == ("Error executing tool work: and the tool too" if fails else "Oslo")
    assert meta_of(result).get("dev.payre/settlement") == (None if fails else "pending")
    assert "dev.payre/receipt" not in meta_of(result)
    assert shop.journal() == ["HOLD"]


@pytest.mark.parametrize("spent_meanwhile", [True, False])
async def test_a_result_whose_hold_expired_is_delivered_and_charged_only_if_the_money_is_there(
    shop: Shop, clock: ManualClock, mode: Any, spent_meanwhile: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process with this ledger, whose clock is ahead, ends a hold that is not its own to keep alive."""
    inside, release = anyio.Event(), anyio.Event()

    async def work(city: str) -> str:
        inside.set()
        await release.wait()
        return city

    results: list[CallToolResult] = []

    async def call() -> None:
        results.append(await shop.call(client, "work"))

    async with Client(shop.server(work, price="0.9"), mode=mode) as client:
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await inside.wait()
                await anyio.to_thread.run_sync(expire_elsewhere, shop, clock, spent_meanwhile)
                release.set()
    (result,) = results
    assert (text_of(result), result.is_error) == ("Oslo", False)
    if spent_meanwhile:
        assert meta_of(result)["dev.payre/settlement"] == "uncollected"
        assert "dev.payre/receipt" not in meta_of(result)
        assert shop.spent() == 200_000
        (told,) = [vars(record) for record in caplog.records if record.name == "payre_mcp.server.settling"]
        assert (told["server"], told["target"], told["code"]) == ("shop", "work", "hold_not_open")
    else:
        assert shop.receipt(result).amount_micros == 900_000
        assert "dev.payre/settlement" not in meta_of(result)
        assert shop.spent() == 900_000


def expire_elsewhere(shop: Shop, clock: ManualClock, spend: bool) -> None:
    ahead = ManualClock(clock.now_us())
    ahead.advance(HOLD_LIFE_S + 1)
    other = open_ledger(f"sqlite:///{file_of(shop.connection.ledger)}", clock=ahead)
    try:
        other.ledger.writer.sweep()
        assert shop.journal() == ["HOLD", "EXPIRE"]
        if spend:
            other.ledger.writer.ask(shop.consumer.charge(200_000)._replace(id=other.ledger.ids.new(), detail="{}"))
    finally:
        other.close()


async def test_while_its_tool_runs_a_hold_does_not_expire(shop: Shop, clock: ManualClock, mode: Any) -> None:
    inside, release = anyio.Event(), anyio.Event()

    async def work(city: str) -> str:
        inside.set()
        await release.wait()
        return city

    async with Client(shop.server(work), mode=mode) as client:
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(shop.call, client, "work")
                await inside.wait()
                for _ in range(3):
                    clock.advance(HOLD_LIFE_S - 1)
                    assert await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep) == 0
                release.set()
    assert shop.journal() == ["HOLD", "CAPTURE"]


# Free of charge.


async def test_a_price_of_zero_needs_no_key_and_is_recorded_when_one_comes(shop: Shop, mode: Any) -> None:
    async with Client(shop.server(forecast, price="0"), mode=mode) as client:
        (listed,) = (await client.list_tools()).tools
        unrecorded = await shop.call(client, "forecast", key=None)
        assert shop.journal() == []
        recorded = await shop.call(client, "forecast")
    assert listed.description == "Tomorrow's weather. Free; recorded when you send a Payre key."
    assert (text_of(unrecorded), text_of(recorded)) == ("Oslo: sunny", "Oslo: sunny")
    assert "dev.payre/receipt" not in meta_of(unrecorded)
    assert (shop.receipt(recorded).amount_micros, shop.journal(), shop.spent()) == (0, ["HOLD", "CAPTURE"], 0)


# The inner hook: whatever reaches a priced tool pays, by whichever way.


def hooked(shop: Shop, *tools: Tool, wire: bool, prices: dict[str, Any] | None = None) -> MCPServer:
    """A plain server with the extension, and on the wire too if so wished."""
    payre = shop.payre(prices=prices or {tool.__name__: "0.005" for tool in tools}, server_name="shop")
    server = MCPServer("shop", extensions=[payre])
    for tool in tools:
        server.tool()(tool)
    return payre.install(server) if wire else server


@pytest.mark.parametrize("wire", [True, False])
async def test_the_extension_charges_once_whether_or_not_the_middleware_is_there_too(shop: Shop, mode: Any, wire: bool) -> None:
    unpaid = await outcomes_of(unpaid_server(*SUCCESSES), mode, SUCCESSES)
    paid = await outcomes_of(hooked(shop, *SUCCESSES, wire=wire), mode, SUCCESSES, shop.meta())
    for tool in SUCCESSES:
        assert without(paid[tool], "dev.payre/receipt") == without(unpaid[tool])
    assert shop.journal() == ["HOLD", "CAPTURE"] * len(SUCCESSES)
    assert shop.spent() == PRICE * len(SUCCESSES)


async def test_the_extension_alone_does_not_charge_for_failures(shop: Shop, mode: Any) -> None:
    tools = [says_no, crashes, protocol_error, returns_an_error]
    paid = await outcomes_of(hooked(shop, *tools, wire=False), mode, tools, shop.meta())
    assert all("code" in each or each["isError"] for each in paid.values())
    assert shop.spent() == 0


async def test_the_extension_alone_refuses_a_call_without_a_key(shop: Shop, mode: Any) -> None:
    ran: list[str] = []
    async with Client(hooked(shop, remembering(ran), wire=False), mode=mode) as client:
        result = await shop.call(client, "remember", key=None)
    assert (code_of(result), facts_of(result)["price_micros"], ran) == ("payment_required", PRICE, [])


class Rename:
    """A middleware further in, as a search or proxy transform is: it calls `old` by the name `new`."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        params = dict(ctx.params or {})
        if params.get("name") == self.old:
            ctx = replace(ctx, params=params | {"name": self.new})
        return await call_next(ctx)


async def test_a_call_that_was_charged_by_another_name_does_not_run(shop: Shop, mode: Any) -> None:
    ran: list[str] = []
    server = hooked(shop, forecast, remembering(ran), wire=True, prices={"forecast": "0.005", "remember": "0.9"})
    server.middleware.append(Rename("forecast", "remember"))
    async with Client(server, mode=mode) as client:
        result = await shop.call(client, "forecast")
    assert result.is_error
    assert "forecast" in text_of(result)
    assert (ran, shop.journal(), shop.spent()) == ([], ["HOLD", "VOID"], 0)


@pytest.mark.parametrize("key", [..., None])
async def test_a_free_name_that_leads_to_a_priced_tool_pays_at_the_tool(shop: Shop, mode: Any, key: Any) -> None:
    ran: list[str] = []
    server = hooked(shop, forecast, remembering(ran), wire=True, prices={"remember": "0.005"})
    server.middleware.append(Rename("forecast", "remember"))
    async with Client(server, mode=mode) as client:
        result = await shop.call(client, "forecast", key=key)
    if key is None:
        assert (code_of(result), ran) == ("payment_required", [])
    else:
        assert (shop.receipt(result).name, ran, shop.spent()) == ("remember", ["Oslo"], PRICE)


async def test_a_rename_before_the_meter_is_charged_as_what_runs(shop: Shop, mode: Any) -> None:
    ran: list[str] = []
    payre = shop.payre(prices={"remember": "0.005"})
    server = MCPServer("shop", middleware=[Rename("forecast", "remember")], extensions=[payre])
    server.tool()(remembering(ran))
    payre.install(server)
    async with Client(server, mode=mode) as client:
        assert shop.receipt(await shop.call(client, "forecast")).name == "remember"
    assert shop.spent() == PRICE


async def test_a_paid_tool_that_calls_another_paid_server_in_memory_pays_it_too(shop: Shop, mode: Any) -> None:
    """The inner server meters by its extension alone; its call is not the outer one under the same name."""
    inner = hooked(shop, forecast, wire=False, prices={"forecast": "0.1"})

    async def relay(city: str) -> str:
        async with Client(inner, mode=mode) as client:
            return text_of(await shop.call(client, "forecast", city))

    outer = PaidMCPServer("outer", payre=shop.payre())
    outer.tool(name="forecast", price="0.005")(relay)
    async with Client(outer, mode=mode) as client:
        assert text_of(await shop.call(client, "forecast")) == "Oslo: sunny"
    assert shop.spent() == PRICE + 100_000


@pytest.mark.parametrize("installed", [False, True])
async def test_a_call_that_the_host_takes_after_refusing_it_is_paid_or_not_delivered(
    shop: Shop, mode: Any, installed: bool
) -> None:
    """A validator with a memory: it refuses when it is asked first, and takes the same arguments when the tool runs."""
    asked: list[str] = []

    def moody(city: str) -> str:
        asked.append(city)
        if len(asked) == 1:
            raise ValueError("not today")
        return city

    async def work(city: Annotated[str, AfterValidator(moody)]) -> str:
        return city

    server: MCPServer[Any] = shop.server(work)
    if installed:
        server = MCPServer("installed")
        server.tool()(work)
        Payre(gateway=shop.connection.gateway, prices={"work": "0.01"}).install(server)
    async with Client(server, mode=mode) as client:
        result = await shop.call(client, "work")
    if installed:
        assert code_of(result) == "call_refused"
        assert shop.spent() == 0
    else:
        assert shop.receipt(result).amount_micros == shop.spent()
