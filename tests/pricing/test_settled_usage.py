"""What a call used that has succeeded: every source of a number, and which of them wins."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.pricing import Usage
from payre_mcp.pricing.dimensions import UsagePreset
from payre_mcp.pricing.usage import PRESETS, Answered, Sent, UsageReport, at_pointer, base_quantities, known_usage, settled_usage
from tests.pricing.forms import priced, steps, unit

quick = settings(max_examples=100, deadline=None)
RESULT = {"source": "result", "path": "/n"}
META = {"source": "meta", "key": "dev.acme/n"}
ANSWER = {"n": 7, "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9, "input_tokens": 11}}


def settled(
    *dimensions: dict[str, Any],
    reported: dict[str, object] | None = None,
    observed: dict[str, object] | None = None,
    preset: UsagePreset | None = None,
    arguments: dict[str, Any] | None = None,
    **answered: Any,
) -> Usage:
    plan = priced(*dimensions, max_price_usd=100).plan("")
    said = UsageReport(plan.dimensions)
    for key, n in (reported or {}).items():
        direction, _, name = key.rpartition(".")
        said.add(name, n, direction or None)
    for name, n in (observed or {}).items():
        said.observe(name, n)
    known = known_usage(plan, Sent.arguments(arguments or {}))
    return settled_usage(plan, known, said, lambda: Answered(characters=5, size=6, **answered), preset)


def found(dimension: dict[str, Any], **more: Any) -> int | None:
    quantities = settled(dimension, **more).quantities
    assert len(quantities) <= 1
    return next(iter(quantities.values()), None)


def test_the_first_source_that_yields_a_number_wins() -> None:
    tokens = unit("tokens", direction="input", meter=RESULT)
    answer = {"n": 1, "usage": {"input_tokens": 2, "prompt_tokens": 3}}
    without = {"usage": answer["usage"]}
    assert found(tokens, structured=answer, reported={"tokens": 0}, preset="openai-responses") == 0
    assert found(tokens, structured=answer, preset="openai-responses") == 1
    assert found(tokens, structured=without, preset="openai-responses") == 2
    assert found(tokens, structured=without) == 3
    assert found(tokens, structured={"usage": {}}, preset="openai-responses") is None
    assert found(tokens) is None


@pytest.mark.parametrize(
    ("dimension", "measured"),
    [
        (unit("requests"), 1),
        (unit("invocations"), 1),
        (unit("characters"), 3),
        (unit("characters", direction="input"), 3),
        (unit("characters", direction="output"), 5),
        (unit("bytes"), 14),
        (unit("bytes", direction="input"), 14),
        (unit("bytes", direction="output"), 6),
        (unit("GiB", direction="output"), 6),
        (unit("TiB"), 14),
        (unit("seconds"), 13),
        (unit("minutes"), 13),
        (unit("hours"), 13),
        (unit("seconds", direction="input"), None),
        (unit("seconds", direction="output"), None),
        (unit("tokens"), None),
        (unit("tokens", direction="output"), None),
        (unit("pages"), None),
        (unit("documents"), None),
        (unit("instances"), None),
        (unit("quota_units"), None),
        (unit("vCPU"), None),
    ],
)
def test_what_can_be_measured_from_outside_is(dimension: dict[str, Any], measured: int | None) -> None:
    more: dict[str, Any] = {"arguments": {"text": "abc"}, "took_us": 12_001}
    assert found(dimension, **more) == measured
    if dimension["unit"] != "requests":
        assert found({**dimension, "measure": "reported"}, **more) is None
        assert found({**dimension, "measure": "reported"}, reported={dimension["unit"]: 0}, **more) == 0
        assert found(dimension, reported={dimension["unit"]: 0}, **more) == 0


@pytest.mark.parametrize("name", ["invocations", "characters", "bytes", "seconds", "tokens", "pages"])
@pytest.mark.parametrize("meter", [RESULT, META, {"source": "response_json", "path": "/n"}])
def test_a_meter_reads_its_number_from_the_answer(name: str, meter: dict[str, str]) -> None:
    answer: dict[str, Any] = {"structured": {"n": 9}, "meta": {"dev.acme/n": 9}}
    assert found(unit(name, meter=meter), **answer) == 9 * (1_000 if name == "seconds" else 1)


@pytest.mark.parametrize("value", [None, "", "many", -1, True, [], {}, float("nan"), 2**53, "1e999"])
def test_what_a_meter_finds_that_is_no_number_is_none(value: object) -> None:
    assert found(unit("pages", meter=RESULT), structured={"n": value}) is None
    assert found(unit("pages", meter=META), meta={"dev.acme/n": value}) is None


@pytest.mark.parametrize("value", [10**5_000, -(10**5_000)], ids=["huge", "-huge"])
def test_a_number_too_long_to_print_is_none(value: int) -> None:
    assert found(unit("pages", meter=RESULT), structured={"n": value}) is None
    assert found(unit("tokens", direction="input"), structured={"usage": {"input_tokens": value}}) is None


def test_an_answer_that_is_nested_without_end_is_no_number() -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    assert found(unit("pages", meter=RESULT), structured={"n": deep}) is None


@pytest.mark.parametrize(("value", "number"), [(7, 7), ("7", 7), (7.0, 7), (6.1, 7), (0, 0), ("0.5", 1)])
def test_a_number_in_an_answer_may_be_text_and_is_rounded_up(value: object, number: int) -> None:
    assert found(unit("pages", meter=RESULT), structured={"n": value}) == number


@pytest.mark.parametrize(
    ("dimension", "measured"),
    [
        (unit("characters", direction="output"), 5),
        (unit("bytes", direction="output"), 6),
        (unit("invocations"), 1),
        (unit("seconds"), 13),
    ],
)
def test_a_meter_that_finds_nothing_leaves_it_to_the_automatic_measure(dimension: dict[str, Any], measured: int) -> None:
    assert found({**dimension, "meter": RESULT}, structured={}, took_us=13_000) == measured
    assert found({**dimension, "meter": RESULT, "measure": "reported"}, structured={}, took_us=13_000) is None


def test_a_meter_on_what_was_sent_leaves_it_to_the_automatic_measure_too() -> None:
    assert found(unit("characters", meter=RESULT), structured={}, arguments={"text": "abc"}) == 3


@pytest.mark.parametrize(
    ("preset", "direction", "number"),
    [
        ("openai-compatible", "input", 3),
        ("openai-compatible", "output", 4),
        ("openai-compatible", "usage", 9),
        ("openai-responses", "input", 11),
        ("openai-responses", "output", 4),
        ("openai-responses", "usage", 9),
    ],
)
def test_a_preset_knows_where_a_dialect_states_its_tokens(preset: UsagePreset, direction: str, number: int) -> None:
    assert found(unit("tokens", direction=direction), structured=ANSWER, preset=preset) == number


def google(**counts: int) -> dict[str, Any]:
    return {"usageMetadata": counts}


GOOGLE = {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 6, "thoughtsTokenCount": 7, "totalTokenCount": 18}}


@pytest.mark.parametrize(("direction", "number"), [("input", 5), ("output", 6), ("usage", 18)])
def test_the_preset_of_google_reads_its_own_fields(direction: str, number: int) -> None:
    assert found(unit("tokens", direction=direction), structured=GOOGLE, preset="google-generativelanguage") == number


def test_the_presets_are_those_of_the_manual() -> None:
    assert {name: tuple(paths) for name, paths in PRESETS.items()} == dict.fromkeys(PRESETS, ("input", "output", "usage"))
    assert list(PRESETS) == ["openai-compatible", "openai-responses", "google-generativelanguage"]


def test_a_preset_is_for_tokens_alone() -> None:
    assert found(unit("pages"), structured=ANSWER, preset="openai-compatible") is None


@pytest.mark.parametrize(
    ("answer", "read", "wrote"),
    [
        ({"usage": {"prompt_tokens": 1, "completion_tokens": 2}}, 1, 2),
        ({"usage": {"input_tokens": 1, "output_tokens": 2}}, 1, 2),
        ({"response": {"usage": {"input_tokens": 1, "output_tokens": 2}}}, 1, 2),
        ({"message": {"usage": {"input_tokens": 1, "output_tokens": 2}}}, 1, 2),
        ({"usage": {"prompt_tokens": 1, "input_tokens": 9}, "message": {"usage": {"input_tokens": 4}}}, 9, None),
        ({"usage": {"input_tokens": 1}, "response": {"usage": {"input_tokens": 8, "output_tokens": 3}}}, 8, 3),
        ({"usage": {"input_tokens": -1, "output_tokens": "2"}}, None, 2),
        ({"usage": {"input_tokens": 0}, **GOOGLE}, 0, 13),
        ({"usage": "many"}, None, None),
        ({"usage": [1]}, None, None),
        ({"result": {"usage": {"input_tokens": 1}}}, None, None),
        (GOOGLE, 5, 13),
        ({"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 6}}, 5, 6),
        ({"usageMetadata": {"thoughtsTokenCount": 6}}, None, 6),
        ({"usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 20}}, 5, 15),
        ({"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 6, "totalTokenCount": 20}}, 5, 15),
        (google(promptTokenCount=5, candidatesTokenCount=6, totalTokenCount=20, toolUsePromptTokenCount=8), 5, 7),
        (google(promptTokenCount=5, candidatesTokenCount=6, totalTokenCount=11, toolUsePromptTokenCount=8), 5, 6),
        ({"usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 4}}, 5, None),
        ({"usageMetadata": {"totalTokenCount": 4}}, None, 4),
        ({"usageMetadata": {}}, None, None),
        (None, None, None),
        ([{"usage": {"input_tokens": 1}}], None, None),
        ("text", None, None),
    ],
)  # fmt: skip
def test_tokens_are_found_where_language_models_state_them(answer: object, read: int | None, wrote: int | None) -> None:
    assert found(unit("tokens", direction="input"), structured=answer) == read
    assert found(unit("tokens", direction="output"), structured=answer) == wrote
    assert found(unit("tokens"), structured=answer) is None
    assert found(unit("pages"), structured=answer) is None


def test_what_no_dimension_counts_is_recorded_all_the_same() -> None:
    usage = settled(unit("requests"), reported={"pages": 3})
    assert usage.quantities == {"pages": 3, "requests": 1}


def test_a_receipt_names_quantities_by_their_base_units() -> None:
    usage = settled(
        unit("seconds"), unit("tokens", direction="input"), structured=ANSWER, took_us=1_500_000, reported={"vCPU": 2}
    )
    assert base_quantities(usage) == {"vCPU/1000": 2_000, "milliseconds": 1_500, "input.tokens": 11}


def test_the_answer_of_a_fixed_price_is_not_measured() -> None:
    plan = priced(unit("requests")).plan("")
    known = known_usage(plan, Sent.arguments({}))
    usage = settled_usage(plan, known, UsageReport(plan.dimensions), lambda: pytest.fail("measured"), None)
    assert usage.quantities == {"requests": 1}


def test_the_fields_of_conditions_follow_from_the_call() -> None:
    usage = settled(unit("tokens", direction="input"), structured=ANSWER, arguments={"text": "abc"}, took_us=1_500_000)
    assert usage.quantities == {"input.tokens": 11}
    assert usage.facts == {
        "input_characters": 3,
        "body_size": 14,
        "duration_seconds": Fraction(3, 2),
        "input_tokens": 11,
        "context_length": 11,
    }


@pytest.mark.parametrize(
    "field", ["context_length", "input_tokens", "duration_seconds", "body_size", "input_characters", "batch_size", "image_pixels"]
)
def test_what_a_tool_observes_is_known_better(field: str) -> None:
    facts = settled(unit("tokens", direction="input"), structured=ANSWER, observed={field: 77}).facts
    assert facts[field] == 77


def test_fields_of_which_nothing_is_known_are_not_there() -> None:
    facts = settled(steps("pages", (None, "0.01"))).facts
    assert not facts.keys() & {"input_tokens", "context_length", "batch_size", "image_pixels"}


@pytest.mark.parametrize(
    ("took_us", "milliseconds"),
    [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (12_340_100, 12_341), (86_400_000_001, 86_400_001)],
)
def test_wall_time_is_rounded_up_to_the_millisecond(took_us: int, milliseconds: int) -> None:
    assert found(unit("seconds"), took_us=took_us) == milliseconds


DOCUMENT = {
    "foo": ["bar", "baz", {"n": 1}],
    "": 0,
    "a/b": 1,
    "m~n": 8,
    "~1": 9,
    "/": 10,
    "0": "text",
    "-": 11,
    "é": 12,
    " ": 13,
    "list": [["x"], 5],
}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", DOCUMENT),
        ("/foo", DOCUMENT["foo"]),
        ("/foo/0", "bar"),
        ("/foo/2/n", 1),
        ("/", 0),
        ("/a~1b", 1),
        ("/m~0n", 8),
        ("/~01", 9),
        ("/~1", 10),
        ("/0", "text"),
        ("/-", 11),
        ("/é", 12),
        ("/ ", 13),
        ("/list/0/0", "x"),
        ("/foo/00", None),
        ("/foo/01", None),
        ("/foo/3", None),
        ("/foo/-", None),
        ("/foo/-1", None),
        ("/foo/+1", None),
        ("/foo/1.0", None),
        ("/foo/²", None),
        ("/foo/٣", None),
        ("/foo/", None),
        ("/foo/n", None),
        ("/foo/0/0", None),
        ("/none", None),
        ("/none/deeper", None),
        ("/foo/" + "9" * 30, None),
        ("/foo/" + "9" * 5_000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_pointer_leads_where_rfc_6901_says(pointer: str, value: object) -> None:
    assert at_pointer(DOCUMENT, pointer) == value


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~0", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@quick
@given(JSON)
def test_a_pointer_finds_every_value_of_a_document(document: Any) -> None:
    def walk(value: Any, pointer: str) -> None:
        assert at_pointer(document, pointer) == value
        if isinstance(value, dict):
            for name, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
                walk(inner, f"{pointer}/" + str(name).replace("~", "~0").replace("/", "~1"))  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, list):
            for at, inner in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
                walk(inner, f"{pointer}/{at}")

    walk(document, "")


@quick
@given(JSON, st.text("/ab~01-", max_size=8))
def test_any_answer_and_any_path_give_a_number_or_none(document: Any, path: str) -> None:
    at_pointer(document, path)
    for name in ("usage", "response", "message", "usageMetadata"):
        for direction in ("input", "output"):
            quantity = found(unit("tokens", direction=direction), structured={name: document, "usage": document})
            assert quantity is None or quantity >= 0
