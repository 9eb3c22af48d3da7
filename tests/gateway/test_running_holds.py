"""Holds of calls that run here, at a hub whose clock may differ: when they are extended, and how long their ends are tried."""

import pytest

from payre_mcp.clock import US_PER_S, ManualClock
from payre_mcp.errors import HoldNotOpen, PayreUnavailable
from payre_mcp.gateway.running_holds import RunningHold, RunningHolds
from payre_mcp.gateway.schemas import HoldState


@pytest.fixture
def holds(clock: ManualClock) -> RunningHolds:
    return RunningHolds(clock)


def kept(holds: RunningHolds, clock: ManualClock, *, ahead_s: int = 900) -> None:
    """A hold that ends `ahead_s` from now by this machine's clock."""
    holds.keep("hold_1", "token", clock.now_us() + ahead_s * US_PER_S)


def answer(holds: RunningHolds, due: RunningHold, told: object) -> None:
    assert due.ticket is not None
    holds.deliver([(due.ticket, told)])


def test_a_hold_is_due_when_half_of_its_life_is_over_and_once(holds: RunningHolds, clock: ManualClock) -> None:
    kept(holds, clock)
    clock.advance(449)
    assert holds.due() == []
    clock.advance(1)
    assert [each.hold for each in holds.due()] == ["hold_1"]
    assert holds.due() == []


def test_an_extended_hold_is_due_again_after_half_of_its_new_life(holds: RunningHolds, clock: ManualClock) -> None:
    kept(holds, clock)
    clock.advance(450)
    (due,) = holds.due()
    answer(holds, due, HoldState(hold="hold_1", expires_at=clock.now_us() + 900 * US_PER_S))
    clock.advance(449)
    assert holds.due() == []
    clock.advance(1)
    assert len(holds.due()) == 1


def test_an_extension_that_did_not_get_through_is_due_again_at_once(holds: RunningHolds, clock: ManualClock) -> None:
    kept(holds, clock)
    clock.advance(450)
    (due,) = holds.due()
    answer(holds, due, PayreUnavailable())
    assert len(holds.due()) == 1


def test_a_hold_that_has_ended_is_let_go_of(holds: RunningHolds, clock: ManualClock) -> None:
    kept(holds, clock)
    clock.advance(450)
    (due,) = holds.due()
    answer(holds, due, HoldNotOpen("it has ended"))
    assert not holds


def test_what_was_let_go_is_never_due_and_its_end_has_the_rest_of_its_life(holds: RunningHolds, clock: ManualClock) -> None:
    kept(holds, clock)
    clock.advance(300)
    assert holds.let_go("hold_1") == 600
    clock.advance(900)
    assert holds.due() == []


def test_an_answer_for_a_hold_that_was_let_go_changes_nothing(holds: RunningHolds, clock: ManualClock) -> None:
    kept(holds, clock)
    clock.advance(450)
    (due,) = holds.due()
    holds.let_go("hold_1")
    answer(holds, due, HoldState(hold="hold_1", expires_at=clock.now_us() + 900 * US_PER_S))
    assert not holds


def test_a_hold_that_nobody_here_kept_has_half_a_life_for_its_end(holds: RunningHolds) -> None:
    assert holds.let_go("hold_of_before") == 450


@pytest.mark.parametrize(("skew_s", "due_after_s"), [(-7_200, 450), (-60, 450), (600, 150), (7_200, 30)])
def test_a_clock_that_differs_from_the_hubs_costs_extensions_and_never_the_hold(
    holds: RunningHolds, clock: ManualClock, skew_s: int, due_after_s: int
) -> None:
    """This machine's clock is ahead by `skew_s`; the hub gave the hold 900 seconds."""
    kept(holds, clock, ahead_s=900 - skew_s)
    clock.advance(due_after_s - 1)
    assert holds.due() == []
    clock.advance(1)
    assert len(holds.due()) == 1


def test_a_clock_that_is_set_back_does_not_keep_a_hold_from_its_extension(holds: RunningHolds, clock: ManualClock) -> None:
    kept(holds, clock)
    clock.advance(-3_600)
    clock.advance(450)
    assert len(holds.due()) == 1
