"""Results that were charged and whose callers had gone: the next same call gets its result free."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.gateway.base import CallRequest
from payre_mcp.pricing import Target
from payre_mcp.server.wire import Result

KEPT_US = 300 * US_PER_S
MOST_RESULTS, LONGEST_RESULT = 256, 256 * 1024

Params = Mapping[str, Any] | None
_Call = tuple[bytes, Target, str]


class Undelivered:
    """Kept in memory, for five minutes, for callers without an idempotency key; with one, the ledger keeps the result."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[_Call, tuple[Result, int]] = {}

    def keep(self, request: CallRequest, params: Params, out: Result) -> None:
        """Keep a result for its caller, unless it is too long. `params` tell one round of a call from another."""
        if len(json.dumps(out)) > LONGEST_RESULT:
            return
        self._kept[_call(request, params)] = (out, self._clock.elapsed_us() + KEPT_US)
        if len(self._kept) > MOST_RESULTS:
            del self._kept[next(iter(self._kept))]

    def has(self, request: CallRequest, params: Params) -> bool:
        """Whether there is a result of the same call."""
        return bool(self._kept) and request.idempotency_key is None and _call(request, params) in self._kept

    def take(self, request: CallRequest, params: Params) -> Result | None:
        """The result of the same call by the same key, once."""
        out, until = self._kept.pop(_call(request, params), (None, 0))
        return out if self._clock.elapsed_us() < until else None


def _call(request: CallRequest, params: Params) -> _Call:
    key = hashlib.sha256((request.api_key or "").encode("utf-8", "surrogatepass")).digest()
    round_ = json.dumps([(params or {}).get(name) for name in ("requestState", "inputResponses")], sort_keys=True, default=str)
    return key, request.target, f"{request.args_sha256} {round_}"
