"""Random prices as plain mappings, and random calls of them.

Each is put together from one seeded `Random` that Hypothesis hands out: many times as fast as a strategy of strategies.
"""

from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.pricing.oracle import BASE, Call, known_before_the_run, micros, name_of, tiers_of

UNITS = [
    "requests",
    "invocations",
    "tokens",
    "characters",
    "bytes",
    "GiB",
    "TiB",
    "seconds",
    "minutes",
    "hours",
    "pages",
    "vCPU",
    "documents",
    "instances",
    "quota_units",
]

DIRECTIONS = ["usage", "input", "output"]
FIELDS = ["input_tokens", "input_characters", "context_length", "body_size", "duration_seconds", "batch_size", "image_pixels"]
POLICIES = ("refund", "min", "ceiling", "error")
WINDOWS = ["month", "day", "all_time"]

randoms = st.randoms(use_true_random=True)


def maybe(random: Random) -> bool:
    return random.random() < 0.5


def bound(random: Random) -> int:
    return random.randint(1, random.choice((5, 60, 3_000)))


def a_scale(random: Random) -> int:
    return random.choice((1, 1, 2, 3, 7, 1_000, 1_000_000, random.randint(1, 10**9)))


def usd(price: int) -> str:
    return f"{price // 10**6}.{price % 10**6:06d}"


def a_price(random: Random, scale: int, unit: str, *, may_be_free: bool) -> str:
    """A price that is above the precision of its scale."""
    floor = 1 if unit == "tokens" else scale
    if may_be_free and random.random() < 0.2:
        return "0"
    return usd(random.choice((floor, floor + random.randint(0, 20), random.randint(floor, max(floor, 10**9)))))


def some_tiers(random: Random, scale: int, unit: str, *, conditions: bool = True) -> list[dict[str, Any]]:
    """One open tier, tiers by `up_to`, or tiers by condition; the first costs something."""
    kind = random.choice(("open", "up_to", "up_to", "condition") if conditions else ("open", "up_to"))
    out: list[dict[str, Any]] = [{"price_usd": a_price(random, scale, unit, may_be_free=False)}]
    more = 0 if kind == "open" else random.randint(1, 3)
    out += [{"price_usd": a_price(random, scale, unit, may_be_free=True)} for _ in range(more)]
    if kind == "up_to":
        bounds = sorted({bound(random) for _ in out[1:]})
        out = out[: len(bounds) + 1]
        for tier, up_to in zip(out, bounds, strict=False):
            tier["up_to"] = up_to
    if kind == "condition":
        for tier in out if maybe(random) else out[:-1]:
            operator = random.choice(("<=", "<", ">=", ">", "=="))
            tier["condition"] = {"field": random.choice(FIELDS), "op": operator, "value": random.randint(0, 60)}
    return out


def a_dimension(random: Random, unit: str, direction: str) -> dict[str, Any]:
    scale = a_scale(random)
    tiers = some_tiers(random, scale, unit)
    out: dict[str, Any] = {"unit": unit, "scale": scale, "tiers": tiers}
    if direction != "usage" or maybe(random):
        out["direction"] = direction
    if "condition" not in tiers[0] and maybe(random):
        out["tiering"] = "graduated"
    if unit != "requests" and random.random() < 0.2:
        out["measure"] = "reported"
    if not known_before_the_run(out) and maybe(random):
        out["max_units"] = random.randint(1, 5_000)
    return out


def some_dimensions(random: Random) -> list[dict[str, Any]]:
    keys: dict[tuple[str, str], None] = {}
    for _ in range(random.randint(1, 4)):
        unit = random.choice(UNITS)
        keys[unit, "usage" if unit in UNITS[:2] else random.choice(DIRECTIONS)] = None
    return [a_dimension(random, *key) for key in keys]


def a_metering(random: Random, policies: tuple[str, ...] = POLICIES) -> dict[str, Any]:
    """A price that obeys every rule."""
    out: dict[str, Any] = {"dimensions": some_dimensions(random)}
    least = random.choice((0, 0, 1, 500, 2_000, 500_000))
    if least:
        out["min_price_usd"] = usd(least)
    known = [
        micros(tier["price_usd"]) / each["scale"]
        for each in out["dimensions"]
        if each["unit"] == "requests"
        for tier in tiers_of(each)
    ]
    floor = int(max([1, least, *(int(price) + 1 for price in known)]))
    unbounded = any(not known_before_the_run(each) and "max_units" not in each for each in out["dimensions"])
    if maybe(random) or (unbounded and floor > 10**6):
        out["max_price_usd"] = usd(floor + random.choice((0, 1, 1_000, 10**6, 10**9)))
    policy = random.choice(policies)
    if policy != "refund" and (policy != "min" or least):
        out["missing_usage"] = policy
    if maybe(random):
        unit = random.choice(["requests", *(each["unit"] for each in out["dimensions"])])
        out["free_quota"] = {"amount": bound(random), "unit": unit, "window": random.choice(WINDOWS)}
    if maybe(random):
        out["counter"] = {"window": random.choice(WINDOWS)}
    return out


def a_quantity(random: Random, most: int = 4_000) -> str:
    whole = random.randint(0, min(most - 1, random.choice((3, 60, 4_000))))
    return random.choice((str(whole), f"{whole}.{random.randint(0, 10**6 - 1):06d}", f"{whole}e0"))


def a_call(random: Random, metering: dict[str, Any], *, within_bounds: bool = False, complete: bool = False) -> Call:
    """A call of this price."""
    usage: dict[str, str] = {}
    used: dict[str, str] = {}
    sent: dict[str, int] = {}
    facts = {field: random.randint(0, 60) for field in FIELDS if random.random() < 0.2}
    if maybe(random):
        length = random.randint(0, 60)
        sent = {"input_characters": length, "body_size": length + len('{"text":""}')}
    for each in metering["dimensions"]:
        key = name_of(each)
        if each["unit"] != "requests" and not (known_before_the_run(each) and sent) and (complete or random.random() < 0.9):
            usage[key] = a_quantity(random, each.get("max_units", 4_000) if within_bounds else 4_000)
        used[key] = str(random.randint(0, random.choice((3, 60, 3_000))))
        if each["unit"] in BASE and maybe(random):
            used[key] += ".5"
    if "requests" not in used and maybe(random):
        used["free.requests"] = str(random.randint(0, 60))
    return Call(usage, used, facts, sent)
