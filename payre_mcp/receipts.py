"""Receipts: signed proof of one charge, as a compact JWS (RFC 7515) with HS256 (RFC 7518) and a `kid`.

The signing keys form a ring: the newest signs, all verify, so a key can be rotated without voiding old receipts.
A receipt is a pure function of its charge, so the ledger stores no signatures and can issue the same one again.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from payre_mcp.errors import ReceiptInvalid
from payre_mcp.money import Money

_CANONICAL = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False)
_LONGEST_TOKEN = 16_384
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a receipt says. Amounts are integer micros, ids are strings, `issued_at` is seconds since 1970 UTC.

    Digests are SHA-256 in hex: of the arguments and the result in canonical JSON, and of the caller's idempotency key.
    """

    charge_id: str
    issuer: str
    consumer: str
    developer: str
    issued_at: int
    mode: str
    server: str
    kind: str
    name: str
    amount_micros: int
    fee_micros: int
    variant: str | None = None
    quantities: Mapping[str, int] = field(default_factory=dict[str, int])
    args_sha256: str | None = None
    result_sha256: str | None = None
    idempotency_key_sha256: str | None = None
    credit_micros: int | None = None
    """How much of the amount was free credit, where any was."""
    currency: str = "USD"
    version: int = 1

    @property
    def amount(self) -> Money:
        """What the consumer paid."""
        return Money(self.amount_micros)

    def claims(self) -> dict[str, Any]:
        """The JWT claims: registered names where RFC 7519 has one, absent where unknown."""
        return {claim: value for claim, name in _CLAIMS if (value := getattr(self, name)) is not None}

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> "Receipt":
        """The receipt that says these claims; the inverse of `claims`."""
        names = dict(_CLAIMS)
        return cls(**{names[claim]: value for claim, value in claims.items()})


_REGISTERED = {"charge_id": "jti", "issuer": "iss", "consumer": "sub", "developer": "aud", "issued_at": "iat", "version": "v"}
_CLAIMS = tuple((_REGISTERED.get(each.name, each.name), each.name) for each in fields(Receipt))


class KeyRing:
    """The ledger's signing secrets by key id; the last one signs.

    Holds secrets: `repr` shows the ids alone.
    """

    def __init__(self, secrets_by_kid: Mapping[str, bytes]) -> None:
        if not secrets_by_kid:
            raise ValueError("a key ring needs at least one key")
        if any(len(secret) < _SECRET_BYTES for secret in secrets_by_kid.values()):
            raise ValueError(f"a receipt secret needs at least {_SECRET_BYTES} bytes")
        self._secrets = dict(secrets_by_kid)
        self._signers = {kid: hmac.new(secret, digestmod="sha256") for kid, secret in self._secrets.items()}
        self._headers = {kid: _header(kid, "payre-receipt+jwt") for kid in self._secrets}
        self._seals = {kid: _header(kid, "payre-seal+jwt") for kid in self._secrets}
        self._current = next(reversed(self._secrets))

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._secrets)})"

    @classmethod
    def generate(cls) -> "KeyRing":
        """A ring with one fresh key."""
        return cls({_new_kid(): secrets.token_bytes(_SECRET_BYTES)})

    def rotated(self) -> "KeyRing":
        """This ring with a fresh key that signs from now on; receipts signed before stay valid."""
        return KeyRing({**self._secrets, _new_kid(): secrets.token_bytes(_SECRET_BYTES)})

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """Read `kid:base64url-secret` entries separated by commas or lines, oldest first.

        Raises:
            ValueError: An entry has another form; the message does not repeat it.
        """
        ring: dict[str, bytes] = {}
        for entry in text.replace(",", "\n").split():
            kid, colon, secret = entry.partition(":")
            if not colon or not kid.isascii() or not kid.isalnum():
                raise ValueError("a receipt key is written kid:secret, with letters and digits as kid")
            if kid in ring:
                raise ValueError(f"the receipt key {kid} is given twice")
            ring[kid] = _decode(secret)
        return cls(ring)

    def dump(self) -> str:
        """The text that `parse` reads. It holds the secrets."""
        return "".join(f"{kid}:{_encode(secret)}\n" for kid, secret in self._secrets.items())

    @classmethod
    def open_file(cls, path: Path) -> "KeyRing":
        """The ring kept in `path`, made with one fresh key (mode 0600) where there is none."""
        if not path.exists() or not path.read_text():
            _write_once(path, cls.generate().dump())
        return cls.parse(path.read_text())

    def sign(self, receipt: Receipt) -> str:
        """The token of a receipt under the newest key. Deterministic: the same receipt and key give the same token."""
        return self._signed(self._headers[self._current], receipt.claims())

    def seal(self, facts: Mapping[str, Any]) -> str:
        """Facts that leave the ledger and come back unaltered: readable by anyone, and never taken for a receipt."""
        return self._signed(self._seals[self._current], facts)

    def unseal(self, token: str) -> dict[str, Any]:
        """The facts that `seal` was given. Raises `ReceiptInvalid`, as `verify`."""
        return json.loads(self._checked(token, self._seals))

    def verify(self, token: str) -> Receipt:
        """The receipt that a token carries, if a key of this ring signed it.

        The header must be exactly ours for its `kid`: no algorithm is ever taken from the token. Signatures are
        compared as text in constant time, so no second spelling of one signature passes.

        Raises:
            ReceiptInvalid: `malformed`, or `unknown`: not signed here, altered, or signed with a key that is gone.
        """
        claims = self._checked(token, self._headers)
        try:
            return Receipt.from_claims(json.loads(claims))
        except (KeyError, TypeError, ValueError):
            raise ReceiptInvalid("This receipt is of a version that this ledger does not know.", reason="unknown") from None

    def _signed(self, header: str, claims: Mapping[str, Any]) -> str:
        signed = f"{header}.{_encode(canonical_json(claims))}"
        return f"{signed}.{self._signature(self._current, signed)}"

    def _checked(self, token: str, headers: Mapping[str, str]) -> bytes:
        """What a token carries, if it has one of these headers and a key of this ring signed it."""
        header, payload, signature = _split(token)
        kid = next((kid for kid, ours in headers.items() if hmac.compare_digest(ours, header)), None)
        if kid is None or not hmac.compare_digest(self._signature(kid, f"{header}.{payload}"), signature):
            raise ReceiptInvalid("This ledger did not sign this receipt, or it was altered since.", reason="unknown")
        return _decode(payload)

    def _signature(self, kid: str, signed: str) -> str:
        # A copy of a keyed state: unlike hmac.digest it keeps the interpreter lock, which a busy thread is slow to return.
        signature = self._signers[kid].copy()
        signature.update(signed.encode())
        return _encode(signature.digest())


def verify_receipt(token: str, keys: KeyRing) -> Receipt:
    """Check a receipt offline with the ring that signed it. Raises `ReceiptInvalid`; see `KeyRing.verify`."""
    return keys.verify(token)


def canonical_json(value: Any) -> bytes:
    """JSON with sorted names and no spaces, for digests that two machines must agree on (RFC 8785 for our types)."""
    return _CANONICAL.encode(value).encode("utf-8", "surrogatepass")


def sha256_hex(data: bytes) -> str:
    """SHA-256 in hex, the form of every digest in a receipt."""
    return hashlib.sha256(data).hexdigest()


def _write_once(path: Path, text: str) -> None:
    """Put `text` into a file that only its owner may read: whole, on disk, and of several writers the first one's."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp makes it 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        if not path.stat().st_size:  # a crash left it empty
            Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _new_kid() -> str:
    return secrets.token_hex(4)


def _header(kid: str, kind: str) -> str:
    return _encode(json.dumps({"alg": "HS256", "kid": kid, "typ": kind}, separators=(",", ":")).encode())


def _split(token: str) -> tuple[str, str, str]:
    parts = token.strip().split(".")
    if len(token) > _LONGEST_TOKEN or len(parts) != 3 or not token.isascii():
        raise ReceiptInvalid("This is not a receipt: one is three base64url parts with dots between.", reason="malformed")
    return parts[0], parts[1], parts[2]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
