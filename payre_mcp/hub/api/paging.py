"""Lists in pages: from a cursor on, newest first, with bounded work for each request."""

from collections.abc import Callable, Sequence

from payre_mcp.clock import US_PER_S
from payre_mcp.errors import InvalidRequest, NotFound
from payre_mcp.hub.api.facts import ChargesPage
from payre_mcp.ids import parse_id
from payre_mcp.ledger.model import Transfer

_AT_ONCE, _MOST_READ = 200, 2_000
_CLOCKS_DIFFER_US = 60 * US_PER_S
"""Charges of several processes stand in the order of their commits, by clocks that nearly agree."""

Charges = Callable[[int, int], Sequence[Transfer]]
"""(before, limit) -> a consumer's charges."""


def cursor_id(prefix: str, cursor: str | None) -> int:
    """The id that a cursor is, 0 for none. Raises `InvalidRequest`."""
    try:
        return 0 if cursor is None else parse_id(prefix, cursor)
    except NotFound:
        raise InvalidRequest("`cursor` is not the `next_cursor` of a page; nothing was done") from None


def filtered(charges: Charges, page: ChargesPage, server_of: Callable[[Transfer], str]) -> tuple[list[Transfer], int]:
    """The charges of a page, and from where the next one goes on; 0 at the end.

    A consumer's charges are a chain that is walked from the newest on: past those that are not wanted too, up to a bound.
    """
    found: list[Transfer] = []
    before, read, since = cursor_id("chg", page.cursor), 0, page.since or 0
    while read < _MOST_READ:
        rows = charges(before, _AT_ONCE)
        for row in rows:
            if len(found) == page.limit:
                return found, before
            before = row.id
            if row.created_at < since - _CLOCKS_DIFFER_US:
                return found, 0
            in_time = since <= row.created_at and (page.until is None or row.created_at < page.until)
            if in_time and page.tool in (None, row.tool) and page.server in (None, server_of(row)):
                found.append(row)
        read += len(rows)
        if len(rows) < _AT_ONCE:
            return found, 0
    return found, before
