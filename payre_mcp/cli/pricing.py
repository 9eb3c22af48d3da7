"""`payre pricing`: check a price file, quote a call from it, print its JSON Schema. No ledger is opened."""

import json as jsons
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from payre_mcp.cli.output import columns, emit, note
from payre_mcp.errors import InvalidRequest, NotFound, PriceSpecInvalid, Problem
from payre_mcp.pricing import PriceList, Quote, Target, load_prices
from payre_mcp.pricing.describe import exact_usd, price_card, price_sentence, quote_lines
from payre_mcp.pricing.schema import price_file_schema


def check(*, file: Path, json: bool) -> int:
    """Read a price file as a server would, and say everything that is wrong with it. Answers the exit code."""
    try:
        prices = load_prices(file)
    except PriceSpecInvalid as error:
        document = {"valid": False, "problems": [_problem(each) for each in error.problems], "warnings": [], "prices": []}
        count = len(error.problems)
        emit(document, [error.message, f"{file}: {count} {'problem' if count == 1 else 'problems'}"], as_json=json)
        return 1
    document = {
        "valid": True,
        "problems": [],
        "warnings": [_problem(each) for each in prices.warnings],
        "prices": [{"kind": target.kind, "name": target.name, **price_card(spec)} for target, spec in prices.prices.items()],
    }
    for warning in prices.warnings:
        note(f"{prices.source}:{warning.place}: {warning.code}: {warning.message}")
    emit(document, _listing(file, prices), as_json=json)
    return 0


def quote(
    *,
    file: Path,
    target: tuple[str, str],
    arguments: str | None,
    usage: Sequence[str],
    used_before: Sequence[str],
    json: bool,
) -> None:
    """Price one call by the file. Raises `NotFound` for what has no price in it."""
    prices, (kind, name) = load_prices(file), target
    spec = prices.prices.get(Target(kind, name))
    if spec is None:
        raise NotFound(f"{file} has no price for the {kind} {name!r}: it is {_unpriced(prices)}")
    quoted = spec.quote(_arguments(arguments), _quantities("--usage", usage) or None, _quantities("--used-before", used_before))
    document = {
        "kind": kind,
        "name": name,
        "version": spec.version,
        "variant": quoted.variant,
        "total_usd": quoted.total.usd,
        "total_micros": quoted.total.micros,
        "ceiling_usd": None if quoted.ceiling is None else quoted.ceiling.usd,
        "ceiling_micros": None if quoted.ceiling is None else quoted.ceiling.micros,
        "shortfall_usd": quoted.shortfall.usd,
        "shortfall_micros": quoted.shortfall.micros,
        "missing": list(quoted.missing),
        "lines": [
            {
                "direction": line.direction,
                "unit": line.unit,
                "quantity": str(line.quantity),
                "price_usd": line.price.usd,
                "scale": line.scale,
                "free": line.is_free,
                "cost_usd": exact_usd(line.cost_micros),
                "cost_micros": str(line.cost_micros),
            }
            for line in quoted.lines
        ],
    }
    emit(document, _sentences(quoted, before_the_run=not usage, policy=spec.missing_usage), as_json=json)


def schema() -> None:
    """Print the JSON Schema of a price file."""
    text = jsons.dumps(price_file_schema(), indent=2)
    emit(None, [text], as_json=False)


def _problem(problem: Problem) -> dict[str, Any]:
    return {"code": problem.code, "path": problem.path, "line": problem.line or None, "message": problem.message}


def _listing(file: Path, prices: PriceList) -> list[str]:
    rows = [(target.kind, target.name, price_sentence(spec)) for target, spec in prices.prices.items()]
    count = len(rows)
    return [
        *columns(rows),
        f"{file}: {count} {'price' if count == 1 else 'prices'}, all valid; anything else is {_unpriced(prices)}",
    ]


def _unpriced(prices: PriceList) -> str:
    return "free" if prices.default == "free" else "refused"


def _sentences(quoted: Quote, *, before_the_run: bool, policy: str) -> Iterator[str]:
    yield from quote_lines(quoted)
    yield f"{'At most' if before_the_run else 'Total'}: {quoted.total}"
    if not before_the_run and quoted.ceiling is not None:
        yield f"Held before the run: {quoted.ceiling}"
    if quoted.shortfall:
        yield f"Not charged, as it is above what is held: {quoted.shortfall}"
    if quoted.missing:
        unknown = ", ".join(quoted.missing)
        if before_the_run:
            yield f"Not known before the run: {unknown}. Say it with --usage"
        else:
            yield f"No number for {unknown}: the price's missing_usage is {policy}"


def _arguments(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        arguments: object = jsons.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"--arguments is not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise InvalidRequest('--arguments is a JSON object, such as \'{"model": "pro"}\'')
    return cast("dict[str, Any]", arguments)


def _quantities(option: str, given: Sequence[str]) -> dict[str, str]:
    """`tokens=800` options as a mapping; the quote itself judges names and numbers."""
    quantities: dict[str, str] = {}
    for each in given:
        name, equals, number = each.partition("=")
        if not equals:
            raise InvalidRequest(f"{option} is written as unit=number, such as tokens=800, not {each!r}")
        if name in quantities:
            raise InvalidRequest(f"{option} gives {name!r} twice")
        quantities[name] = number
    return quantities
