"""What a tool reports of its call, and what is known of a call before it runs."""

import threading
from decimal import Decimal  # noqa: TID251 - a quantity may come as one
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.errors import UsageAmbiguous, UsageInvalid
from payre_mcp.pricing.usage import Sent, UsageReport, find_dimension, known_usage, text_within
from tests.pricing.forms import TOKENS, priced, steps, unit

quick = settings(max_examples=100, deadline=None)
BY_TOKEN = priced(*TOKENS)
PAGES = priced(unit("pages"), unit("seconds"), unit("invocations"))
NUMBERS = [-1, -0.5, "-1", float("nan"), float("inf"), Decimal("NaN"), True, False, None, "many", "", [1], 2**53, 1e300, "1e999"]
HUGE = 10**5_000


def report() -> UsageReport:
    return UsageReport(BY_TOKEN.dimensions + PAGES.dimensions)


def test_reports_add_up() -> None:
    said = report()
    said.add("pages", 2)
    said.add("pages", "3")
    said.add("pages", Decimal(4))
    said.add("tokens", 5, "input")
    said.add("tokens", 0, "output")
    assert said.quantities() == {"pages": 9, "input.tokens": 5, "output.tokens": 0}


def test_nothing_reported_is_nothing_known() -> None:
    assert report().quantities() == {}
    assert report().observed() == {}


def test_parts_of_a_base_unit_are_rounded_up_once() -> None:
    said = report()
    for _ in range(10):
        said.add("pages", 0.1)
        said.add("seconds", "0.0004")
    assert said.quantities() == {"pages": 1, "seconds": 4}


@quick
@given(st.lists(st.fractions(0, 1_000, max_denominator=10**6), min_size=1, max_size=20))
def test_a_sum_of_reports_is_exact_before_it_is_rounded(parts: list[Fraction]) -> None:
    said = report()
    for part in parts:
        said.add("seconds", part)
    assert said.quantities()["seconds"] == -(-sum(parts) * 1_000 // 1)


def test_threads_may_report_at_once() -> None:
    said = report()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(500):
            said.add("pages", 1)
            said.add("tokens", "0.25", "input")
            said.observe("batch_size", 3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.quantities() == {"pages": 4_000, "input.tokens": 1_000}
    assert said.observed() == {"batch_size": 3}


@pytest.mark.parametrize("n", [*NUMBERS, pytest.param(HUGE, id="huge"), pytest.param(-HUGE, id="-huge")])
def test_what_is_no_quantity_is_refused_and_leaves_nothing_behind(n: object) -> None:
    said = report()
    with pytest.raises(UsageInvalid) as caught:
        said.add("pages", n)
    assert caught.value.code == "usage_invalid"
    assert said.quantities() == {}


def test_a_sum_beyond_one_call_is_refused_and_the_sum_before_it_stands() -> None:
    said = report()
    said.add("pages", 2**53 - 1)
    with pytest.raises(UsageInvalid):
        said.add("pages", 1)
    assert said.quantities() == {"pages": 2**53 - 1}


@pytest.mark.parametrize("name", ["page", "", "Tokens", "input.tokens", " tokens", "x" * 10_000, None, 5, ["tokens"], {}])
def test_a_word_that_is_no_unit_is_refused(name: Any) -> None:
    with pytest.raises(UsageInvalid) as caught:
        report().add(name, 1)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("direction", ["in", "", "storage", "Input", "x" * 10_000, 5, ["input"]])
def test_a_word_that_is_no_direction_is_refused(direction: Any) -> None:
    with pytest.raises(UsageInvalid) as caught:
        report().add("tokens", 1, direction)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("direction", [None, "usage", "input"])
def test_requests_cannot_be_reported(direction: str | None) -> None:
    with pytest.raises(UsageInvalid, match="invocations"):
        report().add("requests", 1, direction)


def test_a_unit_that_two_dimensions_count_needs_a_direction() -> None:
    said = report()
    with pytest.raises(UsageAmbiguous, match=r"input\.tokens and output\.tokens") as caught:
        said.add("tokens", 1)
    assert caught.value.code == "usage_ambiguous"
    assert said.quantities() == {}


@pytest.mark.parametrize(
    ("name", "direction", "key"),
    [
        ("pages", None, "pages"),
        ("pages", "usage", "pages"),
        ("pages", "input", "input.pages"),
        ("tokens", "output", "output.tokens"),
        ("bytes", None, "bytes"),
        ("bytes", "output", "output.bytes"),
    ],
)
def test_a_report_without_a_direction_means_the_only_dimension_of_its_unit(name: str, direction: str | None, key: str) -> None:
    assert find_dimension(BY_TOKEN.dimensions + PAGES.dimensions, name, direction) == key
    assert find_dimension(priced(unit("tokens", direction="output")).dimensions, "tokens") == "output.tokens"


def test_a_unit_that_no_dimension_counts_is_only_recorded() -> None:
    said = UsageReport(priced(unit("requests")).dimensions)
    said.add("documents", 3)
    assert said.quantities() == {"documents": 3}


def test_after_a_call_is_over_nothing_is_added() -> None:
    said = report()
    said.add("pages", 1)
    said.observe("batch_size", 1)
    said.close()
    said.close()
    said.add("pages", 1)
    said.add("seconds", 1)
    said.observe("batch_size", 2)
    said.observe("image_pixels", 2)
    assert said.quantities() == {"pages": 1}
    assert said.observed() == {"batch_size": 1}


def test_what_a_condition_asks_for_is_set_and_not_added() -> None:
    said = report()
    said.observe("image_pixels", 5)
    said.observe("image_pixels", "7.5")
    assert said.observed() == {"image_pixels": Fraction(15, 2)}


def test_the_observed_fields_are_a_copy() -> None:
    said = report()
    said.observe("batch_size", 1)
    before = said.observed()
    said.observe("batch_size", 2)
    assert before == {"batch_size": 1}


@pytest.mark.parametrize("name", ["pixels", "", "tokens", None, 5, ["batch_size"]])
def test_a_word_that_is_no_field_is_refused(name: Any) -> None:
    with pytest.raises(UsageInvalid, match="image_pixels"):
        report().observe(name, 1)


@pytest.mark.parametrize("n", [n for n in NUMBERS if n not in (2**53, 1e300)])
def test_a_field_is_a_quantity(n: object) -> None:
    said = report()
    if n == "1e999":
        return
    with pytest.raises(UsageInvalid):
        said.observe("batch_size", n)
    assert said.observed() == {}


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a", ["a"]),
        (["a", ["b", 1]], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        ({"name": "a", "inner": {"b": "c", "n": None}}, ["a", "c"]),
        ({"a": True, "b": 1.5, "c": b"bytes"}, []),
        (None, []),
        (7, []),
        ("", [""]),
    ],
)
def test_every_string_value_counts_and_no_name_of_a_member(value: object, texts: list[str]) -> None:
    assert list(text_within(value)) == texts


@pytest.mark.parametrize(
    ("arguments", "characters", "size"),
    [
        ({}, 0, 0),
        ({"a": 1}, 0, 7),
        ({"text": "abc"}, 3, 14),
        ({"text": "é"}, 1, 13),
        ({"text": "🎈"}, 1, 15),
        ({"b": ["x", {"c": "yz"}], "a": True}, 3, 31),
        ({"a": None}, 0, 10),
        ({"a": 1.5}, 0, 9),
        ({"a": '"\n'}, 2, 12),
        ({"a": 1.0}, 0, 7),
        ({"a": 1e21}, 0, 11),
        ({"a": 1e-7}, 0, 10),
    ],
)
def test_what_was_sent_is_measured_as_characters_of_text_and_bytes_of_canonical_json(
    arguments: dict[str, Any], characters: int, size: int
) -> None:
    assert Sent.arguments(arguments) == Sent(characters=characters, size=size)


def test_the_address_of_a_resource_is_what_was_sent_for_it() -> None:
    assert Sent.address("report://2026/é") == Sent(characters=15, size=16)
    assert Sent.address("") == Sent(characters=0, size=0)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_of_a_surrogate_pair_is_measured_too(text: str) -> None:
    assert Sent.arguments({"a": text}).characters == len(text)
    assert Sent.address(text).characters == len(text)


@pytest.mark.parametrize(
    ("dimension", "known"),
    [
        (unit("requests"), {"requests": 1}),
        (unit("characters"), {"characters": 3}),
        (unit("characters", direction="input"), {"input.characters": 3}),
        (unit("characters", direction="output"), {}),
        (unit("characters", measure="reported"), {}),
        (unit("characters", meter={"source": "result", "path": "/n"}), {}),
        (unit("bytes"), {"bytes": 14}),
        (unit("GiB", direction="input"), {"input.GiB": 14}),
        (unit("TiB"), {"TiB": 14}),
        (unit("bytes", direction="output"), {}),
        (unit("invocations"), {}),
        (unit("tokens"), {}),
        (unit("seconds"), {}),
        (unit("pages"), {}),
    ],
)
def test_what_was_sent_is_known_before_the_run(dimension: dict[str, Any], known: dict[str, int]) -> None:
    usage = known_usage(priced(dimension).plan(""), Sent.arguments({"text": "abc"}))
    assert usage.quantities == known
    assert usage.facts == {"input_characters": 3, "body_size": 14}


def test_a_report_of_more_than_was_held_is_kept_as_it_was_made() -> None:
    spec = priced(steps("pages", (5, "0.01"), (None, "0.02"), max_units=10))
    said = UsageReport(spec.dimensions)
    said.add("pages", 11)
    assert said.quantities() == {"pages": 11}


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1e-05, "0.00001"),
        (-1.5e-05, "-0.000015"),
        (1e-06, "0.000001"),
        (1e-07, "1e-7"),
        (1.25e-10, "1.25e-10"),
        (0.0001, "0.0001"),
    ],
)
def test_bytes_count_a_fraction_as_rfc_8785_writes_it(number: float, written: str) -> None:
    assert Sent.arguments({"a": number}).size == len(f'{{"a":{written}}}')
