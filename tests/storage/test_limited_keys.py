"""Limited and rotated keys on a real database: what is stored, what it costs, and processes that race for a limit."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.directory import NO_LIMITS, KeyRecord, SpendingLimits
from payre_mcp.errors import InvalidApiKey, InvalidRequest, NotFound, PayreError, SpendLimit
from payre_mcp.keys import ApiKey, Role
from payre_mcp.ledger.model import Kind
from payre_mcp.money import Money
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.ledger import OpenLedger
from payre_mcp.storage.server import open_server
from tests.fakes import RING, Funded, audited, counters_in, fund, journal_of

HOUR_US = 3600 * 1_000_000
Open = Callable[[], OpenLedger]
DAY_LIMIT = SpendingLimits(day=Money(1_000))


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, clock: ManualClock) -> Open:
    """Opens one ledger as often as it is called, on either database."""
    if request.param == "sqlite":
        path: Path = request.getfixturevalue("ledger_path")
        return lambda: open_embedded(path, clock)
    database: str = request.getfixturevalue("database")
    return lambda: open_server(database, clock, ring=RING)


@pytest.fixture
def ledger(opener: Open) -> Iterator[OpenLedger]:
    ledger = opener()
    yield ledger
    ledger.close()


@pytest.fixture
def payer(ledger: OpenLedger) -> Funded:
    """A consumer with a dollar, whose key may spend a tenth of a cent a day."""
    payer = fund(ledger, 1_000_000)
    ledger.directory.set_limits(payer.record.id, DAY_LIMIT)
    return payer


def record(ledger: OpenLedger, key: ApiKey) -> KeyRecord:
    found = ledger.directory.find_key(key.digest)
    assert found is not None
    return found


def with_key(payer: Funded, key: ApiKey) -> Funded:
    return payer._replace(key=key, record=record(payer.ledger, key))


# Keys


def test_a_key_is_made_without_limits_or_with_them_and_begins_a_line_of_its_own(ledger: OpenLedger) -> None:
    consumer = ledger.directory.create_consumer("ada")
    plain = record(ledger, ledger.directory.create_key(Role.CONSUMER, consumer.id))
    limits = SpendingLimits(call=Money(5), tools={"draw": Money(7)})
    capped = record(ledger, ledger.directory.create_key(Role.CONSUMER, consumer.id, limits=limits))
    assert (plain.limits, plain.root_id) == (NO_LIMITS, plain.id)
    assert (capped.limits, capped.root_id) == (limits, capped.id)
    assert list(ledger.directory.list_keys()) == [plain, capped]


def test_limits_of_a_key_hold_for_its_whole_line(payer: Funded) -> None:
    directory = payer.ledger.directory
    fresh = with_key(payer, directory.rotate_key(payer.record.id, overlap_us=HOUR_US))
    directory.set_limits(fresh.record.id, SpendingLimits(day=Money(5)))
    assert {key.limits for key in directory.list_keys()} == {SpendingLimits(day=Money(5))}
    directory.set_limits(payer.record.id, NO_LIMITS)
    assert {key.limits for key in directory.list_keys()} == {NO_LIMITS}


def test_a_key_that_does_not_exist_is_neither_limited_nor_rotated(ledger: OpenLedger) -> None:
    with pytest.raises(NotFound):
        ledger.directory.set_limits(7, DAY_LIMIT)
    with pytest.raises(NotFound):
        ledger.directory.rotate_key(7, overlap_us=0)


# Rotation


def test_a_rotated_key_is_another_key_of_the_same_owner_server_label_limits_and_end(
    ledger: OpenLedger, clock: ManualClock
) -> None:
    consumer = ledger.directory.create_consumer("ada")
    ends = clock.now_us() + 100 * HOUR_US
    made = ledger.directory.create_key(Role.CONSUMER, consumer.id, label="laptop", server_id=4, expires_at=ends, limits=DAY_LIMIT)
    old = record(ledger, made)
    clock.advance(60)
    key = ledger.directory.rotate_key(old.id, overlap_us=24 * HOUR_US)
    new = record(ledger, key)
    assert (key.role, key.mode, key.text[-4:]) == (Role.CONSUMER, old.mode, new.last4)
    changed = {"id": new.id, "last4": new.last4, "created_at": clock.now_us()}
    assert new == old._replace(**changed)
    assert record(ledger, made) == old._replace(expires_at=clock.now_us() + 24 * HOUR_US)


def test_the_old_key_works_for_the_overlap_and_the_new_one_after_it(payer: Funded, clock: ManualClock) -> None:
    fresh = with_key(payer, payer.ledger.directory.rotate_key(payer.record.id, overlap_us=HOUR_US))
    ask = payer.ledger.writer.ask
    clock.advance(3599)
    ask(payer.charge(1))
    clock.advance(1)
    with pytest.raises(InvalidApiKey):
        ask(payer.charge(1))
    ask(fresh.charge(1))


def test_an_overlap_never_outlasts_the_end_that_the_key_had(ledger: OpenLedger, clock: ManualClock) -> None:
    consumer = ledger.directory.create_consumer("ada")
    ends = clock.now_us() + HOUR_US
    made = ledger.directory.create_key(Role.CONSUMER, consumer.id, expires_at=ends)
    ledger.directory.rotate_key(record(ledger, made).id, overlap_us=24 * HOUR_US)
    assert {key.expires_at for key in ledger.directory.list_keys()} == {ends}


def test_a_dead_key_is_not_rotated(payer: Funded, clock: ManualClock) -> None:
    directory = payer.ledger.directory
    with pytest.raises(InvalidRequest, match="zero or more"):
        directory.rotate_key(payer.record.id, overlap_us=-1)
    fresh = with_key(payer, directory.rotate_key(payer.record.id, overlap_us=0))
    with pytest.raises(InvalidRequest, match="cannot be rotated"):
        directory.rotate_key(payer.record.id, overlap_us=0)
    directory.revoke_key(fresh.record.id)
    with pytest.raises(InvalidRequest, match="Nothing was changed"):
        directory.rotate_key(fresh.record.id, overlap_us=0)
    assert len(directory.list_keys()) == 2


def test_rotation_does_not_start_a_limit_anew(payer: Funded, clock: ManualClock) -> None:
    ask = payer.ledger.writer.ask
    ask(payer.charge(400))
    first = with_key(payer, payer.ledger.directory.rotate_key(payer.record.id, overlap_us=HOUR_US))
    ask(first.charge(400))
    second = with_key(payer, payer.ledger.directory.rotate_key(first.record.id, overlap_us=HOUR_US))
    for each in (payer, first, second):
        with pytest.raises(SpendLimit) as refused:
            ask(each.charge(201))
        assert refused.value.left_micros == 200
    assert list(counters_in(payer.ledger).values()) == [(800, 0)]
    assert audited(payer.ledger, clock.now_us()).violations == []


# Limits


def test_limits_are_read_with_each_call(payer: Funded) -> None:
    ask, directory = payer.ledger.writer.ask, payer.ledger.directory
    ask(payer.charge(1_000))
    with pytest.raises(SpendLimit):
        ask(payer.hold(1))
    directory.set_limits(payer.record.id, SpendingLimits(day=Money(1_500)))
    held = ask(payer.hold(500)).transfer
    with pytest.raises(SpendLimit):
        ask(payer.hold(1))
    ask(payer.capture(held.id, 100))
    ask(payer.charge(400))
    directory.set_limits(payer.record.id, NO_LIMITS)
    ask(payer.charge(10_000))
    assert list(counters_in(payer.ledger).values()) == [(1_500, 0)]


def test_holds_of_a_limited_key_end_by_void_and_by_sweep_and_give_their_limit_back(payer: Funded, clock: ManualClock) -> None:
    ask = payer.ledger.writer.ask
    voided, expired = ask(payer.hold(600)).transfer, ask(payer.hold(400)).transfer
    ask(payer.void(voided.id))
    clock.advance(901)
    assert payer.ledger.writer.sweep() == 1
    assert list(counters_in(payer.ledger).values()) == [(0, 0)]
    assert ask(payer.capture(expired.id, 400)).transfer.kind == Kind.CHARGE
    assert list(counters_in(payer.ledger).values()) == [(400, 0)]
    assert audited(payer.ledger, clock.now_us()).violations == []


def test_two_writers_of_one_ledger_never_pass_a_limit_together(payer: Funded, opener: Open, clock: ManualClock) -> None:
    second = opener()
    refused: list[PayreError] = []

    def spend(ledger: OpenLedger) -> None:
        for _ in range(60):
            try:
                ledger.writer.ask(payer.charge(10))
            except SpendLimit as error:
                refused.append(error)

    threads = [threading.Thread(target=spend, args=(ledger,)) for ledger in (payer.ledger, second) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    second.close()
    charges = [row for row in journal_of(payer.ledger) if row.kind == Kind.CHARGE]
    assert (len(charges), len(refused)) == (100, 140)
    assert list(counters_in(payer.ledger).values()) == [(1_000, 0)]
    assert audited(payer.ledger, clock.now_us()).violations == []
