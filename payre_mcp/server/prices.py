"""The prices of one server, from code and from files, and whether they fit what the server has."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from payre_mcp.errors import PriceSpecInvalid, Problem
from payre_mcp.pricing import PriceList, PriceSource, PriceSpec, Target, load_prices
from payre_mcp.pricing.entry import Defaults, read_entry
from payre_mcp.pricing.reader import Reader, nearest

logger = logging.getLogger(__name__)

PricingSource = Mapping[str, PriceSource] | str | Path
"""Prices of a whole server: a mapping from names to prices, or the path of a price file."""

_PREFIXES = {"resource:": "resource", "prompt:": "prompt"}


class Registry(Protocol):
    """What a server has that can carry a price."""

    def names(self, kind: str) -> list[str]:
        """The names of this kind: tools, prompts, or the addresses and templates of resources."""
        ...

    def parameters(self, target: Target) -> Mapping[str, object] | None:
        """The JSON Schema of each argument by name; None where any argument is taken."""
        ...


class Prices:
    """Each target has one price, wherever it was said. Prices may be added while the server runs and are never removed."""

    def __init__(self) -> None:
        self.specs: dict[Target, PriceSpec] = {}
        self.default: Literal["free", "deny"] = "free"
        """What becomes of a target without a price."""
        self._lists: list[PriceList] = []

    def add(self, source: PricingSource) -> None:
        """Take over prices. All problems are reported together, and then nothing is taken over.

        Raises:
            PriceSpecInvalid: A price cannot be used, or a target has one already.
        """
        prices = self._from_code(source) if isinstance(source, Mapping) else self._from_file(source)
        for warning in prices.warnings:
            logger.warning(
                "%s%s: %s: %s", f"{prices.source}:" if prices.source else "", warning.place, warning.code, warning.message
            )
        self._lists.append(prices)
        self.specs.update(prices.prices)
        if prices.default == "deny":
            self.default = "deny"

    def check(self, registry: Registry) -> None:
        """Raise `PriceSpecInvalid` for prices of what the server does not have.

        A price that names nothing would leave free what it was meant for.
        """
        for prices in self._lists:
            found = (
                _unknown_target(registry, prices, target) or _unknown_param(registry, prices, target, spec)
                for target, spec in prices.prices.items()
            )
            if problems := [problem for problem in found if problem]:
                raise PriceSpecInvalid(problems, source=prices.source)

    def _from_code(self, source: Mapping[str, PriceSource]) -> PriceList:
        reader = Reader()
        prices: dict[Target, PriceSpec] = {}
        for name, price in source.items():
            prefix = next((each for each in _PREFIXES if name.startswith(each)), "")
            target = Target(_PREFIXES.get(prefix, "tool"), name.removeprefix(prefix))
            if target in self.specs:
                reader.problem("duplicate_price", name, self._duplicate(target))
            prices[target] = price if isinstance(price, PriceSpec) else read_entry(reader, price, name, Defaults())
        reader.check()
        return PriceList(prices, warnings=tuple(reader.warnings))

    def _from_file(self, path: str | Path) -> PriceList:
        prices = load_prices(path)
        taken = [target for target in prices.prices if target in self.specs]
        if taken:
            problems = [prices.problem("duplicate_price", target, self._duplicate(target)) for target in taken]
            raise PriceSpecInvalid(problems, source=prices.source)
        return prices

    def _duplicate(self, target: Target) -> str:
        other = next(each for each in self._lists if target in each.prices)
        where = f"in {other.source}:{other.problem('', target, '').place}" if other.source else "in code"
        return f"the {target.kind} {target.name!r} has a price already, {where}; keep one"


def _unknown_target(registry: Registry, prices: PriceList, target: Target) -> Problem | None:
    names = registry.names(target.kind)
    if target.name in names:
        return None
    advice = nearest(target.name, names) if names else ""
    message = f"no {target.kind} {target.name!r}; a price that names nothing would charge nothing{advice}"
    return prices.problem("unknown_target", target, message)


def _unknown_param(registry: Registry, prices: PriceList, target: Target, spec: PriceSpec) -> Problem | None:
    parameters = registry.parameters(target) if spec.variants else None
    if parameters is None:
        return None
    for variant in spec.variants:
        name = variant.param.partition(".")[0]
        if name not in parameters:
            message = f"variants go by {variant.param!r}, and {target.name!r} has no argument {name!r}{nearest(name, parameters)}"
            return prices.problem("variant_param_unknown", target, message)
    return None
