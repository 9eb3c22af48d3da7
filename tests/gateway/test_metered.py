"""Metered prices through `LocalGateway`: what is held, charged and written on receipts, and what is refused."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection
from payre_mcp.errors import (
    AmountOverflow,
    HoldNotOpen,
    InsufficientBalance,
    InvalidApiKey,
    InvalidRequest,
    InvalidVariant,
    NotPriced,
    PriceAboveLimit,
    UsageMissing,
)
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Replay, Settlement
from payre_mcp.money import Money
from payre_mcp.pricing import Price, PriceSpec, Target, Usage, load_price
from payre_mcp.receipts import Receipt, sha256_hex, verify_receipt
from tests.fakes import ONE_REQUEST, Funded, audited, counters_in, fund

CHAT, OTHER = Target("tool", "chat"), Target("tool", "other")
TOKENS = Price.per("tokens", 1_000_000, input="0.50", output="1.50", max_units={"input": 400_000, "output": 100_000})
"""350,000 micros are held."""

STEPS = Price.tiered("requests", [(2, "0.01"), (3, "0.005"), (None, "0.001")])
PAGES = Price.per("pages", usage="0.01", max_units=20, missing_usage="error")
SIZES = Price.variants("size", {"small": "0.01", "large": Price.per("pages", usage="0.01", max_units=20)}, missing_usage="error")
DAY_S = 24 * 3600


class Shop(NamedTuple):
    """A server named llm with metered tools, and a consumer with $1.00."""

    connection: Connection
    consumer: Funded

    @property
    def gateway(self) -> Any:
        return self.connection.gateway

    def request(self, price: PriceSpec, known: Mapping[str, int] = ONE_REQUEST, **changes: Any) -> CallRequest:
        fields: dict[str, Any] = {
            "api_key": self.consumer.key.text,
            "server": "llm",
            "target": CHAT,
            "price_version": price.version,
            "args_sha256": sha256_hex(b"{}"),
            "known": Usage(known),
        }
        return CallRequest(**{**fields, **changes})

    async def published(self, price: PriceSpec, target: Target = CHAT, server: str = "llm") -> PriceSpec:
        await self.gateway.publish(server, {target: price})
        return price

    async def held(self, price: PriceSpec, known: Mapping[str, int] = ONE_REQUEST, **changes: Any) -> Authorization:
        answer = await self.gateway.authorize(self.request(price, known, **changes))
        assert isinstance(answer, Authorization)
        return answer

    async def capture(self, held: Authorization, used: Mapping[str, int] = ONE_REQUEST, **changes: Any) -> Settlement:
        settlement = await self.gateway.capture(held, CallOutcome(usage=Usage(used), **changes))
        assert isinstance(settlement, Settlement)
        return settlement

    async def charged(self, price: PriceSpec, used: Mapping[str, int] = ONE_REQUEST, **changes: Any) -> int:
        held = await self.held(price, **changes)
        return (await self.capture(held, used)).amount.micros

    def receipt(self, settlement: Settlement) -> Receipt:
        return verify_receipt(settlement.receipt, self.connection.ledger.ring)

    def money(self) -> tuple[int, int]:
        """(balance, held)."""
        account = self.consumer.account()
        return account.balance_micros, account.held_micros

    def counts(self) -> list[tuple[int, int]]:
        return sorted(counters_in(self.connection.ledger).values())

    def is_clean(self, clock: ManualClock) -> bool:
        report = audited(self.connection.ledger, clock.now_us())
        assert report.violations == []
        return report.ok


@pytest.fixture
def shop(connection: Connection, consumer: Funded) -> Shop:
    return Shop(connection, consumer)


async def test_a_metered_call_holds_its_ceiling_and_is_charged_what_it_used(shop: Shop, clock: ManualClock) -> None:
    held = await shop.held(await shop.published(TOKENS))
    assert (held.held, shop.money()) == (Money(350_000), (1_000_000, 350_000))
    settlement = await shop.capture(held, {"input.tokens": 80_000, "output.tokens": 20_000}, result_sha256=sha256_hex(b"hi"))
    assert (settlement.amount, settlement.fee, settlement.balance) == (Money(70_000), Money(2_100), Money(930_000))
    assert shop.money() == (930_000, 0)
    receipt = shop.receipt(settlement)
    assert (receipt.amount_micros, receipt.fee_micros, receipt.variant) == (70_000, 2_100, None)
    assert receipt.quantities == {"requests": 1, "input.tokens": 80_000, "output.tokens": 20_000}
    assert receipt.result_sha256 == sha256_hex(b"hi")
    assert shop.is_clean(clock)


async def test_a_call_above_its_ceiling_is_charged_the_ceiling(shop: Shop, clock: ManualClock) -> None:
    held = await shop.held(await shop.published(TOKENS))
    settlement = await shop.capture(held, {"input.tokens": 400_000, "output.tokens": 900_000})
    assert settlement.amount == Money(350_000)
    assert shop.receipt(settlement).quantities["output.tokens"] == 900_000
    assert shop.is_clean(clock)


async def test_what_is_known_before_the_run_bounds_the_hold(shop: Shop) -> None:
    price = await shop.published(Price.per("characters", 1_000, usage="0.01"))
    assert (await shop.held(price, {"characters": 2_500})).held == Money(25_000)
    with pytest.raises(InvalidRequest):
        await shop.held(price)
    assert shop.money() == (1_000_000, 25_000)


@pytest.mark.parametrize(
    ("unit", "used", "quantities"),
    [
        ("seconds", 1_500, {"requests": 1, "milliseconds": 1_500}),
        ("hours", 3_600_000, {"requests": 1, "milliseconds": 3_600_000}),
        ("GiB", 2**30, {"requests": 1, "bytes": 2**30}),
        ("vCPU", 500, {"requests": 1, "vCPU/1000": 500}),
        ("pages", 2**53 - 1, {"requests": 1, "pages": 2**53 - 1}),
    ],
)
async def test_a_receipt_states_quantities_in_whole_base_units(
    shop: Shop, unit: str, used: int, quantities: dict[str, int]
) -> None:
    price = await shop.published(Price.per(unit, usage="0.01", max_price_usd="0.02"))
    settlement = await shop.capture(await shop.held(price), {unit: used})
    assert shop.receipt(settlement).quantities == quantities


# --- variants


async def test_a_variant_is_charged_by_its_own_price_and_stands_on_the_receipt(shop: Shop, clock: ManualClock) -> None:
    price = await shop.published(SIZES)
    small = await shop.held(price, variant="size=small")
    large = await shop.held(price, variant="size=large")
    assert (small.held, large.held) == (Money(10_000), Money(200_000))
    cheap, dear = await shop.capture(small), await shop.capture(large, {"pages": 3})
    assert [(each.amount.micros, shop.receipt(each).variant) for each in (cheap, dear)] == [
        (10_000, "size=small"),
        (30_000, "size=large"),
    ]
    assert shop.receipt(cheap).quantities == {"requests": 1}
    assert shop.is_clean(clock)


@pytest.mark.parametrize("variant", ["", "size=medium", "small", "size=", "size=large "])
async def test_a_variant_that_the_price_does_not_have_is_refused_before_anything_is_held(shop: Shop, variant: str) -> None:
    price = await shop.published(SIZES)
    with pytest.raises(InvalidVariant):
        await shop.held(price, variant=variant)
    assert shop.money() == (1_000_000, 0)


async def test_a_price_without_variants_takes_none(shop: Shop) -> None:
    with pytest.raises(InvalidVariant):
        await shop.held(await shop.published(STEPS), variant="size=small")


# --- refusals


@pytest.mark.parametrize("variant", ["size=small", "size=large"])
async def test_a_call_above_the_callers_own_limit_is_refused_whatever_its_price_is_by(shop: Shop, variant: str) -> None:
    price = await shop.published(SIZES)
    most = (await shop.held(price, variant=variant)).held
    with pytest.raises(PriceAboveLimit) as refusal:
        await shop.held(price, variant=variant, max_price=Money(most.micros - 1))
    assert (refusal.value.price_micros, refusal.value.limit_micros) == (most.micros, most.micros - 1)
    assert (await shop.held(price, variant=variant, max_price=most)).held == most


async def test_the_limit_is_held_against_the_step_that_the_caller_stands_on(shop: Shop) -> None:
    price = await shop.published(STEPS)
    with pytest.raises(PriceAboveLimit):
        await shop.held(price, max_price=Money(5_000))
    for _ in range(2):
        await shop.held(price)
    assert (await shop.held(price, max_price=Money(5_000))).held == Money(5_000)


async def test_a_balance_below_the_ceiling_is_refused_though_the_call_would_fit(shop: Shop) -> None:
    price = await shop.published(TOKENS)
    poor = fund(shop.connection.ledger, 349_999, name="poor")
    with pytest.raises(InsufficientBalance) as refusal:
        await shop.held(price, api_key=poor.key.text)
    assert (refusal.value.price_micros, refusal.value.shortfall_micros) == (350_000, 1)
    assert refusal.value.hint is not None
    assert poor.account().held_micros == 0


async def test_a_call_that_could_cost_more_than_any_ledger_holds_is_refused(shop: Shop) -> None:
    price = await shop.published(Price.per("pages", usage="1000000", max_units=10**7))
    with pytest.raises(AmountOverflow):
        await shop.held(price)


async def test_a_revoked_key_is_refused_before_its_call_is_priced(shop: Shop) -> None:
    price = await shop.published(TOKENS)
    shop.connection.ledger.directory.revoke_key(shop.consumer.record.id)
    with pytest.raises(InvalidApiKey):
        await shop.held(price, max_price=Money(1))


async def test_a_price_that_was_never_published_is_refused(shop: Shop) -> None:
    await shop.published(TOKENS)
    with pytest.raises(NotPriced):
        await shop.held(STEPS)


# --- what was not reported


async def test_a_call_that_must_report_and_did_not_keeps_its_hold_until_it_is_voided(shop: Shop, clock: ManualClock) -> None:
    held = await shop.held(await shop.published(PAGES))
    with pytest.raises(UsageMissing):
        await shop.capture(held, {})
    assert shop.money() == (1_000_000, 200_000)
    await shop.gateway.void(held)
    assert shop.money() == (1_000_000, 0)
    with pytest.raises(HoldNotOpen):
        await shop.capture(held, {"pages": 1})
    assert shop.is_clean(clock)


async def test_a_call_that_reports_after_all_is_charged(shop: Shop) -> None:
    held = await shop.held(await shop.published(PAGES))
    with pytest.raises(UsageMissing):
        await shop.capture(held, {})
    assert (await shop.capture(held, {"pages": 2})).amount == Money(20_000)


@pytest.mark.parametrize(("policy", "amount"), [("refund", 0), ("min", 1_000), ("ceiling", 50_000)])
async def test_other_policies_settle_a_call_that_did_not_report(shop: Shop, policy: str, amount: int) -> None:
    price = await shop.published(Price.per("pages", usage="0.01", max_units=5, min_price_usd="0.001", missing_usage=policy))
    settlement = await shop.capture(await shop.held(price), {})
    assert settlement.amount == Money(amount)
    assert shop.receipt(settlement).quantities == {"requests": 1}


# --- counters


async def test_calls_at_once_are_each_priced_at_their_own_place(shop: Shop, clock: ManualClock) -> None:
    price, amounts = await shop.published(STEPS), list[int]()

    async def call() -> None:
        amounts.append(await shop.charged(price))

    async with anyio.create_task_group() as calls:
        for _ in range(20):
            calls.start_soon(call)
    assert sorted(amounts) == [1_000] * 17 + [5_000] + [10_000] * 2
    assert shop.counts() == [(20, 0)]
    assert shop.is_clean(clock)


async def test_a_voided_call_frees_its_place(shop: Shop) -> None:
    price = await shop.published(STEPS)
    for _ in range(3):
        await shop.gateway.void(await shop.held(price))
    assert [await shop.charged(price) for _ in range(3)] == [10_000, 10_000, 5_000]
    assert shop.counts() == [(3, 0)]


@pytest.mark.parametrize(
    "elsewhere",
    [{"target": OTHER}, {"target": Target("prompt", "chat")}, {"server": "llm2"}],
    ids=["another tool", "a prompt", "another server"],
)
async def test_a_target_of_a_server_counts_by_itself(shop: Shop, elsewhere: dict[str, Any]) -> None:
    price = await shop.published(STEPS)
    await shop.published(price, elsewhere.get("target", CHAT), elsewhere.get("server", "llm"))
    assert [await shop.charged(price) for _ in range(3)] == [10_000, 10_000, 5_000]
    assert await shop.charged(price, **elsewhere) == 10_000
    assert shop.counts() == [(1, 0), (3, 0)]


async def test_two_consumers_count_by_themselves(shop: Shop) -> None:
    price, other = await shop.published(STEPS), fund(shop.connection.ledger, 1_000_000, name="bob")
    assert [await shop.charged(price) for _ in range(3)] == [10_000, 10_000, 5_000]
    assert await shop.charged(price, api_key=other.key.text) == 10_000


@pytest.mark.parametrize(("window", "pause"), [("day", DAY_S), ("month", 31 * DAY_S)])
async def test_a_new_window_begins_at_the_first_step(shop: Shop, clock: ManualClock, window: str, pause: int) -> None:
    price = await shop.published(Price.tiered("requests", [(1, "0.01"), (None, "0.005")], counter={"window": window}))
    over_midnight = await shop.held(price)
    assert await shop.charged(price) == 5_000
    clock.advance(pause - 1)
    assert await shop.charged(price) == 5_000
    clock.advance(1)
    assert await shop.charged(price) == 10_000
    await shop.capture(over_midnight)
    assert shop.counts() == [(1, 0), (3, 0)]


async def test_the_free_quota_of_a_day_is_free_and_then_the_price_applies(shop: Shop, clock: ManualClock) -> None:
    price = await shop.published(Price.per("pages", usage="0.01", max_units=5, free_quota={"amount": 2, "window": "day"}))
    assert [await shop.charged(price, {"pages": 4}) for _ in range(3)] == [0, 0, 40_000]
    clock.advance(DAY_S)
    assert await shop.charged(price, {"pages": 4}) == 0
    assert shop.is_clean(clock)


# --- again, later, after a new price list


async def test_a_call_repeated_with_its_key_is_charged_and_counted_once(shop: Shop, clock: ManualClock) -> None:
    price = await shop.published(STEPS)
    held = await shop.held(price, idempotency_key="once")
    first = await shop.capture(held, stored_result=json.dumps({"text": "hi"}))
    again = await shop.gateway.authorize(shop.request(price, idempotency_key="once"))
    assert isinstance(again, Replay)
    assert (again.settlement, again.result) == (first, {"text": "hi"})
    assert await shop.capture(held) == first
    assert shop.counts() == [(1, 0)]
    assert shop.is_clean(clock)


@pytest.mark.parametrize("dearer", [Price.tiered("requests", [(5, "0.03"), (None, "0.02")]), load_price("0.02")])
async def test_a_paid_call_is_told_again_though_its_price_has_risen_above_the_callers_limit(
    shop: Shop, dearer: PriceSpec
) -> None:
    """To whom the answer was lost, "nothing was charged" would be untrue, and a new key would pay twice."""
    await shop.charged(await shop.published(STEPS), idempotency_key="once", max_price=Money(10_000))
    await shop.published(dearer)
    again = await shop.gateway.authorize(shop.request(dearer, idempotency_key="once", max_price=Money(10_000)))
    assert isinstance(again, Replay)


async def test_a_refund_gives_back_what_a_metered_call_cost_and_no_place(shop: Shop, clock: ManualClock) -> None:
    price = await shop.published(STEPS)
    settlement = await shop.capture(await shop.held(price))
    assert await shop.gateway.refund(settlement.charge_id, idempotency_key="sorry") == Money(10_000)
    assert shop.money() == (1_000_000, 0)
    assert [await shop.charged(price), await shop.charged(price)] == [10_000, 5_000]
    assert shop.is_clean(clock)


async def test_a_running_call_is_charged_by_the_price_it_was_held_with(shop: Shop, clock: ManualClock) -> None:
    held = await shop.held(await shop.published(STEPS))
    dearer = await shop.published(Price.tiered("requests", [(5, "0.03"), (None, "0.02")]))
    assert (await shop.capture(held)).amount == Money(10_000)
    assert await shop.charged(dearer) == 30_000
    assert await shop.charged(STEPS) == 5_000
    assert shop.counts() == [(3, 0)]
    assert shop.is_clean(clock)


async def test_a_capture_after_the_hold_expired_is_priced_at_the_place_of_its_hold(shop: Shop, clock: ManualClock) -> None:
    price, writer = await shop.published(STEPS), shop.connection.ledger.writer
    held = await shop.held(price)
    writer.let_go(held.hold_id)
    clock.advance(901)
    await anyio.to_thread.run_sync(writer.sweep)
    assert shop.counts() == [(0, 0)]
    assert [await shop.charged(price) for _ in range(3)] == [10_000, 10_000, 5_000]
    settlement = await shop.capture(held)
    assert settlement.amount == Money(10_000)
    assert (await shop.capture(held)).charge_id == settlement.charge_id
    assert shop.counts() == [(4, 0)]
    assert shop.is_clean(clock)


async def test_a_long_metered_call_is_kept_alive_while_it_runs(shop: Shop, clock: ManualClock) -> None:
    held = await shop.held(await shop.published(PAGES))
    for _ in range(3):
        clock.advance(600)
        await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)
    assert shop.money() == (1_000_000, 200_000)
    assert (await shop.capture(held, {"pages": 7})).amount == Money(70_000)


async def test_a_hold_of_nothing_is_held_captured_and_receipted(shop: Shop, clock: ManualClock) -> None:
    price = await shop.published(Price.tiered("requests", [(1, "0"), (None, "0.01")]))
    broke = fund(shop.connection.ledger, 0, name="broke")
    held = await shop.held(price, api_key=broke.key.text)
    with pytest.raises(InsufficientBalance):
        await shop.held(price, api_key=broke.key.text)
    settlement = await shop.capture(held)
    assert (held.held, settlement.amount, shop.receipt(settlement).amount_micros) == (Money(0), Money(0), 0)
    assert shop.is_clean(clock)


async def test_the_wallet_shows_metered_charges(shop: Shop) -> None:
    price = await shop.published(SIZES)
    await shop.capture(await shop.held(price, variant="size=large"), {"pages": 3})
    page = await shop.connection.wallet.list_charges(shop.consumer.key.text)
    assert [(each.name, each.amount) for each in page.charges] == [("chat", Money(30_000))]
    shown = await shop.connection.wallet.verify_receipt(shop.consumer.key.text, page.charges[0].receipt)
    assert (shown.variant, shown.quantities) == ("size=large", {"requests": 1, "pages": 3})
