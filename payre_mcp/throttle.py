"""Keys that are refused, counted by where they come from: who goes on guessing is turned away before anything is looked up."""

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.errors import RateLimited

REFUSALS, WITHIN_US = 20, 60 * US_PER_S
_MOST = 10_000


class Throttle:
    """Twenty refused keys a minute from one address. A key that has worked here is never turned away."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused: dict[str, tuple[int, int]] = {}
        """(refusals, start of their minute) by address."""
        self._good: dict[int, None] = {}

    def check(self, peer: str | None, key: str | None) -> None:
        """Raise `RateLimited` for an unknown key from an address with too many refusals. `peer` is None off the network."""
        many, since = self._refused.get(peer, (0, 0)) if peer is not None else (0, 0)
        if many < REFUSALS or hash(key) in self._good:
            return
        rest_us = since + WITHIN_US - self._clock.elapsed_us()
        if rest_us > 0:
            raise RateLimited(
                f"{many} Payre keys from this address were refused within a minute, so no more are looked at for a while. "
                "Nothing ran and nothing was charged. Correct the key in the client, then try again",
                retry_after_s=-(-rest_us // US_PER_S),
            )
        assert peer is not None
        del self._refused[peer]

    def refused(self, peer: str | None) -> None:
        """A key from this address was refused."""
        if peer is None:
            return
        now = self._clock.elapsed_us()
        many, since = self._refused.pop(peer, (0, now))
        self._refused[peer] = (many + 1, since) if now < since + WITHIN_US else (1, now)
        if len(self._refused) > _MOST:
            del self._refused[next(iter(self._refused))]

    def accepted(self, key: str | None) -> None:
        """This key works."""
        self._good[hash(key)] = None
        if len(self._good) > _MOST:
            del self._good[next(iter(self._good))]
