"""What a developer asks of the hub beside acting: prices, charges, earnings."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import anyio.to_thread

from payre_mcp.clock import window_start
from payre_mcp.errors import InvalidRequest, PriceSpecInvalid, Problem
from payre_mcp.gateway.schemas import Kind, PriceListAnswer, PriceListRequest, PriceSent, PublishedPrice
from payre_mcp.gateway.statement import origin_of
from payre_mcp.hub.api.call import Call, Nothing
from payre_mcp.hub.api.facts import (
    ChargesAnswer,
    ChargesPage,
    DeveloperCharge,
    EarningsAnswer,
    TakingsFacts,
    ToolAnswer,
    ToolListed,
    ToolRequest,
    ToolsAnswer,
    ToolsPage,
    ToolTakings,
)
from payre_mcp.hub.api.paging import cursor_id
from payre_mcp.hub.api.reading import read_server
from payre_mcp.ids import first_id_at, format_id
from payre_mcp.ledger.model import Takings
from payre_mcp.money import Money
from payre_mcp.pricing import PriceSpec, Target, load_price
from payre_mcp.pricing.describe import price_sentence

_NEWEST = 2**63 - 1
_KINDS: Mapping[str, Kind] = {"t": "tool", "r": "resource", "p": "prompt"}


async def publish_prices(call: Call[PriceListRequest]) -> PriceListAnswer:
    """Make this the current price list of a server, from now on. What was published once can still be captured."""
    server = read_server(call.path["server"])
    prices = await anyio.to_thread.run_sync(_specs, call.asked.prices)  # a long list takes a while
    await call.gateway.publish(server, prices)
    return PriceListAnswer(
        server=server,
        prices=[
            PublishedPrice(kind=cast("Kind", kind), name=name, version=spec.version) for (kind, name), spec in prices.items()
        ],
    )


async def publish_tool(call: Call[ToolRequest]) -> ToolAnswer:
    """Publish one price of a server, in place of the one that its target had; the others stay."""
    asked = call.asked
    spec = _specs([PriceSent(kind=asked.kind, name=asked.name, spec=asked.price)])[Target(asked.kind, asked.name)]
    await call.gateway.publish_one(asked.server, Target(asked.kind, asked.name), spec)
    return ToolAnswer(**_tool(asked.server, Target(asked.kind, asked.name), spec))


async def list_tools(call: Call[ToolsPage]) -> ToolsAnswer:
    """The current prices of a developer's servers, each with what it earned so far."""
    return await anyio.to_thread.run_sync(_tools, call)


async def list_charges(call: Call[ChargesPage]) -> ChargesAnswer:
    """A developer's own charges, newest first."""
    return await anyio.to_thread.run_sync(_charges, call)


async def get_earnings(call: Call[Nothing]) -> EarningsAnswer:
    """What a developer earned in all, today, and by what; refunds are taken out of fee and net."""
    return await anyio.to_thread.run_sync(_earnings, call)


def _specs(sent: Sequence[PriceSent]) -> Mapping[Target, PriceSpec]:
    """The prices that were sent. Raises `PriceSpecInvalid` with everything that is wrong with them."""
    if not sent:
        raise InvalidRequest("a price list has at least one price; nothing was published, and the current one stays")
    specs: dict[Target, PriceSpec] = {}
    problems: list[Problem] = []
    for each in sent:
        target = Target(each.kind, each.name)
        if target in specs:
            raise InvalidRequest(f"`prices` names the {each.kind} {each.name!r} twice; nothing was published")
        try:
            specs[target] = load_price(dict(each.spec) if isinstance(each.spec, Mapping) else each.spec)
        except PriceSpecInvalid as error:
            problems += (problem._replace(path=f"{target.label}.{problem.path}") for problem in error.problems)
    if problems:
        raise PriceSpecInvalid(problems)
    return specs


class _Place(NamedTuple):
    """Where a price stands in the list of all of a developer's."""

    server: str
    kind: str
    name: str


def _tools(call: Call[ToolsPage]) -> ToolsAnswer:
    directory, asked = call.desk.connection.ledger.directory, call.asked
    after = _place(asked.cursor)
    servers = [each for each in directory.servers(call.caller.owner_id) if asked.server in (None, each.name)]
    listed = [(_Place(server.name, *each.target), each.spec) for server in servers for each in directory.price_list(server.id)]
    rest = sorted((each for each in listed if after is None or each[0] > after), key=lambda each: each[0])
    page = rest[: asked.limit]
    earned = {
        _Place(server, _KINDS[row.kind], row.tool): row
        for server in {place.server for place, _ in page}
        for row in _takings(call, server, since=0)
    }
    tools = [_listed(place, spec, earned.get(place, _NO_TAKINGS)) for place, spec in page]
    return ToolsAnswer(tools=tools, next_cursor=json.dumps(page[-1][0]) if len(rest) > asked.limit else None)


def _place(cursor: str | None) -> _Place | None:
    if cursor is None:
        return None
    try:
        server, kind, name = json.loads(cursor)
        if all(isinstance(part, str) for part in (server, kind, name)):
            return _Place(server, kind, name)
    except (ValueError, TypeError, RecursionError):
        pass
    raise InvalidRequest("`cursor` is not the `next_cursor` of a page; nothing was done")


def _listed(place: _Place, spec: PriceSpec, row: Takings) -> ToolListed:
    facts = _facts([row])
    charges = facts.pop("charges")
    return ToolListed(**_tool(place.server, Target(place.kind, place.name), spec), total_charges=charges, **facts)


def _tool(server: str, target: Target, spec: PriceSpec) -> dict[str, Any]:
    price = price_sentence(spec)
    return {"server": server, "kind": target.kind, "name": target.name, "version": spec.version, "price": price}


def _charges(call: Call[ChargesPage]) -> ChargesAnswer:
    asked, journal = call.asked, call.desk.connection.ledger.journal
    before = min(
        cursor_id("chg", asked.cursor) or _NEWEST, _NEWEST if asked.until is None else min(first_id_at(asked.until), _NEWEST)
    )
    rows = journal.sales(
        call.caller.owner_id, origin="" if asked.server is None else origin_of(asked.server), tool=asked.tool or "",
        since=min(first_id_at(asked.since or 0), _NEWEST), before=before, limit=asked.limit + 1,
    )  # fmt: skip
    charges = [DeveloperCharge.of(row, call.desk.statements) for row in rows[: asked.limit]]
    return ChargesAnswer(charges=charges, next_cursor=charges[-1].charge_id if len(rows) > asked.limit else None)


def _earnings(call: Call[Nothing]) -> EarningsAnswer:
    ledger = call.desk.connection.ledger
    servers = ledger.directory.servers(call.caller.owner_id)
    today = first_id_at(window_start("day", ledger.clock.now_us()))
    by_tool = [(server.name, row) for server in servers for row in _takings(call, server.name, since=0)]
    now = [row for server in servers for row in _takings(call, server.name, since=today)]
    return EarningsAnswer(
        developer=format_id("dev", call.caller.owner_id),
        total=TakingsFacts(**_facts(row for _, row in by_tool)),
        today=TakingsFacts(**_facts(now)),
        by_tool=[ToolTakings(server=server, kind=_KINDS[row.kind], tool=row.tool, **_facts([row])) for server, row in by_tool],
    )


def _takings(call: Call[ToolsPage] | Call[Nothing], server: str, *, since: int) -> Sequence[Takings]:
    return call.desk.connection.ledger.journal.takings(call.caller.owner_id, origin=origin_of(server), since=since)


_NO_TAKINGS = Takings("t", "", 0, 0, 0, 0, 0)


def _facts(rows: Iterable[Takings]) -> dict[str, Any]:
    """What these took in all."""
    sums = [sum(column) for column in zip(*(row[2:] for row in (_NO_TAKINGS, *rows)), strict=True)]
    charges, gross, fee, refunded, fee_refunded = sums
    kept = fee - fee_refunded
    amounts = {"gross": gross, "refunded": refunded, "fee": kept, "net": gross - refunded - kept}
    facts: dict[str, Any] = {"charges": charges}
    for name, micros in amounts.items():
        facts[f"{name}_micros"], facts[f"{name}_usd"] = micros, Money(micros).usd
    return facts
