"""What is charged by hand inside a call: held while it runs, and captured or voided with it."""

from contextvars import ContextVar

from payre_mcp.gateway.base import Authorization, Gateway
from payre_mcp.pricing import Usage
from payre_mcp.server import wire
from payre_mcp.server.settling import Settling


class Held:
    """The holds by hand of one call."""

    __slots__ = ("_settling", "open")

    def __init__(self, settling: Settling) -> None:
        self._settling = settling
        self.open: list[tuple[Gateway, Authorization]] = []

    async def capture(self, out: wire.Result) -> wire.Result:
        """Charge them: the call has succeeded. Its result carries the first receipt, unless it has one already."""
        while self.open:
            charged = await self._settling.capture(*self.open.pop(0), out, Usage({"requests": 1}))
            out = out if wire.is_settled(out) else charged
        return out

    async def void(self) -> None:
        """Give them back."""
        while self.open:
            await self._settling.void(*self.open.pop())


held_with_call: ContextVar[Held | None] = ContextVar("payre_held_with_call", default=None)
"""The holds of the call that this code runs in; None outside of calls, where there is nothing to wait for."""
