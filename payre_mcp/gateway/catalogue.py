"""The servers that sell on a ledger, for its consumers: names and prices, and not a word that a developer wrote freely."""

import re
from collections.abc import Sequence

from payre_mcp.directory import Directory, Listing, Server
from payre_mcp.gateway.views import ServerView
from payre_mcp.ids import format_id
from payre_mcp.pricing import PriceSpec
from payre_mcp.pricing.describe import price_sentence

_MOST_SERVERS = 20
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_TARGET = re.compile(r"[A-Za-z0-9_.:/{}?&=~%+,#@-]{1,256}")


def sellers(directory: Directory, query: str) -> tuple[Sequence[ServerView], bool]:
    """The first twenty servers with a current price list that a query finds, and whether there are more. Blocks."""
    by_server: dict[int, list[Listing]] = {}
    for listing in directory.catalogue(query, limit=_MOST_SERVERS + 1):
        by_server.setdefault(listing.server.id, []).append(listing)
    found = [
        ServerView(_plain_name(listings[0].server), [(each.target, each.spec) for each in listings])
        for listings in by_server.values()
    ]
    return found[:_MOST_SERVERS], len(found) > _MOST_SERVERS


def is_plain_target(name: str) -> bool:
    """Whether the name of something priced is a name or an address, without a blank."""
    return _TARGET.fullmatch(name) is not None


def plain_price(spec: PriceSpec) -> str:
    """A price in a sentence, without words of its developer's that are more than names."""
    words = [word for variant in spec.variants for word in (variant.param, variant.value)]
    sets = (spec.dimensions, *(variant.dimensions for variant in spec.variants))
    words += [tier.condition.field for each in sets for dimension in each for tier in dimension.tiers if tier.condition]
    if all(map(_WORD.fullmatch, words)):
        return price_sentence(spec)
    most = "" if spec.most is None else f"; at most {spec.most} per call"
    return f"Costs what its arguments choose{most}. quote_price says it."


def _plain_name(server: Server) -> str:
    """A server's name; its id where the name could be a sentence that a model obeys."""
    return server.name if _WORD.fullmatch(server.name) else format_id("srv", server.id)
