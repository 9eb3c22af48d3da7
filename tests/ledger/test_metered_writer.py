"""Metered calls through the writer: retries, unknown commits, poison neighbours and captures that wait for a sweep."""

import pytest

from payre_mcp.errors import HoldNotOpen, PayreUnavailable, UsageMissing
from payre_mcp.ledger.model import Kind, born
from payre_mcp.ledger.store import StoreBusy, StoreUnavailable
from payre_mcp.pricing import Price
from tests.fakes import code_of, counters_in, done, journal_of
from tests.ledger.desk import Desk, poison, raiser

STEPS = Price.tiered("requests", [(2, "0.01"), (4, "0.005"), (None, "0.001")]).plan("")
STRICT = Price.per("pages", usage="0.01", max_units=5, missing_usage="error").plan("")


def amounts(desk: Desk) -> list[int]:
    """What each metered call was charged, in the order of their rows."""
    return [row.amount_micros for row in journal_of(desk.ledger) if row.kind == Kind.CAPTURE]


def counted(desk: Desk) -> list[tuple[int, int]]:
    return list(counters_in(desk.ledger).values())


@pytest.mark.parametrize("trouble", [StoreBusy("locked"), StoreUnavailable("disk is full")])
def test_a_metered_capture_in_trouble_is_charged_once_at_a_later_sweep(desk: Desk, trouble: Exception) -> None:
    first, second = (desk.writer.ask(desk.payer.metered(STEPS)).transfer.id for _ in range(2))
    desk.store.before_commit = raiser(trouble)
    for held in (first, second):
        with pytest.raises(PayreUnavailable):
            desk.writer.ask(desk.payer.spend(held, STEPS))
    desk.writer.sweep()
    assert counted(desk) == [(0, 2)]
    desk.store.before_commit = lambda: None
    desk.writer.sweep()
    desk.writer.sweep()
    assert amounts(desk) == [10_000, 10_000]
    assert counted(desk) == [(2, 0)]
    assert done(desk.writer.ask(desk.payer.spend(first, STEPS))).replayed
    assert desk.writer.ask(desk.payer.metered(STEPS)).transfer.amount_micros == 5_000
    assert desk.is_clean()


def test_a_caller_who_asks_again_before_the_sweep_is_charged_once(desk: Desk) -> None:
    held = desk.writer.ask(desk.payer.metered(STEPS)).transfer.id
    desk.store.before_commit = raiser(StoreUnavailable("disk is full"), times=1)
    with pytest.raises(PayreUnavailable):
        desk.writer.ask(desk.payer.spend(held, STEPS))
    charge = desk.writer.ask(desk.payer.spend(held, STEPS))
    desk.writer.sweep()
    assert amounts(desk) == [10_000] == [charge.transfer.amount_micros]
    assert counted(desk) == [(1, 0)]
    assert desk.is_clean()


def test_a_capture_in_trouble_whose_hold_expired_meanwhile_is_charged_late_at_its_own_place(desk: Desk) -> None:
    held = desk.writer.ask(desk.payer.metered(STEPS)).transfer.id
    desk.store.before_commit = raiser(StoreUnavailable("disk is full"), times=1)
    with pytest.raises(PayreUnavailable):
        desk.writer.ask(desk.payer.spend(held, STEPS))
    desk.clock.advance(901)
    desk.store.before_commit = raiser(StoreUnavailable("disk is full"), times=1)
    desk.writer.sweep()
    desk.writer.sweep()
    desk.writer.sweep()
    rows = journal_of(desk.ledger)
    assert [row.amount_micros for row in rows if row.kind in (Kind.CHARGE, Kind.CAPTURE)] == [10_000]
    assert counted(desk) == [(1, 0)]
    assert desk.is_clean()


def test_a_commit_that_is_tried_again_because_the_database_was_busy_counts_once(desk: Desk) -> None:
    desk.store.before_commit = raiser(StoreBusy("locked"), times=1)
    held = desk.writer.ask(desk.payer.metered(STEPS)).transfer.id
    desk.store.before_commit = raiser(StoreBusy("locked"), times=1)
    desk.writer.ask(desk.payer.spend(held, STEPS))
    assert counted(desk) == [(1, 0)]
    assert desk.is_clean()


@pytest.mark.parametrize("act", ["hold", "capture", "void"])
def test_a_commit_whose_outcome_is_unknown_reserves_and_counts_once(desk: Desk, act: str) -> None:
    held = desk.writer.ask(desk.payer.metered(STEPS)).transfer.id
    command = {"hold": desk.payer.metered(STEPS), "capture": desk.payer.spend(held, STEPS), "void": desk.payer.void(held)}[act]
    desk.store.after_commit = raiser(StoreBusy("the answer was lost"), times=1)
    answer = desk.writer.ask(command)
    assert answer.transfer == desk.payer.row(command.id)
    assert counted(desk) == [{"hold": (0, 2), "capture": (1, 0), "void": (0, 0)}[act]]
    assert desk.is_clean()


def test_a_whole_batch_whose_commit_is_unknown_prices_nobody_again(desk: Desk) -> None:
    held = [desk.writer.ask(desk.payer.metered(STEPS)).transfer.id for _ in range(2)]
    lost = raiser(StoreBusy("the answer was lost"), times=1)
    batch = [desk.payer.metered(STEPS), desk.payer.spend(held[0], STEPS), desk.payer.void(held[1]), desk.payer.metered(STEPS)]
    answers = desk.behind(*batch, and_then=lambda: setattr(desk.store, "after_commit", lost))
    assert [done(each).transfer for each in answers] == [desk.payer.row(each.id) for each in batch]
    assert [done(each).transfer.amount_micros for each in answers] == [5_000, 10_000, 10_000, 5_000]
    assert counted(desk) == [(1, 2)]
    assert desk.is_clean()


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_poison_command_among_metered_calls_costs_nobody_their_place(desk: Desk, place: int) -> None:
    desk.store.on_apply = poison("poison")
    batch = [desk.payer.metered(STEPS) for _ in range(6)]
    poisonous = desk.payer.metered(STEPS, name="poison")
    answers = desk.behind(*batch[:place], poisonous, *batch[place:])
    assert code_of(answers.pop(place)) == "internal_error"
    assert [done(each).transfer.amount_micros for each in answers] == [10_000, 10_000, 5_000, 5_000, 1_000, 1_000]
    assert counted(desk) == [(0, 6)]
    desk.behind(*(desk.payer.spend(each.id, STEPS) for each in batch))
    assert sorted(amounts(desk)) == [1_000, 1_000, 5_000, 5_000, 10_000, 10_000]
    assert counted(desk) == [(6, 0)]
    assert desk.is_clean()


def test_a_call_whose_number_is_missing_keeps_its_hold_and_its_neighbours_are_charged(desk: Desk) -> None:
    silent, told = (desk.writer.ask(desk.payer.metered(STRICT)).transfer.id for _ in range(2))
    answers = desk.behind(desk.payer.spend(silent, STRICT), desk.payer.spend(told, STRICT, {"pages": 2}))
    assert [code_of(each) for each in answers] == ["usage_missing", "done"]
    assert desk.payer.account().held_micros == 50_000
    with pytest.raises(UsageMissing):
        desk.writer.ask(desk.payer.spend(silent, STRICT))
    desk.writer.ask(desk.payer.void(silent))
    with pytest.raises(HoldNotOpen):
        desk.writer.ask(desk.payer.spend(silent, STRICT, {"pages": 1}))
    assert amounts(desk) == [20_000]
    assert desk.is_clean()


def test_a_running_metered_call_is_kept_alive_and_one_that_was_let_go_gives_its_place_back(desk: Desk) -> None:
    row = desk.writer.ask(desk.payer.metered(STEPS)).transfer
    desk.writer.keep_alive(born(row))
    for _ in range(3):
        desk.clock.advance(600)
        assert desk.writer.sweep() == 0
    assert counted(desk) == [(0, 1)]
    desk.writer.let_go(row.id)
    desk.clock.advance(901)
    assert desk.writer.sweep() == 1
    assert counted(desk) == [(0, 0)]
    assert desk.writer.ask(desk.payer.spend(row.id, STEPS)).transfer.kind == Kind.CHARGE
    assert counted(desk) == [(1, 0)]
    assert desk.is_clean()
