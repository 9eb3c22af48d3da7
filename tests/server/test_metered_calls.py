"""Calls whose price depends on what they use: measured, reported, counted, bounded; charged to the micro-dollar."""

from collections.abc import Callable
from typing import Any, Literal

import anyio
import anyio.to_thread
import pytest
from mcp import Client
from mcp_types import BlobResourceContents, CallToolResult, EmbeddedResource, ImageContent, TextContent

from payre_mcp import PaidMCPServer, Price, observe, report_usage
from payre_mcp.clock import ManualClock
from payre_mcp.pricing import PriceSource
from payre_mcp.server.calls import running
from tests.server.conftest import Shop, code_of, facts_of, meta_of, text_of

TOKENS = Price.per("tokens", 1_000_000, input="0.50", output="1.50", max_units={"input": 4_000, "output": 1_000})
PAGES = Price.per("pages", 1, "0.01", max_units=30)


def server_with(shop: Shop, function: Callable[..., Any], price: PriceSource, **options: Any) -> PaidMCPServer:
    server = PaidMCPServer("shop", payre=shop.payre(**options))
    server.tool(price=price)(function)
    return server


async def called(shop: Shop, server: PaidMCPServer, arguments: dict[str, Any] | None = None, **meta: Any) -> CallToolResult:
    """The only tool of the server, called once."""
    async with Client(server) as client:
        (tool,) = (await client.list_tools()).tools
        return await client.call_tool(tool.name, arguments or {}, meta=shop.meta(**meta))


# Reports.


async def in_the_tool_itself() -> None:
    report_usage("tokens", 800, "input")
    report_usage("tokens", 200, direction="output")


def in_a_sync_tool() -> None:
    report_usage("tokens", 800, "input")
    report_usage("tokens", 200, "output")


async def in_child_tasks() -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(in_a_childs_thread)
        tasks.start_soon(in_a_child)


async def in_a_childs_thread() -> None:
    await anyio.to_thread.run_sync(report_usage, "tokens", 200, "input")


async def in_a_child() -> None:
    report_usage("tokens", 200, "output")


@pytest.mark.parametrize("tool", [in_the_tool_itself, in_a_sync_tool, in_child_tasks])
async def test_usage_is_reported_from_wherever_a_tool_does_its_work(shop: Shop, tool: Callable[..., Any], mode: Any) -> None:
    server = server_with(shop, tool, TOKENS)
    async with Client(server, mode=mode) as client:
        result = await client.call_tool(tool.__name__, {}, meta=shop.meta())
    assert not result.is_error
    assert shop.receipt(result).quantities == {"requests": 1, "input.tokens": 800, "output.tokens": 200}
    assert shop.spent() == 700
    assert shop.journal() == ["HOLD", "CAPTURE"]


async def test_calls_at_the_same_time_do_not_mix_their_reports(shop: Shop) -> None:
    everyone = anyio.Event()
    inside = 0

    async def convert(pages: int) -> int:
        nonlocal inside
        report_usage("pages", pages)
        inside += 1
        if inside == 8:
            everyone.set()
        await everyone.wait()
        report_usage("pages", pages)
        return pages

    paid: dict[int, int] = {}
    server = server_with(
        shop, convert, PAGES.canonical() | {"dimensions": [{"unit": "pages", "price_usd": "0.0001", "max_units": 30}]}
    )
    async with Client(server) as client, anyio.create_task_group() as tasks:

        async def pay(pages: int) -> None:
            result = await client.call_tool("convert", {"pages": pages}, meta=shop.meta())
            paid[pages] = shop.receipt(result).amount_micros

        for pages in range(1, 9):
            tasks.start_soon(pay, pages)
    assert paid == {pages: 2 * pages * 100 for pages in range(1, 9)}


async def test_outside_a_priced_call_a_report_does_nothing(shop: Shop) -> None:
    report_usage("tokens", "not even a number")
    observe("nothing", -1)

    async def free() -> str:
        report_usage("tokens", 5)
        return "done"

    server = PaidMCPServer("shop", payre=shop.payre())
    server.tool()(free)
    assert not (await called(shop, server)).is_error
    assert shop.journal() == []


async def test_a_report_after_the_call_is_nobodys(shop: Shop) -> None:
    left: list[Any] = []

    async def convert() -> str:
        report_usage("pages", 2)
        left.append(running.get())
        return "done"

    assert shop.receipt(await called(shop, server_with(shop, convert, PAGES))).amount_micros == 20_000
    left[0].report.add("pages", 10)
    assert left[0].report.quantities() == {"pages": 2}
    assert shop.spent() == 20_000


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (lambda: report_usage("pages", -1), "UsageInvalid"),
        (lambda: report_usage("page", 1), "UsageInvalid"),
        (lambda: report_usage("requests", 2), "UsageInvalid"),
        (lambda: report_usage("pages", float("nan")), "UsageInvalid"),
        (lambda: observe("colour", 1), "UsageInvalid"),
        (lambda: report_usage("tokens", 5), "UsageAmbiguous"),
    ],
)
async def test_a_wrong_report_fails_the_tool_and_costs_nothing(shop: Shop, report: Callable[[], None], code: str) -> None:
    raised: list[str] = []

    def convert() -> str:
        try:
            report()
        except ValueError:
            raise
        except Exception as error:
            raised.append(type(error).__name__)
            raise
        return "done"

    result = await called(shop, server_with(shop, convert, TOKENS))
    assert (result.is_error, raised) == (True, [code])
    assert shop.journal() == ["HOLD", "VOID"]
    assert shop.spent() == 0


async def test_a_report_of_a_unit_without_a_price_is_on_the_receipt_and_costs_nothing(shop: Shop) -> None:
    async def convert() -> str:
        report_usage("documents", 3)
        return "done"

    result = await called(shop, server_with(shop, convert, "0.005"))
    assert shop.receipt(result).quantities == {"requests": 1, "documents": 3}
    assert shop.spent() == 5_000


# What is measured.


async def test_characters_are_those_of_all_text_in_the_arguments(shop: Shop) -> None:
    def translate(text: str, notes: list[str]) -> str:
        return text + str(notes)

    server = server_with(shop, translate, Price.per("characters", 1, "0.000001"))
    result = await called(shop, server, {"text": "åäö", "notes": ["ab", "c"]})
    assert shop.receipt(result).quantities["characters"] == 6
    assert shop.spent() == 6


def mixed() -> CallToolResult:
    embedded = BlobResourceContents(uri="file:///a.bin", blob="AAECAw==", mime_type="application/octet-stream")
    return CallToolResult(
        content=[
            TextContent(type="text", text="häh"),
            ImageContent(type="image", data="AAEC", mime_type="image/png"),
            EmbeddedResource(type="resource", resource=embedded),
        ]
    )


async def test_bytes_out_are_those_of_text_and_of_decoded_blobs(shop: Shop) -> None:
    server = server_with(shop, mixed, Price.per("bytes", 1, output="0.000001", max_units=100))
    assert shop.receipt(await called(shop, server)).quantities["output.bytes"] == 4 + 3 + 4
    assert shop.spent() == 11


async def test_without_a_text_block_the_text_inside_the_structured_content_counts(shop: Shop) -> None:
    def only_structured() -> CallToolResult:
        return CallToolResult(content=[], structured_content={"title": "abc", "pages": ["de", 7]})

    server = server_with(shop, only_structured, Price.per("characters", 1, output="0.000001", max_units=100))
    assert shop.receipt(await called(shop, server)).quantities["output.characters"] == 5


async def test_time_is_the_handlers_own_rounded_up_to_a_millisecond(shop: Shop) -> None:
    clock = ManualClock()

    def simulate() -> str:
        clock.advance(12.3401)
        return "done"

    server = server_with(shop, simulate, Price.per("minutes", 1, "0.06", max_price_usd="0.10"), clock=clock)
    result = await called(shop, server)
    assert shop.receipt(result).quantities["milliseconds"] == 12_341
    assert shop.spent() == 12_341


async def test_tokens_are_found_in_the_answer_by_pointer_and_a_report_overrides_them(shop: Shop) -> None:
    def answer(report: int) -> dict[str, Any]:
        if report:
            report_usage("tokens", report)
        return {"done": {"used": 40}}

    meter = {
        "unit": "tokens",
        "scale": 1_000,
        "price_usd": "1",
        "max_units": 100,
        "meter": {"source": "result", "path": "/done/used"},
    }
    server = server_with(shop, answer, {"dimensions": [meter]})
    assert shop.receipt(await called(shop, server, {"report": 0})).amount_micros == 40_000
    assert shop.receipt(await called(shop, server, {"report": 7})).amount_micros == 7_000


async def test_an_observed_fact_chooses_the_tier(shop: Shop) -> None:
    small = {"price_usd": "0.01", "condition": {"field": "image_pixels", "op": "<=", "value": 1_000}}
    price = {"dimensions": [{"unit": "requests", "tiers": [small, {"price_usd": "0.05"}]}]}

    def paint(pixels: int) -> str:
        observe("image_pixels", pixels)
        return "done"

    server = server_with(shop, paint, price)
    assert shop.receipt(await called(shop, server, {"pixels": 1_000})).amount_micros == 10_000
    assert shop.receipt(await called(shop, server, {"pixels": 1_001})).amount_micros == 50_000


# Holds and ceilings.


async def test_the_ceiling_is_held_while_the_tool_runs_and_the_rest_is_free_again(shop: Shop) -> None:
    held: list[int] = []

    def convert() -> str:
        held.append(shop.consumer.account().held_micros)
        report_usage("pages", 3)
        return "done"

    await called(shop, server_with(shop, convert, PAGES))
    assert held == [300_000]
    assert shop.spent() == 30_000


async def test_usage_above_the_ceiling_is_never_charged(shop: Shop) -> None:
    def convert() -> str:
        report_usage("pages", 31)
        return "done"

    assert not (await called(shop, server_with(shop, convert, PAGES))).is_error
    assert shop.spent() == 300_000


async def test_a_ceiling_above_the_callers_limit_is_refused_and_never_lowered(shop: Shop) -> None:
    def convert() -> str:
        report_usage("pages", 1)
        return "done"

    server = server_with(shop, convert, PAGES)
    refused = await called(shop, server, max_price="0.299999")
    assert code_of(refused) == "price_above_limit"
    assert facts_of(refused)["price_micros"] == 300_000
    assert shop.journal() == []
    assert not (await called(shop, server, max_price="0.3")).is_error
    assert shop.spent() == 10_000


async def test_the_balance_must_cover_the_ceiling(shop: Shop) -> None:
    def convert() -> str:
        return "never"

    refused = await called(shop, server_with(shop, convert, Price.per("pages", 1, "0.01", max_units=101)))
    assert code_of(refused) == "insufficient_balance"
    assert "costs up to $1.01" in text_of(refused)
    assert shop.journal() == []


async def test_a_replay_of_a_metered_call_costs_nothing_more(shop: Shop) -> None:
    def convert() -> str:
        report_usage("pages", 3)
        return "done"

    server = server_with(shop, convert, PAGES)
    first = await called(shop, server, idempotency_key="k")
    again = await called(shop, server, idempotency_key="k")
    assert meta_of(again)["dev.payre/replayed"]
    assert meta_of(first)["dev.payre/receipt"] == meta_of(again)["dev.payre/receipt"]
    assert shop.spent() == 30_000


# Usage that nobody knows.


@pytest.mark.parametrize(("policy", "cost"), [("refund", 0), ("min", 2_000), ("ceiling", 100_000)])
async def test_a_call_whose_usage_is_not_known_costs_what_the_price_says(shop: Shop, policy: str, cost: int) -> None:
    def convert() -> str:
        return "done"

    price = Price.per("tokens", 1_000, "1", max_price_usd="0.10", min_price_usd="0.002", missing_usage=policy)
    result = await called(shop, server_with(shop, convert, price))
    assert text_of(result) == "done"
    assert shop.spent() == cost


async def test_where_missing_usage_is_an_error_the_answer_is_withheld_and_nothing_is_charged(shop: Shop, mode: Any) -> None:
    def convert() -> str:
        return "the secret answer"

    price = Price.per("tokens", 1_000, "1", max_price_usd="0.10", missing_usage="error")
    async with Client(server_with(shop, convert, price), mode=mode) as client:
        refused = await client.call_tool("convert", {}, meta=shop.meta())
    assert code_of(refused) == "usage_missing"
    assert "secret" not in refused.model_dump_json()
    assert shop.journal() == ["HOLD", "VOID"]
    assert shop.spent() == 0


# Variants.


def paint(subject: str, quality: Literal["draft", "fine", "poster"] = "fine") -> str:
    return f"{subject} {quality}"


QUALITIES = {"draft": "0.01", "fine": "0.05"}


async def test_the_argument_chooses_the_variant_and_the_schemas_default_stands_for_an_absent_one(shop: Shop) -> None:
    server = server_with(shop, paint, Price.variants("quality", QUALITIES))
    draft = shop.receipt(await called(shop, server, {"subject": "sea", "quality": "draft"}))
    absent = shop.receipt(await called(shop, server, {"subject": "sea"}))
    assert (draft.amount_micros, draft.variant) == (10_000, "quality=draft")
    assert (absent.amount_micros, absent.variant) == (50_000, "quality=fine")


async def test_a_value_without_a_price_is_refused_before_anything_is_held(shop: Shop) -> None:
    server = server_with(shop, paint, Price.variants("quality", QUALITIES))
    refused = await called(shop, server, {"subject": "sea", "quality": "poster"})
    assert code_of(refused) == "invalid_variant"
    assert "draft, fine" in text_of(refused)
    assert shop.journal() == []


# Counters.


async def test_calls_that_race_over_a_step_are_each_priced_at_their_own_place(shop: Shop) -> None:
    price = Price.tiered("requests", [(5, "0.01"), (8, "0.005"), (None, "0.001")])

    def locate() -> str:
        return "here"

    async with Client(server_with(shop, locate, price)) as client, anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(lambda: client.call_tool("locate", {}, meta=shop.meta()))
    assert shop.spent() == 5 * 10_000 + 3 * 5_000 + 4 * 1_000


async def test_a_failing_call_does_not_bring_a_consumer_nearer_to_the_next_step(shop: Shop) -> None:
    price = Price.tiered("requests", [(1, "0.01"), (None, "0.001")])

    def locate(*, fail: bool) -> str:
        if fail:
            raise ValueError("no such place")
        return "here"

    server = server_with(shop, locate, price)
    assert (await called(shop, server, {"fail": True})).is_error
    assert shop.receipt(await called(shop, server, {"fail": False})).amount_micros == 10_000
    assert shop.receipt(await called(shop, server, {"fail": False})).amount_micros == 1_000


async def test_a_free_quota_needs_a_key_because_it_must_know_the_consumer(shop: Shop) -> None:
    def locate() -> str:
        return "here"

    server = server_with(shop, locate, Price.per_call("0.01", free_quota={"amount": 1, "window": "day"}))
    assert code_of(await called(shop, server, key=None)) == "payment_required"
    assert shop.receipt(await called(shop, server)).amount_micros == 0
    assert shop.receipt(await called(shop, server)).amount_micros == 10_000


async def test_a_running_call_keeps_the_price_that_it_was_held_with(shop: Shop) -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    async def convert() -> str:
        inside.set()
        await go_on.wait()
        report_usage("pages", 2)
        return "done"

    old, new = server_with(shop, convert, PAGES), server_with(shop, convert, Price.per("pages", 1, "0.02", max_units=10))
    paid: list[int] = []

    async def pay(server: PaidMCPServer) -> None:
        paid.append(shop.receipt(await called(shop, server)).amount_micros)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pay, old)
        await inside.wait()
        go_on.set()
        await pay(new)
    assert sorted(paid) == [20_000, 40_000]
