"""Idempotency keys: the first answer of each is kept and given again."""

from dataclasses import dataclass
from hashlib import sha256

from payre_mcp.clock import US_PER_S, Clock
from payre_mcp.processors.fake_stripe.refusals import Refusal

_DAY_S = 24 * 3600
LIFE_S = {"/v1": _DAY_S, "/v2": 30 * _DAY_S}
"""How long a key is remembered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered."""

    status: int
    body: bytes


@dataclass(slots=True)
class Claim:
    """A key in use. Without an answer it is in flight."""

    fingerprint: bytes
    until_us: int
    answer: Answer | None = None


class Replays:
    """The keys of all accounts."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._claims: dict[tuple[str, str], Claim] = {}

    def claim(self, account: str, key: str, path: str, body: bytes) -> Claim:
        """Take a key for a request; one that has an answer already answers again.

        Raises:
            Refusal: The key is in flight, or it named another request.
        """
        now, fingerprint = self._clock.now_us(), sha256(path.encode() + b"\0" + body).digest()
        claim = self._claims.get((account, key))
        if claim is None or claim.until_us <= now:
            claim = self._claims[account, key] = Claim(fingerprint, now + LIFE_S[path[:3]] * US_PER_S)
            return claim
        if claim.fingerprint != fingerprint:
            message = "Keys for idempotent requests can only be used with the same parameters they were first used with."
            raise Refusal(message, kind="idempotency_error", executed=False)
        if claim.answer is None:
            message = "There is currently another in-progress request using this Idempotent Key. Please try again later."
            raise Refusal(message, status=409, kind="idempotency_error", code="idempotency_key_in_use", executed=False)
        return claim

    def forget(self, account: str, key: str) -> None:
        """The request had no answer that is kept: the key is free again."""
        self._claims.pop((account, key), None)
