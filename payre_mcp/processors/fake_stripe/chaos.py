"""What may go wrong: replies that fail, get lost or come late, and webhooks that come twice, in any order, or never.

Everything is off until a test turns it on. Chance has a seed, so a failure replays.
"""

import random
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, TypeVar

import anyio

FaultKind = Literal["before", "after", "lost", "timeout", "hold"] | int
"""How a request fails.

`before`: 500, nothing was done. `after`: 500, though it was done. `lost`: it was done and the reply never came.
`timeout`: no reply in time, and nothing was done. `hold`: it waits, its idempotency key in use, until `release`.
A number: that status, nothing was done.
"""

_T = TypeVar("_T")


@dataclass(slots=True)
class Fault:
    """A failure that waits for its request."""

    kind: FaultKind
    path: str
    method: str | None
    should_retry: bool | None
    """What the header `Stripe-Should-Retry` says, where it is sent."""
    stored: bool
    """An `after` whose 500 is what the idempotency key keeps, as Stripe says it may be."""
    times: int


class Chaos:
    """The switches of a fake Stripe."""

    def __init__(self, seed: int) -> None:
        self.duplicate: float = 0.0
        """The share of webhooks that are sent twice; True is all of them."""
        self.drop: float = 0.0
        """The share of webhooks that are lost on the way and never sent again."""
        self.reorder: bool = False
        """Webhooks that are due together go out in any order."""
        self.delay: float = 0.0
        """Seconds that pass before a webhook is sent for the first time."""
        self.refunds_pending: bool = False
        """Refunds stay pending until somebody settles them."""
        self.refunds_need_balance: bool = False
        """Refunds above the balance stay pending until it has grown; else Stripe takes what is short from the platform's bank."""
        self._faults: list[Fault] = []
        self._gate: anyio.Event | None = None
        self._chance = random.Random(sha256(b"chaos %d" % seed).digest())  # noqa: S311 - chance that comes again

    def api(
        self, kind: FaultKind, *, times: int = 1, path: str = "/", method: str | None = None,
        should_retry: bool | None = None, stored: bool = False,
    ) -> None:  # fmt: skip
        """The next requests whose path begins so fail in this way."""
        self._faults.append(Fault(kind, path, method, should_retry, stored, times))

    def take(self, method: str, path: str) -> Fault | None:
        """The failure of this request, which is then used up."""
        for fault in self._faults:
            if path.startswith(fault.path) and fault.method in (None, method):
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
                return fault
        return None

    async def held(self) -> None:
        """Wait until requests on hold are let go."""
        self._gate = self._gate or anyio.Event()
        await self._gate.wait()

    def release(self) -> None:
        """Let the requests on hold go on."""
        if self._gate is not None:
            self._gate.set()
            self._gate = None

    def happens(self, share: float) -> bool:
        """Whether something happens that does so in this share of cases."""
        return share > 0 and self._chance.random() < share

    def shuffled(self, things: list[_T]) -> list[_T]:
        """These, in another order if order is not to be relied on."""
        return self._chance.sample(things, len(things)) if self.reorder else things
