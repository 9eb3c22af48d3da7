"""Whose key is this: from the text of a key to its record, the checks that need no transaction, and a cache.

The cache holds digests of keys that exist, never a key. It decides nothing for good: revocation and expiry are read
again in the transaction of every hold.
"""

import hashlib

import anyio.to_thread

from payre_mcp.clock import Clock
from payre_mcp.directory import Directory, KeyRecord
from payre_mcp.errors import Forbidden, InvalidApiKey, Unauthorized
from payre_mcp.keys import ApiKey, Role, parse_key

_ROLE_NAMES = {
    Role.CONSUMER: "a consumer's key (pyr_ck_)",
    Role.DEVELOPER: "a developer's secret key (pyr_sk_)",
    Role.PUBLIC: "a public key",
}
_NO_DEVELOPER = "this is no developer's secret key (pyr_sk_) of this ledger, or it is revoked or expired; nothing was charged"


class Access:
    """Finds keys in a directory."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory, self._clock = directory, clock
        self._known: dict[bytes, KeyRecord] = {}

    async def consumer(self, text: str, *, server_id: int | None = None) -> KeyRecord:
        """The record of a consumer's key, which may be used at this server.

        Raises:
            InvalidApiKey: Not a key, or unknown.
            Forbidden: Another role or mode, or bound to another server.
        """
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        record = self._known.get(digest)
        if record is None:
            record = await self._find(text, digest)
        if server_id is not None and record.server_id not in (0, server_id):
            raise Forbidden(
                "this Payre key is bound to another server; use the key that was made for this one. Nothing was charged"
            )
        return record

    async def live_consumer(self, text: str, *, server_id: int | None = None) -> KeyRecord:
        """As `consumer`, for reading: the record as it stands now; checks revocation and expiry too, where no hold will."""
        await self.consumer(text, server_id=server_id)
        current = await anyio.to_thread.run_sync(self._directory.find_key, parse_key(text).digest)
        if current is None or self._is_dead(current):
            raise InvalidApiKey("this Payre key is revoked or expired")
        return current

    async def developer(self, text: str) -> KeyRecord:
        """The record of a developer's secret key, read anew: a revoked one is refused at once.

        Raises:
            Unauthorized: Not a key, unknown, revoked or expired.
            Forbidden: Another role or mode.
        """
        try:
            key = parse_key(text)
        except InvalidApiKey:
            raise Unauthorized(_NO_DEVELOPER) from None
        if key.role != Role.DEVELOPER:
            raise Forbidden(f"this is {_ROLE_NAMES[key.role]}; this takes {_ROLE_NAMES[Role.DEVELOPER]}. Nothing was charged")
        self._check_mode(key)
        record = await anyio.to_thread.run_sync(self._directory.find_key, key.digest)
        if record is None or self._is_dead(record):
            raise Unauthorized(_NO_DEVELOPER)
        return record

    def _check_mode(self, key: ApiKey) -> None:
        if key.mode != self._directory.mode:
            raise Forbidden(f"this is a {key.mode} key and the ledger holds {self._directory.mode} money. Nothing was charged")

    def _is_dead(self, record: KeyRecord) -> bool:
        return bool(record.revoked_at) or 0 < record.expires_at <= self._clock.now_us()

    async def _find(self, text: str, digest: bytes) -> KeyRecord:
        key = parse_key(text)
        if key.role != Role.CONSUMER:
            raise Forbidden(
                f"this is {_ROLE_NAMES[key.role]}; a call is paid with {_ROLE_NAMES[Role.CONSUMER]}. Nothing was charged"
            )
        self._check_mode(key)
        record = await anyio.to_thread.run_sync(self._directory.find_key, digest)
        if record is None:
            raise InvalidApiKey("this Payre key is unknown here: it was made by another ledger. Nothing was charged")
        self._known[digest] = record
        return record
