"""Calls of several rounds: what a call leaves in the request state that its client carries from one round to the next.

The SDK seals the state (encrypted, bound to method, target and arguments, for ten minutes): a client can send it again,
and neither read nor alter it. So a state is a claim to a hold, and never the proof of a payment.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from mcp.server.context import ServerMiddleware, ServerRequestContext
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from payre_mcp.gateway.base import Suspended
from payre_mcp.pricing.usage import SavedUsage
from payre_mcp.receipts import sha256_hex

QUESTION = "payre_top_up"
"""The name of our question among a result's input requests."""

_MARK = "dev.payre/round"
NOTHING_USED: SavedUsage = ({}, {})


@dataclass(frozen=True, slots=True)
class Round:
    """What the earlier rounds of a call left; empty in the first one."""

    payer: str = ""
    """Whose call it is, as a digest of the key."""
    hold: Suspended | None = None
    asked: bool = False
    """The caller was asked to add money; a call asks once."""
    answer: str = ""
    """What the caller said to that: `accept`, `decline` or `cancel`; accepting to open a page is not paying."""
    usage: SavedUsage = NOTHING_USED
    took_us: int = 0

    def sealed(self, inner: object, responses: Mapping[str, Any] | None = None) -> str:
        """The state for the next round. `inner` is the tool's own state, `responses` what it has not seen yet."""
        left = {"payer": self.payer, "hold": self.hold, "asked": self.asked, "usage": self.usage, "took_us": self.took_us}
        return json.dumps({_MARK: left, "inner": inner, "responses": responses or {}})

    def check_payer(self, api_key: str | None) -> None:
        """Refuse a state that another caller was given, as the SDK refuses one of another request. Raises `MCPError`."""
        if self.payer and self.payer != payer_of(api_key):
            data = {"reason": "invalid_request_state"}
            raise MCPError(code=INVALID_PARAMS, message="Invalid or expired requestState", data=data)


def seal_states(middleware: list[ServerMiddleware[Any]], server_name: str) -> None:
    """Have the SDK seal request states, where a server was built without that: a client could write them itself."""
    if not any(isinstance(each, RequestStateBoundary) for each in middleware):
        middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=server_name))


def payer_of(api_key: str | None) -> str:
    """A digest that tells keys apart and gives none away."""
    return sha256_hex((api_key or "").encode())[:16]


def opened(ctx: ServerRequestContext[Any, Any]) -> tuple[Round, ServerRequestContext[Any, Any]]:
    """What earlier rounds left, and the request as its handler shall see it: with its own state and its own answers."""
    params = ctx.params or {}
    if not isinstance(state := params.get("requestState"), str) or _MARK not in state:
        return Round(), ctx
    try:
        outer = json.loads(state)
        left, inner, kept = outer[_MARK], outer["inner"], outer["responses"]
    except (ValueError, KeyError, TypeError):
        return Round(), ctx  # the handler's own, and none of ours
    responses = {**kept, **cast("Mapping[str, Any]", params.get("inputResponses") or {})}
    asked: Any = responses.pop(QUESTION, None)
    answer = str(asked.get("action", "")) if isinstance(asked, Mapping) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    hold = None if left["hold"] is None else Suspended(*left["hold"])
    round_ = Round(left["payer"], hold, left["asked"], answer, tuple(left["usage"]), left["took_us"])
    own = {"requestState": inner, "inputResponses": responses or None}
    rest = {name: value for name, value in params.items() if name not in own}
    return round_, replace(ctx, params={**rest, **{name: value for name, value in own.items() if value is not None}})
