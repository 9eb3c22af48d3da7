"""Whole price files: ours and pay.sh's, what they default, ignore and refuse."""

from pathlib import Path

import pytest

from payre_mcp.money import ZERO, Money
from payre_mcp.pricing import FreeQuota, PriceList, Target, load_price, load_prices
from payre_mcp.pricing.price_list import parse_prices, tool_name
from tests.pricing.forms import file_message, file_problems, refused, tool, warned, written

ONE = "metering: {dimensions: [{unit: requests, price_usd: 1}]}"
PAGES = "metering: {dimensions: [{unit: pages, price_usd: 0.01, max_units: 10}]}"
MIN_BY_DEFAULT = f"defaults: {{missing_usage: min}}\ntools: {{t: {{{PAGES}}}}}"
UNIT_OF_ENDPOINT = "endpoints[0].metering.dimensions[0].unit"
OPEN_PAGES = "metering: {dimensions: [{unit: pages, price_usd: 0.01}]}"

EXAMPLE = """\
version: 1
default: free
defaults: {max_price_usd: 0.25, counter: {window: month}}
tools:
  lookup: 0.004
  summarize:
    metering:
      min_price_usd: 0.001
      dimensions:
        - {direction: input,  unit: tokens, scale: 1_000_000, max_units: 60_000, price_usd: 0.40}
        - {direction: output, unit: tokens, scale: 1_000_000, max_units: 4_000,  price_usd: 1.60}
  render:
    metering:
      free_quota: {amount: 20, window: day}
      variants:
        - {param: options.quality, value: draft,   dimensions: [{unit: requests, price_usd: 0.01}]}
        - {param: options.quality, value: default, dimensions: [{unit: requests, price_usd: 0.05}]}
resources: {"report://{year}": 0.02}
prompts: {brief: 0.001}
"""


def endpoints(*items: str, **top: str) -> str:
    head = "".join(f"{name}: {value}\n" for name, value in top.items())
    return head + "endpoints:\n" + "".join(f"  - {item}\n" for item in items)


def test_the_file_of_the_manual_loads_as_it_stands(tmp_path: Path) -> None:
    prices = load_prices(written(tmp_path, EXAMPLE))
    assert prices.warnings == ()
    assert prices.default == "free"
    assert prices.source == "pricing.yaml"
    assert {(*target, spec.ceiling({"options": {"quality": "fine"}})) for target, spec in prices.prices.items()} == {
        ("tool", "lookup", Money(4_000)),
        ("tool", "summarize", Money(24_000 + 6_400)),
        ("tool", "render", Money(50_000)),
        ("resource", "report://{year}", Money(20_000)),
        ("prompt", "brief", Money(1_000)),
    }
    assert prices.places["tool", "render"] == ("tools.render", 12)  # pyright: ignore[reportArgumentType]
    assert prices.prices == parse_prices(EXAMPLE).prices


@pytest.mark.parametrize("entry", ["free", "0", "$0", "{price: 0}", "'free'"])
def test_a_tool_that_is_free_is_priced_at_zero(entry: str) -> None:
    assert tool(f"tools: {{t: {entry}}}").is_free


@pytest.mark.parametrize(("text", "default"), [("", "free"), ("default: free\n", "free"), ("default: deny\n", "deny")])
def test_what_is_not_listed_follows_the_default(text: str, default: str) -> None:
    assert parse_prices(text + "tools: {t: 1}").default == default
    assert parse_prices(text + endpoints("{method: GET, path: v1/x}")).default == default


def test_a_file_without_entries_is_a_list_without_prices() -> None:
    assert parse_prices("default: deny") == PriceList({}, "deny")
    assert parse_prices("endpoints: []").prices == {}


@pytest.mark.parametrize(
    ("text", "code", "path", "line"),
    [
        ("version: 2", "version_unsupported", "version", 1),
        ("version: '1.0'", "version_unsupported", "version", 1),
        ("version: [1]", "version_unsupported", "version", 1),
        ("version:", "version_unsupported", "version", 1),
        ("\ncurrency: eur", "currency_unsupported", "currency", 2),
        ("currency: [usd]", "currency_unsupported", "currency", 1),
        ("tools: {}\ndefault: denied", "entry_invalid", "default", 2),
        ("default: yes", "entry_invalid", "default", 1),
        ("tools: [t]", "entry_invalid", "tools", 1),
        ("prompts: 0.01", "entry_invalid", "prompts", 1),
        ("tool: {t: 1}", "unknown_key", "tool", 1),
        ("name: ours", "unknown_key", "name", 1),
        ("accounting: per_agent", "unknown_key", "accounting", 1),
        ("tools: {}\nsku_tiers: []", "unsupported_field", "sku_tiers", 2),
        ("subscription: {}", "unsupported_field", "subscription", 1),
        ("quotas: {}", "unsupported_field", "quotas", 1),
        ("recipients: {}", "unsupported_field", "recipients", 1),
        ("defaults: {\ncounter: {window: week}}", "counter_invalid", "defaults.counter.window", 2),
        ("defaults: {\nmissing_usage: x}", "missing_usage_invalid", "defaults.missing_usage", 2),
        ("defaults: {\nmax_price_usd: x}", "price_syntax", "defaults.max_price_usd", 2),
        ("defaults: {\nfree_quota: {amount: 0}}", "free_quota_invalid", "defaults.free_quota.amount", 2),
        ("defaults: {\nmin_price_usd: 1}", "unknown_key", "defaults.min_price_usd", 2),
        ("defaults: 1", "entry_invalid", "defaults", 1),
        (MIN_BY_DEFAULT, "missing_usage_invalid", "tools.t.metering.missing_usage", 2),
        ("endpoints: x", "entry_invalid", "endpoints", 1),
        ("endpoints: []\ntools: {t: 1}", "form_mixed", "tools", 2),
        ("resources: {}\nendpoints: []", "form_mixed", "resources", 1),
        ("endpoints: []\nprompts: {}", "form_mixed", "prompts", 2),
        ("endpoints: []\naccounting: pooled", "unsupported_field", "accounting", 2),
        ("endpoints: []\nfree_tier: {amount: 5, period: per_hour}", "unsupported_field", "free_tier.period", 2),
        ("endpoints: []\nfree_tier: {amount: 5, period: per_second}", "unsupported_field", "free_tier.period", 2),
        ("endpoints: []\nfree_tier: {amount: x}", "free_quota_invalid", "free_tier.amount", 2),
        ("endpoints: []\ncurrency: eur", "currency_unsupported", "currency", 2),
        ("endpoints: []\ncolour: red", "unknown_key", "colour", 2),
        ("endpoints:\n- {method: FETCH, path: a}", "entry_invalid", "endpoints[0].method", 2),
        ("endpoints:\n- {method: GET}", "entry_invalid", "endpoints[0]", 2),
        ("endpoints:\n- {method: GET, path: 'v1/{id}'}", "entry_invalid", "endpoints[0]", 2),
        ("endpoints:\n- {method: GET, path: a, price: 1}", "unknown_key", "endpoints[0].price", 2),
        ("endpoints:\n- {method: GET, path: a, quotas: 1}", "unsupported_field", "endpoints[0].quotas", 2),
        ("endpoints:\n- {path: a, metering: {dimensions: [{unit: page, price_usd: 1}]}}", "unit_unknown", UNIT_OF_ENDPOINT, 2),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_has_a_code_a_path_and_a_line(text: str, code: str, path: str, line: int) -> None:
    assert file_problems(text) == [(code, path, line)]


def test_a_misspelt_key_is_an_error_and_never_a_free_tool() -> None:
    assert "did you mean 'tools'?" in file_message("tool: {t: 1}")
    assert "did you mean 'endpoints'?" in file_message("endpoint: []")


def test_endpoints_and_a_free_quota_in_two_places_are_told_both() -> None:
    text = "free_tier: {amount: 1}\ndefaults: {free_quota: {amount: 2}}\nendpoints: []\n"
    assert [code for code, _, _ in file_problems(text)] == ["duplicate_field"]


@pytest.mark.parametrize("entry", ["0.01", "{price: 0.01}", "{metering: {dimensions: [{unit: requests, price_usd: 0.01}]}}"])
def test_the_defaults_of_a_file_hold_for_every_form_of_entry(entry: str) -> None:
    spec = tool(f"defaults: {{free_quota: {{amount: 2, window: day}}}}\ntools: {{t: {entry}}}")
    assert spec.free_quota == FreeQuota(2, "requests", "day")
    assert spec.quote(used_before={"requests": 1}).total == ZERO


def test_the_defaults_of_a_file_hold_where_an_entry_says_nothing() -> None:
    head = "defaults: {missing_usage: error, counter: {window: day}, free_quota: {amount: 5, unit: pages}, max_price_usd: 0.25}\n"
    spec = tool(head + f"tools: {{t: {{{OPEN_PAGES}}}}}")
    assert (spec.missing_usage, spec.window, spec.free_quota, spec.max_price) == (
        "error",
        "day",
        FreeQuota(5, "pages"),
        Money(250_000),
    )


def test_an_entry_says_it_better_than_the_defaults_of_its_file() -> None:
    head = "defaults: {missing_usage: error, counter: {window: day}, free_quota: {amount: 5, unit: pages}, max_price_usd: 0.25}\n"
    own = "missing_usage: ceiling, counter: {window: all_time}, free_quota: {amount: 1}, max_price_usd: 9, dimensions: "
    spec = tool(head + "tools: {t: {" + OPEN_PAGES.replace("dimensions: ", own) + "}}")
    assert (spec.missing_usage, spec.window, spec.free_quota, spec.max_price) == (
        "ceiling",
        "all_time",
        FreeQuota(1),
        Money(9 * 10**6),
    )


def test_a_default_quota_is_for_entries_with_its_unit_alone() -> None:
    prices = parse_prices(
        f"defaults: {{free_quota: {{amount: 5, unit: pages}}}}\n"
        f"tools: {{a: 1, b: {{{PAGES}}}, c: {{metering: {{variants: [{{param: x, value: y, {PAGES[11:-1]}}}]}}}}}}"
    ).prices
    quotas = {target.name: spec.free_quota for target, spec in prices.items()}
    assert quotas == {"a": None, "b": FreeQuota(5, "pages"), "c": FreeQuota(5, "pages")}


def test_a_default_ceiling_is_for_entries_with_an_unbounded_dimension_alone() -> None:
    prices = parse_prices(f"defaults: {{max_price_usd: 0.25}}\ntools: {{a: 1, b: {{{PAGES}}}, c: {{{OPEN_PAGES}}}}}")
    assert {target.name: spec.max_price for target, spec in prices.prices.items()} == {"a": None, "b": None, "c": Money(250_000)}
    assert prices.warnings == ()


def test_a_default_ceiling_of_nothing_is_a_ceiling() -> None:
    assert tool(f"defaults: {{max_price_usd: 0}}\ntools: {{t: {{{OPEN_PAGES}}}}}").max_price == ZERO


def test_a_ceiling_of_nothing_is_a_ceiling() -> None:
    spec = tool("tools: {t: {metering: {max_price_usd: 0, dimensions: [{unit: pages, price_usd: 1}]}}}")
    assert spec.max_price == spec.ceiling() == ZERO
    assert load_price(spec.canonical()) == spec


def test_a_ceiling_that_nobody_set_is_a_dollar_and_a_warning() -> None:
    prices = parse_prices(f"tools:\n  a: 5\n  t:\n    {OPEN_PAGES}\n  u: {{{PAGES}}}\n")
    assert prices.prices[Target("tool", "t")].max_price == Money(10**6)
    assert warned(prices) == [("ceiling_defaulted", "tools.t.metering", 4)]
    assert "$1.00" in prices.warnings[0].message
    assert warned(parse_prices(endpoints(f"{{path: a, {OPEN_PAGES}}}"))) == [("ceiling_defaulted", "endpoints[0].metering", 2)]


def test_a_default_ceiling_below_a_price_is_told_at_the_entry() -> None:
    text = "tools: {t: {metering: {dimensions: [{unit: requests, price_usd: 2},\n{unit: pages, price_usd: 1}]}}}"
    assert [code for code, _, _ in file_problems(text)] == ["ceiling_invalid"]
    assert "default" in file_message(text)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("v1/search", "search"),
        ("/v1/search", "search"),
        ("v1/models/{id}:generate", "models_generate"),
        ("v2/models/{model_id}/versions/{v}", "models_versions"),
        ("v1beta1/images:edit", "images_edit"),
        ("search", "search"),
        ("/search/", "search"),
        ("a/v1/b", "a_v1_b"),
        ("v1/v2/b", "v2_b"),
        ("very/long", "very_long"),
        ("v/x", "v_x"),
        ("my-tool.v3", "my_tool_v3"),
        ("my_tool__x", "my_tool_x"),
        ("{a}/b/{c}", "b"),
        ("a{b}c", "ac"),
        ("größe", "gr_e"),
        ("v1/{id}", ""),
        ("", ""),
        ("///", ""),
    ],
)
def test_the_tool_of_an_endpoint_comes_from_its_path(path: str, name: str) -> None:
    assert tool_name(path) == name
    if name:
        [target] = parse_prices(endpoints(f"{{method: POST, path: '{path}', {ONE}}}")).prices
        assert target == Target("tool", name)


def test_the_tool_of_an_endpoint_may_be_named() -> None:
    prices = parse_prices(endpoints(f"{{method: POST, path: v1/x, tool: find, {ONE}}}", f"{{tool: other, {ONE}}}"))
    assert [target.name for target in prices.prices] == ["find", "other"]
    assert prices.places[Target("tool", "other")] == ("endpoints[1]", 3)


def test_two_endpoints_of_one_tool_are_told_with_both_places() -> None:
    text = endpoints(f"{{method: GET, path: v1/x, {ONE}}}", f"{{method: POST, path: v2/x, {ONE}}}")
    assert file_problems(text) == [("duplicate_target", "endpoints[1]", 3)]
    assert "endpoints[0] (line 2)" in file_message(text)


@pytest.mark.parametrize(
    "items", [("{method: GET, path: x}", f"{{method: POST, path: x, {ONE}}}"), (f"{{method: POST, path: x, {ONE}}}", "{path: x}")]
)
def test_one_tool_is_not_free_at_one_endpoint_and_priced_at_another(items: tuple[str, str]) -> None:
    assert file_problems(endpoints(*items)) == [("duplicate_target", "endpoints[1]", 3)]


def test_an_endpoint_without_metering_is_free_even_where_the_rest_is_denied() -> None:
    prices = parse_prices(endpoints("{method: GET, path: v1/x}", default="deny"))
    assert prices.default == "deny"
    assert prices.prices[Target("tool", "x")].is_free


def test_an_endpoint_whose_metering_was_left_empty_is_not_free_but_wrong() -> None:
    assert ("entry_invalid", "endpoints[0].metering", 2) in file_problems(endpoints("{method: GET, path: v1/y, metering: }"))


IGNORED = (
    "name",
    "subdomain",
    "title",
    "description",
    "category",
    "version",
    "routing",
    "env",
    "operator",
    "session",
    "notes",
    "profile",
)


@pytest.mark.parametrize("field", IGNORED)
@pytest.mark.parametrize("value", ["x", "{a: [1]}", "7"])
def test_what_a_gateway_says_of_itself_is_ignored_with_a_warning(field: str, value: str) -> None:
    prices = parse_prices(f"endpoints:\n  - {{path: a, {ONE}}}\n{field}: {value}\n")
    assert warned(prices) == [("ignored_field", field, 3)]
    assert prices.prices[Target("tool", "a")] == load_price(1)


@pytest.mark.parametrize("field", ["resource", "routing"])
def test_what_an_endpoint_says_of_its_gateway_is_ignored_with_a_warning(field: str) -> None:
    text = endpoints(f"{{method: GET, path: a, {ONE},\n    {field}: {{url: x}}}}")
    assert warned(parse_prices(text)) == [("ignored_field", f"endpoints[0].{field}", 3)]


@pytest.mark.parametrize(("field", "path"), [("schemes: [exact]", "schemes"), ("upto: {response_body: x}", "upto.response_body")])
def test_what_a_metering_says_of_its_gateway_is_ignored_with_a_warning(field: str, path: str) -> None:
    prices = parse_prices(f"tools:\n  t:\n    metering:\n      {field}\n      dimensions: [{{unit: requests, price_usd: 1}}]\n")
    assert warned(prices) == [("ignored_field", f"tools.t.metering.{path}", 4)]
    assert prices.prices[Target("tool", "t")] == load_price(1)


@pytest.mark.parametrize("period", ["day", "month"])
def test_the_free_tier_of_a_pay_sh_file_is_its_default_quota(period: str) -> None:
    text = endpoints(f"{{path: a, {ONE}}}", f"{{path: b, {PAGES}}}", free_tier=f"{{amount: 5, period: per_{period}}}")
    for spec in parse_prices(text).prices.values():
        assert spec.free_quota is not None
        assert (spec.free_quota.amount, spec.free_quota.unit, spec.free_quota.window) == (5, "requests", period)


def test_a_free_tier_goes_with_other_defaults() -> None:
    text = endpoints(f"{{path: a, {OPEN_PAGES}}}", free_tier="{amount: 5}", defaults="{max_price_usd: 2}")
    spec = tool(text, "a")
    assert (spec.free_quota, spec.max_price) == (FreeQuota(5), Money(2 * 10**6))


def test_counters_per_agent_are_what_they_are_anyway() -> None:
    assert parse_prices(endpoints(accounting="per_agent") + "  []").warnings == ()
    assert "per consumer" in file_message(endpoints(accounting="pooled") + "  []")


def test_a_problem_of_a_target_is_told_at_its_place() -> None:
    prices = parse_prices("tools:\n  t: 1\n")
    assert prices.problem("unknown_target", Target("tool", "t"), "no such tool").place == "2 tools.t"
    assert prices.problem("unknown_target", Target("prompt", "p"), "no such prompt").place == "p"


def test_warnings_come_with_a_price_that_is_good_alone() -> None:
    found = refused(lambda: parse_prices(f"name: x\nendpoints:\n  - {{path: a, {OPEN_PAGES}}}\n  - {{path: b, price: 1}}\n"))
    assert [each.code for each in found] == ["unknown_key"]


def test_a_default_quota_is_for_entries_that_count_its_unit() -> None:
    text = """
defaults: {free_quota: {amount: 10, unit: pages}}
tools:
  fixed: 0.01
  by_page: {metering: {dimensions: [{unit: pages, price_usd: 0.01, max_units: 5}]}}
  by_call: {metering: {dimensions: [{unit: requests, price_usd: 0.01}]}}
"""
    prices = parse_prices(text).prices
    quotas = {target.name: spec.free_quota and spec.free_quota.unit for target, spec in prices.items()}
    assert quotas == {"fixed": None, "by_page": "pages", "by_call": None}
