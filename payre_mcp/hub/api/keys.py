"""Keys through the API. No key makes one with more rights: that takes a person."""

from collections.abc import Sequence

import anyio.to_thread

from payre_mcp.clock import US_PER_S
from payre_mcp.directory import KeyRecord
from payre_mcp.errors import Forbidden, InvalidRequest, NotFound
from payre_mcp.hub.api.call import Call, Nothing
from payre_mcp.hub.api.facts import KeyAnswer, KeyRequest, KeysAnswer, NewKeyAnswer, RotateRequest
from payre_mcp.ids import format_id, parse_id
from payre_mcp.keys import Role


async def create_key(call: Call[KeyRequest]) -> NewKeyAnswer:
    """Another secret key of the same developer, that ends no later than the one that asks. A consumer's key makes none: 403."""
    _require_developer(call)
    return await anyio.to_thread.run_sync(_created, call)


async def rotate_key(call: Call[RotateRequest]) -> NewKeyAnswer:
    """A new secret key in place of one of the same developer, which goes on for `overlap_s`. A consumer's key: 403."""
    _require_developer(call)
    return await anyio.to_thread.run_sync(_rotated, call)


async def list_keys(call: Call[Nothing]) -> KeysAnswer:
    """The keys of whoever asks, without their secrets. A key that is bound to one server sees itself alone."""
    now = call.desk.connection.ledger.clock.now_us()
    keys = await anyio.to_thread.run_sync(_own, call)
    return KeysAnswer(keys=[KeyAnswer.of(key, now) for key in keys])


async def revoke_key(call: Call[Nothing]) -> KeyAnswer:
    """Refuse a key of whoever asks from now on; it may be the very one that asks."""
    return await anyio.to_thread.run_sync(_revoked, call)


def _require_developer(call: Call[KeyRequest] | Call[RotateRequest]) -> None:
    if call.caller.role != Role.DEVELOPER:
        raise Forbidden("a consumer's key makes no keys; a person does, where the ledger is kept. Nothing was done")


def _own(call: Call[Nothing] | Call[RotateRequest]) -> Sequence[KeyRecord]:
    """The keys that the one who asks may see and end: a server's operator, who holds a bound key, only that one."""
    keys = call.desk.connection.ledger.directory.keys_of(call.caller.role, call.caller.owner_id)
    return [key for key in keys if not call.caller.server_id or key.id == call.caller.id]


def _meant(call: Call[Nothing] | Call[RotateRequest]) -> KeyRecord:
    number = parse_id("key", call.path["key"])
    found = next((key for key in _own(call) if key.id == number), None)
    if found is None:
        raise NotFound("no such key of yours; nothing was done")
    return found


def _created(call: Call[KeyRequest]) -> NewKeyAnswer:
    ledger, asked, until = call.desk.connection.ledger, call.asked, call.caller.expires_at
    if 0 < asked.expires_at <= ledger.clock.now_us():
        raise InvalidRequest("`expires_at` is over already; it is in microseconds since 1970. Nothing was done")
    expires_at = min(asked.expires_at or until, until or asked.expires_at)
    key = ledger.directory.create_key(Role.DEVELOPER, call.caller.owner_id, label=asked.label, expires_at=expires_at)
    return _new(call, key.text, key.digest)


def _rotated(call: Call[RotateRequest]) -> NewKeyAnswer:
    old, until = _meant(call), call.caller.expires_at
    if until and not 0 < old.expires_at <= until:
        raise Forbidden("a key that ends cannot replace one that lives longer; nothing was done")
    key = call.desk.connection.ledger.directory.rotate_key(old.id, overlap_us=call.asked.overlap_s * US_PER_S)
    return _new(call, key.text, key.digest)


def _new(call: Call[KeyRequest] | Call[RotateRequest], text: str, digest: bytes) -> NewKeyAnswer:
    record = call.desk.connection.ledger.directory.find_key(digest)
    assert record is not None
    return NewKeyAnswer(secret_key=text, key_id=format_id("key", record.id), label=record.label, expires_at=record.expires_at)


def _revoked(call: Call[Nothing]) -> KeyAnswer:
    ledger, key = call.desk.connection.ledger, _meant(call)
    ledger.directory.revoke_key(key.id)
    now = ledger.clock.now_us()
    return KeyAnswer.of(key._replace(revoked_at=key.revoked_at or now), now)
