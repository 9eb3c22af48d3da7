"""How often one key may ask: a minute's worth at once, and then as fast as that comes back. Counted by each process."""

import math
from collections.abc import Mapping

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.directory import KeyRecord
from payre_mcp.errors import RateLimited
from payre_mcp.keys import Role

_MINUTE_US = 60 * US_PER_S
_MOST = 10_000


class Rates:
    """Requests of each key within a minute; a batch is one."""

    def __init__(self, clock: Clock, *, consumer: int, developer: int) -> None:
        self._clock = clock
        self._a_minute: Mapping[Role, int] = {Role.CONSUMER: consumer, Role.DEVELOPER: developer}
        self._left: dict[int, tuple[float, int]] = {}
        """(requests left, when they were counted) by key, the one that asked last at the end."""

    def count(self, record: KeyRecord) -> None:
        """One request of this key. Raises `RateLimited`."""
        most, now = self._a_minute[record.role], self._clock.elapsed_us()
        left, since = self._left.pop(record.id, (float(most), now))
        left = min(float(most), left + (now - since) * most / _MINUTE_US)
        self._left[record.id] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _MOST:
            del self._left[next(iter(self._left))]
        if left < 1:
            raise RateLimited(
                f"this key may make {most} requests a minute; nothing was done. Wait and ask again",
                retry_after_s=math.ceil((1 - left) * 60 / most),
            )
