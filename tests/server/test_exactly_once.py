"""Each row of the idempotency table: one payment for one call, whatever is retried, lost or sent twice at once."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from mcp import Client
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult

from payre_mcp.clock import ManualClock
from payre_mcp.gateway.base import CallRequest
from payre_mcp.pricing import Target
from payre_mcp.server.undelivered import LONGEST_RESULT, MOST_RESULTS, Undelivered
from tests.fakes import PATIENCE_S, fund
from tests.server.conftest import Shop, code_of, meta_of, text_of

PRICE = 5_000


async def at_once(many: int, act: Callable[[], Awaitable[CallToolResult]]) -> list[CallToolResult]:
    """The same act so many times at the same moment."""
    results: list[CallToolResult] = []

    async def one() -> None:
        results.append(await act())

    async with anyio.create_task_group() as tasks:
        for _ in range(many):
            tasks.start_soon(one)
    return results


def plain(result: CallToolResult) -> str:
    """An answer without the mark that says whether it is a replay."""
    data = result.model_dump(by_alias=True, mode="json")
    data["_meta"].pop("dev.payre/replayed", None)
    return json.dumps(data, sort_keys=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_hundred_rounds_of_sixty_four_identical_requests_run_charge_and_answer_a_hundred_times(
    shop: Shop, faults: bool
) -> None:
    """The whole of it, 6,400 calls, with --faults; a tenth of the rounds without."""
    rounds, ran = 100 if faults else 10, list[str]()

    async def work(city: str) -> str:
        ran.append(city)
        await anyio.lowlevel.checkpoint()
        return f"{city} {len(ran)}"

    answers = 0
    async with Client(shop.server(work, price="0.0001")) as client:
        for number in range(rounds):

            async def call(number: int = number) -> CallToolResult:
                return await shop.call(client, "work", idempotency_key=f"round-{number}")

            results = await at_once(64, call)
            assert len({plain(result) for result in results}) == 1
            assert sum("dev.payre/replayed" in meta_of(result) for result in results) == 63
            answers += sum(text_of(result) == f"Oslo {number + 1}" for result in results)
    assert (len(ran), answers) == (rounds, 64 * rounds)
    assert shop.journal().count("CAPTURE") == rounds
    assert shop.spent() == rounds * 100


async def test_without_an_idempotency_key_every_request_is_a_call_of_its_own(shop: Shop, mode: Any) -> None:
    async def work(city: str) -> str:
        return city

    async with Client(shop.server(work), mode=mode) as client:
        await at_once(8, lambda: shop.call(client, "work"))
    assert shop.spent() == 8 * PRICE


async def test_a_second_request_waits_for_the_first_and_then_hears_in_progress(shop: Shop, mode: Any) -> None:
    inside, release = anyio.Event(), anyio.Event()

    async def work(city: str) -> str:
        inside.set()
        await release.wait()
        return city

    async with Client(shop.server(work), mode=mode) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: shop.call(client, "work", idempotency_key="one"))
        await inside.wait()
        second = await shop.call(client, "work", idempotency_key="one")
        assert code_of(second) == "in_progress"
        assert "not charged twice" in text_of(second)
        release.set()
    assert shop.spent() == PRICE


async def test_a_key_is_free_again_after_a_refusal_an_error_and_a_cancellation(shop: Shop, mode: Any) -> None:
    poor = fund(shop.connection.ledger, 0, name="poor")
    ways = iter(["error", "hang", "answer"])
    inside = anyio.Event()

    async def work(city: str) -> str:
        match next(ways):
            case "error":
                raise ToolError("not today")
            case "hang":
                inside.set()
                await anyio.sleep_forever()
            case _:
                pass
        return city

    async def call() -> CallToolResult:
        return await shop.call(client, "work", key=poor.key.text, idempotency_key="one")

    async with Client(shop.server(work), mode=mode) as client:
        assert code_of(await call()) == "insufficient_balance"
        await anyio.to_thread.run_sync(shop.connection.ledger.writer.ask, poor.top_up(PRICE, key="now"))
        assert (await call()).is_error
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            with anyio.fail_after(PATIENCE_S):
                await inside.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE_S):
            while code_of(result := await call()) == "in_progress":
                pass
    assert text_of(result) == "Oslo"
    assert poor.account().balance_micros == 0
    assert shop.spent() == 0


@pytest.mark.parametrize("meta", [{"idempotency_key": "one"}, {}])
async def test_a_result_whose_caller_had_gone_is_given_to_their_next_try_free(shop: Shop, meta: dict[str, str]) -> None:
    """A sync tool runs to its end whoever leaves: it was charged, and so its answer is theirs."""
    inside, ran = anyio.Event(), list[str]()

    async def work(city: str) -> str:
        ran.append(city)
        inside.set()
        with anyio.CancelScope(shield=True):
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        return f"{city} {len(ran)}"

    async with Client(shop.server(work)) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: shop.call(client, "work", **meta))
            with anyio.fail_after(PATIENCE_S):
                await inside.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE_S):
            while shop.journal() != ["HOLD", "CAPTURE"]:
                await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        retried = await shop.call(client, "work", **meta)
        assert (text_of(retried), meta_of(retried)["dev.payre/replayed"]) == ("Oslo 1", True)
        assert shop.receipt(retried).amount_micros == PRICE
        assert shop.spent() == PRICE
        other = await shop.call(client, "work", "Bergen", **({"idempotency_key": "two"} if meta else {}))
        assert "dev.payre/replayed" not in meta_of(other)
    assert shop.spent() == 2 * PRICE


def request_of(city: str, **changes: Any) -> CallRequest:
    return CallRequest(
        api_key="key", server="shop", target=Target("tool", "work"), price_version="1", args_sha256=city, **changes
    )


def test_an_undelivered_result_is_given_once_to_the_same_key_and_arguments_within_five_minutes() -> None:
    clock = ManualClock()
    kept = Undelivered(clock)
    kept.keep(request_of("Oslo"), None, {"content": []})
    assert kept.take(request_of("Bergen"), {}) is None
    assert kept.take(replace(request_of("Oslo"), api_key="other"), {}) is None
    assert kept.take(replace(request_of("Oslo"), target=Target("prompt", "work")), {}) is None
    assert kept.take(request_of("Oslo"), {}) == {"content": []}
    assert kept.take(request_of("Oslo"), {}) is None
    kept.keep(request_of("Oslo"), {"inputResponses": {"city": "Oslo"}}, {"content": []})
    assert not kept.has(request_of("Oslo"), {"inputResponses": {"city": "Bergen"}})
    assert not kept.has(request_of("Oslo", idempotency_key="one"), {"inputResponses": {"city": "Oslo"}})
    assert kept.has(request_of("Oslo"), {"inputResponses": {"city": "Oslo"}})
    kept.keep(request_of("Oslo"), None, {"content": []})
    clock.advance(300)
    assert kept.take(request_of("Oslo"), {}) is None


def test_neither_many_nor_long_undelivered_results_fill_the_memory() -> None:
    kept = Undelivered(ManualClock())
    kept.keep(request_of("long"), {}, {"text": "x" * LONGEST_RESULT})
    assert kept.take(request_of("long"), {}) is None
    for number in range(MOST_RESULTS + 1):
        kept.keep(request_of(str(number)), {}, {"number": number})
    assert kept.take(request_of("0"), {}) is None
    assert kept.take(request_of(str(MOST_RESULTS)), {}) == {"number": MOST_RESULTS}
