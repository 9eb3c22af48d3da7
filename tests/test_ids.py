"""Ids: our own choice, 64 bits in order of time, with the prefixes of DESIGN.md section 3."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.clock import ManualClock
from payre_mcp.errors import NotFound
from payre_mcp.ids import PREFIXES, SLOTS, IdFactory, format_id, parse_id

NUMBERS = st.integers(0, 2**63 - 1)
PER_MS = 4096
quick = settings(max_examples=200, deadline=None)


def parts(number: int) -> tuple[int, int, int]:
    """(milliseconds, slot, counter) of an id."""
    return number >> 20, number >> 12 & 255, number & 4095


def test_an_id_holds_its_millisecond_slot_and_place_in_it() -> None:
    clock = ManualClock()
    ids = IdFactory(clock, 7)
    ms = clock.now_us() // 1000
    assert [parts(ids.new()) for _ in range(3)] == [(ms, 7, 0), (ms, 7, 1), (ms, 7, 2)]
    clock.advance(0.001)
    assert parts(ids.new()) == (ms + 1, 7, 0)


def test_a_full_millisecond_borrows_the_next_and_never_spills_into_the_slot() -> None:
    clock = ManualClock()
    ids = IdFactory(clock, SLOTS - 1)
    ms = clock.now_us() // 1000
    made = [ids.new() for _ in range(2 * PER_MS + 1)]
    assert made == sorted(set(made))
    assert parts(made[-1]) == (ms + 2, SLOTS - 1, 0)
    assert {parts(each)[1] for each in made} == {SLOTS - 1}


def test_a_clock_that_steps_back_never_repeats_an_id() -> None:
    clock = ManualClock()
    ids = IdFactory(clock, 0)
    made: list[int] = []
    for step in (0.0, 0.005, -3600, 0.001, 0.0, 7200):
        clock.advance(step)
        made += [ids.new(), ids.new()]
    assert made == sorted(set(made))


def test_two_slots_never_make_the_same_id() -> None:
    clock = ManualClock()
    one, two = IdFactory(clock, 1), IdFactory(clock, 2)
    assert not {one.new() for _ in range(PER_MS + 1)} & {two.new() for _ in range(PER_MS + 1)}


def test_threads_that_share_a_factory_never_get_the_same_id() -> None:
    ids = IdFactory(ManualClock(), 0)
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(ids.new) for _ in range(4_000)]
    assert len({each.result() for each in made}) == 4_000


def test_an_id_of_the_year_2200_still_fits_a_signed_64_bit_column() -> None:
    assert IdFactory(ManualClock(7_258_118_400_000_000), SLOTS - 1).new() < 2**63


@pytest.mark.parametrize("slot", [-1, SLOTS])
def test_a_slot_out_of_range_is_a_programming_mistake(slot: int) -> None:
    with pytest.raises(ValueError, match="slot"):
        IdFactory(ManualClock(), slot)


@quick
@given(st.sampled_from(PREFIXES), NUMBERS)
def test_an_id_survives_its_text(prefix: str, number: int) -> None:
    text = format_id(prefix, number)
    assert text.startswith(f"{prefix}_")
    assert len(text) == len(prefix) + 14
    assert parse_id(prefix, text) == number


@quick
@given(NUMBERS, NUMBERS)
def test_ids_sort_as_text_as_they_do_as_numbers(one: int, two: int) -> None:
    assert (format_id("chg", one) < format_id("chg", two)) == (one < two)


def test_an_unknown_prefix_is_a_programming_mistake() -> None:
    with pytest.raises(AssertionError):
        format_id("foo", 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "chg",
        "chg_",
        "chg_000000000000",
        "chg_00000000000000",
        "hold_0000000000001",
        "0000000000001",
        "chg_000000000000i",
        "chg_000000000000A",
        "chg_000000000000\N{ARABIC-INDIC DIGIT FIVE}",
        "CHG_0000000000001",
        "chg_chg_000000001",
        "chg_8000000000000",
        "chg_zzzzzzzzzzzzz",
        " chg_0000000000001",
        "chg_" + "0" * 10_000,
    ],
)
def test_what_is_not_an_id_names_no_object(text: str) -> None:
    with pytest.raises(NotFound) as caught:
        parse_id("chg", text)
    assert caught.value.code == "not_found"
    assert len(caught.value.message) < 200
