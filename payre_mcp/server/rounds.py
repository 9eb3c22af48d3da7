"""Calls of several rounds: what a call leaves in the request state that its client carries from one round to the next.

The SDK seals the state (encrypted, bound to method, target and arguments, for ten minutes): a client can send it again,
and neither read nor alter it. So a state is a claim to a hold, and never the proof of a payment. Every state that leaves
a metered server is wrapped, a free tool's too: what a tool put into its own is never taken for ours.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, cast

from mcp.server.context import ServerMiddleware, ServerRequestContext
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from pydantic import ConfigDict, NonNegativeInt, StringConstraints, TypeAdapter

from payre_mcp.gateway.base import Suspended
from payre_mcp.receipts import sha256_hex
from payre_mcp.server.wire import Result

QUESTION = "payre_top_up"
"""The name of our question among a result's input requests."""

_MARK = "dev.payre/round"
_STATE, _RESPONSES = "requestState", "inputResponses"

_Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(/[1-9][0-9]*)?$", max_length=200)]
_Quantities = dict[str, _Quantity]


@dataclass(frozen=True, slots=True)
class Round:
    """What the earlier rounds of a call left; empty in the first one."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    payer: str = ""
    """Whose call it is, as a digest of the key."""
    hold: Suspended | None = None
    asked: bool = False
    """The caller was asked to add money; a call asks once."""
    answer: str = ""
    """What the caller said to that: `accept`, `decline` or `cancel`; accepting to open a page is not paying."""
    usage: tuple[_Quantities, _Quantities] = ({}, {})
    """What its tool reported, as `UsageReport.saved` has it."""
    took_us: NonNegativeInt = 0

    def check_payer(self, api_key: str | None) -> None:
        """Refuse a state that another caller was given, as the SDK refuses one of another request. Raises `MCPError`."""
        if self.payer and self.payer != payer_of(api_key):
            data = {"reason": "invalid_request_state"}
            raise MCPError(code=INVALID_PARAMS, message="Invalid or expired requestState", data=data)


@dataclass(frozen=True, slots=True)
class Left:
    """A request state on its way out: what is ours, the tool's own, and answers that the tool has not seen yet."""

    round: Round
    inner: Any
    responses: Mapping[str, Any] = field(default_factory=dict[str, Any])


_ROUND = TypeAdapter(Round)
_FIRST = Round()


def seal_states(middleware: list[ServerMiddleware[Any]], server_name: str) -> None:
    """Have the SDK seal request states, where a server was built without that: a client could write them itself."""
    if not any(isinstance(each, RequestStateBoundary) for each in middleware):
        middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=server_name))


def payer_of(api_key: str | None) -> str:
    """A digest that tells keys apart and gives none away."""
    return sha256_hex((api_key or "").encode("utf-8", "surrogatepass"))[:16]


def wrapped(out: Result) -> Result:
    """A question with its state as the SDK shall seal it. A tool that keeps none and is free gets none."""
    state = out.get(_STATE)
    if state is None:
        return out
    left = state if isinstance(state, Left) else Left(_FIRST, state)
    return {**out, _STATE: json.dumps({_MARK: asdict(left.round), "inner": left.inner, "responses": dict(left.responses)})}


def opened(ctx: ServerRequestContext[Any, Any]) -> tuple[Round, ServerRequestContext[Any, Any]]:
    """What earlier rounds left, and the request as its handler shall see it: with its own state and its own answers."""
    params = ctx.params or {}
    given = params.get(_RESPONSES)
    if _STATE not in params and given is None:
        return _FIRST, ctx
    left = _read(params.get(_STATE))
    if given is not None and not isinstance(given, Mapping):
        return left.round, _with(ctx, left.inner, given)  # the SDK says what is wrong with it
    responses = {**left.responses, **cast("Mapping[str, Any]", given or {})}
    asked: Any = responses.pop(QUESTION, None)
    answer = str(cast("Mapping[str, Any]", asked).get("action", "")) if isinstance(asked, Mapping) else ""
    return replace(left.round, answer=answer), _with(ctx, left.inner, responses or None)


def _with(ctx: ServerRequestContext[Any, Any], state: Any, responses: object) -> ServerRequestContext[Any, Any]:
    own = {_STATE: state, _RESPONSES: responses}
    rest = {name: value for name, value in (ctx.params or {}).items() if name not in own}
    return replace(ctx, params={**rest, **{name: value for name, value in own.items() if value is not None}})


def _read(state: object) -> Left:
    """A state as it was wrapped; one that was not is the tool's own, from before there was a `Payre`."""
    if isinstance(state, str) and _MARK in state:
        try:
            outer = json.loads(state)
            return Left(_ROUND.validate_python(outer[_MARK]), outer["inner"], dict(outer["responses"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
    return Left(_FIRST, state)
