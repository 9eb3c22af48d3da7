"""The grammar of one price: sections 3 to 7 of the pricing document, from plain data to a `PriceSpec`.

Every rule has a code; a source is read to its end, and all its problems are reported together.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from payre_mcp.money import MICROS_PER_USD, ZERO, Money
from payre_mcp.pricing.dimension_entry import read_dimensions, read_variants
from payre_mcp.pricing.dimensions import Dimension, FreeQuota, MissingUsage, Split, Tier, UsagePreset, Window
from payre_mcp.pricing.plan import Plan, Rate
from payre_mcp.pricing.reader import Fields, Reader
from payre_mcp.pricing.spec import PriceSpec, as_text
from payre_mcp.pricing.units import UNITS

DEFAULT_CEILING = Money(MICROS_PER_USD)
"""What a call may cost at most where a dimension is unbounded and nobody said: $1.00."""

WINDOWS: tuple[Window, ...] = get_args(Window)
POLICIES: tuple[MissingUsage, ...] = get_args(MissingUsage)
PRESETS: tuple[UsagePreset, ...] = get_args(UsagePreset)

ENTRY = ("price", "metering", "description", "notes")
METERING = (
    "dimensions",
    "variants",
    "max_price_usd",
    "min_price_usd",
    "missing_usage",
    "usage_preset",
    "counter",
    "free_quota",
    "splits",
)
METERING_ALIASES = ("upto", "min_usd", "free_tier", "schemes")
UPTO = ("max_usd", "min_usd", "missing_usage", "usage_preset", "response_body")
MIN_PRICE = ("min_price_usd", "min_usd", "upto.min_usd")
MAX_PRICE = ("max_price_usd", "upto.max_usd")
MISSING_USAGE = ("missing_usage", "upto.missing_usage")
FREE_QUOTA = ("free_quota", "free_tier")
"""Fields with their aliases; the first is the field's own name."""

QUOTA = ("amount", "unit", "window", "period", "notes")
SPLIT = ("account", "percent", "amount_usd", "memo")

REFUSED = {
    "sku_tiers": "give each SKU a variant",
    "subscription": "price each call",
    "quotas": "limit calls in the server's own settings",
    "recipients": "name developers in splits, each by account",
}
"""Keys of pay.sh that have no meaning here, and what to write instead."""

PERIODS: Mapping[str, Window] = {"per_day": "day", "per_month": "month"}
_ACCOUNT = re.compile(r"dev_[0-9a-z]{1,32}", re.ASCII)
_PERCENT = re.compile(r"([0-9]{1,2})(?:\.([0-9]{1,2}))?", re.ASCII)
_PAYABLE_BPS = 9_700
"""What is left of a charge after the fee, in hundredths of a percent; splits stay below it."""


@dataclass(frozen=True)
class Defaults:
    """What a file gives to entries that do not say it themselves."""

    missing_usage: MissingUsage = "refund"
    window: Window = "month"
    free_quota: FreeQuota | None = None
    max_price: Money | None = None


def read_entry(reader: Reader, source: object, path: str, defaults: Defaults) -> PriceSpec:
    """One price: dollars, a mapping with `price` or `metering`, or the metering mapping itself."""
    if not isinstance(source, Mapping):
        return per_call(reader.amount(source, path), defaults)
    whole = "price" in source or "metering" in source
    known = ENTRY if whole else (*ENTRY, *METERING, *METERING_ALIASES)
    entry = reader.mapping(cast("object", source), path, known, REFUSED)
    if ("price" in entry) == ("metering" in entry) and (whole or not entry.values.keys() & {*METERING, *METERING_ALIASES}):
        reader.problem("entry_invalid", path, "give exactly one of price, metering")
        return per_call(ZERO)
    if "price" in entry:
        spec = per_call(entry.amount("price"), defaults)
    elif "metering" in entry:
        metering = reader.mapping(entry["metering"], entry.at("metering"), (*METERING, *METERING_ALIASES), REFUSED)
        spec = read_metering(metering, defaults)
    else:
        spec = read_metering(entry, defaults)
    return replace(spec, description=entry.text("description"), notes=entry.notes())


def per_call(amount: Money, defaults: Defaults | None = None) -> PriceSpec:
    """A fixed price: one dimension of requests with one open tier."""
    quota = defaults.free_quota if defaults is not None and amount else None
    return PriceSpec((Dimension("requests", (Tier(amount),)),), free_quota=quota if quota and quota.unit == "requests" else None)


def read_metering(fields: Fields, defaults: Defaults) -> PriceSpec:
    """A `metering` mapping. Without problems in the reader the spec obeys every rule."""
    reader = fields.reader
    fields = _with_upto(fields)
    before = len(reader.problems)
    dimensions = read_dimensions(reader, fields["dimensions"], fields.at("dimensions"))
    variants = read_variants(reader, fields["variants"], fields.at("variants"))
    if not dimensions and not variants and len(reader.problems) == before:
        message = "give dimensions, such as [{unit: requests, price_usd: 0.01}], or variants"
        reader.problem("dimensions_missing", fields.at("dimensions"), message)
    spec = PriceSpec(
        dimensions,
        variants,
        min_price=_aliased_amount(fields, MIN_PRICE) or ZERO,
        max_price=_aliased_amount(fields, MAX_PRICE),
        missing_usage=_missing_usage(fields, defaults),
        usage_preset=_preset(fields),
        window=read_counter(fields, defaults.window),
        free_quota=_free_quota(fields, defaults),
        splits=tuple(_split(reader, item, place) for item, place in fields.items("splits")),
    )
    if len(reader.problems) > before:
        return spec
    spec = _with_ceiling(fields, _with_fitting_quota(fields, spec), defaults)
    _check_splits(reader, spec, fields.at("splits"))
    return spec


def read_quota(reader: Reader, source: object, path: str) -> FreeQuota:
    """A free quota by its own words or by those of pay.sh's `free_tier`."""
    fields = reader.mapping(source, path, QUOTA)
    window: Window = "month"
    match fields.one_of("window", "period"):
        case "window":
            window = fields.word("window", "free_quota_invalid", WINDOWS, "window")
        case "period" if fields["period"] in ("per_second", "per_hour"):
            message = f"period {fields['period']} is not supported: use per_day or per_month"
            reader.problem("unsupported_field", fields.at("period"), message)
        case "period":
            window = PERIODS[fields.word("period", "free_quota_invalid", tuple(PERIODS), "period")]
        case _:
            pass
    unit = fields.word("unit", "unit_unknown", tuple(UNITS), "unit") if "unit" in fields else "requests"
    return FreeQuota(fields.integer("amount", "free_quota_invalid"), unit, window, fields.notes())


def read_counter(fields: Fields, otherwise: Window) -> Window:
    """The window over which units count towards `up_to`: `counter: {window: day}`."""
    if "counter" not in fields:
        return otherwise
    counter = fields.reader.mapping(fields["counter"], fields.at("counter"), ("window",))
    return counter.word("window", "counter_invalid", WINDOWS, "window")


def _with_upto(fields: Fields) -> Fields:
    """The fields with those of `upto` beside them, and a warning for what is ignored."""
    values = dict(fields.values)
    if "upto" in fields:
        upto = fields.reader.mapping(fields["upto"], fields.at("upto"), UPTO)
        values |= {f"upto.{name}": value for name, value in upto.values.items()}
    fields = Fields(fields.reader, values, fields.path)
    for name in ("schemes", "upto.response_body"):
        if name in fields:
            fields.reader.warn("ignored_field", fields.at(name), f"{name} has no meaning here and is ignored")
    return fields


def _aliased_amount(fields: Fields, names: Sequence[str]) -> Money | None:
    name = fields.one_of(*names)
    return None if name is None else fields.amount(name)


def _missing_usage(fields: Fields, defaults: Defaults) -> MissingUsage:
    name = fields.one_of(*MISSING_USAGE)
    if name is None:
        return defaults.missing_usage
    return fields.word(name, "missing_usage_invalid", POLICIES, "policy")


def _preset(fields: Fields) -> UsagePreset | None:
    name = fields.one_of("usage_preset", "upto.usage_preset")
    return None if name is None else fields.word(name, "meter_invalid", PRESETS, "usage preset")


def _free_quota(fields: Fields, defaults: Defaults) -> FreeQuota | None:
    name = fields.one_of(*FREE_QUOTA)
    return defaults.free_quota if name is None else read_quota(fields.reader, fields[name], fields.at(name))


def _with_fitting_quota(fields: Fields, spec: PriceSpec) -> PriceSpec:
    """The spec without a default quota of what it does not count; a quota of its own must be of what it counts."""
    quota = spec.free_quota
    units = {each.unit for plan in spec.plans.values() for each in plan.dimensions} | {"requests"}
    if quota is None or quota.unit in units:
        return spec
    if (name := fields.one_of(*FREE_QUOTA)) is not None:
        message = f"no dimension counts {quota.unit}; a quota is of requests or of a unit that is priced"
        fields.reader.problem("free_quota_invalid", fields.at(name), message)
    return replace(spec, free_quota=None)


def _with_ceiling(fields: Fields, spec: PriceSpec, defaults: Defaults) -> PriceSpec:
    """The spec with its ceiling checked, or given where a dimension has no bound of its own."""
    reader, place = fields.reader, fields.at(fields.one_of(*MAX_PRICE) or "max_price_usd")
    if spec.missing_usage == "min" and not spec.min_price:
        policy = fields.at(fields.one_of(*MISSING_USAGE) or "missing_usage")
        reader.problem("missing_usage_invalid", policy, "policy min charges min_price_usd; give one")
    defaulted = spec.max_price is None and any(map(_is_unbounded, spec.plans.values()))
    if defaulted:
        spec = replace(spec, max_price=DEFAULT_CEILING if defaults.max_price is None else defaults.max_price)
        if defaults.max_price is None:
            message = f"a dimension is unbounded, so a call holds {DEFAULT_CEILING} and costs no more; give max_price_usd"
            reader.warn("ceiling_defaulted", fields.path, message)
    if spec.max_price is None:
        return spec
    if spec.max_price < spec.min_price:
        reader.problem("ceiling_invalid", place, f"the ceiling {spec.max_price} is below the least charge {spec.min_price}")
    known = max(map(_known_price, spec.plans.values()))
    if spec.max_price.micros < known:
        default = " (the default where a dimension is unbounded)" if defaulted else ""
        message = f"the ceiling {spec.max_price}{default} is below a price known before the run, {Money(known)}"
        reader.problem("ceiling_invalid", place, message)
    return spec


def _is_unbounded(plan: Plan) -> bool:
    return any(not rate.is_exact and rate.most is None and any(rate.prices) for rate in plan.rates)


def _known_price(plan: Plan) -> int:
    """What every call costs at least at its dearest step: the requests in it."""
    return max((max(_request_prices(rate)) for rate in plan.rates), default=0)


def _request_prices(rate: Rate) -> tuple[int, ...]:
    if rate.dimension.unit != "requests":
        return (0,)
    return tuple(-(-price // rate.dimension.scale) for price in rate.prices)


def _split(reader: Reader, source: object, path: str) -> Split:
    fields = reader.mapping(source, path, SPLIT, {"recipient": "name a developer by account: dev_..."})
    account = fields.text("account", "splits_invalid")
    if not _ACCOUNT.fullmatch(account):
        reader.problem("splits_invalid", fields.at("account"), "an account is a developer's id, dev_...")
    if ("percent" in fields) == ("amount_usd" in fields):
        reader.problem("splits_invalid", path, "give exactly one of percent, amount_usd")
        return Split(account)
    memo = fields.text("memo")
    if "amount_usd" in fields:
        return Split(account, amount=fields.amount("amount_usd"), memo=memo)
    return Split(account, _percent_bps(fields), memo=memo)


def _percent_bps(fields: Fields) -> int:
    percent: Any = fields["percent"]
    text = float.__repr__(percent) if isinstance(percent, float) else as_text(percent) or ""
    match = _PERCENT.fullmatch(text)
    bps = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else 0
    if not bps:
        message = "a percent is above 0 and below 97, with two decimals at most"
        fields.reader.problem("splits_invalid", fields.at("percent"), message)
    return bps


def _check_splits(reader: Reader, spec: PriceSpec, path: str) -> None:
    """The splits of a charge leave its fee and something for its own developer."""
    accounts = [split.account for split in spec.splits]
    if len(set(accounts)) < len(accounts):
        reader.problem("splits_invalid", path, "an account stands twice; give it one share")
    percent_bps = sum(split.percent_bps for split in spec.splits)
    amounts = sum(split.amount.micros for split in spec.splits if split.amount is not None)
    prices = [plan.fixed_micros for plan in spec.plans.values()]
    price = min((each for each in prices if each is not None), default=0)
    if amounts and None in prices:
        reader.problem("splits_invalid", path, "amounts split fixed prices alone; give percent")
    elif percent_bps >= _PAYABLE_BPS or (amounts and percent_bps * price + 10_000 * amounts >= _PAYABLE_BPS * price):
        message = f"splits are below {_PAYABLE_BPS // 100} % of the smallest price in all; the rest is the fee and your own share"
        reader.problem("splits_invalid", path, message)
