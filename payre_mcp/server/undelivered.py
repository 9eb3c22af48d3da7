"""Results that were charged and whose callers had gone: the next same call gets its result free."""

import hashlib
import json

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.gateway.base import CallRequest
from payre_mcp.pricing import Target
from payre_mcp.server.wire import Result

KEPT_US = 300 * US_PER_S
MOST_RESULTS, LONGEST_RESULT = 256, 256 * 1024

_Call = tuple[bytes, Target, str]


class Undelivered:
    """Kept in memory, for five minutes, for callers without an idempotency key; with one, the ledger keeps the result."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[_Call, tuple[Result, int]] = {}

    def keep(self, request: CallRequest, out: Result) -> None:
        """Keep a result for its caller, unless it is too long."""
        if len(json.dumps(out)) > LONGEST_RESULT:
            return
        self._kept[_call(request)] = (out, self._clock.elapsed_us() + KEPT_US)
        if len(self._kept) > MOST_RESULTS:
            del self._kept[next(iter(self._kept))]

    def take(self, request: CallRequest) -> Result | None:
        """The result of the same call by the same key, once."""
        if not self._kept or request.idempotency_key is not None:
            return None
        out, until = self._kept.pop(_call(request), (None, 0))
        return out if self._clock.elapsed_us() < until else None


def _call(request: CallRequest) -> _Call:
    key = hashlib.sha256((request.api_key or "").encode("utf-8", "surrogatepass")).digest()
    return key, request.target, request.args_sha256
