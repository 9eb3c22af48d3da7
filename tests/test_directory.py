"""Spending limits as values: what they refuse to be, and that they survive being stored."""

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payre_mcp.directory import NO_LIMITS, SpendingLimits
from payre_mcp.money import MAX_MICROS, Money

AMOUNTS = st.none() | st.integers(0, MAX_MICROS).map(Money)
LIMITS = st.builds(
    SpendingLimits,
    call=AMOUNTS, day=AMOUNTS, month=AMOUNTS,
    tools=st.dictionaries(st.text(), st.integers(0, MAX_MICROS).map(Money), max_size=4),
)  # fmt: skip


@given(LIMITS)
def test_limits_are_stored_as_canonical_text_and_read_back(limits: SpendingLimits) -> None:
    text = limits.dump()
    assert SpendingLimits.load(text) == limits
    assert SpendingLimits.load(text).dump() == text
    assert bool(text) == bool(limits)
    assert text.isascii()


def test_no_limits_are_no_text_and_say_so() -> None:
    assert (NO_LIMITS.dump(), bool(NO_LIMITS), str(NO_LIMITS)) == ("", False, "no limits")
    assert SpendingLimits.load("") == NO_LIMITS


def test_a_limit_of_zero_is_a_limit() -> None:
    assert SpendingLimits(call=Money(0))
    assert SpendingLimits(tools={"draw": Money(0)})


def test_limits_are_micros_in_sorted_json_and_sentences_for_people() -> None:
    limits = SpendingLimits(call=Money(50_000), month=Money(5_000_000), tools={"draw": Money(1), "a": Money(2)})
    assert limits.dump() == '{"call":50000,"month":5000000,"tools":{"a":2,"draw":1}}'
    assert str(limits) == "$0.05 per call, $5.00 per month, $0.000001 per day for draw, $0.000002 per day for a"


def test_limits_cannot_be_changed_not_even_through_the_mapping_they_were_made_of() -> None:
    tools = {"draw": Money(1)}
    limits = SpendingLimits(tools=tools)
    tools["draw"] = Money(9)
    assert limits.tools == {"draw": Money(1)}
    with pytest.raises(TypeError):
        cast("Any", limits.tools)["draw"] = Money(9)


@pytest.mark.parametrize("changes", [{"call": Money(-1)}, {"day": Money(-1)}, {"tools": {"draw": Money(-1)}}])
def test_a_limit_below_zero_is_refused(changes: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match="zero or more"):
        SpendingLimits(**changes)


@pytest.mark.parametrize("stored", ['{"week":5}', '{"day":"5"}', '{"day":0.5}', '{"tools":{"draw":null}}'])
def test_a_limit_that_is_not_understood_is_never_ignored(stored: str) -> None:
    assert json.loads(stored)
    with pytest.raises(TypeError):
        SpendingLimits.load(stored)
