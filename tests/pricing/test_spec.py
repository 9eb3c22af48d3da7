"""What a price says of a call: quote, ceiling, variants, version."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.errors import AmountOverflow, InvalidVariant, UsageAmbiguous, UsageInvalid
from payre_mcp.money import ZERO, Money
from payre_mcp.pricing import Dimension, FreeQuota, Price, PriceSpec, Target, Tier, load_price
from payre_mcp.pricing.spec import argument_text
from tests.pricing.forms import TOKENS, priced, steps, unit

AMOUNTS = st.integers(0, 10**12).map(Money)
HALF_CENT = Price.per_call("0.005")
FREE = Price.per_call(0)
MODELS = Price.variants("options.model", {"fast": "0.01", "5": "0.02", "true": "0.03"})
quick = settings(max_examples=100, deadline=None)


@quick
@given(AMOUNTS)
def test_a_fixed_price_quotes_one_request_and_holds_exactly_that(amount: Money) -> None:
    spec = Price.per_call(amount)
    quote = spec.quote()
    assert quote.total == quote.ceiling == spec.ceiling() == spec.fixed == amount
    [line] = quote.lines
    assert (line.direction, line.unit, line.quantity, line.price, line.scale) == ("usage", "requests", 1, amount, 1)
    assert line.cost_micros == amount.micros


def test_a_fixed_price_does_not_look_at_the_call() -> None:
    assert HALF_CENT.quote({"city": "Bern"}, {"tokens": 9_000}, {"tokens": 1}) == HALF_CENT.quote()
    assert HALF_CENT.ceiling({"city": "Bern"}) == HALF_CENT.ceiling()
    assert HALF_CENT.quote() == HALF_CENT.quote()


@pytest.mark.parametrize("scale", [2, 3])
def test_a_fixed_price_of_a_part_of_a_micro_is_one_number_everywhere(scale: int) -> None:
    spec = priced({"unit": "requests", "scale": scale, "price_usd": f"0.00000{scale + 1}"})
    assert spec.ceiling() == spec.fixed == spec.quote().total == spec.quote(usage={}).total == Money(2)


def test_a_fixed_price_is_lifted_to_the_least_charge() -> None:
    spec = priced(unit("requests", "0.001"), min_price_usd="0.002", max_price_usd="0.002")
    assert spec.ceiling() == spec.fixed == spec.quote().total == Money(2_000)


@pytest.mark.parametrize(
    "spec",
    [
        priced(*TOKENS),
        priced(unit("requests"), unit("pages", max_units=1)),
        priced(unit("requests"), free_quota={"amount": 1}),
        priced(steps("requests", (1, "1"), (None, "2"))),
        priced({"unit": "requests", "tiers": [{"price_usd": 1, "condition": {"field": "body_size", "op": "<", "value": 9}}]}),
        MODELS,
        Price.variants("a", {"x": 1}),
    ],
)
def test_a_price_that_depends_on_anything_is_not_fixed(spec: PriceSpec) -> None:
    assert spec.fixed is None


def test_a_price_is_free_only_if_nothing_in_it_costs() -> None:
    assert FREE.is_free
    assert Price.variants("a", {"x": 0, "y": 0}).is_free
    assert not HALF_CENT.is_free
    assert not Price.variants("a", {"x": 0, "y": 1}).is_free
    assert not PriceSpec((Dimension("requests", (Tier(ZERO, up_to=10), Tier(Money(1)))),)).is_free
    assert not priced(unit("requests", 1), free_quota={"amount": 10**6}).is_free


def test_a_price_never_changes() -> None:
    with pytest.raises(AttributeError):
        HALF_CENT.dimensions = ()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_target_is_its_kind_and_name() -> None:
    assert Target("tool", "forecast") == ("tool", "forecast")


@quick
@given(AMOUNTS, AMOUNTS)
def test_two_fixed_prices_have_one_version_exactly_if_they_cost_the_same(one: Money, two: Money) -> None:
    assert (Price.per_call(one).version == Price.per_call(two).version) == (one == two)


def test_the_version_of_a_price_is_pinned_because_charges_name_it() -> None:
    assert HALF_CENT.version == "c383de6aeac5c17f6616405aa27a969f3e1694a687182835dc8f5ef0a57dcb4c"


BASE = unit("pages", "0.01", max_units=5)
VERSIONS = [
    priced(BASE),
    priced({**BASE, "price_usd": "0.02"}),
    priced({**BASE, "unit": "documents"}),
    priced({**BASE, "direction": "input"}),
    priced({**BASE, "scale": 2}),
    priced({**BASE, "max_units": 6}),
    priced({**BASE, "measure": "reported"}),
    priced({**BASE, "meter": {"source": "result", "path": "/a"}}),
    priced({**BASE, "meter": {"source": "result", "path": "/b"}}),
    priced({**BASE, "meter": {"source": "meta", "key": "/a"}}),
    priced(steps("pages", (5, "0.02"), (None, "0.01"), max_units=5)),
    priced(steps("pages", (6, "0.02"), (None, "0.01"), max_units=5)),
    priced(steps("pages", (5, "0.02"), (None, "0.01"), max_units=5, tiering="graduated")),
    priced(BASE, unit("requests")),
    priced(unit("requests"), BASE),
    priced(BASE, max_price_usd="0.1"),
    priced(BASE, max_price_usd="0.1", min_price_usd="0.05"),
    priced(BASE, min_price_usd="0.05"),
    priced(BASE, missing_usage="error"),
    priced(BASE, missing_usage="ceiling"),
    priced(BASE, usage_preset="openai-responses"),
    priced(BASE, counter={"window": "day"}),
    priced(BASE, free_quota={"amount": 1}),
    priced(BASE, free_quota={"amount": 2}),
    priced(BASE, free_quota={"amount": 1, "unit": "pages"}),
    priced(BASE, free_quota={"amount": 1, "window": "day"}),
    priced(BASE, splits=[{"account": "dev_1", "percent": 1}]),
    priced(BASE, splits=[{"account": "dev_1", "percent": "1.01"}]),
    priced(unit("requests"), splits=[{"account": "dev_1", "amount_usd": "0.001"}]),
    load_price({"variants": [{"param": "a", "value": "b", "dimensions": [BASE]}]}),
    load_price({"variants": [{"param": "a", "value": "c", "dimensions": [BASE]}]}),
    load_price({"variants": [{"param": "b", "value": "b", "dimensions": [BASE]}]}),
    *(
        priced({"unit": "pages", "max_units": 5, "tiers": [{"price_usd": 1, "condition": condition}, {"price_usd": 2}]})
        for condition in (
            {"field": "body_size", "op": "<", "value": 9},
            {"field": "body_size", "op": "<=", "value": 9},
            {"field": "body_size", "op": "<", "value": 8},
            {"field": "batch_size", "op": "<", "value": 9},
        )
    ),
]


def test_prices_that_differ_in_anything_have_versions_that_differ() -> None:
    for one, two in itertools.combinations(VERSIONS, 2):
        assert one.version != two.version
        assert one != two


@pytest.mark.parametrize("spec", VERSIONS)
def test_every_kind_of_price_survives_its_canonical_form(spec: PriceSpec) -> None:
    assert load_price(spec.canonical()) == spec
    assert load_price(spec.canonical()).version == spec.version


def test_words_for_people_change_no_version() -> None:
    plain = priced(BASE, free_quota={"amount": 1})
    words = priced(BASE, free_quota={"amount": 1, "notes": "to try"}, description="Pages", notes="of paper")
    assert words.version == plain.version
    assert words.free_quota == FreeQuota(1, notes="to try")


@pytest.mark.parametrize(
    ("arguments", "micros"),
    [
        ({"options": {"model": "fast"}}, 10_000),
        ({"options": {"model": 5}}, 20_000),
        ({"options": {"model": "5"}}, 20_000),
        ({"options": {"model": True}}, 30_000),
        ({"options": {"model": "true"}}, 30_000),
    ],
)
def test_a_variant_is_chosen_by_the_text_of_an_argument(arguments: dict[str, Any], micros: int) -> None:
    assert MODELS.ceiling(arguments) == MODELS.quote(arguments).total == Money(micros)
    assert MODELS.quote(arguments).variant == MODELS.plan_of(arguments).variant


VALUES = ["fas", "faster", "FAST", " fast", "", 5.0, 1.5, None, [], {}, ["fast"], {"fast": 1}, False, 1, -5, "05", "\ud800"]


@pytest.mark.parametrize("value", [*VALUES, pytest.param(10**5_000, id="huge"), pytest.param("x" * 10**6, id="long")])
def test_what_no_variant_names_is_refused_before_anything_runs(value: object) -> None:
    for arguments in ({"options": {"model": value}}, {"options": value}, {"model": value}, {"options.model": "fast"}, {}, None):
        with pytest.raises(InvalidVariant) as caught:
            MODELS.quote(arguments)
        assert "Nothing ran and nothing was charged" in str(caught.value)
        assert len(str(caught.value)) < 1_000


def test_an_absent_argument_stands_for_the_default_of_its_schema() -> None:
    defaults: dict[str, object] = {"options.model": "fast"}
    assert MODELS.plan_of({}, defaults.get).variant == "options.model=fast"
    assert MODELS.plan_of({"options": {}}, defaults.get).variant == "options.model=fast"
    assert MODELS.plan_of({"options": {"model": 5}}, defaults.get).variant == "options.model=5"
    with pytest.raises(InvalidVariant):
        MODELS.plan_of({"options": {"model": None}}, defaults.get)


@pytest.mark.parametrize("word", ["default", "DEFAULT", "Default"])
def test_the_variant_default_stands_for_all_others(word: str) -> None:
    spec = Price.variants("model", {word: "0.05", "fast": "0.01"})
    assert [spec.quote(arguments).total.micros for arguments in ({"model": "fast"}, {"model": "x"}, {}, None)] == [
        10_000,
        50_000,
        50_000,
        50_000,
    ]


def test_dimensions_outside_all_variants_stand_for_all_others_unless_there_is_a_default() -> None:
    variants = [{"param": "model", "value": "fast", "dimensions": [unit("requests", "0.01")]}]
    spec = load_price({"dimensions": [unit("requests", "0.09")], "variants": variants})
    assert [spec.quote(arguments).total.micros for arguments in ({"model": "fast"}, {"model": "x"}, {})] == [
        10_000,
        90_000,
        90_000,
    ]
    assert [spec.quote(arguments).variant for arguments in ({"model": "fast"}, {})] == ["model=fast", ""]
    both = load_price({**spec.canonical(), "variants": [*variants, {**variants[0], "value": "default"}]})
    assert both.quote({"model": "x"}).total == Money(10_000)


def test_of_two_params_the_first_variant_in_the_file_wins() -> None:
    names = (("a", "x", "0.01"), ("b", "y", "0.02"), ("a", "z", "0.03"))
    spec = load_price(
        {"variants": [{"param": param, "value": value, "dimensions": [unit("requests", price)]} for param, value, price in names]}
    )
    assert spec.quote({"a": "x", "b": "y"}).total == Money(10_000)
    assert spec.quote({"a": "z", "b": "y"}).total == Money(20_000)
    assert spec.quote({"a": "z"}).total == Money(30_000)


def test_a_plan_is_known_by_the_key_of_its_variant() -> None:
    assert MODELS.plan("options.model=fast").variant == "options.model=fast"
    assert list(MODELS.plans) == ["options.model=fast", "options.model=5", "options.model=true"]
    assert HALF_CENT.plan("") is HALF_CENT.plan_of(None)
    for key in ("", "fast", "x" * 10_000):
        with pytest.raises(InvalidVariant) as caught:
            MODELS.plan(key)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (5, "5"),
        (-5, "-5"),
        (0, "0"),
        (True, "true"),
        (False, "false"),
        (1.0, None),
        (None, None),
        ([], None),
        ({}, None),
        (2**63, None),
    ],
)
def test_an_argument_has_a_text_or_none(value: object, text: str | None) -> None:
    assert argument_text({"a": {"b": value}}, "a.b", lambda path: "unused") == text


@pytest.mark.parametrize(
    ("usage", "used"),
    [
        ({"token": 1}, None),
        ({"in.tokens": 1}, None),
        ({".tokens": 1}, None),
        ({"input.": 1}, None),
        ({"": 1}, None),
        ({"input.tokens": -1}, None),
        ({"input.tokens": float("nan")}, None),
        ({"input.tokens": True}, None),
        ({"input.tokens": None}, None),
        ({"body_size": -1}, None),
        ({"input.tokens": 2**53}, None),
        ({}, {"token": 1}),
        ({}, {"free.token": 1}),
        ({}, {"input.tokens": "x"}),
        ({}, {"free.requests": -1}),
        (None, {"free.tokens": True}),
        ({1: 2}, None),
        ({}, {None: 2}),
    ],
)
def test_a_key_or_a_quantity_that_is_none_is_refused(usage: Any, used: Any) -> None:
    with pytest.raises(UsageInvalid):
        priced(*TOKENS).quote(None, usage, used)


@pytest.mark.parametrize(("usage", "used"), [({"tokens": 1}, None), ({}, {"tokens": 1})])
def test_a_unit_that_two_dimensions_count_needs_a_direction(usage: dict[str, int], used: dict[str, int] | None) -> None:
    with pytest.raises(UsageAmbiguous):
        priced(*TOKENS).quote(None, usage, used)


@pytest.mark.parametrize("twice", [{"pages": 1, "usage.pages": 2}])
def test_one_dimension_is_given_once(twice: dict[str, int]) -> None:
    spec = priced(steps("pages", (2, "0.02"), (None, "0.01"), max_units=5))
    with pytest.raises(UsageInvalid):
        spec.quote(usage=twice)
    with pytest.raises(UsageInvalid):
        spec.quote(used_before=twice)


def test_a_fixed_price_refuses_a_key_that_is_none_like_any_other() -> None:
    with pytest.raises(UsageInvalid):
        HALF_CENT.quote(usage={"zork": 1})
    with pytest.raises(UsageInvalid):
        HALF_CENT.quote(usage={"pages": -1})


def test_an_amount_that_no_ledger_can_hold_is_refused_before_the_run() -> None:
    spec = priced(unit("pages", 1_000_000, max_units=2**53 - 1))
    for ask in (spec.ceiling, spec.quote, lambda: spec.quote(usage={"pages": 1})):
        with pytest.raises(AmountOverflow):
            ask()
    assert priced(unit("pages", 1_000_000, max_units=2**53 - 1), max_price_usd=1).ceiling() == Money(10**6)


@pytest.mark.parametrize(("units", "fits"), [(9_007, True), (9_008, False)])
def test_the_bound_of_an_amount_is_two_to_the_fifty_third(units: int, fits: bool) -> None:
    spec = priced(unit("pages", 1_000_000, max_units=units))
    if fits:
        assert spec.ceiling().micros == units * 10**12
        return
    with pytest.raises(AmountOverflow):
        spec.ceiling()
