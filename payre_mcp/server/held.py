"""What is charged by hand inside a call: held while it runs, and captured or voided with it."""

from contextvars import ContextVar

from payre_mcp.errors import PayreError
from payre_mcp.gateway.base import Authorization, Gateway
from payre_mcp.pricing.usage import ONE_REQUEST
from payre_mcp.server import wire
from payre_mcp.server.settling import Settling


class Held:
    """The holds by hand of one call."""

    __slots__ = ("_settling", "is_over", "open", "refusal")

    def __init__(self, settling: Settling) -> None:
        self._settling = settling
        self.is_over = False
        """A task may outlive the call that started it: what it charges then is charged at once."""
        self.refusal: PayreError | None = None
        """Why the last charge by hand could not be; hosts hide what a tool raises, and its caller should read this."""
        self.open: list[tuple[Gateway, Authorization]] = []

    async def capture(self, out: wire.Result) -> wire.Result:
        """Charge them: the call has succeeded. Its result carries their receipts beside its own."""
        bare, receipts = {name: value for name, value in out.items() if name != "_meta"}, list[str]()
        while self.open:
            charged = await self._settling.capture(*self.open.pop(0), bare, ONE_REQUEST)
            receipts += filter(None, [charged["_meta"].get(wire.RECEIPT)])
        return wire.with_receipts(out, receipts)

    async def void(self) -> None:
        """Give back what was not captured; the call is over."""
        self.is_over = True
        while self.open:
            await self._settling.void(*self.open.pop())


held_with_call: ContextVar[Held | None] = ContextVar("payre_held_with_call", default=None)
"""The holds of the call that this code runs in; None outside of calls, where there is nothing to wait for."""
