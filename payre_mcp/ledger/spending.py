"""What a key may still spend: its limits, and the counters that they are held against.

A hold reserves its amount in the windows of its moment, a charge counts there, and the end of a hold gives the rest back;
so holds and charges together never pass a limit. One thing may: the late charge of a call that had run before its hold
expired, when others have used the limit since. A refund gives nothing back. Only what is limited is counted, from when
the limit was set, and for all keys of a line together: a rotated key does not start anew.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from payre_mcp.clock import US_PER_S, window_end, window_start
from payre_mcp.directory import SpendingLimits
from payre_mcp.errors import SpendLimit
from payre_mcp.ledger.model import Charge, Command, Hold, KeyState
from payre_mcp.ledger.state import CounterKey, State
from payre_mcp.money import Money

Counter = tuple[str, int]
"""(name, start of the window)."""


class Cap(NamedTuple):
    """One limit, as it applies to one call."""

    window: Literal["call", "day", "month", "tool"]
    limit_micros: int
    counter: Counter | None
    """None where nothing is counted: a limit per call."""


def spending_needs(batch: Sequence[Command], state: State, now: int) -> list[CounterKey]:
    """The counters that the limits of this batch's keys are held against; none where no key is limited."""
    if not any(key.limits for key in state.api_keys.values()):
        return []
    return [
        (command.consumer_id, *counter)
        for command in batch
        if isinstance(command, (Hold, Charge)) and (key := state.api_keys.get(command.api_key_id))
        for counter in counters_of(caps_of(key, command.tool, now))
    ]


def caps_of(key: KeyState, tool: str, now: int) -> list[Cap]:
    """The limits of a key for a call of this tool; the one that lasts longest first, so that it is the one to be told."""
    limits = _limits(key.limits)
    root, day = key.root_id, window_start("day", now)
    caps = [
        _cap("call", limits.call, None),
        _cap("month", limits.month, (_name(root, "month"), window_start("month", now))),
        _cap("day", limits.day, (_name(root, "day"), day)),
        _cap("tool", limits.tools.get(tool), (_name(root, "tool", tool), day)),
    ]
    return [cap for cap in caps if cap is not None]


def counters_of(caps: Sequence[Cap]) -> list[Counter]:
    """The counters that a call under these limits moves."""
    return [cap.counter for cap in caps if cap.counter is not None]


def over_limit(
    caps: Sequence[Cap], amount: int, consumer_id: int, counters: Mapping[CounterKey, tuple[int, int]], now: int
) -> SpendLimit | None:
    """Why a call of this amount may not be held, if a limit forbids it. What is free is never forbidden."""
    for window, limit, counter in caps:
        used = 0 if counter is None else sum(counters.get((consumer_id, *counter), (0, 0)))
        left = max(0, limit - used)
        if amount > left:
            anew = None if window == "call" else window_end("month" if window == "month" else "day", now) // US_PER_S
            return SpendLimit(price_micros=amount, limit_micros=limit, left_micros=left, window=window, resets_at=anew)
    return None


def _cap(window: Literal["call", "day", "month", "tool"], limit: Money | None, counter: Counter | None) -> Cap | None:
    return None if limit is None else Cap(window, limit.micros, counter)


def _name(*words: object) -> str:
    return json.dumps(["spent", *words], separators=(",", ":"))


@lru_cache(maxsize=1024)
def _limits(text: str) -> SpendingLimits:
    return SpendingLimits.load(text)
