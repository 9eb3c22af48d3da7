"""No money in the middle of a call: its caller is asked to add some in a browser, and the same call goes on.

Only a client that declared URL elicitation is asked, once a call, and never for payment data. That a page was opened is
not a payment: the call waits until it can be held, with a bound, and else is refused as it would have been.
"""

import secrets
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from payre_mcp.errors import InsufficientBalance
from payre_mcp.gateway.base import Authorization, CallRequest, Gateway, Replay
from payre_mcp.money import format_usd
from payre_mcp.server.rounds import Round

ANSWER_WITHIN_S = 300.0
"""How long a caller may think about a question that is pushed to them."""

LOOK_EVERY_S = 0.25
_FIRST_WITH_PUSHED_LINKS = "2025-11-25"


def can_ask(ctx: ServerRequestContext[Any, Any], short: InsufficientBalance) -> bool:
    """Whether this caller's client opens links for us, over a channel that can carry the question."""
    known = ctx.session.client_capabilities
    opens_links = known is not None and known.elicitation is not None and known.elicitation.url is not None
    if short.top_up_url is None or not opens_links:
        return False
    pushed = ctx.protocol_version == _FIRST_WITH_PUSHED_LINKS and ctx.session.can_send_request
    return pushed or asks_by_result(ctx)


def asks_by_result(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether questions are results of their own, answered by the next round, and not pushed."""
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def question(short: InsufficientBalance) -> str:
    """What the caller is asked. The link is not in it: the client shows that itself."""
    return (
        f"This call costs up to {format_usd(short.price_micros)} and your Payre balance is too low. Nothing was charged. "
        "Open the page to add money; the call then goes on by itself."
    )


async def funded(
    ctx: ServerRequestContext[Any, Any],
    gateway: Gateway,
    request: CallRequest,
    round_: Round,
    short: InsufficientBalance,
    within_s: float,
) -> Authorization | Replay:
    """Ask where that was not done, wait for the money, and hold it. Raises `InsufficientBalance` when none comes."""
    if asks_by_result(ctx):
        if round_.answer != "accept":
            raise short
        return await _held_when_paid(gateway, request, short, within_s)
    number = secrets.token_hex(8)
    if await _pushed(ctx, short, number) != "accept":
        raise short
    held = await _held_when_paid(gateway, request, short, within_s)
    try:
        await ctx.session.send_elicit_complete(number, related_request_id=ctx.request_id)
    except BaseException:
        if isinstance(held, Authorization):  # nobody else knows of it yet
            with anyio.CancelScope(shield=True):
                await gateway.void(held)
        raise
    return held


async def _pushed(ctx: ServerRequestContext[Any, Any], short: InsufficientBalance, number: str) -> str:
    """The caller's answer to a question that the server sends while the call waits; empty if none comes."""
    assert short.top_up_url is not None
    try:
        with anyio.move_on_after(ANSWER_WITHIN_S):
            asked = ctx.session.elicit_url(question(short), short.top_up_url, number, related_request_id=ctx.request_id)
            return (await asked).action
    except MCPError:
        pass  # the client declared it and cannot do it: the refusal says the same
    return ""


async def _held_when_paid(
    gateway: Gateway, request: CallRequest, short: InsufficientBalance, within_s: float
) -> Authorization | Replay:
    latest = short
    with anyio.move_on_after(within_s):
        while True:
            try:
                return await gateway.authorize(request)
            except InsufficientBalance as error:
                latest = error
            await anyio.sleep(LOOK_EVERY_S)
    raise latest
