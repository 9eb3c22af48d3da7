"""The limits of a consumer's own key, as they stand: what they leave, and lowering them."""

from payre_mcp.clock import Clock, window_end
from payre_mcp.directory import Directory, KeyRecord, LimitWindow, SpendingLimits
from payre_mcp.errors import InvalidRequest
from payre_mcp.gateway.catalogue import is_plain_target
from payre_mcp.gateway.views import LimitsView, LimitView
from payre_mcp.ledger.model import KeyState
from payre_mcp.ledger.spending import Cap, caps_of
from payre_mcp.ledger.store import Journal
from payre_mcp.money import ZERO, Money

MOST_TOOLS = 100
"""Tools of one key with limits of their own, as far as its holder may set them: every hold reads them all."""

_NO_TOOL = ""


class KeyLimits:
    """Limits over one ledger. Methods block."""

    def __init__(self, directory: Directory, journal: Journal, clock: Clock) -> None:
        self._directory, self._journal, self._clock = directory, journal, clock

    def show(self, record: KeyRecord) -> LimitsView:
        """The limits of a key that was just read, with what is used of each in its current window."""
        key, now = KeyState(record.id, 0, 0, record.limits.dump(), record.root_id), self._clock.now_us()
        caps = [(_NO_TOOL, cap) for cap in caps_of(key, _NO_TOOL, now) if cap.window != "tool"]
        caps += [(tool, cap) for tool in sorted(record.limits.tools) for cap in caps_of(key, tool, now) if cap.window == "tool"]
        server = self._directory.server_with_id(record.server_id) if record.server_id else None
        limits = [self._limit(record, tool, cap, now) for tool, cap in caps]
        return LimitsView(record.shown, limits, record.expires_at, server.name if server else "")

    def lower(self, record: KeyRecord, window: LimitWindow, amount: Money, tool: str | None) -> LimitsView:
        """Lower one limit, or set it where there is none.

        Raises:
            Forbidden: It would rise; nothing was changed.
            InvalidRequest: A limit of a tool names none, another one does, or too many tools have one.
        """
        if (window == "tool") != bool(tool):
            raise InvalidRequest("name the tool of a limit per tool, and of no other limit. Nothing was changed")
        if tool and len({*record.limits.tools, tool}) > MOST_TOOLS:
            raise InvalidRequest(f"{MOST_TOOLS} tools have a limit of their own already; lower one of these. Nothing was changed")
        if tool and not is_plain_target(tool):
            raise InvalidRequest("this is no name of a tool: letters, digits and signs without a blank. Nothing was changed")
        wanted = SpendingLimits(
            call=amount if window == "call" else None,
            day=amount if window == "day" else None,
            month=amount if window == "month" else None,
            tools={tool: amount} if tool else {},
        )
        return self.show(record._replace(limits=self._directory.lower_limits(record.id, wanted)))

    def _limit(self, record: KeyRecord, tool: str, cap: Cap, now: int) -> LimitView:
        if cap.counter is None:
            return LimitView(cap.window, tool, Money(cap.limit_micros), ZERO, 0)
        (used,) = self._journal.counters(record.part, record.owner_id, [cap.counter])
        resets_at = window_end("month" if cap.window == "month" else "day", now)
        return LimitView(cap.window, tool, Money(cap.limit_micros), Money(used), resets_at)
