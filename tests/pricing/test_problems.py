"""Every validation code of one price, with its path in code and its path and line in a file."""

import pytest
import yaml

from tests.pricing.forms import file_message, file_problems, load_any, message, problems, refused, unit

OPEN = "{price_usd: 1}"
METER = "unit: pages, price_usd: 1"

# Each row: code, path, text. `>>` is where the line of the problem begins.
DIMENSIONS = [
    ("unknown_key", "per", "{unit: requests, price_usd: 1, >>per: call}"),
    ("unknown_key", "tiers[0].price", "{unit: requests, tiers: [{price_usd: 1, >>price: 1}]}"),
    ("unknown_key", "meter.header", "{unit: pages, price_usd: 1, meter: {source: result, path: /a, >>header: x}}"),
    (
        "unknown_key",
        "tiers[0].condition.is",
        "{unit: pages, tiers: [{price_usd: 1, condition: {field: body_size, op: <, value: 1, >>is: 1}}]}",
    ),
    ("unsupported_field", "period", "{unit: requests, price_usd: 1, >>period: month}"),
    ("unsupported_field", "direction", "{unit: bytes, price_usd: 1, >>direction: storage}"),
    ("unsupported_field", "meter.source", "{unit: pages, price_usd: 1, meter: {>>source: response_header, key: x}}"),
    ("unsupported_field", "tiers[0].splits", "{unit: requests, tiers: [{price_usd: 1, >>splits: []}]}"),
    ("price_syntax", "price_usd", "{unit: requests, >>price_usd: cheap}"),
    ("price_syntax", "tiers[0].price_usd", "{unit: requests, tiers: [>>{up_to: 5}, {price_usd: 1}]}"),
    ("price_negative", "price_usd", "{unit: requests, >>price_usd: -0.01}"),
    ("price_too_large", "price_usd", "{unit: requests, >>price_usd: 1000001}"),
    ("price_inexact", "price_usd", "{unit: requests, >>price_usd: 0.0000015}"),
    ("price_inexact", "tiers[1].price_usd", "{unit: requests, tiers: [{price_usd: 1, up_to: 5}, {>>price_usd: 0.0000001}]}"),
    ("price_below_precision", "", ">>{unit: bytes, scale: 1000000, price_usd: 0.01}"),
    ("price_below_precision", "", ">>{unit: requests, scale: 1001, price_usd: 0.001}"),
    ("price_below_precision", "", ">>{unit: pages, scale: 10, tiers: [{up_to: 5, price_usd: 1}, {price_usd: 0.000009}]}"),
    ("direction_unknown", "direction", "{unit: tokens, price_usd: 1, >>direction: in}"),
    ("direction_unknown", "direction", "{unit: tokens, price_usd: 1, >>direction: }"),
    ("unit_unknown", "unit", "{price_usd: 1, >>unit: page}"),
    ("unit_unknown", "unit", "{price_usd: 1, >>unit: gib}"),
    ("unit_unknown", "unit", ">>{price_usd: 1}"),
    ("unit_unknown", "unit", "{price_usd: 1, direction: output, >>unit: token}"),
    ("unit_unknown", "unit", "{price_usd: 1, max_units: 5, >>unit: token}"),
    ("unit_unknown", "unit", "{price_usd: 1, meter: {source: result, path: /a}, >>unit: token}"),
    ("direction_unit", "direction", "{unit: requests, price_usd: 1, >>direction: input}"),
    ("direction_unit", "direction", "{unit: invocations, price_usd: 1, >>direction: output}"),
    ("scale_invalid", "scale", "{unit: pages, price_usd: 1, >>scale: 0}"),
    ("scale_invalid", "scale", "{unit: pages, price_usd: 1, >>scale: many}"),
    ("scale_invalid", "scale", "{unit: pages, price_usd: 1, >>scale: }"),
    ("max_units_invalid", "max_units", "{unit: pages, price_usd: 1, >>max_units: 0}"),
    ("max_units_invalid", "max_units", "{unit: pages, price_usd: 1, >>max_units: many}"),
    ("max_units_invalid", "max_units", "{unit: requests, price_usd: 1, >>max_units: 5}"),
    ("max_units_invalid", "max_units", "{unit: characters, direction: input, price_usd: 1, >>max_units: 5}"),
    ("max_units_invalid", "max_units", "{unit: GiB, price_usd: 1, >>max_units: 5}"),
    ("tiers_empty", "tiers", ">>{unit: requests}"),
    ("tiers_empty", "tiers", "{unit: requests, >>tiers: []}"),
    ("tiers_empty", "tiers", "{unit: requests, >>tiers: }"),
    ("tiers_open_end", "tiers[0]", "{unit: requests, tiers: [>>{up_to: 5, price_usd: 1}]}"),
    ("tiers_open_end", "tiers[1]", "{unit: requests, tiers: [{up_to: 5, price_usd: 1}, >>{up_to: 6, price_usd: 1}]}"),
    ("tiers_order", "tiers[0].up_to", "{unit: requests, tiers: [{price_usd: 1, >>up_to: 0}, {price_usd: 1}]}"),
    (
        "tiers_order",
        "tiers[1].up_to",
        "{unit: pages, tiers: [{up_to: 5, price_usd: 1}, {price_usd: 1, >>up_to: x}, {price_usd: 1}]}",
    ),
    ("tiers_order", "tiers", "{unit: pages, >>tiers: [{up_to: 5, price_usd: 1}, {up_to: 5, price_usd: 1}, {price_usd: 1}]}"),
    ("tiers_order", "tiers", "{unit: pages, >>tiers: [{up_to: 5, price_usd: 1}, {up_to: 4, price_usd: 1}, {price_usd: 1}]}"),
    ("tier_unreachable", "tiers[0]", "{unit: requests, tiers: [>>{price_usd: 1}, {price_usd: 2}]}"),
    ("tier_unreachable", "tiers[1]", "{unit: pages, tiers: [{up_to: 5, price_usd: 1}, >>{price_usd: 1}, {price_usd: 2}]}"),
    (
        "tiers_mixed",
        "tiers",
        "{unit: pages, >>tiers: [{up_to: 5, price_usd: 1}, {price_usd: 1, condition: {field: body_size, op: <, value: 1}}]}",
    ),
    ("tiering_invalid", "tiering", "{unit: pages, price_usd: 1, >>tiering: graded}"),
    (
        "tiering_invalid",
        "tiering",
        "{unit: pages, tiers: [{price_usd: 1, condition: {field: body_size, op: <, value: 1}}], >>tiering: graduated}",
    ),
    (
        "condition_invalid",
        "tiers[0].condition.field",
        "{unit: pages, tiers: [{price_usd: 1, condition: {>>field: size, op: <, value: 1}}]}",
    ),
    (
        "condition_invalid",
        "tiers[0].condition.op",
        "{unit: pages, tiers: [{price_usd: 1, condition: {field: body_size, >>op: '=<', value: 1}}]}",
    ),
    (
        "condition_invalid",
        "tiers[0].condition.op",
        "{unit: pages, tiers: [{price_usd: 1, condition: {field: body_size, >>op: '!=', value: 1}}]}",
    ),
    (
        "condition_invalid",
        "tiers[0].condition.value",
        "{unit: pages, tiers: [{price_usd: 1, condition: {field: body_size, op: <, >>value: -1}}]}",
    ),
    (
        "condition_invalid",
        "tiers[0].condition.value",
        "{unit: pages, tiers: [{price_usd: 1, condition: {field: body_size, op: <, >>value: 1.5}}]}",
    ),
    ("meter_invalid", "meter.source", f"{{{METER}, meter: {{>>source: body, path: /a}}}}"),
    ("meter_invalid", "meter.path", f"{{{METER}, meter: {{source: result, >>path: usage/pages}}}}"),
    ("meter_invalid", "meter.path", f"{{{METER}, meter: {{source: result, >>path: /usage~2}}}}"),
    ("meter_invalid", "meter.path", f"{{{METER}, meter: {{source: response_json, >>path: /usage~}}}}"),
    ("meter_invalid", "meter", f"{{{METER}, >>meter: {{source: result, path: /a, key: b}}}}"),
    ("meter_invalid", "meter", f"{{{METER}, >>meter: {{source: meta, path: /a, key: b}}}}"),
    ("meter_invalid", "meter", f"{{{METER}, >>meter: {{source: result}}}}"),
    ("meter_invalid", "meter", f"{{{METER}, >>meter: {{source: meta}}}}"),
    ("meter_invalid", "meter", f"{{{METER}, >>meter: {{source: meta, path: /a}}}}"),
    ("meter_invalid", "meter", "{unit: requests, price_usd: 1, >>meter: {source: result, path: /a}}"),
    ("meter_invalid", "measure", f"{{{METER}, >>measure: never}}"),
    ("duplicate_field", "price_usd", "{unit: requests, tiers: [{price_usd: 1}], >>price_usd: 1}"),
]

PAGES = "dimensions: [{unit: pages, price_usd: 0.01, max_units: 5}]"
FIXED = "dimensions: [{unit: requests, price_usd: 0.01}]"
REQUESTS = "dimensions: [{unit: requests, price_usd: 1}]"
METERINGS = [
    ("unknown_key", "currency", f"{FIXED}, >>currency: usd"),
    ("unknown_key", "upto.most", f"{FIXED}, upto: {{>>most: 5}}"),
    ("unknown_key", "counter.period", f"{FIXED}, counter: {{window: day, >>period: day}}"),
    ("unknown_key", "free_quota.per", f"{FIXED}, free_quota: {{amount: 5, >>per: day}}"),
    ("unknown_key", "splits[0].share", f"{FIXED}, splits: [{{account: dev_1, percent: 1, >>share: 1}}]"),
    ("unknown_key", "variants[0].name", f"variants: [{{param: a, value: b, {FIXED}, >>name: c}}]"),
    ("unsupported_field", "sku_tiers", f"{FIXED}, >>sku_tiers: []"),
    ("unsupported_field", "subscription", f"{FIXED}, >>subscription: {{}}"),
    ("unsupported_field", "quotas", f"{FIXED}, >>quotas: []"),
    ("unsupported_field", "recipients", f"{FIXED}, >>recipients: []"),
    ("unsupported_field", "splits[0].recipient", f"{FIXED}, splits: [{{account: dev_1, percent: 1, >>recipient: x}}]"),
    ("unsupported_field", "free_tier.period", f"{FIXED}, free_tier: {{amount: 5, >>period: per_second}}"),
    ("unsupported_field", "free_tier.period", f"{FIXED}, free_tier: {{amount: 5, >>period: per_hour}}"),
    ("duplicate_field", "upto.max_usd", f"{FIXED}, max_price_usd: 1, upto: {{>>max_usd: 1}}"),
    ("duplicate_field", "upto.min_usd", f"{FIXED}, min_price_usd: 0.001, upto: {{>>min_usd: 0.001}}"),
    ("duplicate_field", "min_usd", f"{FIXED}, min_price_usd: 0.001, >>min_usd: 0.001"),
    ("duplicate_field", "upto.missing_usage", f"{FIXED}, missing_usage: error, upto: {{>>missing_usage: error}}"),
    (
        "duplicate_field",
        "upto.usage_preset",
        f"{FIXED}, usage_preset: openai-compatible, upto: {{>>usage_preset: openai-compatible}}",
    ),
    ("duplicate_field", "free_tier", f"{FIXED}, free_quota: {{amount: 5}}, >>free_tier: {{amount: 5}}"),
    ("duplicate_field", "free_tier.period", f"{FIXED}, free_tier: {{amount: 5, window: day, >>period: per_day}}"),
    ("dimensions_missing", "dimensions", ">>"),
    ("dimensions_missing", "dimensions", "min_price_usd: 1"),
    ("dimensions_missing", "dimensions", ">>dimensions: []"),
    ("dimensions_missing", "dimensions", "variants: [], >>dimensions: []"),
    (
        "dimension_duplicate",
        "dimensions[1]",
        "dimensions: [{unit: pages, price_usd: 1}, >>{unit: pages, price_usd: 1, direction: usage}]",
    ),
    ("variant_invalid", "variants[0].param", f"variants: [{{{FIXED}, value: b, >>param: ''}}]"),
    ("variant_invalid", "variants[0].param", f"variants: [{{{FIXED}, value: b, >>param: a..b}}]"),
    ("variant_invalid", "variants[0].param", f"variants: [>>{{{FIXED}, value: b}}]"),
    ("variant_invalid", "variants[0].value", f"variants: [{{{FIXED}, param: a, >>value: ''}}]"),
    ("variant_invalid", "variants[0].value", f"variants: [{{{FIXED}, param: a, >>value: [b]}}]"),
    ("variant_invalid", "variants[0].dimensions", "variants: [>>{param: a, value: b}]"),
    ("variant_invalid", "variants[0].dimensions", "variants: [{param: a, value: b, >>dimensions: []}]"),
    ("variant_duplicate", "variants[1]", f"variants: [{{param: a, value: b, {FIXED}}}, >>{{param: a, value: b, {REQUESTS}}}]"),
    ("counter_invalid", "counter.window", f"{FIXED}, counter: {{>>window: week}}"),
    ("free_quota_invalid", "free_quota.window", f"{FIXED}, free_quota: {{amount: 5, >>window: week}}"),
    ("free_quota_invalid", "free_tier.period", f"{FIXED}, free_tier: {{amount: 5, >>period: week}}"),
    ("free_quota_invalid", "free_quota.amount", f"{FIXED}, free_quota: {{>>amount: 0}}"),
    ("free_quota_invalid", "free_quota.amount", f"{FIXED}, >>free_quota: {{}}"),
    ("free_quota_invalid", "free_quota", f"{FIXED}, >>free_quota: {{amount: 5, unit: pages}}"),
    ("unit_unknown", "free_quota.unit", f"{FIXED}, free_quota: {{amount: 5, >>unit: page}}"),
    ("price_syntax", "max_price_usd", f"{FIXED}, >>max_price_usd: much"),
    ("price_syntax", "max_price_usd", f"{FIXED}, >>max_price_usd: "),
    ("price_negative", "min_price_usd", f"{FIXED}, >>min_price_usd: -1"),
    ("price_inexact", "upto.max_usd", f"{FIXED}, upto: {{>>max_usd: 0.0000001}}"),
    ("ceiling_invalid", "max_price_usd", f"{PAGES}, min_price_usd: 2, >>max_price_usd: 1"),
    ("ceiling_invalid", "max_price_usd", f"{REQUESTS}, >>max_price_usd: 0.5"),
    ("ceiling_invalid", "max_price_usd", f"variants: [{{param: a, value: b, {REQUESTS}}}], >>max_price_usd: 0.999999"),
    (
        "ceiling_invalid",
        "max_price_usd",
        "dimensions: [{unit: requests, scale: 2, price_usd: 0.000003}], >>max_price_usd: 0.000001",
    ),
    ("missing_usage_invalid", "missing_usage", f"{PAGES}, >>missing_usage: free"),
    ("missing_usage_invalid", "missing_usage", f"{PAGES}, >>missing_usage: min"),
    ("missing_usage_invalid", "upto.missing_usage", f"{PAGES}, upto: {{>>missing_usage: free}}"),
    ("meter_invalid", "usage_preset", f"{FIXED}, >>usage_preset: anthropic"),
    ("splits_invalid", "splits[0]", f"{FIXED}, splits: [>>{{account: dev_1}}]"),
    ("splits_invalid", "splits[0]", f"{FIXED}, splits: [>>{{account: dev_1, percent: 1, amount_usd: 0.001}}]"),
    ("splits_invalid", "splits[0].account", f"{FIXED}, splits: [{{percent: 1, >>account: acme}}]"),
    ("splits_invalid", "splits", f"{FIXED}, >>splits: [{{account: dev_1, percent: 1}}, {{account: dev_1, percent: 2}}]"),
    ("splits_invalid", "splits", f"{FIXED}, >>splits: [{{account: dev_1, percent: 97}}]"),
    ("splits_invalid", "splits", f"{FIXED}, >>splits: [{{account: dev_1, percent: 50}}, {{account: dev_2, percent: 47.00}}]"),
    ("splits_invalid", "splits", f"{PAGES}, >>splits: [{{account: dev_1, amount_usd: 0.001}}]"),
    ("splits_invalid", "splits", f"{FIXED}, >>splits: [{{account: dev_1, amount_usd: 0.0097}}]"),
    ("splits_invalid", "splits", f"{FIXED}, >>splits: [{{account: dev_1, percent: 50}}, {{account: dev_2, amount_usd: 0.0047}}]"),
    ("entry_invalid", "splits", f"{FIXED}, >>splits: half"),
]
PERCENTS = ["0", "0.00", "100", "97.001", "1.", ".5", "-1", "1e1", "ten", "true", "1_0", "10 %", "٣"]

ENTRIES = [
    ("entry_invalid", "", "{}"),
    ("entry_invalid", "", "{description: free}"),
    ("entry_invalid", "", f"{{price: 1, metering: {{{FIXED}}}}}"),
    ("entry_invalid", "description", "{price: 1, >>description: [a]}"),
    ("unknown_key", "prize", "{price: 1, >>prize: 1}"),
    ("unknown_key", "dimensions", "{price: 1, >>dimensions: []}"),
    ("unknown_key", "max_price_usd", "{price: 1, >>max_price_usd: 1}"),
    ("unsupported_field", "subscription", "{price: 1, >>subscription: {}}"),
    ("price_syntax", "price", "{>>price: free}"),
    ("price_syntax", "price", "{>>price: }"),
    ("price_syntax", "", "cheap"),
    ("price_syntax", "", ""),
    ("price_syntax", "", "[0.01]"),
]


def cases() -> list[tuple[str, str, str]]:
    rows = list(ENTRIES)
    rows += [(code, f"metering.{path}", f"{{metering: {{{text}}}}}") for code, path, text in METERINGS]
    for code, path, text in DIMENSIONS:
        place = f"metering.dimensions[0].{path}".rstrip(".")
        rows.append((code, place, f"{{metering: {{dimensions: [{text}]}}}}"))
        inner = f"metering.variants[0].dimensions[0].{path}".rstrip(".")
        rows.append((code, inner, f"{{metering: {{variants: [{{param: a, value: b, dimensions: [{text}]}}]}}}}"))
    splits = f"{{metering: {{{FIXED}, splits: [{{account: dev_1, >>percent: '%s'}}]}}}}"
    return rows + [("splits_invalid", "metering.splits[0].percent", splits % percent) for percent in PERCENTS]


@pytest.mark.parametrize(("code", "path", "text"), cases())
def test_what_is_wrong_has_a_code_and_a_path_in_code_and_a_line_in_a_file(code: str, path: str, text: str) -> None:
    assert problems(yaml.safe_load(text.replace(">>", ""))) == [(code, f"price.{path}".rstrip("."))]
    file = "version: 1\ntools:\n  t: " + text.replace(">>", "\n    ") + "\nprompts: {brief: 0.001}\n"
    line = 4 if ">>" in text and text != "{metering: {>>}}" else 3
    assert file_problems(file) == [(code, f"tools.t.{path}".rstrip("."), line)]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ({"dimensions": [unit("page")]}, "'pages'"),
        ({"dimensions": [unit("GB")]}, "'GiB'"),
        ({"dimensions": [unit("token", direction="input")]}, "'tokens'"),
        ({"dimensions": [unit("tokens", direction="inputs")]}, "'input'"),
        ({"dimensions": [unit("tokens", tiering="gradual")]}, "'graduated'"),
        ({"dimensions": [unit("tokens", prise_usd=1)]}, "'price_usd'"),
        ({"metering": {"dimensions": [unit("requests")], "missing_usage": "refunds"}}, "'refund'"),
        ({"metering": {"dimensions": [unit("requests")], "usage_preset": "openai-compatable"}}, "'openai-compatible'"),
        ({"metering": {"dimension": [unit("requests")]}}, "'dimensions'"),
        ({"metring": {"dimensions": [unit("requests")]}, "price": 1}, "'metering'"),
    ],
)
def test_a_near_miss_is_told_the_word_that_was_meant(source: object, hint: str) -> None:
    found = refused(lambda: load_any(source))
    assert any(f"did you mean {hint}?" in each.message for each in found), found


def test_a_strange_word_is_told_all_that_are_known() -> None:
    assert "known are price, metering, description" in message({"price": 1, "zzz": 2})
    assert "requests, invocations, tokens" in message({"dimensions": [unit("#")]})


def test_an_inexact_price_is_told_the_nearest_two_exact_ones() -> None:
    assert "$0.000001 and $0.000002" in message("0.0000015")


@pytest.mark.parametrize(("name", "advice"), [("bytes", "GiB"), ("characters", "smaller scale")])
def test_a_price_below_precision_is_told_the_remedy(name: str, advice: str) -> None:
    assert advice in message({"dimensions": [unit(name, scale=1_000_000)]})


@pytest.mark.parametrize(
    "dimension",
    [
        unit("tokens", "0.50", scale=1_000_000),
        unit("tokens", "0.000001", scale=2**53 - 1),
        unit("pages", "0.01", scale=1_000_000, meter={"source": "result", "path": "/pages"}),
        unit("bytes", "1", scale=1_000_000),
        unit("bytes", "0", scale=1_000_000),
        unit("GiB", "0.09"),
    ],
)
def test_small_prices_are_fine_where_they_are_the_custom(dimension: object) -> None:
    assert load_any({"dimensions": [dimension]}).dimensions


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_its_lines() -> None:
    text = """\
version: 2
currency: eur
tools:
  a: cheap
  b:
    metering:
      max_price_usd: -1
      dimensions:
        - unit: page
          price_usd: 1
          scale: 0
      counter: {window: week}
      splits: [{account: acme, percent: 1}]
      free_quota: {amount: 0}
      color: red
  a: 5
prompts:
  c: {}
"""
    assert file_problems(text) == [
        ("version_unsupported", "version", 1),
        ("currency_unsupported", "currency", 2),
        ("price_syntax", "tools.a", 4),
        ("price_negative", "tools.b.metering.max_price_usd", 7),
        ("unit_unknown", "tools.b.metering.dimensions[0].unit", 9),
        ("scale_invalid", "tools.b.metering.dimensions[0].scale", 11),
        ("counter_invalid", "tools.b.metering.counter.window", 12),
        ("splits_invalid", "tools.b.metering.splits[0].account", 13),
        ("free_quota_invalid", "tools.b.metering.free_quota.amount", 14),
        ("unknown_key", "tools.b.metering.color", 15),
        ("duplicate_key", "tools.a", 16),
        ("entry_invalid", "prompts.c", 18),
    ]


def test_a_bad_dimension_hides_no_problem_of_its_metering() -> None:
    path = "price.metering"
    source = {"metering": {"dimensions": [unit("page")], "counter": {"window": "week"}, "missing_usage": "x"}}
    assert sorted(problems(source)) == [
        ("counter_invalid", f"{path}.counter.window"),
        ("missing_usage_invalid", f"{path}.missing_usage"),
        ("unit_unknown", f"{path}.dimensions[0].unit"),
    ]


def test_a_key_that_stands_twice_hides_no_other_problem_of_a_text() -> None:
    text = "dimensions: [{unit: page, price_usd: 1}]\nnotes: a\nnotes: b\n"
    assert problems(text) == [("unit_unknown", "dimensions[0].unit"), ("duplicate_key", "notes")]


def test_problems_without_lines_stand_in_the_order_of_reading() -> None:
    bad = [unit("pages", "x", direction=direction) for direction in ("usage", "input", "output")]
    bad += [unit("tokens", "x", direction=direction) for direction in ("usage", "input", "output")]
    bad += [unit("vCPU", "x", direction=direction) for direction in ("usage", "input", "output")]
    assert problems({"dimensions": bad}) == [("price_syntax", f"price.dimensions[{at}].price_usd") for at in range(9)]


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ({"metering": "0.005"}, "price.metering"),
        ({"metering": [1]}, "price.metering"),
        ({"metering": None}, "price.metering"),
        ({"dimensions": ["requests"]}, "price.dimensions[0]"),
        ({"dimensions": [unit("pages", meter="/usage/pages")]}, "price.dimensions[0].meter"),
        ({"dimensions": [{"unit": "requests", "tiers": [5]}]}, "price.dimensions[0].tiers[0]"),
        (
            {"dimensions": [{"unit": "requests", "tiers": [{"price_usd": 1, "condition": 5}]}]},
            "price.dimensions[0].tiers[0].condition",
        ),
        ({"variants": ["fast"]}, "price.variants[0]"),
        ({"dimensions": [unit("requests")], "upto": "1"}, "price.upto"),
        ({"dimensions": [unit("requests")], "counter": "day"}, "price.counter"),
        ({"dimensions": [unit("requests")], "free_quota": 20}, "price.free_quota"),
        ({"dimensions": [unit("requests")], "splits": ["dev_1"]}, "price.splits[0]"),
    ],
)
def test_a_mapping_is_asked_for_where_something_else_stands(source: object, path: str) -> None:
    assert ("entry_invalid", path) in problems(source)


@pytest.mark.parametrize("field", ["dimensions", "variants", "splits"])
def test_a_list_is_asked_for_where_something_else_stands(field: str) -> None:
    assert ("entry_invalid", f"price.{field}") in problems({"dimensions": [unit("requests")], field: "one"})


def test_two_misspelt_units_are_no_dimension_that_stands_twice() -> None:
    source = {"dimensions": [unit("page"), unit("documentz")]}
    assert problems(source) == [("unit_unknown", f"price.dimensions[{at}].unit") for at in (0, 1)]


def test_a_field_and_its_alias_are_told_with_both_lines() -> None:
    text = (
        "tools:\n  t:\n    metering:\n      dimensions: [{unit: pages, price_usd: 1}]\n      min_usd: 1\n      min_price_usd: 1\n"
    )
    found = file_message(text)
    assert "line 5" in found
    assert "line 6" in found


@pytest.mark.parametrize("text", ["max_price_usd: 1\n", "upto:\n  max_usd: 1\n"])
def test_a_ceiling_that_is_wrong_has_the_line_on_which_it_stands(text: str) -> None:
    [found] = refused(lambda: load_any("dimensions: [{unit: pages, price_usd: 1}]\nmin_price_usd: 2\n" + text))
    assert (found.code, found.path, found.line) == (
        ("ceiling_invalid", "max_price_usd", 3) if "upto" not in text else ("ceiling_invalid", "upto.max_usd", 4)
    )


@pytest.mark.parametrize("place", ["metering", "description", "notes", "price"])
def test_a_huge_value_in_the_wrong_place_is_cut_short_in_the_message(place: str) -> None:
    found = refused(lambda: load_any({place: ["x" * 10_000]}))
    assert place == "notes" or all(len(each.message) < 300 for each in found)
