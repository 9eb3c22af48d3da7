"""Everything that one fake Stripe knows: its objects, the ids it gives, its time and what is due later. No globals."""

import heapq
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.processors.fake_stripe.refusals import missing
from payre_mcp.processors.fake_stripe.wire import Json

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTHS = {"cs_test_": 58, "acct_": 16, "req_": 14, "whsec_": 32, "sk_test_": 48}


class Cause(NamedTuple):
    """The request that an event came of."""

    request_id: str
    idempotency_key: str | None


class Store:
    """The memory of a fake Stripe. An object is the dictionary that goes over the wire."""

    def __init__(self, clock: Clock, *, url: str, seed: int, available_after_s: int) -> None:
        self.clock, self.url, self.seed, self.available_after_s = clock, url.rstrip("/"), seed, available_after_s
        self.cause: Cause | None = None
        self.tax_bps = 0
        """What automatic tax adds, in hundredths of a percent."""
        self.more: dict[str, Json] = {}
        """By object, the fields that only a reply that expands them shows."""
        self._objects: dict[str, Json] = {}
        self._kinds: dict[str, list[Json]] = {}
        self._random = random.Random(sha256(b"ids %d" % seed).digest())  # noqa: S311 - ids that come again, not secrets
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._planned = 0

    def now(self) -> int:
        """Seconds since 1970."""
        return self.clock.now_us() // US_PER_S

    def new_id(self, prefix: str) -> str:
        """An id that nothing else has; the same again for the same seed and history."""
        return prefix + "".join(self._random.choices(_ALPHABET, k=_LENGTHS.get(prefix, 24)))

    def add(self, thing: Json) -> Json:
        """Keep a new object, by its kind and id."""
        self._objects[thing["id"]] = thing
        self._kinds.setdefault(thing["object"], []).append(thing)
        return thing

    def drop(self, thing: Json) -> None:
        """Forget an object."""
        del self._objects[thing["id"]]
        self._kinds[thing["object"]].remove(thing)

    def find(self, wanted: str) -> Json | None:
        """An object of any kind."""
        return self._objects.get(wanted)

    def get(self, kind: str, wanted: str, *, param: str = "id") -> Json:
        """An object that must be there; `param` is the parameter that named it."""
        thing = self._objects.get(wanted)
        if thing is None or thing["object"] != kind:
            raise missing(kind, wanted, param=param)
        return thing

    def newest(self, kind: str) -> Sequence[Json]:
        """All objects of a kind, newest first."""
        return self._kinds.get(kind, [])[::-1]

    def plan(self, at_s: int, act: Callable[[], None]) -> None:
        """Do something when the clock is there."""
        self._planned += 1
        heapq.heappush(self._agenda, (at_s, self._planned, act))

    def tick(self) -> None:
        """Do what is due by now."""
        while self._agenda and self._agenda[0][0] <= self.now():
            heapq.heappop(self._agenda)[2]()


def iso(seconds: int) -> str:
    """A time as the second API writes it.

    >>> iso(1_767_225_600)
    '2026-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def merged(metadata: Json, change: Json | str | None) -> Json:
    """Metadata after a change: an empty value takes a name away, an empty change takes all.

    >>> merged({"a": "1", "b": "2"}, {"a": "", "c": "3"})
    {'b': '2', 'c': '3'}
    """
    if isinstance(change, str):
        return {}
    both = {**metadata, **(change or {})}
    return {name: value for name, value in both.items() if value != ""}
