"""What a call used: what its arguments tell before the run, what its tool reports, what its answer tells after.

For each dimension the first source that yields a number wins: the tool's report, the price's pointer into the answer,
its preset, the usual usage objects of language models (tokens only), and at last what can be measured from outside.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any, cast

from payre_mcp.errors import UsageAmbiguous, UsageInvalid
from payre_mcp.pricing.dimensions import Dimension, UsagePreset
from payre_mcp.pricing.plan import Facts, Plan, Rate, Usage
from payre_mcp.pricing.units import DIRECTIONS, FIELDS, LARGEST, SIZES, TIMES, UNITS, dimension_key, exact, to_base
from payre_mcp.receipts import canonical_json
from payre_mcp.text import shown

PRESETS: Mapping[UsagePreset, Mapping[str, str]] = {
    "openai-compatible": {
        "input": "/usage/prompt_tokens",
        "output": "/usage/completion_tokens",
        "usage": "/usage/total_tokens",
    },
    "openai-responses": {
        "input": "/usage/input_tokens",
        "output": "/usage/output_tokens",
        "usage": "/usage/total_tokens",
    },
    "google-generativelanguage": {
        "input": "/usageMetadata/promptTokenCount",
        "output": "/usageMetadata/candidatesTokenCount",
        "usage": "/usageMetadata/totalTokenCount",
    },
}
"""Where the dialects of language models state their tokens, as RFC 6901 pointers."""


_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
"""An index of an array in a pointer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a caller sent, measured: characters of all text in it, bytes of its canonical JSON."""

    characters: int
    size: int

    @classmethod
    def arguments(cls, arguments: Mapping[str, Any]) -> "Sent":
        """The arguments of a tool or prompt; none at all measure nothing."""
        return cls(characters=sum(map(len, text_within(arguments))), size=_json_size(arguments) if arguments else 0)

    @classmethod
    def address(cls, uri: str) -> "Sent":
        """The address of a resource."""
        return cls(characters=len(uri), size=len(uri.encode("utf-8", "surrogatepass")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a caller got, as far as it is measured."""

    characters: int
    size: int
    structured: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    took_us: int = 0
    """How long the handler ran."""


ONE_REQUEST = Usage({"requests": 1})
"""All that is known of a call at a fixed price, and all that it takes."""

SavedUsage = tuple[dict[str, str], dict[str, str]]
"""Sums and observations of a report, exact, in a form that JSON can carry."""


class UsageReport:
    """What the tool of one running call reports. Safe from any thread; after `close` nothing is added."""

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        self._dimensions = dimensions
        self._sums: dict[str, Fraction] = {}
        self._observed: dict[str, Fraction] = {}
        self._lock = threading.Lock()
        self._open = True

    def add(self, unit: str, n: object, direction: str | None = None) -> None:
        """Add `n` units to this call.

        Raises:
            UsageInvalid: No such unit or direction, or `n` is no quantity of it.
            UsageAmbiguous: Two dimensions count this unit and no direction was given.
        """
        if unit == "requests":
            raise UsageInvalid("a call is always one request; report invocations for a batch")
        key, value = find_dimension(self._dimensions, unit, direction), exact(n)
        with self._lock:
            total = self._sums.get(key, 0) + value
            to_base(unit, total)
            if self._open:
                self._sums[key] = total

    def observe(self, name: str, n: object) -> None:
        """Set what a tier's condition asks for. Raises `UsageInvalid` for an unknown field or no quantity."""
        if name not in FIELDS:
            raise UsageInvalid(f"no condition asks for {shown(name)}; known are {', '.join(FIELDS)}")
        value = exact(n)
        with self._lock:
            if self._open:
                self._observed[name] = value

    def close(self) -> None:
        """The call is over: what a task that outlives it reports is nobody's."""
        with self._lock:
            self._open = False

    def quantities(self) -> dict[str, int]:
        """Base units by dimension, of all dimensions that were reported."""
        with self._lock:
            return {key: to_base(key.rpartition(".")[2], total) for key, total in self._sums.items()}

    def observed(self) -> Facts:
        """The condition fields that were set."""
        with self._lock:
            return dict(self._observed)

    def saved(self) -> SavedUsage:
        """What was reported so far as plain data, for a call that stops here and goes on later."""
        with self._lock:
            return _as_text(self._sums), _as_text(self._observed)

    def restore(self, saved: SavedUsage) -> None:
        """Take up what an earlier part of the call had saved."""
        sums, observed = ({key: Fraction(text) for key, text in each.items()} for each in saved)
        with self._lock:
            self._sums, self._observed = sums, observed


def _as_text(values: Mapping[str, Fraction]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def find_dimension(dimensions: Sequence[Dimension], unit: str, direction: str | None = None) -> str:
    """The key of the dimension that a report of this unit means; one of its own where no dimension counts the unit.

    Raises:
        UsageInvalid: No such unit or direction.
        UsageAmbiguous: Several dimensions count this unit and no direction was given.
    """
    if not isinstance(unit, str) or unit not in UNITS:  # pyright: ignore[reportUnnecessaryIsInstance] - a tool's own mistake
        raise UsageInvalid(f"no unit {shown(unit)}; known are {', '.join(UNITS)}")
    if direction is not None:
        if direction not in DIRECTIONS:
            raise UsageInvalid(f"no direction {shown(direction)}; known are {', '.join(DIRECTIONS)}")
        return dimension_key(direction, unit)
    keys = [each.key for each in dimensions if each.unit == unit]
    if len(keys) > 1:
        raise UsageAmbiguous(f"{unit} are counted as {' and '.join(keys)}; say which (in report_usage, with direction=)")
    return keys[0] if keys else unit


def text_within(value: object) -> Iterator[str]:
    """Every string value inside plain JSON data; names of members are not values."""
    return (each for each in _values_within(value) if isinstance(each, str))


def _values_within(value: object) -> Iterator[object]:
    """Every value inside plain JSON data that holds no others, however deep."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            waiting += reversed(cast("Mapping[str, object]", each).values())  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownArgumentType]
        elif isinstance(each, list | tuple):
            waiting += reversed(cast("Sequence[object]", each))
        else:
            yield each


def known_usage(plan: Plan, sent: Sent) -> Usage:
    """What is known of a call before it runs."""
    quantities = {rate.key: _sent_quantity(rate.dimension, sent) for rate in plan.rates if rate.is_exact}
    return Usage(quantities, {"input_characters": sent.characters, "body_size": sent.size})


def settled_usage(
    plan: Plan, known: Usage, report: UsageReport, answer: Callable[[], Answered], preset: UsagePreset | None
) -> Usage:
    """What a call used that has succeeded. A dimension of which no source yields a number is left out.

    `answer` measures the answer, and is asked only where the price depends on it.
    """
    reported = report.quantities()
    if plan.fixed_micros is not None:
        return Usage({**known.quantities, **reported})
    answered, quantities = answer(), dict(reported)
    for rate in plan.rates:
        if rate.key not in reported:
            quantity = _found(rate, known, answered, preset)
            if quantity is not None:
                quantities[rate.key] = min(quantity, LARGEST)
    duration = {"duration_seconds": Fraction(answered.took_us, 1_000_000)}
    return Usage(quantities, with_token_facts(quantities, {**known.facts, **duration, **report.observed()}))


def base_quantities(usage: Usage) -> dict[str, int]:
    """The quantities for a receipt, whole numbers under the names of their base units: `input.tokens`, `milliseconds`."""
    out: dict[str, int] = {}
    for key, quantity in usage.quantities.items():
        direction, dot, unit = key.rpartition(".")
        name = f"{direction}{dot}{UNITS[unit].base_name}"
        out[f"{name}.{unit}" if name in out else name] = quantity
    return out


def with_token_facts(quantities: Mapping[str, int], facts: Facts) -> Facts:
    """The facts with those that follow from the input tokens, where no better is known."""
    tokens = quantities.get("input.tokens")
    return facts if tokens is None else {"input_tokens": tokens, "context_length": tokens, **facts}


def _sent_quantity(dimension: Dimension, sent: Sent) -> int:
    if dimension.unit == "requests":
        return 1
    return sent.characters if dimension.unit == "characters" else sent.size


def _found(rate: Rate, known: Usage, answered: Answered, preset: UsagePreset | None) -> int | None:
    dimension, meter = rate.dimension, rate.dimension.meter
    if dimension.unit == "requests":
        return 1
    if meter is not None:
        value = at_pointer(answered.structured, meter.path) if meter.source == "result" else answered.meta.get(meter.key)
        if (found := _quantity(dimension.unit, value)) is not None:
            return found
    if dimension.measure == "reported":
        return None
    if dimension.unit == "tokens":
        stated = at_pointer(answered.structured, PRESETS[preset][dimension.direction]) if preset is not None else None
        found = _quantity("tokens", stated)
        return _discovered_tokens(dimension.direction, answered.structured) if found is None else found
    return _measured(dimension, known, answered)


def _measured(dimension: Dimension, known: Usage, answered: Answered) -> int | None:
    came_back = dimension.direction == "output"
    if dimension.unit == "invocations":
        return 1
    if dimension.unit in TIMES:
        return ceil(answered.took_us / 1000) if dimension.direction == "usage" else None
    if dimension.unit == "characters":
        return answered.characters if came_back else int(known.facts["input_characters"])
    if dimension.unit in SIZES:
        return answered.size if came_back else int(known.facts["body_size"])
    return None


def _quantity(unit: str, value: object) -> int | None:
    """A number that stands in an answer, in base units; None for what is none."""
    try:
        return to_base(unit, value)
    except UsageInvalid:
        return None


def at_pointer(document: object, pointer: str) -> object:
    """What an RFC 6901 pointer leads to; None where it leads nowhere."""
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, Mapping):
            document = cast("Mapping[str, object]", document).get(name)
        elif isinstance(document, list) and _INDEX.fullmatch(name):
            items = cast("list[object]", document)
            document = items[int(name)] if int(name) < len(items) else None
        else:
            return None
    return document


def _json_size(arguments: Mapping[str, Any]) -> int:
    """Bytes of the arguments as RFC 8785 writes them, which differs from our canonical JSON in the form of fractions."""
    longer = sum(len(float.__repr__(each)) - len(_es6(each)) for each in _values_within(arguments) if isinstance(each, float))
    return len(canonical_json(arguments)) - longer


def _es6(number: float) -> str:
    """A number as ECMAScript writes it, which RFC 8785 prescribes: `1`, `0.00001`, `1e-7`."""
    if number.is_integer() and abs(number) < 1e21:
        return str(int(number))
    mantissa, e, exponent = float.__repr__(number).partition("e-")
    if not e:
        return mantissa
    if int(exponent) > 6:
        return f"{mantissa}e-{int(exponent)}"
    sign, digits = ("-" if number < 0 else ""), mantissa.lstrip("-").replace(".", "")
    return f"{sign}0.{'0' * (int(exponent) - 1)}{digits}"


_USAGE_OBJECTS = ("/usage", "/response/usage", "/message/usage")
_TOKEN_NAMES = {"input": ("prompt_tokens", "input_tokens"), "output": ("completion_tokens", "output_tokens")}


def _discovered_tokens(direction: str, structured: object) -> int | None:
    """Tokens in the usual places of language models' answers; the largest number where several say one."""
    if direction == "usage":
        return None
    found = [
        _quantity("tokens", at_pointer(structured, f"{place}/{name}"))
        for place in _USAGE_OBJECTS
        for name in _TOKEN_NAMES[direction]
    ]
    numbers = [number for number in found if number is not None]
    return max(numbers) if numbers else _google_tokens(direction, structured)


def _google_tokens(direction: str, structured: object) -> int | None:
    def count(name: str) -> int | None:
        return _quantity("tokens", at_pointer(structured, f"/usageMetadata/{name}"))

    prompt = count("promptTokenCount")
    if direction == "input":
        return prompt
    candidates, thoughts, total = count("candidatesTokenCount"), count("thoughtsTokenCount"), count("totalTokenCount")
    said = None if candidates is None and thoughts is None else (candidates or 0) + (thoughts or 0)
    rest = None if total is None else total - (prompt or 0) - (count("toolUsePromptTokenCount") or 0)
    numbers = [number for number in (said, rest) if number is not None and number >= 0]
    return max(numbers, default=None)
