"""Keys that are refused: guessing is turned away before anything is looked up, and nobody who pays is."""

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.errors import RateLimited
from payre_mcp.throttle import REFUSALS, Throttle


@pytest.fixture
def throttle(clock: ManualClock) -> Throttle:
    return Throttle(clock)


def test_the_twenty_first_unknown_key_within_a_minute_is_not_looked_at(throttle: Throttle, clock: ManualClock) -> None:
    for _ in range(REFUSALS):
        throttle.check("10.0.0.1", "wrong")
        throttle.refused("10.0.0.1")
        clock.advance(1)
    with pytest.raises(RateLimited, match="nothing was charged") as refused:
        throttle.check("10.0.0.1", "another")
    assert refused.value.retry_after_s == 60 - REFUSALS
    assert refused.value.data() == {"retry_after_s": 40}


def test_after_its_minute_an_address_begins_anew(throttle: Throttle, clock: ManualClock) -> None:
    for _ in range(REFUSALS):
        throttle.refused("10.0.0.1")
    clock.advance(60)
    for _ in range(REFUSALS):
        throttle.check("10.0.0.1", "wrong")
        throttle.refused("10.0.0.1")
    with pytest.raises(RateLimited):
        throttle.check("10.0.0.1", "wrong")


def test_a_key_that_has_worked_and_every_other_address_go_on(throttle: Throttle) -> None:
    throttle.accepted("good")
    for _ in range(10 * REFUSALS):
        throttle.refused("10.0.0.1")
    throttle.check("10.0.0.1", "good")
    throttle.check("10.0.0.2", "unknown")
    with pytest.raises(RateLimited):
        throttle.check("10.0.0.1", None)


def test_off_the_network_nothing_is_counted(throttle: Throttle) -> None:
    for _ in range(10 * REFUSALS):
        throttle.refused(None)
    throttle.check(None, "wrong")


def test_many_addresses_and_many_keys_do_not_fill_the_memory(throttle: Throttle) -> None:
    for _ in range(REFUSALS):
        throttle.refused("the first address")
    throttle.accepted("the first key")
    for number in range(10_000):
        throttle.refused(f"10.0.{number}")
        throttle.accepted(f"key {number}")
    throttle.check("the first address", "unknown")  # forgotten
    for _ in range(REFUSALS):
        throttle.refused("the last address")
    with pytest.raises(RateLimited):
        throttle.check("the last address", "the first key")
    throttle.check("the last address", "key 9999")
