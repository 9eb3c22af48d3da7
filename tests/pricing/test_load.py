"""Reading one price: the forms of `price=` are our own, the keys are those of pay.sh's pricing document."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.errors import PriceSpecInvalid
from payre_mcp.money import Money
from payre_mcp.pricing import (
    Condition,
    Dimension,
    FreeQuota,
    Meter,
    Price,
    PriceSource,
    PriceSpec,
    Split,
    Tier,
    Variant,
    load_price,
)
from payre_mcp.pricing.price_list import parse_prices
from tests.pricing.forms import load_any, priced, problems, unit

HALF_CENT = Money(5_000)
quick = settings(max_examples=100, deadline=None)


def metering(*dimensions: object, **more: object) -> dict[str, Any]:
    return {"metering": {"dimensions": list(dimensions), **more}}


def requests(**more: object) -> dict[str, Any]:
    return {"unit": "requests", "price_usd": "0.005", **more}


@pytest.mark.parametrize(
    "source",
    [
        "0.005",
        "$0.005",
        "5e-3",
        0.005,
        HALF_CENT,
        Price.per_call("0.005"),
        Price.per("requests", usage="0.005"),
        Price.tiered("requests", [(None, "0.005")]),
        {"price": "0.005"},
        {"price": 0.005},
        {"dimensions": [requests()]},
        {"dimensions": (requests(),)},
        {"dimensions": [requests()], "variants": []},
        metering(requests()),
        metering(requests(direction="usage", scale=1, tiering="volume", measure="auto", notes="each call")),
        metering({"unit": "requests", "tiers": [{"price_usd": 0.005}]}),
        metering({"unit": "requests", "tiers": [{"price_usd": "0.005", "notes": "for all"}]}),
        metering(requests(), counter={"window": "month"}, missing_usage="refund", min_price_usd=0, splits=[]),
        metering(requests(), upto={}, schemes=["exact"]),
        "price: 0.005",
        "price: $0.005\n",
        "metering: {dimensions: [{unit: requests, price_usd: 0.005}]}",
        "dimensions:\n- unit: requests\n  price_usd: 0.005\n",
        "dimensions:\n- unit: requests\n  scale: 1\n  tiers:\n  - price_usd: 0.005\n",
    ],
)
def test_every_form_of_a_price_means_the_same(source: PriceSource) -> None:
    assert load_price(source) == load_price("0.005")
    assert load_price(source).version == load_price("0.005").version
    assert load_price(source).ceiling() == HALF_CENT


def test_a_spec_is_taken_as_it_is() -> None:
    spec = load_price(1)
    assert load_price(spec) is spec


@pytest.mark.parametrize(
    "source", ["0", 0, 0.0, "$0.00", {"price": "$0"}, metering(requests(price_usd=0)), Price.per("tokens", usage=0)]
)
def test_a_price_of_zero_is_free_and_said_aloud(source: PriceSource) -> None:
    assert load_price(source).is_free


@pytest.mark.parametrize("source", [{}, {"description": "free?"}, {"price": 1, **metering(requests())}])
def test_an_entry_has_exactly_one_form(source: object) -> None:
    assert problems(source) == [("entry_invalid", "price")]


@pytest.mark.parametrize("notes", ["a; b", ["a", "b"], ("a", "b")])
@pytest.mark.parametrize("form", [{"price": 1}, metering(requests()), {"dimensions": [requests()]}])
def test_words_for_people_are_kept_and_change_no_version(form: dict[str, Any], notes: object) -> None:
    spec = load_any({**form, "description": "A forecast", "notes": notes})
    assert (spec.description, spec.notes) == ("A forecast", "a; b")
    assert spec.version == load_any(form).version
    assert load_any({**form, "description": None, "notes": None}) == load_any(form)


def test_every_field_is_read() -> None:
    spec = load_price(
        metering(
            {
                "direction": "output",
                "unit": "pages",
                "scale": 2,
                "max_units": 9,
                "tiering": "graduated",
                "measure": "reported",
                "meter": {"source": "result", "path": "/pages"},
                "tiers": [{"up_to": 5, "price_usd": 1}, {"price_usd": 2}],
            },
            {"unit": "tokens", "tiers": [{"price_usd": 1, "condition": {"field": "body_size", "op": "<=", "value": 7}}]},
            variants=[
                {"param": "a.b", "value": True, "dimensions": [requests()], "description": "dear"},
                {"param": "a.b", "value": 5, "dimensions": [requests()]},
            ],
            max_price_usd=9,
            min_price_usd="0.001",
            missing_usage="min",
            usage_preset="openai-responses",
            counter={"window": "day"},
            free_quota={"amount": 3, "unit": "pages", "window": "all_time", "notes": "to try"},
            splits=[{"account": "dev_1", "percent": "12.5", "memo": "data"}, {"account": "dev_2", "percent": 10}],
        )
    )
    assert spec == PriceSpec(
        (
            Dimension(
                "pages",
                (Tier(Money(10**6), 5), Tier(Money(2 * 10**6))),
                "output",
                2,
                "graduated",
                9,
                "reported",
                Meter("result", "/pages"),
            ),
            Dimension("tokens", (Tier(Money(10**6), None, Condition("body_size", "<=", 7)),)),
        ),
        (
            Variant("a.b", "true", (Dimension("requests", (Tier(HALF_CENT),)),), "dear"),
            Variant("a.b", "5", (Dimension("requests", (Tier(HALF_CENT),)),)),
        ),
        min_price=Money(1_000),
        max_price=Money(9 * 10**6),
        missing_usage="min",
        usage_preset="openai-responses",
        window="day",
        free_quota=FreeQuota(3, "pages", "all_time", "to try"),
        splits=(Split("dev_1", 1_250, None, "data"), Split("dev_2", 1_000)),
    )


@pytest.mark.parametrize(
    ("ours", "alias"),
    [
        ({"max_price_usd": 1}, {"upto": {"max_usd": 1}}),
        ({"min_price_usd": "0.001"}, {"upto": {"min_usd": "0.001"}}),
        ({"min_price_usd": "0.001"}, {"min_usd": "0.001"}),
        ({"missing_usage": "ceiling"}, {"upto": {"missing_usage": "ceiling"}}),
        ({"usage_preset": "openai-compatible"}, {"upto": {"usage_preset": "openai-compatible"}}),
        ({"free_quota": {"amount": 5}}, {"free_tier": {"amount": 5}}),
        ({"free_quota": {"amount": 5, "window": "day"}}, {"free_tier": {"amount": 5, "period": "per_day"}}),
        ({"free_quota": {"amount": 5, "window": "month"}}, {"free_tier": {"amount": 5, "period": "per_month"}}),
        ({"max_price_usd": 2, "min_price_usd": "0.001"}, {"upto": {"max_usd": 2, "min_usd": "0.001", "response_body": "x"}}),
    ],
)
def test_an_alias_of_pay_sh_means_our_field(ours: dict[str, Any], alias: dict[str, Any]) -> None:
    assert load_price(metering(requests(), **alias)) == load_price(metering(requests(), **ours))


def test_the_source_response_json_is_the_result() -> None:
    ours, alias = ({"source": source, "path": "/a~1b/0/~0"} for source in ("result", "response_json"))
    assert priced(unit("pages", meter=alias)) == priced(unit("pages", meter=ours))
    assert priced(unit("pages", meter={"source": "meta", "key": "k"})).dimensions[0].meter == Meter("meta", key="k")


@pytest.mark.parametrize(
    ("percent", "bps"),
    [("10", 1_000), (10, 1_000), (10.0, 1_000), (0.5, 50), ("0.01", 1), ("96.99", 9_699), ("7.5", 750), (96, 9_600)],
)
def test_a_share_is_percent_with_two_decimals(percent: object, bps: int) -> None:
    [split] = priced(requests(), splits=[{"account": "dev_1", "percent": percent}]).splits
    assert split.percent_bps == bps


@pytest.mark.parametrize("percent", [0, 0.001, 100, True, None, [], "97.5.1", 1e-05, float("nan"), -3, "1e1"])
def test_what_is_no_share_is_refused(percent: object) -> None:
    found = problems({"dimensions": [requests()], "splits": [{"account": "dev_1", "percent": percent}]})
    assert {code for code, _ in found} == {"splits_invalid"}


def test_amounts_split_a_fixed_price_below_what_is_payable() -> None:
    spec = priced(requests(), splits=[{"account": "dev_1", "amount_usd": "0.002"}, {"account": "dev_2", "percent": "56.99"}])
    assert spec.splits == (Split("dev_1", amount=Money(2_000)), Split("dev_2", 5_699))


def test_amounts_may_split_variants_that_are_fixed_each_as_the_smallest_allows() -> None:
    variants = [
        {"param": "a", "value": name, "dimensions": [unit("requests", price)]} for name, price in (("x", "0.01"), ("y", "0.10"))
    ]
    fits, exceeds = ([{"account": "dev_1", "amount_usd": amount}] for amount in ("0.0096", "0.0097"))
    assert load_price({"variants": variants, "splits": fits}).splits
    assert problems({"variants": variants, "splits": exceeds}) == [("splits_invalid", "price.splits")]


@pytest.mark.parametrize("account", ["dev_1", "dev_0123456789abcdefghijklmnopqrstuv"])
def test_an_account_is_a_developers_id(account: str) -> None:
    assert priced(requests(), splits=[{"account": account, "percent": 1}]).splits[0].account == account


@pytest.mark.parametrize("account", ["", "dev_", "DEV_1", "usr_1", "dev_É", "dev_1 ", None, 5, ["dev_1"]])
def test_what_is_no_developers_id_is_refused(account: object) -> None:
    found = problems({"dimensions": [requests()], "splits": [{"account": account, "percent": 1}]})
    assert ("splits_invalid", "price.splits[0].account") in found


def test_a_price_by_unit_may_have_a_price_and_a_bound_for_each_direction() -> None:
    spec = Price.per("tokens", 1_000_000, input="0.50", output="1.50", max_units={"input": 4_000, "output": 1_000})
    assert spec.ceiling() == Money(3_500)
    assert Price.per("tokens", 1_000_000, input="0.50", output="1.50", max_units=1_000).ceiling() == Money(2_000)
    assert Price.per("characters", 1_000, "0.01").quote({"text": "x" * 100}).total == Money(1_000)


def test_a_price_by_steps_may_have_a_scale_a_direction_and_a_bound() -> None:
    spec = Price.tiered("tokens", [(10, "0.02"), (None, "0.01")], scale=10, direction="output", tiering="graduated", max_units=20)
    assert spec.quote(usage={"tokens": 20}).total == spec.quote().total == Money(30_000)
    assert spec.ceiling() == Money(40_000), "the dearest step, for no counter is known"


def test_a_price_by_argument_takes_any_price_of_dimensions() -> None:
    spec = Price.variants(
        "model", {"fast": "0.01", "pro": Price.per("pages", usage="0.10", max_units=3), "default": {"price": 1}}
    )
    assert [spec.ceiling({"model": model}).micros for model in ("fast", "pro", "other")] == [10_000, 300_000, 10**6]


@pytest.mark.parametrize(
    "inner",
    [
        Price.variants("b", {"x": 1}),
        Price.per_call(1, min_price_usd=2),
        Price.per_call(1, max_price_usd=2),
        Price.per_call(1, free_quota={"amount": 1}),
        Price.per_call(1, splits=[{"account": "dev_1", "percent": 1}]),
        Price.per("pages", usage=1, max_units=1, missing_usage="ceiling"),
        Price.per_call(1, counter={"window": "day"}),
    ],
)
def test_a_variant_loses_nothing_of_its_price_in_silence(inner: PriceSpec) -> None:
    with pytest.raises(PriceSpecInvalid):
        Price.variants("a", {"x": inner})


@pytest.mark.parametrize(
    "build",
    [
        lambda: Price.per_call("cheap"),
        lambda: Price.per("page", usage=1),
        lambda: Price.per("tokens"),
        lambda: Price.per("tokens", 0, usage=1),
        lambda: Price.per("requests", input=1),
        lambda: Price.tiered("requests", []),
        lambda: Price.tiered("requests", [(5, 1)]),
        lambda: Price.tiered("requests", [(None, 1), (5, 1)]),
        lambda: Price.tiered("requests", [(5, 1), (5, 1), (None, 1)]),
        lambda: Price.tiered("requests", [(None, 1)], tiering="steps"),
        lambda: Price.variants("model", {}),
        lambda: Price.variants("", {"a": 1}),
        lambda: Price.variants("a", {"b": "cheap"}),
        lambda: Price.per_call(1, max_price_usd="0.5"),
    ],
)
def test_a_builder_refuses_what_is_no_price(build: Any) -> None:
    with pytest.raises(PriceSpecInvalid):
        build()


@pytest.mark.parametrize(
    "dimension", [unit("pages"), unit("tokens"), unit("seconds"), unit("bytes", direction="output"), unit("invocations")]
)
def test_what_is_unbounded_has_a_ceiling_of_a_dollar_where_nobody_said(dimension: dict[str, Any]) -> None:
    assert priced(dimension).max_price == priced(dimension).ceiling() == Money(10**6)
    assert priced({**dimension, "max_units": 5}).max_price is None
    assert priced(dimension, max_price_usd="0.2").max_price == Money(200_000)


@pytest.mark.parametrize(
    "dimension", [unit("requests"), unit("characters"), unit("bytes", direction="input"), unit("GiB"), unit("pages", 0)]
)
def test_what_is_known_before_the_run_needs_no_ceiling(dimension: dict[str, Any]) -> None:
    assert priced(dimension).max_price is None


@pytest.mark.parametrize("more", [{"measure": "reported"}, {"meter": {"source": "result", "path": "/n"}}])
@pytest.mark.parametrize("name", ["characters", "bytes"])
def test_what_is_reported_is_not_known_before_the_run(name: str, more: dict[str, Any]) -> None:
    assert priced(unit(name, **more)).max_price == Money(10**6)
    assert priced(unit(name, max_units=5, **more)).ceiling() == Money(50_000)


@quick
@given(st.integers(0, 10**12).map(Money))
def test_a_fixed_price_survives_its_canonical_form(amount: Money) -> None:
    spec = Price.per_call(amount)
    assert load_price(spec.canonical()) == load_price({"metering": spec.canonical()}) == spec


def test_code_and_file_read_one_grammar() -> None:
    text = "{dimensions: [{unit: pages, price_usd: 0.01, max_units: 5}], free_quota: {amount: 5, unit: pages}}"
    [spec] = parse_prices(f"tools: {{t: {{metering: {text}}}}}").prices.values()
    assert spec == load_price(f"metering: {text}") == load_price(text)
    assert spec == Price.per("pages", usage="0.01", max_units=5, free_quota={"amount": 5, "unit": "pages"})


@pytest.mark.parametrize(
    "price",
    [
        Price.per_call("0.01", min_price_usd=1),
        Price.per_call("0.01", free_quota={"amount": 1}),
        Price.per("pages", 1, "0.01", max_price_usd="0.50"),
        Price.variants("other", {"a": "0.01"}),
    ],
)
def test_a_variant_cannot_bring_what_holds_for_the_whole_price(price: PriceSpec) -> None:
    with pytest.raises(PriceSpecInvalid, match=r"price.variants.fast: variant_invalid: .*say .* beside the variants"):
        Price.variants("model", {"fast": price})


def test_a_variant_may_be_unbounded_under_the_ceiling_of_the_whole_price() -> None:
    price = Price.variants("model", {"fast": Price.per("pages", 1, "0.01")}, max_price_usd="0.30")
    assert price.ceiling({"model": "fast"}) == Money.parse("0.30")


def test_a_price_without_any_bound_says_in_the_log_what_it_holds(caplog: pytest.LogCaptureFixture) -> None:
    Price.per("pages", 1, "0.01", max_units=5)
    assert caplog.text == ""
    Price.per("pages", 1, "0.01")
    assert "ceiling_defaulted: a dimension is unbounded, so a call holds $1.00" in caplog.text
