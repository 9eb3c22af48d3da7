"""A ledger in this process from both sides: `LocalGateway` for the seller, `LocalWallet` and top-ups for the consumer.

Everything runs over the real SQLite ledger. A ledger that does not answer is one whose file another writer has locked.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import anyio
import anyio.to_thread
import psycopg
import pytest
import trio.testing

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection, connect, is_server_url, open_ledger, sqlite_path
from payre_mcp.errors import (
    Forbidden,
    HoldNotOpen,
    HoldUnknown,
    IdempotencyConflict,
    InProgress,
    InsufficientBalance,
    InvalidApiKey,
    InvalidRequest,
    NotFound,
    NotPriced,
    PayreError,
    PayreUnavailable,
    PriceAboveLimit,
    ReceiptInvalid,
    RefundExceedsCharge,
    SettingsInvalid,
)
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest, Replay, Settlement
from payre_mcp.gateway.local import LONGEST_RESULT
from payre_mcp.ids import format_id
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.ledger.model import Kind
from payre_mcp.money import Money
from payre_mcp.pricing import Target, load_price
from payre_mcp.receipts import sha256_hex, verify_receipt
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.library import connect as connect_raw
from tests.fakes import PATIENCE_S, Funded, audited, fund, journal_of

FORECAST = Target("tool", "forecast")
CENT = load_price("0.01")
PAGE = "https://pay.example/top-up"
DAY_S = 24 * 3600


class Shop(NamedTuple):
    """A server named weather whose tool `forecast` costs a cent, and a consumer with $1.00."""

    connection: Connection
    consumer: Funded

    @property
    def gateway(self) -> Any:
        return self.connection.gateway

    def request(self, **changes: Any) -> CallRequest:
        fields: dict[str, Any] = {
            "api_key": self.consumer.key.text,
            "server": "weather",
            "target": FORECAST,
            "price_version": CENT.version,
            "args_sha256": sha256_hex(b"{}"),
        }
        return CallRequest(**{**fields, **changes})

    async def held(self, **changes: Any) -> Authorization:
        answer = await self.connection.gateway.authorize(self.request(**changes))
        assert isinstance(answer, Authorization)
        return answer

    async def replayed(self, **changes: Any) -> Replay:
        answer = await self.connection.gateway.authorize(self.request(**changes))
        assert isinstance(answer, Replay)
        return answer

    async def charged(self, *, outcome: CallOutcome | None = None, **changes: Any) -> Settlement:
        held = await self.held(**changes)
        return await self.connection.gateway.capture(held, outcome or CallOutcome(result_sha256=sha256_hex(b"sunny")))

    def is_clean(self, clock: ManualClock) -> bool:
        return audited(self.connection.ledger, clock.now_us()).ok


@pytest.fixture
async def shop(connection: Connection, consumer: Funded) -> Shop:
    await connection.gateway.publish("weather", {FORECAST: CENT})
    return Shop(connection, consumer)


@pytest.fixture
async def page_shop(ledger_path: Path, clock: ManualClock) -> AsyncIterator[Shop]:
    """A shop whose host mounts a page for top-ups."""
    connection = open_ledger(f"sqlite:///{ledger_path}", clock=clock, top_up_page=PAGE)
    await connection.gateway.publish("weather", {FORECAST: CENT})
    yield Shop(connection, fund(connection.ledger, 1_000_000))
    connection.close()


@pytest.fixture
def lock(ledger_url: str) -> Iterator[Any]:
    """Another process's connection, which may keep everybody from writing."""
    on_server = is_server_url(ledger_url)
    connection: Any = psycopg.connect(ledger_url, autocommit=True) if on_server else connect_raw(sqlite_path(ledger_url))
    yield connection
    if on_server or connection.in_transaction:
        connection.execute("rollback")
    connection.close()


@asynccontextmanager
async def locked(lock: Any) -> AsyncGenerator[None]:
    """While this lasts nobody can write the ledger."""
    if isinstance(lock, psycopg.Connection):
        lock.execute("begin")
        lock.execute("lock table account, api_key in access exclusive mode")
    else:
        lock.execute("begin immediate")
    try:
        yield
    finally:
        lock.execute("rollback")


async def until_quiet(shop: Shop) -> None:
    """Two round trips: what was given back when the first came home has ended when the second does."""
    for n in range(2):
        await shop.connection.top_ups.credit_test_money(shop.consumer.id, Money(n + 1))


# --- authorize, capture, void


async def test_a_call_is_held_then_charged_and_the_receipt_says_so(shop: Shop, clock: ManualClock) -> None:
    held = await shop.held()
    assert held.held == Money(10_000)
    account = shop.consumer.account()
    assert (account.balance_micros, account.held_micros) == (1_000_000, 10_000)
    settlement = await shop.gateway.capture(held, CallOutcome(result_sha256=sha256_hex(b"sunny")))
    assert (settlement.amount, settlement.fee, settlement.balance) == (Money(10_000), Money(300), Money(990_000))
    receipt = verify_receipt(settlement.receipt, shop.connection.ledger.ring)
    assert (receipt.amount_micros, receipt.fee_micros, receipt.name, receipt.server) == (10_000, 300, "forecast", "weather")
    assert receipt.charge_id == settlement.charge_id
    assert receipt.result_sha256 == sha256_hex(b"sunny")
    assert receipt.mode == "test"
    account = shop.consumer.account()
    assert (account.balance_micros, account.held_micros) == (990_000, 0)
    assert shop.is_clean(clock)


async def test_capture_twice_charges_once_and_gives_the_same_receipt(shop: Shop) -> None:
    held = await shop.held()
    first = await shop.gateway.capture(held, CallOutcome())
    assert await shop.gateway.capture(held, CallOutcome()) == first
    assert shop.consumer.account().balance_micros == 990_000


async def test_a_voided_call_costs_nothing_and_cannot_be_captured(shop: Shop) -> None:
    held = await shop.held()
    await shop.gateway.void(held)
    await shop.gateway.void(held)
    account = shop.consumer.account()
    assert (account.balance_micros, account.held_micros) == (1_000_000, 0)
    with pytest.raises(HoldNotOpen):
        await shop.gateway.capture(held, CallOutcome())


async def test_voiding_a_charged_call_changes_nothing(shop: Shop) -> None:
    held = await shop.held()
    await shop.gateway.capture(held, CallOutcome())
    await shop.gateway.void(held)
    assert shop.consumer.account().balance_micros == 990_000


async def test_a_hold_that_was_lost_is_unknown_and_nothing_is_charged(shop: Shop) -> None:
    held = await shop.held()
    lost = Authorization(12345, held.part, held.consumer_id, held.request, held.plan, held.held)
    with pytest.raises(HoldUnknown):
        await shop.gateway.capture(lost, CallOutcome())
    await shop.gateway.void(lost)
    assert shop.consumer.account().balance_micros == 1_000_000


async def test_a_free_target_is_recorded_with_a_receipt_over_nothing(shop: Shop) -> None:
    free = load_price("0")
    await shop.gateway.publish("weather", {FORECAST: free})
    settlement = await shop.charged(price_version=free.version)
    assert settlement.amount == Money(0)
    assert shop.consumer.account().balance_micros == 1_000_000


# --- refusals before anything is held


async def test_a_call_dearer_than_the_balance_is_refused_with_a_hint_where_there_is_no_page(shop: Shop) -> None:
    dear = load_price("1.25")
    await shop.gateway.publish("weather", {FORECAST: dear})
    with pytest.raises(InsufficientBalance) as refusal:
        await shop.held(price_version=dear.version)
    error = refusal.value
    assert (error.price_micros, error.balance_micros, error.shortfall_micros) == (1_250_000, 1_000_000, 250_000)
    assert error.top_up_url is None
    assert error.hint is not None
    assert "payre top-up" in error.hint
    assert shop.consumer.account().held_micros == 0


async def test_a_refused_caller_gets_a_link_and_after_paying_it_the_call_goes_through(page_shop: Shop) -> None:
    dear = load_price("1.25")
    await page_shop.gateway.publish("weather", {FORECAST: dear})
    links: list[str] = []
    for _ in range(2):
        with pytest.raises(InsufficientBalance) as refusal:
            await page_shop.held(price_version=dear.version)
        assert refusal.value.top_up_url is not None
        links.append(refusal.value.top_up_url)
    assert links[0] == links[1]
    head, _, token = links[0].rpartition("/")
    assert head == PAGE
    view = await page_shop.connection.top_ups.pay_test_top_up(token)
    assert (view.amount, view.status) == (Money.parse(5), "completed")
    settlement = await page_shop.charged(price_version=dear.version)
    assert settlement.balance == Money(1_000_000 + 5_000_000 - 1_250_000)


async def test_a_link_covers_the_whole_shortfall_and_a_paid_one_is_not_given_again(page_shop: Shop) -> None:
    dear = load_price("20")
    await page_shop.gateway.publish("weather", {FORECAST: dear})
    with pytest.raises(InsufficientBalance) as refusal:
        await page_shop.held(price_version=dear.version)
    first = cast("str", refusal.value.top_up_url)
    view = await page_shop.connection.top_ups.pay_test_top_up(first.rpartition("/")[2])
    assert view.amount == Money(19_000_000)
    await page_shop.charged(price_version=dear.version)
    with pytest.raises(InsufficientBalance) as refusal:
        await page_shop.held(price_version=dear.version)
    assert refusal.value.top_up_url != first


async def test_an_expired_link_is_not_given_again(page_shop: Shop, clock: ManualClock) -> None:
    dear = load_price("20")
    await page_shop.gateway.publish("weather", {FORECAST: dear})
    links: list[str | None] = []
    for _ in range(2):
        with pytest.raises(InsufficientBalance) as refusal:
            await page_shop.held(price_version=dear.version)
        links.append(refusal.value.top_up_url)
        clock.advance(DAY_S + 1)
    assert links[0] != links[1]


async def test_a_call_above_the_callers_own_limit_is_refused_not_held_for_less(shop: Shop) -> None:
    with pytest.raises(PriceAboveLimit) as refusal:
        await shop.held(max_price=Money(9_999))
    assert (refusal.value.price_micros, refusal.value.limit_micros) == (10_000, 9_999)
    assert (await shop.held(max_price=Money(10_000))).held == Money(10_000)


@pytest.mark.parametrize(
    "change",
    [
        {"target": Target("tool", "other")},
        {"target": Target("prompt", "forecast")},
        {"server": "elsewhere"},
        {"price_version": load_price("0.02").version},
    ],
)
async def test_a_call_without_a_published_price_is_refused(shop: Shop, change: dict[str, Any]) -> None:
    with pytest.raises(NotPriced):
        await shop.held(**change)


async def test_a_price_that_was_published_before_can_still_be_charged(shop: Shop) -> None:
    """A call in flight over a new price list pays what it was told."""
    await shop.gateway.publish("weather", {FORECAST: load_price("0.02")})
    assert (await shop.charged()).amount == Money(10_000)


# --- keys


async def test_a_key_of_another_role_or_mode_is_forbidden(shop: Shop) -> None:
    developer = shop.connection.ledger.directory.create_key(Role.DEVELOPER, shop.consumer.developer_id)
    for key in (developer, new_key(Role.PUBLIC, Mode.TEST), new_key(Role.CONSUMER, Mode.LIVE)):
        with pytest.raises(Forbidden):
            await shop.held(api_key=key.text)


async def test_a_key_bound_to_another_server_is_forbidden_here_and_good_there(shop: Shop) -> None:
    ledger = shop.connection.ledger
    await shop.gateway.publish("bakery", {FORECAST: CENT})
    bakery = ledger.directory.ensure_server(shop.consumer.developer_id, "bakery")
    bound = ledger.directory.create_key(Role.CONSUMER, shop.consumer.id, server_id=bakery.id)
    assert (await shop.held(api_key=bound.text, server="bakery")).held == Money(10_000)
    with pytest.raises(Forbidden):
        await shop.held(api_key=bound.text)


@pytest.mark.parametrize("text", ["", "nonsense", "${PAYRE_KEY}", "pyr_ck_test_" + "0" * 38, "\ud800"])
async def test_text_that_is_no_key_is_refused(shop: Shop, text: str) -> None:
    with pytest.raises(InvalidApiKey):
        await shop.held(api_key=text)


async def test_a_key_of_another_ledger_is_refused(shop: Shop) -> None:
    with pytest.raises(InvalidApiKey):
        await shop.held(api_key=new_key(Role.CONSUMER, Mode.TEST).text)


async def test_a_key_revoked_after_it_was_used_is_refused_at_once(shop: Shop) -> None:
    await shop.charged()
    shop.connection.ledger.directory.revoke_key(shop.consumer.record.id)
    with pytest.raises(InvalidApiKey):
        await shop.held()
    with pytest.raises(InvalidApiKey):
        await shop.connection.wallet.get_balance(shop.consumer.key.text)
    assert shop.consumer.account().balance_micros == 990_000


async def test_a_call_that_runs_while_its_key_is_revoked_is_still_charged(shop: Shop) -> None:
    held = await shop.held()
    shop.connection.ledger.directory.revoke_key(shop.consumer.record.id)
    assert (await shop.gateway.capture(held, CallOutcome())).amount == Money(10_000)


async def test_a_key_ends_at_its_time(shop: Shop, clock: ManualClock) -> None:
    directory = shop.connection.ledger.directory
    key = directory.create_key(Role.CONSUMER, shop.consumer.id, expires_at=clock.now_us() + 10_000_000)
    await shop.charged(api_key=key.text)
    clock.advance(10)
    with pytest.raises(InvalidApiKey):
        await shop.held(api_key=key.text)
    with pytest.raises(InvalidApiKey):
        await shop.connection.wallet.get_balance(key.text)


# --- idempotency


async def test_a_call_repeated_with_its_key_gets_the_first_answer_and_pays_once(shop: Shop, clock: ManualClock) -> None:
    outcome = CallOutcome(stored_result=json.dumps({"sky": "clear"}))
    first = await shop.charged(idempotency_key="once", outcome=outcome)
    again = await shop.replayed(idempotency_key="once")
    assert again.result == {"sky": "clear"}
    assert again.settlement == first
    assert shop.consumer.account().balance_micros == 990_000
    assert shop.is_clean(clock)


async def test_a_call_repeated_after_a_new_price_list_is_still_the_same_call(shop: Shop) -> None:
    first = await shop.charged(idempotency_key="once")
    dearer = load_price("0.02")
    await shop.gateway.publish("weather", {FORECAST: dearer})
    again = await shop.replayed(idempotency_key="once", price_version=dearer.version)
    assert again.settlement.charge_id == first.charge_id


async def test_a_key_used_for_something_else_is_a_conflict(shop: Shop) -> None:
    await shop.charged(idempotency_key="once")
    with pytest.raises(IdempotencyConflict):
        await shop.held(idempotency_key="once", args_sha256=sha256_hex(b'{"city":"Rome"}'))


async def test_a_key_whose_call_still_runs_is_in_progress_and_free_again_after_a_void(shop: Shop) -> None:
    held = await shop.held(idempotency_key="once")
    with pytest.raises(InProgress):
        await shop.held(idempotency_key="once")
    await shop.gateway.void(held)
    assert (await shop.charged(idempotency_key="once")).amount == Money(10_000)


async def test_a_key_refused_for_money_is_free_again(shop: Shop) -> None:
    dear = load_price("1.25")
    await shop.gateway.publish("weather", {FORECAST: dear})
    with pytest.raises(InsufficientBalance):
        await shop.held(price_version=dear.version, idempotency_key="once")
    await shop.connection.top_ups.credit_test_money(shop.consumer.id, Money.parse(5))
    assert (await shop.charged(price_version=dear.version, idempotency_key="once")).amount == Money(1_250_000)


async def test_two_consumers_may_use_the_same_key(shop: Shop) -> None:
    other = fund(shop.connection.ledger, 1_000_000, name="bob")
    first = await shop.charged(idempotency_key="once")
    second = await shop.charged(idempotency_key="once", api_key=other.key.text)
    assert first.charge_id != second.charge_id


async def test_without_a_key_a_repeated_call_is_a_new_call(shop: Shop) -> None:
    await shop.charged()
    await shop.charged()
    assert shop.consumer.account().balance_micros == 980_000


@pytest.mark.parametrize("key", ["", "a" * 256, "two words", "né", "tab\t", "\x7f"])
async def test_a_malformed_idempotency_key_is_refused_before_anything_is_held(shop: Shop, key: str) -> None:
    with pytest.raises(InvalidRequest):
        await shop.held(idempotency_key=key)
    assert shop.consumer.account().held_micros == 0


async def test_an_answer_too_large_to_keep_is_charged_and_not_stored(shop: Shop) -> None:
    large = json.dumps({"text": "x" * LONGEST_RESULT})
    first = await shop.charged(idempotency_key="large", outcome=CallOutcome(stored_result=large))
    again = await shop.replayed(idempotency_key="large")
    assert again.result is None
    assert again.settlement == first


async def test_the_largest_answer_that_is_kept_comes_back_whole(shop: Shop) -> None:
    text = "x" * (LONGEST_RESULT - len(json.dumps({"text": ""})))
    await shop.charged(idempotency_key="large", outcome=CallOutcome(stored_result=json.dumps({"text": text})))
    assert (await shop.replayed(idempotency_key="large")).result == {"text": text}


async def test_a_stored_answer_is_kept_for_24_hours_and_its_charge_for_ever(shop: Shop, clock: ManualClock) -> None:
    """DESIGN.md section 10: stored results keep 24 h, charges for ever."""
    first = await shop.charged(idempotency_key="once", outcome=CallOutcome(stored_result='{"sky":"clear"}'))
    clock.advance(DAY_S - 1)
    assert (await shop.replayed(idempotency_key="once")).result == {"sky": "clear"}
    clock.advance(2)
    again = await shop.replayed(idempotency_key="once")
    assert again.settlement == first
    assert again.result is None


# --- late captures


async def expire(shop: Shop, held: Authorization, clock: ManualClock) -> None:
    """Let a hold's time pass as if the process that runs its call had stood still."""
    shop.connection.ledger.writer.let_go(held.hold_id)
    clock.advance(901)
    await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)
    assert shop.consumer.account().held_micros == 0


async def test_a_capture_after_the_hold_expired_becomes_a_late_charge(shop: Shop, clock: ManualClock) -> None:
    held = await shop.held(idempotency_key="slow")
    await expire(shop, held, clock)
    settlement = await shop.gateway.capture(held, CallOutcome())
    assert settlement.amount == Money(10_000)
    assert (await shop.gateway.capture(held, CallOutcome())).charge_id == settlement.charge_id
    assert shop.consumer.account().balance_micros == 990_000
    assert (await shop.replayed(idempotency_key="slow")).settlement.charge_id == settlement.charge_id
    assert shop.is_clean(clock)


async def test_a_late_capture_whose_money_is_gone_charges_nothing(shop: Shop, clock: ManualClock) -> None:
    held = await shop.held()
    await expire(shop, held, clock)
    all_of_it = load_price("1")
    await shop.gateway.publish("weather", {FORECAST: all_of_it})
    await shop.charged(price_version=all_of_it.version)
    with pytest.raises(HoldNotOpen):
        await shop.gateway.capture(held, CallOutcome())
    assert shop.consumer.account().balance_micros == 0
    assert shop.is_clean(clock)


async def test_a_hold_whose_call_runs_on_is_extended_and_captured_in_time(shop: Shop, clock: ManualClock) -> None:
    held = await shop.held()
    for _ in range(4):
        clock.advance(600)
        await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)
    await shop.gateway.capture(held, CallOutcome())
    kinds = [row.kind for row in journal_of(shop.connection.ledger) if row.ref_id == held.hold_id]
    assert kinds == [Kind.CAPTURE]


# --- many at once


async def test_calls_racing_for_the_last_cents_are_held_exactly_as_often_as_there_is_money(
    shop: Shop, clock: ManualClock
) -> None:
    poor = fund(shop.connection.ledger, 50_000, name="bob")
    outcomes: list[str] = []

    async def call() -> None:
        try:
            await shop.charged(api_key=poor.key.text)
            outcomes.append("charged")
        except PayreError as error:
            outcomes.append(error.code)

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            for _ in range(64):
                group.start_soon(call)
    assert (outcomes.count("charged"), outcomes.count("insufficient_balance")) == (5, 59)
    account = poor.account()
    assert (account.balance_micros, account.held_micros) == (0, 0)
    assert shop.is_clean(clock)


async def test_two_calls_racing_with_one_key_run_once(shop: Shop) -> None:
    outcomes: list[str] = []

    async def call() -> None:
        try:
            await shop.held(idempotency_key="once")
            outcomes.append("held")
        except PayreError as error:
            outcomes.append(error.code)

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            for _ in range(64):
                group.start_soon(call)
    assert (outcomes.count("held"), outcomes.count("in_progress")) == (1, 63)


# --- refunds


async def test_a_refund_returns_the_whole_charge_once_per_key(shop: Shop, clock: ManualClock) -> None:
    charge = await shop.charged()
    for _ in range(2):
        assert await shop.gateway.refund(charge.charge_id, idempotency_key="back") == Money(10_000)
    assert shop.consumer.account().balance_micros == 1_000_000
    with pytest.raises(RefundExceedsCharge):
        await shop.gateway.refund(charge.charge_id, idempotency_key="again")
    assert shop.is_clean(clock)


async def test_refunds_in_parts_sum_to_the_charge_at_most(shop: Shop, clock: ManualClock) -> None:
    charge = await shop.charged()
    assert await shop.gateway.refund(charge.charge_id, Money(4_000), idempotency_key="a") == Money(4_000)
    with pytest.raises(RefundExceedsCharge):
        await shop.gateway.refund(charge.charge_id, Money(6_001), idempotency_key="b")
    assert await shop.gateway.refund(charge.charge_id, Money(6_000), idempotency_key="c") == Money(6_000)
    assert shop.consumer.account().balance_micros == 1_000_000
    report = audited(shop.connection.ledger, clock.now_us())
    assert report.ok
    assert (report.earned_micros, report.fees_micros) == (0, 0)


async def test_one_refund_key_means_one_refund(shop: Shop) -> None:
    first, second = await shop.charged(), await shop.charged()
    await shop.gateway.refund(first.charge_id, idempotency_key="back")
    with pytest.raises(IdempotencyConflict):
        await shop.gateway.refund(second.charge_id, idempotency_key="back")
    with pytest.raises(IdempotencyConflict):
        await shop.gateway.refund(first.charge_id, Money(1), idempotency_key="back")


async def test_a_refund_and_a_call_may_use_the_same_key(shop: Shop) -> None:
    charge = await shop.charged(idempotency_key="once")
    assert await shop.gateway.refund(charge.charge_id, idempotency_key="once") == Money(10_000)


async def test_what_is_no_charge_cannot_be_refunded(shop: Shop) -> None:
    held = await shop.held()
    for charge_id in (format_id("chg", held.hold_id), "chg_0000000000000", "top_0000000000000", "nonsense"):
        with pytest.raises(NotFound):
            await shop.gateway.refund(charge_id, idempotency_key="back")


async def test_a_refund_needs_a_well_formed_key(shop: Shop) -> None:
    charge = await shop.charged()
    with pytest.raises(InvalidRequest):
        await shop.gateway.refund(charge.charge_id, idempotency_key="")


# --- top-ups


async def test_a_top_up_link_paid_twice_credits_once(page_shop: Shop) -> None:
    key, top_ups = page_shop.consumer.key.text, page_shop.connection.top_ups
    asked = await page_shop.connection.wallet.create_top_up(key, Money.parse(10))
    assert asked.status == "pending"
    assert asked.url is not None
    token = asked.url.rpartition("/")[2]
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(top_ups.pay_test_top_up, token)
    assert (await top_ups.pay_test_top_up(token)).status == "completed"
    assert page_shop.consumer.account().balance_micros == 11_000_000
    assert (await page_shop.connection.wallet.get_top_up(key, asked.id)).status == "completed"
    assert (await top_ups.find_top_up(token)).status == "completed"


async def test_an_expired_top_up_link_credits_nothing_and_a_paid_one_stays_paid(page_shop: Shop, clock: ManualClock) -> None:
    key, wallet, top_ups = page_shop.consumer.key.text, page_shop.connection.wallet, page_shop.connection.top_ups
    late, paid = [await wallet.create_top_up(key, Money.parse(5)) for _ in range(2)]
    assert late.url is not None
    assert paid.url is not None
    await top_ups.pay_test_top_up(paid.url.rpartition("/")[2])
    clock.advance(DAY_S)
    with pytest.raises(InvalidRequest):
        await top_ups.pay_test_top_up(late.url.rpartition("/")[2])
    assert (await wallet.get_top_up(key, late.id)).status == "expired"
    assert (await wallet.get_top_up(key, paid.id)).status == "completed"
    assert page_shop.consumer.account().balance_micros == 6_000_000


async def test_a_top_up_link_has_no_address_where_no_page_is_mounted(shop: Shop) -> None:
    asked = await shop.connection.wallet.create_top_up(shop.consumer.key.text, Money.parse(5))
    assert asked.url is None


@pytest.mark.parametrize("amount", ["4.999999", "500.000001", "0"])
async def test_a_top_up_is_5_to_500_dollars(shop: Shop, amount: str) -> None:
    with pytest.raises(InvalidRequest):
        await shop.connection.wallet.create_top_up(shop.consumer.key.text, Money.parse(amount))


@pytest.mark.parametrize("amount", ["5", "500"])
async def test_both_ends_of_the_top_up_range_are_in_it(shop: Shop, amount: str) -> None:
    asked = await shop.connection.wallet.create_top_up(shop.consumer.key.text, Money.parse(amount))
    assert asked.amount == Money.parse(amount)


async def test_an_unknown_top_up_link_is_not_found(shop: Shop) -> None:
    for token in ("", "guess"):
        with pytest.raises(NotFound):
            await shop.connection.top_ups.pay_test_top_up(token)
        with pytest.raises(NotFound):
            await shop.connection.top_ups.find_top_up(token)


async def test_live_money_is_never_credited_by_a_test_page(tmp_path: Path, clock: ManualClock) -> None:
    open_embedded(tmp_path / "payre.db", clock, mode=Mode.LIVE).close()
    connection = open_ledger(f"sqlite:///{tmp_path / 'payre.db'}", clock=clock, top_up_page=PAGE)
    payer = fund(connection.ledger, 0)
    asked = await connection.wallet.create_top_up(payer.key.text, Money.parse(5))
    assert asked.url is not None
    with pytest.raises(InvalidRequest):
        await connection.top_ups.pay_test_top_up(asked.url.rpartition("/")[2])
    with pytest.raises(InvalidRequest):
        await connection.top_ups.credit_test_money(payer.id, Money.parse(5))
    assert (await connection.wallet.get_balance(payer.key.text)).mode == "live"
    assert payer.account().balance_micros == 0
    connection.close()


# --- the wallet


async def test_the_wallet_shows_balance_held_and_available(shop: Shop) -> None:
    await shop.charged()
    await shop.held()
    balance = await shop.connection.wallet.get_balance(shop.consumer.key.text)
    assert (balance.balance, balance.held, balance.available) == (Money(990_000), Money(10_000), Money(980_000))
    assert balance.mode == "test"


async def test_charges_come_newest_first_page_by_page(shop: Shop) -> None:
    made = [(await shop.charged()).charge_id for _ in range(5)]
    other = fund(shop.connection.ledger, 1_000_000, name="bob")
    await shop.charged(api_key=other.key.text)
    await shop.held()
    seen: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = await shop.connection.wallet.list_charges(shop.consumer.key.text, cursor=cursor, limit=2)
        seen.append([charge.id for charge in page.charges])
        cursor = page.next_cursor
        if cursor is None:
            break
    newest_first = made[::-1]
    assert seen == [newest_first[:2], newest_first[2:4], newest_first[4:]]


async def test_a_page_that_ends_exactly_has_no_next(shop: Shop) -> None:
    for _ in range(2):
        await shop.charged()
    page = await shop.connection.wallet.list_charges(shop.consumer.key.text, limit=2)
    assert len(page.charges) == 2
    assert page.next_cursor is None


async def test_a_consumer_without_charges_gets_an_empty_page_and_odd_limits_are_bent(shop: Shop) -> None:
    page = await shop.connection.wallet.list_charges(shop.consumer.key.text)
    assert (page.charges, page.next_cursor) == ([], None)
    await shop.charged()
    await shop.charged()
    for limit, wanted in ((0, 1), (-3, 1), (10**6, 2)):
        page = await shop.connection.wallet.list_charges(shop.consumer.key.text, limit=limit)
        assert len(page.charges) == wanted


async def test_a_cursor_that_is_none_of_ours_is_not_found(shop: Shop) -> None:
    with pytest.raises(NotFound):
        await shop.connection.wallet.list_charges(shop.consumer.key.text, cursor="page 2")


async def test_a_charge_reads_back_with_the_receipt_of_its_settlement(shop: Shop) -> None:
    settlement = await shop.charged()
    view = await shop.connection.wallet.get_charge(shop.consumer.key.text, settlement.charge_id)
    assert (view.receipt, view.amount, view.server, view.name) == (settlement.receipt, Money(10_000), "weather", "forecast")
    facts = await shop.connection.wallet.verify_receipt(shop.consumer.key.text, settlement.receipt)
    assert facts.charge_id == settlement.charge_id


async def test_what_belongs_to_somebody_else_reads_as_if_it_did_not_exist(page_shop: Shop) -> None:
    wallet, other = page_shop.connection.wallet, fund(page_shop.connection.ledger, 1_000_000, name="bob")
    settlement = await page_shop.charged()
    top_up = await wallet.create_top_up(page_shop.consumer.key.text, Money.parse(5))
    with pytest.raises(NotFound) as theirs:
        await wallet.get_charge(other.key.text, settlement.charge_id)
    with pytest.raises(NotFound) as nobodys:
        await wallet.get_charge(other.key.text, "chg_0000000000000")
    assert str(theirs.value) == str(nobodys.value)
    with pytest.raises(NotFound) as theirs:
        await wallet.get_top_up(other.key.text, top_up.id)
    with pytest.raises(NotFound) as nobodys:
        await wallet.get_top_up(other.key.text, "top_0000000000000")
    assert str(theirs.value) == str(nobodys.value)
    assert (await wallet.list_charges(other.key.text)).charges == []


async def test_somebody_elses_receipt_and_a_forged_one_read_alike(shop: Shop) -> None:
    wallet, other = shop.connection.wallet, fund(shop.connection.ledger, 0, name="bob")
    receipt = (await shop.charged()).receipt
    forged = receipt[:-4] + ("AAAA" if receipt[-4:] != "AAAA" else "BBBB")
    with pytest.raises(ReceiptInvalid) as theirs:
        await wallet.verify_receipt(other.key.text, receipt)
    with pytest.raises(ReceiptInvalid) as altered:
        await wallet.verify_receipt(shop.consumer.key.text, forged)
    assert (theirs.value.code, theirs.value.reason, altered.value.reason) == ("receipt_invalid", "unknown", "unknown")
    assert str(theirs.value) == str(altered.value)
    with pytest.raises(ReceiptInvalid) as nonsense:
        await wallet.verify_receipt(shop.consumer.key.text, "nonsense")
    assert nonsense.value.reason == "malformed"


async def test_a_hold_or_a_refund_is_not_a_charge_of_the_wallet(shop: Shop) -> None:
    charge = await shop.charged()
    await shop.gateway.refund(charge.charge_id, idempotency_key="back")
    held = await shop.held()
    page = await shop.connection.wallet.list_charges(shop.consumer.key.text)
    assert [each.id for each in page.charges] == [charge.charge_id]
    await shop.gateway.void(held)


# --- a ledger that does not answer


def test_a_ledger_that_does_not_answer_in_time_fails_closed(connection: Connection, consumer: Funded, lock: Any) -> None:
    """Another process has the file. Trio's clock jumps to the deadline once everybody waits, so that the test need not."""
    shop, deadline = Shop(connection, consumer), trio.testing.MockClock()

    async def main() -> None:
        await connection.gateway.publish("weather", {FORECAST: CENT})
        await shop.charged()
        async with locked(lock):
            deadline.autojump_threshold = 0
            with pytest.raises(PayreUnavailable) as refusal:
                await shop.held()
            deadline.autojump_threshold = float("inf")
            assert refusal.value.retryable
        await until_quiet(shop)

    trio.run(main, clock=deadline)
    assert consumer.account().held_micros == 0
    late = [row for row in journal_of(connection.ledger) if row.kind in {Kind.HOLD, Kind.VOID}][1:]
    assert [row.kind for row in late] in ([], [Kind.HOLD, Kind.VOID])  # refused before or after the writer took it up


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_key_that_cannot_be_looked_up_fails_closed_with_an_error_of_ours(shop: Shop, lock: Any) -> None:
    """The ports raise `PayreError` and nothing else. A key's first use asks the directory, not the writer.

    Takes the five seconds that a database waits for a lock, once.
    """
    async with locked(lock):
        with pytest.raises(PayreUnavailable):
            await shop.held()


async def test_a_cancelled_authorize_gives_its_hold_back(shop: Shop, lock: Any) -> None:
    await shop.charged()  # so that the key is known and only the writer is asked
    async with locked(lock), anyio.create_task_group() as group:
        group.start_soon(shop.held)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    with anyio.fail_after(PATIENCE_S):
        await until_quiet(shop)
    account = shop.consumer.account()
    assert (account.balance_micros, account.held_micros) == (990_000 + 3, 0)


async def test_a_closed_ledger_refuses_calls_and_closing_twice_does_nothing(shop: Shop) -> None:
    held = await shop.held()
    await shop.gateway.aclose()
    with pytest.raises(PayreUnavailable):
        await shop.held()
    with pytest.raises(PayreUnavailable):
        await shop.gateway.capture(held, CallOutcome())
    await shop.gateway.aclose()


# --- addresses


@pytest.mark.parametrize("url", ["payre.db", "mysql://host/db", "sqlite:///", "sqlite:///:memory:", "sqlite://payre.db", ""])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(SettingsInvalid):
        connect(url)


async def test_a_seller_needs_no_more_than_an_address(tmp_path: Path) -> None:
    gateway = connect(f"sqlite:///{tmp_path / 'new' / 'payre.db'}")
    await gateway.publish("weather", {FORECAST: CENT})
    await gateway.aclose()
    assert (tmp_path / "new" / "payre.keys").exists()
