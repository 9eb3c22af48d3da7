"""Whether the hub lives, whether it can charge, and which version it is."""

from importlib.metadata import version

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.connection import Connection
from payre_mcp.errors import HoldNotOpen, HoldUnknown, PayreError, PayreUnavailable
from payre_mcp.gateway.waiting import AsyncWriter
from payre_mcp.hub.api.answers import answer, refusal
from payre_mcp.ledger.model import Extend

VERSION = version("payre-mcp")

_WITHIN_S = 5.0
_FRESH_US = US_PER_S


class Health:
    """What a load balancer asks. Readiness is looked up at most once a second, since anybody may ask for it."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection, self._clock = connection, clock
        self._writer = AsyncWriter(connection.ledger.writer)
        self._looking = anyio.Lock()
        self._until = -1
        self._trouble: PayreError | None = None

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [Route("/healthz", self._alive), Route("/readyz", self._ready), Route("/version", self._version)]

    async def _alive(self, _: Request) -> Response:
        return answer({"status": "ok"})

    async def _version(self, _: Request) -> Response:
        return answer({"name": "payre-mcp", "version": VERSION})

    async def _ready(self, _: Request) -> Response:
        async with self._looking:
            if self._clock.elapsed_us() >= self._until:
                self._trouble = await self._found()
                self._until = self._clock.elapsed_us() + _FRESH_US
        return answer({"status": "ready"}) if self._trouble is None else refusal(self._trouble)

    async def _found(self) -> PayreError | None:
        """What keeps this hub from charging now."""
        try:
            with anyio.fail_after(_WITHIN_S):
                await anyio.to_thread.run_sync(self._connection.ledger.check_schema)
                # A hold that nobody has: the answer comes from the writer, by way of a transaction.
                await self._writer.extend(Extend(0, 0, 0, 0))
        except (HoldUnknown, HoldNotOpen):
            return None
        except TimeoutError:
            return PayreUnavailable("the payment ledger does not answer in time")
        except PayreError as error:
            return PayreUnavailable(error.message)
        return None
