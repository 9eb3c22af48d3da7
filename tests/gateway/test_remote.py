"""The gateway to a hub, over a real hub on loopback: it does what the local one does, and what only HTTP makes necessary."""

import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection, connect
from payre_mcp.errors import (
    HoldNotOpen,
    HoldUnknown,
    InsufficientBalance,
    InvalidRequest,
    PaymentRequired,
    PayreUnavailable,
    PriceMismatch,
    PriceSpecInvalid,
    SettingsInvalid,
    Unauthorized,
)
from payre_mcp.gateway.base import Authorization, CallOutcome, Replay, Settlement, Suspended
from payre_mcp.gateway.remote import Patience, RemoteGateway
from payre_mcp.keys import Mode, Role, new_key, parse_key
from payre_mcp.ledger.model import Kind
from payre_mcp.money import Money
from payre_mcp.pricing import Price, Usage, load_price
from payre_mcp.receipts import verify_receipt
from tests.fakes import PATIENCE_S, ROOT, Funded, Gate, fund, journal_of, open_holds_of
from tests.gateway import test_local
from tests.gateway.test_local import CENT, FORECAST, Shop
from tests.hubs import Hub, running_hub

SHARED = [
    "a_key_bound_to_another_server_is_forbidden_here_and_good_there",
    "a_key_ends_at_its_time",
    "a_key_of_another_ledger_is_refused",
    "a_key_of_another_role_or_mode_is_forbidden",
    "a_key_refused_for_money_is_free_again",
    "a_key_revoked_after_it_was_used_is_refused_at_once",
    "a_key_used_for_something_else_is_a_conflict",
    "a_key_whose_call_still_runs_is_in_progress_and_free_again_after_a_void",
    "a_call_above_the_callers_own_limit_is_refused_not_held_for_less",
    "a_call_repeated_after_a_new_price_list_is_still_the_same_call",
    "a_call_repeated_with_its_key_gets_the_first_answer_and_pays_once",
    "a_call_that_runs_while_its_key_is_revoked_is_still_charged",
    "a_call_without_a_published_price_is_refused",
    "a_capture_after_the_hold_expired_becomes_a_late_charge",
    "a_closed_ledger_refuses_calls_and_closing_twice_does_nothing",
    "a_free_target_is_recorded_with_a_receipt_over_nothing",
    "a_hold_that_was_lost_is_unknown_and_nothing_is_charged",
    "a_late_capture_whose_money_is_gone_charges_nothing",
    "a_malformed_idempotency_key_is_refused_before_anything_is_held",
    "a_price_that_was_published_before_can_still_be_charged",
    "a_refund_and_a_call_may_use_the_same_key",
    "a_refund_needs_a_well_formed_key",
    "a_refund_returns_the_whole_charge_once_per_key",
    "a_stored_answer_is_kept_for_24_hours_and_its_charge_for_ever",
    "a_voided_call_costs_nothing_and_cannot_be_captured",
    "an_answer_too_large_to_keep_is_charged_and_not_stored",
    "calls_racing_for_the_last_cents_are_held_exactly_as_often_as_there_is_money",
    "capture_twice_charges_once_and_gives_the_same_receipt",
    "one_refund_key_means_one_refund",
    "refunds_in_parts_sum_to_the_charge_at_most",
    "text_that_is_no_key_is_refused",
    "the_largest_answer_that_is_kept_comes_back_whole",
    "two_calls_racing_with_one_key_run_once",
    "two_consumers_may_use_the_same_key",
    "voiding_a_charged_call_changes_nothing",
    "what_is_no_charge_cannot_be_refunded",
    "without_a_key_a_repeated_call_is_a_new_call",
]
"""Tests of the local gateway that run here again, with the `shop` below."""

for _name in SHARED:
    globals()[f"test_{_name}"] = getattr(test_local, f"test_{_name}")


@pytest.fixture
def ledger_url(ledger_path: Path) -> str:
    return f"sqlite:///{ledger_path}"


@pytest.fixture
def hub(connection: Connection, clock: ManualClock) -> Iterator[Hub]:
    with running_hub(connection, clock) as hub:
        yield hub


@pytest.fixture
async def gateway(hub: Hub, clock: ManualClock) -> AsyncIterator[RemoteGateway]:
    gateway = hub.gateway(clock=clock)
    await gateway.publish("weather", {FORECAST: CENT})
    yield gateway
    await gateway.aclose()


@pytest.fixture
def shop(connection: Connection, consumer: Funded, gateway: RemoteGateway) -> Shop:
    """The ledger as it stands behind the hub, and a seller who reaches it through the hub alone."""
    return Shop(replace(connection, gateway=gateway), consumer)  # pyright: ignore[reportArgumentType]


# --- what a seller is told


async def test_a_call_is_held_then_charged_and_the_receipt_says_so(shop: Shop, clock: ManualClock) -> None:
    settlement = await shop.charged()
    assert (settlement.amount, settlement.fee, settlement.balance) == (Money(10_000), Money(300), None)
    receipt = verify_receipt(settlement.receipt, shop.connection.ledger.ring)
    assert (receipt.amount_micros, receipt.name, receipt.server) == (10_000, "forecast", "weather")
    assert receipt.charge_id == settlement.charge_id
    assert shop.consumer.account().balance_micros == 990_000
    assert shop.is_clean(clock)


async def test_a_seller_never_learns_a_balance(shop: Shop) -> None:
    dear = load_price("1.25")
    await shop.gateway.publish("weather", {FORECAST: dear})
    with pytest.raises(InsufficientBalance) as refusal:
        await shop.held(price_version=dear.version)
    error = refusal.value
    assert (error.price_micros, error.balance_micros, error.shortfall_micros) == (1_250_000, None, None)


async def test_a_metered_call_is_priced_by_the_hub(shop: Shop) -> None:
    pages = Price.per("pages", usage="0.01", max_units=20, missing_usage="error")
    await shop.gateway.publish("weather", {FORECAST: pages})
    held = await shop.held(price_version=pages.version)
    assert held.held == Money(200_000)
    settlement = await shop.gateway.capture(held, CallOutcome(usage=Usage({"pages": 3})))
    assert settlement.amount == Money(30_000)


async def test_a_quote_knows_what_the_consumer_used_before_and_moves_nothing(shop: Shop) -> None:
    steps = Price.tiered("requests", [(2, "0.01"), (None, "0.001")])
    await shop.gateway.publish("weather", {FORECAST: steps})
    known = Usage({"requests": 1})
    quoted: list[Money] = []
    for _ in range(3):
        quoted.append((await shop.gateway.quote(shop.request(price_version=steps.version, known=known))).total)
        await shop.charged(price_version=steps.version, known=known, outcome=CallOutcome(usage=known))
    assert quoted == [Money(10_000), Money(10_000), Money(1_000)]
    stranger = shop.request(price_version=steps.version, known=known, api_key=None)
    assert (await shop.gateway.quote(stranger)).total == Money(10_000)


async def test_whether_a_key_can_pay_is_told_and_not_how_much(shop: Shop) -> None:
    poor = fund(shop.connection.ledger, 0, name="bob")
    assert await shop.gateway.can_pay(shop.consumer.key.text, "weather")
    assert not await shop.gateway.can_pay(poor.key.text, "weather")


async def test_a_price_that_is_shared_is_refused_when_it_is_published(shop: Shop) -> None:
    page = {"direction": "usage", "unit": "pages", "scale": 1, "tiers": [{"price_usd": 0.01}]}
    shared = load_price({"metering": {"dimensions": [page], "splits": [{"account": "dev_bob", "percent": 10}]}})
    with pytest.raises(PriceSpecInvalid) as refusal:
        await shop.gateway.publish("weather", {FORECAST: shared})
    assert refusal.value.problems[0].code == "splits_invalid"


# --- rounds


async def test_a_suspended_call_goes_on_with_its_hold_and_is_charged(shop: Shop) -> None:
    suspended = await shop.gateway.suspend(await shop.held())
    held = await shop.gateway.resume(suspended, shop.request())
    assert isinstance(held, Authorization)
    assert held.hold_id == suspended.hold_id
    assert (await shop.gateway.capture(held, CallOutcome())).amount == Money(10_000)
    assert shop.consumer.account().balance_micros == 990_000


async def test_of_two_who_go_on_with_a_call_one_succeeds(shop: Shop) -> None:
    suspended = await shop.gateway.suspend(await shop.held())
    await shop.gateway.resume(suspended, shop.request())
    with pytest.raises(HoldNotOpen):
        await shop.gateway.resume(suspended, shop.request())


async def test_a_hold_belongs_to_its_caller_and_to_its_token(shop: Shop) -> None:
    other = fund(shop.connection.ledger, 1_000_000, name="bob")
    suspended = await shop.gateway.suspend(await shop.held())
    with pytest.raises(HoldUnknown):
        await shop.gateway.resume(suspended, shop.request(api_key=other.key.text))
    with pytest.raises(HoldUnknown):
        await shop.gateway.resume(suspended._replace(token="forged"), shop.request())


async def test_a_round_whose_price_this_seller_does_not_know_gives_its_hold_back(
    shop: Shop, hub: Hub, clock: ManualClock
) -> None:
    """The seller was restarted with another price list while its caller thought."""
    suspended = await shop.gateway.suspend(await shop.held())
    restarted, dearer = hub.gateway(clock=clock), load_price("0.02")
    await restarted.publish("weather", {FORECAST: dearer})
    with pytest.raises(HoldNotOpen):
        await restarted.resume(suspended, shop.request(price_version=dearer.version))
    await restarted.aclose()
    assert shop.consumer.account().held_micros == 0


# --- by hand


async def test_an_amount_charged_by_hand_is_within_the_price_and_charged_once(shop: Shop) -> None:
    half = shop.request(amount=Money(5_000), idempotency_key="order-7")
    first = await shop.gateway.charge(half)
    assert isinstance(first, Settlement)
    assert first.amount == Money(5_000)
    again = await shop.gateway.charge(half)
    assert isinstance(again, Replay)
    assert again.settlement.charge_id == first.charge_id
    with pytest.raises(PriceMismatch):
        await shop.gateway.charge(shop.request(amount=Money(10_001)))
    assert shop.consumer.account().balance_micros == 995_000


async def test_an_amount_held_by_hand_is_what_is_captured(shop: Shop) -> None:
    held = await shop.held(amount=Money(5_000))
    assert held.held == Money(5_000)
    assert (await shop.gateway.capture(held, CallOutcome())).amount == Money(5_000)
    assert shop.consumer.account().balance_micros == 995_000


async def test_charges_by_hand_without_a_key_are_charges_of_their_own(shop: Shop) -> None:
    charges = [await shop.gateway.charge(shop.request(amount=Money(5_000))) for _ in range(2)]
    assert len({each.charge_id for each in charges if isinstance(each, Settlement)}) == 2


# --- calls that run for long


async def test_a_hold_whose_call_runs_on_is_extended_and_captured_in_time(shop: Shop, hub: Hub, clock: ManualClock) -> None:
    held = await shop.held()
    for _ in range(4):
        clock.advance(600)
        shop.gateway.extend_running()
        await anyio.to_thread.run_sync(hub.wait_until, lambda: lives_s(shop, held, clock) > 600)
        await until_answered(shop)
        await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)
    await shop.gateway.capture(held, CallOutcome())
    kinds = [row.kind for row in journal_of(shop.connection.ledger) if row.ref_id == held.hold_id]
    assert kinds == [Kind.CAPTURE]


async def until_answered(shop: Shop) -> None:
    """The gateway has heard of every extension: one that it hears of after the clock was moved counts from then."""
    gateway = shop.gateway
    assert isinstance(gateway, RemoteGateway)
    running = gateway._running._running  # pyright: ignore[reportPrivateUsage]
    with anyio.fail_after(PATIENCE_S):
        while any(each.ticket is not None for each in running.values()):
            await anyio.lowlevel.checkpoint()


def lives_s(shop: Shop, held: Authorization, clock: ManualClock) -> float:
    """How long a hold lives on."""
    return (open_holds_of(shop.connection.ledger)[held.hold_id].expires_at - clock.now_us()) / 1_000_000


async def test_a_hold_that_has_ended_is_not_extended_again_and_again(
    shop: Shop, hub: Hub, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    held = await shop.held()
    clock.advance(901)
    await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)
    shop.gateway.extend_running()
    await shop.gateway.can_pay(shop.consumer.key.text, "weather")  # behind it in the queue, or beside it
    await anyio.to_thread.run_sync(hub.wait_until, lambda: "cannot be extended" in caplog.text)
    batches = hub.batches
    shop.gateway.extend_running()
    assert hub.batches == batches
    with pytest.raises(HoldNotOpen):
        await shop.gateway.suspend(held)


# --- many at once


async def test_many_callers_share_few_requests_and_two_are_under_way_at_most(shop: Shop, hub: Hub) -> None:
    gate = hub.on_batch = Gate()
    before, charged = hub.batches, list[Settlement]()

    async def call() -> None:
        charged.append(await shop.charged())

    async with anyio.create_task_group() as group:
        for _ in range(64):
            group.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert len({each.charge_id for each in charged}) == 64
    assert hub.most_at_once <= 2
    assert hub.batches - before <= 20  # two for the first holds, one for all others, and about as many for the charges
    assert shop.consumer.account().balance_micros == 1_000_000 - 64 * 10_000


async def test_one_gateway_serves_several_event_loops_at_once(shop: Shop, clock: ManualClock) -> None:
    async def ten() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(shop.charged)

    async with anyio.create_task_group() as group:
        for backend in ("asyncio", "trio", "asyncio"):
            group.start_soon(anyio.to_thread.run_sync, lambda backend=backend: anyio.run(ten, backend=backend))
    assert shop.consumer.account().balance_micros == 1_000_000 - 30 * 10_000
    assert shop.is_clean(clock)


# --- callers who leave


async def test_a_cancelled_authorize_gives_its_hold_back(shop: Shop, hub: Hub) -> None:
    gate = hub.on_batch = Gate()
    async with anyio.create_task_group() as group:
        group.start_soon(shop.held)
        await anyio.to_thread.run_sync(gate.wait_reached)
        group.cancel_scope.cancel()
    gate.open()
    await anyio.to_thread.run_sync(hub.wait_until, lambda: kinds_of(shop) == [Kind.HOLD, Kind.VOID])
    assert shop.consumer.account().held_micros == 0


def kinds_of(shop: Shop) -> list[Kind]:
    """What was written for calls, in order."""
    return [Kind(row.kind) for row in journal_of(shop.connection.ledger) if row.kind != Kind.TOP_UP]


async def test_a_call_cancelled_before_it_was_sent_makes_no_hold(shop: Shop, hub: Hub) -> None:
    gate = hub.on_batch = Gate()
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(shop.gateway.can_pay, shop.consumer.key.text, "weather")
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(shop.held)
            await anyio.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        gate.open()
    await shop.gateway.aclose()
    assert kinds_of(shop) in ([], [Kind.HOLD, Kind.VOID])  # the two others may have travelled together


async def test_closing_waits_for_the_ends_of_holds(shop: Shop, hub: Hub) -> None:
    held = await shop.held()
    gate = hub.on_batch = Gate()
    async with anyio.create_task_group() as group:
        group.start_soon(shop.gateway.capture, held, CallOutcome())
        await anyio.to_thread.run_sync(gate.wait_reached)
        group.start_soon(shop.gateway.aclose)
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert kinds_of(shop) == [Kind.HOLD, Kind.CAPTURE]


# --- a hub that stands still

HASTY = Patience(timeout=0.4, hold=0.3, settle=0.3)
ACTS = ["hold", "suspend", "resume", "quote", "capture", "charge", "check", "void", "refund"]


async def ask(act: str, seller: Shop, held: Authorization, suspended: Suspended, charge_id: str) -> None:
    """Ask the gateway for one thing."""
    gateway = seller.gateway
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "hold": lambda: gateway.authorize(seller.request()),
        "suspend": lambda: gateway.suspend(held),
        "resume": lambda: gateway.resume(suspended, seller.request()),
        "quote": lambda: gateway.quote(seller.request()),
        "capture": lambda: gateway.capture(held, CallOutcome()),
        "charge": lambda: gateway.charge(seller.request(amount=Money(1))),
        "check": lambda: gateway.can_pay(seller.consumer.key.text, "weather"),
        "void": lambda: gateway.void(held),
        "refund": lambda: gateway.refund(charge_id, idempotency_key="back"),
    }
    await acts[act]()


@pytest.mark.parametrize("act", ACTS)
async def test_nobody_waits_for_a_hub_that_stands_still(shop: Shop, hub: Hub, clock: ManualClock, act: str) -> None:
    hasty = hub.gateway(clock=clock, patience=HASTY)
    await hasty.publish("weather", {FORECAST: CENT})
    seller = Shop(replace(shop.connection, gateway=hasty), shop.consumer)  # pyright: ignore[reportArgumentType]
    charge = await shop.charged()
    held, suspended = await shop.held(), await shop.gateway.suspend(await shop.held())
    gate = hub.on_batch = Gate()
    with pytest.raises(PayreUnavailable) as refusal:
        await ask(act, seller, held, suspended, charge.charge_id)
    assert refusal.value.retryable
    gate.open()
    await hasty.aclose()  # which ends what is to be ended: a hold that was made for nobody, too
    still_held = set(open_holds_of(shop.connection.ledger))
    assert still_held == {suspended.hold_id} if act in {"capture", "void"} else still_held >= {held.hold_id}
    assert len(still_held) <= 2
    assert shop.is_clean(clock)


async def test_a_call_without_a_key_reads_its_price_and_asks_nobody(shop: Shop, hub: Hub) -> None:
    before = hub.batches
    for act in (shop.gateway.authorize, shop.gateway.charge):
        with pytest.raises(PaymentRequired) as refusal:
            await act(shop.request(api_key=None, amount=Money(5_000), known=Usage({"requests": 1})))
        assert refusal.value.price_micros == 5_000
    assert hub.batches == before


# --- the developer's key


async def test_a_server_with_a_wrong_secret_key_does_not_start(hub: Hub) -> None:
    gateway = connect(hub.url, secret_key=new_key(Role.DEVELOPER, Mode.TEST).text)
    with pytest.raises(Unauthorized) as refusal:
        await gateway.publish("weather", {FORECAST: CENT})
    assert "secret key" in refusal.value.message
    await gateway.aclose()


async def test_a_secret_key_that_is_revoked_later_is_told_to_the_operator_once_and_to_no_caller(
    shop: Shop, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """Payre: a bad service token is critical in the log, and its users read that the service is unavailable."""
    record = shop.connection.ledger.directory.find_key(parse_key(hub.secret_key).digest)
    assert record is not None
    shop.connection.ledger.directory.revoke_key(record.id)
    for _ in range(3):
        with pytest.raises(PayreUnavailable) as refusal:
            await shop.held()
        assert "secret" not in refusal.value.message
    told = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert len(told) == 1
    assert "secret key" in told[0].getMessage()
    assert hub.secret_key not in caplog.text


def test_a_gateway_shows_where_it_leads_and_never_its_key(hub: Hub) -> None:
    gateway = hub.gateway()
    for shown in (repr(gateway), repr(gateway.address), str(gateway)):
        assert hub.secret_key not in shown
    assert hub.url in repr(gateway)
    assert f"...{hub.secret_key[-4:]}" in repr(gateway)
    anyio.run(gateway.aclose)


# --- addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.example",
        "http://localhost.hub.example",
        "http://10.0.0.1:8080",
        "https://",
        "https://name:secret@hub.example",
        "https://hub.example?key=secret",
        "https://hub.example#secret",
        "https://hub.example:port",
        "https://[::1",
    ],
)
def test_an_address_that_a_key_must_not_be_sent_to_is_refused(url: str) -> None:
    with pytest.raises(SettingsInvalid) as refusal:
        connect(url, secret_key=new_key(Role.DEVELOPER, Mode.TEST).text)
    assert "secret@" not in refusal.value.message
    assert "=secret" not in refusal.value.message


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://localhost:1/payre/", "http://[::1]:1", "https://hub.example/payre"]
)
async def test_an_address_of_this_machine_or_with_tls_is_taken(url: str) -> None:
    gateway = connect(url, secret_key=new_key(Role.DEVELOPER, Mode.TEST).text)
    assert url.rstrip("/") in repr(gateway)
    await gateway.aclose()


SECRET_KEY, CONSUMER_KEY = new_key(Role.DEVELOPER, Mode.TEST).text, new_key(Role.CONSUMER, Mode.TEST).text


@pytest.mark.parametrize(
    "key", [None, "", "nonsense", CONSUMER_KEY, SECRET_KEY[:-1] + "!"], ids=["none", "empty", "nonsense", "consumer's", "damaged"]
)
def test_a_hub_wants_a_developers_secret_key_and_never_repeats_it(key: str | None) -> None:
    with pytest.raises(SettingsInvalid) as refusal:
        connect("https://hub.example", secret_key=key)
    assert not key or key not in refusal.value.message
    assert "pyr_sk_" in refusal.value.message


def test_a_secret_key_without_a_hub_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid) as refusal:
        connect(f"sqlite:///{tmp_path / 'payre.db'}", secret_key=new_key(Role.DEVELOPER, Mode.TEST).text)
    assert "PAYRE_URL" in refusal.value.message


async def test_what_no_hub_takes_is_refused_here(shop: Shop) -> None:
    with pytest.raises(InvalidRequest):
        await shop.held(args_sha256="no digest")


# --- processes

FORKED = """
import os, sys
import anyio
from payre_mcp.errors import PayreUnavailable
from payre_mcp.gateway.hub_address import HubAddress
from payre_mcp.gateway.remote import RemoteGateway

gateway = RemoteGateway(HubAddress.parse(sys.argv[1], sys.stdin.readline().strip()))
child = os.fork()
if child == 0:
    try:
        anyio.run(gateway.can_pay, sys.stdin.readline().strip(), "weather")
    except PayreUnavailable as refusal:
        anyio.run(gateway.aclose)
        os._exit(7 if "forked" in str(refusal) else 1)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
anyio.run(gateway.aclose)
"""

LIGHT = """
import sys
from payre_mcp import PaidMCPServer, Payre, connect
gateway = connect("http://127.0.0.1:1", secret_key=sys.stdin.readline().strip())
server = PaidMCPServer("weather", payre=Payre(gateway=gateway))
heavy = {"sqlmodel", "sqlalchemy", "alembic", "stripe", "psycopg", "jinja2"} & {name.partition(".")[0] for name in sys.modules}
print(*sorted(heavy), *(name for name in sys.modules if name.startswith(("payre_mcp.storage", "payre_mcp.hub"))))
"""


def run_python(script: str, *arguments: str, told: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, input=told, cwd=ROOT).stdout.strip()


def test_a_forked_child_is_refused_at_once(hub: Hub, consumer: Funded) -> None:
    assert run_python(FORKED, hub.url, told=f"{hub.secret_key}\n{consumer.key.text}\n") == "7"


def test_a_seller_at_a_hub_loads_no_database_and_no_hub() -> None:
    assert not run_python(LIGHT, told=new_key(Role.DEVELOPER, Mode.TEST).text)


def test_the_threads_of_a_closed_gateway_are_gone(hub: Hub) -> None:
    gateway = hub.gateway()
    assert lanes() == ["payre-hub-0", "payre-hub-1"]
    anyio.run(gateway.aclose)
    assert lanes() == []


def lanes() -> list[str]:
    """The threads that send."""
    return sorted(each.name for each in threading.enumerate() if each.name.startswith("payre-hub"))
