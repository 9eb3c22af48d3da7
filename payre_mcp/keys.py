"""Keys: `pyr_{sk|ck|pk}_{live|test}_`, 32 random base-62 characters, 6 base-62 characters of CRC-32 over all before.

Only the SHA-256 of a key is ever stored; 190 random bits need no slow hash. The checksum catches typing mistakes
without a lookup and lets secret scanners report without false alarms.
"""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass
from enum import StrEnum

from payre_mcp.errors import InvalidApiKey

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM, _CHECKSUM = 32, 6
_KEY = re.compile(rf"pyr_(?P<role>sk|ck|pk)_(?P<mode>live|test)_[0-9A-Za-z]{{{_RANDOM + _CHECKSUM}}}", re.ASCII)
_PLACEHOLDER = re.compile(r"\$|[<>{}]|\bYOUR[_-]|\.\.\.|PAYRE_KEY", re.IGNORECASE)


class Role(StrEnum):
    """Who a key speaks for."""

    DEVELOPER = "sk"
    """A developer's secret key: runs a server, earns."""
    CONSUMER = "ck"
    """A consumer's key: can only spend its owner's balance."""
    PUBLIC = "pk"
    """Names a developer in links; authorizes nothing."""


class Mode(StrEnum):
    """Test money and live money never meet."""

    LIVE = "live"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A well-formed key. Its text is a secret: `repr` and `str` show only the ends."""

    text: str
    role: Role
    mode: Mode

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text: all that is stored."""
        return hashlib.sha256(self.text.encode()).digest()

    @property
    def shown(self) -> str:
        """`pyr_ck_test_...a1b2`: enough to tell keys apart, useless to a thief."""
        return f"pyr_{self.role}_{self.mode}_...{self.text[-4:]}"

    def __repr__(self) -> str:
        return f"ApiKey({self.shown})"

    __str__ = __repr__


def new_key(role: Role, mode: Mode) -> ApiKey:
    """A fresh random key. Show its text once, store its `digest`."""
    head = f"pyr_{role}_{mode}_" + "".join(secrets.choice(_BASE62) for _ in range(_RANDOM))
    return ApiKey(head + _checksum(head), role, mode)


def is_placeholder(text: str) -> bool:
    """Whether this is what a client sends when its variable is not set: `${PAYRE_KEY}`, `<key>`, `YOUR_KEY`."""
    return _PLACEHOLDER.search(text) is not None


def parse_key(text: str) -> ApiKey:
    """Read a key as it came from a header or a variable.

    Raises:
        InvalidApiKey: Not a key. The message tells a placeholder, a typing mistake and other text apart, and never
            repeats what was sent.
    """
    match = _KEY.fullmatch(text)
    if match is None:
        if is_placeholder(text):
            raise InvalidApiKey(
                "A placeholder arrived instead of a Payre key: the environment variable is not set in the client. "
                "Set PAYRE_KEY there (it starts with pyr_ck_) and restart the client. Nothing was charged."
            )
        raise InvalidApiKey("This is not a Payre key; one starts with pyr_ck_ and is 50 characters long. Nothing was charged.")
    if _checksum(text[:-_CHECKSUM]) != text[-_CHECKSUM:]:
        raise InvalidApiKey("This Payre key is damaged: its checksum does not match. Copy it again. Nothing was charged.")
    return ApiKey(text, Role(match["role"]), Mode(match["mode"]))


def _checksum(head: str) -> str:
    number, digits = zlib.crc32(head.encode()), ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits
