"""What a call would cost a consumer now: the price with what they used in its window. Moves nothing, and holds nothing."""

from collections.abc import Mapping

import anyio.to_thread

from payre_mcp.clock import Clock
from payre_mcp.directory import KeyRecord
from payre_mcp.ledger.metering import counters_of
from payre_mcp.ledger.store import Journal
from payre_mcp.pricing import Plan, Quote, Target, Usage
from payre_mcp.pricing.quote import quote_call


class Quotes:
    """Quotes over the counters of one ledger."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock

    async def quote(
        self,
        plan: Plan,
        known: Usage,
        usage: Mapping[str, object] | None,
        *,
        server_id: int,
        target: Target,
        record: KeyRecord | None,
    ) -> Quote:
        """The next call's price for this consumer; for nobody in particular, that of somebody's first call."""
        used = await self.used_before(plan, server_id=server_id, target=target, record=record)
        return quote_call(plan, known, usage, used)

    async def used_before(self, plan: Plan, *, server_id: int, target: Target, record: KeyRecord | None) -> list[int]:
        """Where this consumer's counters stand, in the order of the plan's; zero for nobody in particular."""
        counters = counters_of(plan, server_id, target, self._clock.now_us())
        if record is None or not counters:
            return [0] * len(counters)
        return await anyio.to_thread.run_sync(self._journal.counters, record.part, record.owner_id, counters)
