"""The prices of one server, from code and from files, and whether they fit what the server has."""

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol

from payre_mcp.errors import PriceSpecInvalid, Problem
from payre_mcp.pricing import PriceList, PriceSource, PriceSpec, Target, load_prices
from payre_mcp.pricing.describe import Advert, advertised
from payre_mcp.pricing.entry import Defaults, read_entry
from payre_mcp.pricing.reader import Reader, nearest

logger = logging.getLogger(__name__)

PricingSource = Mapping[str, PriceSource] | str | Path
"""Prices of a whole server: a mapping from names to prices, or the path of a price file."""


class Registry(Protocol):
    """What a server has that can carry a price."""

    def names(self, kind: str) -> Collection[str]:
        """The names of this kind: tools, prompts, or the addresses and templates of resources."""
        ...

    def parameters(self, target: Target) -> Mapping[str, object] | None:
        """The JSON Schema of each argument by name; None where any argument is taken."""
        ...


class Prices:
    """Each target has one price, wherever it was said. Prices may be added while the server runs and are never removed."""

    def __init__(self) -> None:
        self.specs: dict[Target, PriceSpec] = {}
        self.by_hand: dict[Target, PriceSpec] = {}
        """Prices that calls are not charged by: what a program charges by hand stays within them."""
        self.adverts: dict[Target, Advert] = {}
        """What lists say of each price, made once."""
        self.default: Literal["free", "deny"] = "free"
        """What becomes of a target without a price."""
        self._lists: list[PriceList] = []

    @property
    def published(self) -> dict[Target, PriceSpec]:
        """All prices that the ledger must know."""
        return {**self.by_hand, **self.specs}

    def add(self, source: PricingSource, *, by_hand: bool = False) -> None:
        """Take over prices. All problems are reported together, and then nothing is taken over.

        Prices by hand may name what the server does not have.

        Raises:
            PriceSpecInvalid: A price cannot be used, or a target has one already.
        """
        prices = self._from_code(source) if isinstance(source, Mapping) else self._from_file(source)
        for warning in prices.warnings:
            logger.warning(
                "%s%s: %s: %s", f"{prices.source}:" if prices.source else "", warning.place, warning.code, warning.message
            )
        if not by_hand:
            self._lists.append(prices)
        (self.by_hand if by_hand else self.specs).update(prices.prices)
        self.adverts.update((target, advertised(spec, by_hand=by_hand)) for target, spec in prices.prices.items())
        if prices.default == "deny":
            self.default = "deny"

    def check(self, registry: Registry) -> None:
        """Raise `PriceSpecInvalid` for prices of what the server does not have.

        A price that names nothing would leave free what it was meant for.
        """
        names = {kind: registry.names(kind) for kind in {target.kind for target in self.specs}}
        found = [(prices, problem) for prices in self._lists for problem in _misfits(registry, names, prices)]
        sources = {prices.source for prices, _ in found}
        if len(sources) == 1:
            raise PriceSpecInvalid([problem for _, problem in found], source=sources.pop())
        if sources:
            raise PriceSpecInvalid(
                [each._replace(path=f"{prices.source}: {each.path}" if prices.source else each.path) for prices, each in found]
            )

    def _from_code(self, source: Mapping[str, PriceSource]) -> PriceList:
        reader = Reader()
        prices: dict[Target, PriceSpec] = {}
        for name, price in source.items():
            target = Target.named(name)
            if target in self.adverts:
                reader.problem("duplicate_price", name, self._duplicate(target))
            prices[target] = price if isinstance(price, PriceSpec) else read_entry(reader, price, name, Defaults())
        reader.check()
        return PriceList(prices, warnings=tuple(reader.warnings))

    def _from_file(self, path: str | Path) -> PriceList:
        prices = load_prices(path)
        taken = [target for target in prices.prices if target in self.adverts]
        if taken:
            problems = [prices.problem("duplicate_price", target, self._duplicate(target)) for target in taken]
            raise PriceSpecInvalid(problems, source=prices.source)
        return prices

    def _duplicate(self, target: Target) -> str:
        other = next((each for each in self._lists if target in each.prices), None)
        where = f"in {other.source}:{other.problem('', target, '').place}" if other and other.source else "in code"
        return f"the {target.kind} {target.name!r} has a price already, {where}; keep one"


def _misfits(registry: Registry, names: Mapping[str, Collection[str]], prices: PriceList) -> Iterator[Problem]:
    """What is wrong with a list of prices, given what the server has."""
    for target, spec in prices.prices.items():
        known = names[target.kind]
        if target.name not in known:
            message = f"no {target.kind} {target.name!r}; a price that names nothing would charge nothing"
            yield prices.problem("unknown_target", target, f"{message}{nearest(target.name, known) if known else ''}")
        elif spec.variants:
            yield from _unknown_params(registry, prices, target, spec)


def _unknown_params(registry: Registry, prices: PriceList, target: Target, spec: PriceSpec) -> Iterator[Problem]:
    parameters = registry.parameters(target)
    for param in dict.fromkeys(variant.param for variant in spec.variants):
        name = param.partition(".")[0]
        if parameters is not None and name not in parameters:
            message = f"variants go by {param!r}, and {target.name!r} has no argument {name!r}{nearest(name, parameters)}"
            yield prices.problem("variant_param_unknown", target, message)
