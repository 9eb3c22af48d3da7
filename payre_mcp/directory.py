"""Who is who: developers, consumers, their keys, servers and what these publish. Types, and the port to a database."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from payre_mcp.keys import ApiKey, Mode, Role
from payre_mcp.money import Money
from payre_mcp.pricing import PriceSpec, Target


class Developer(NamedTuple):
    """Who runs paid servers and earns."""

    id: int
    name: str


class Consumer(NamedTuple):
    """Who pays: one prepaid balance. `part` is the consumer's home in a ledger of several parts, fixed for life."""

    id: int
    part: int
    name: str


class KeyRecord(NamedTuple):
    """A key as the directory knows it: never the key itself."""

    id: int
    role: Role
    mode: Mode
    owner_id: int
    """The developer or consumer whom the key speaks for."""
    part: int
    """The owner's part; 0 for a developer."""
    server_id: int
    """The one server that may take this key; 0 for all."""
    label: str
    last4: str
    created_at: int
    revoked_at: int
    expires_at: int

    @property
    def shown(self) -> str:
        """`pyr_ck_test_...a1b2`, as `ApiKey.shown`."""
        return f"pyr_{self.role}_{self.mode}_...{self.last4}"


class Server(NamedTuple):
    """A paid MCP server of one developer."""

    id: int
    developer_id: int
    name: str


class Listing(NamedTuple):
    """A price in a server's current price list."""

    server: Server
    target: Target
    spec: PriceSpec


class TopUpRequest(NamedTuple):
    """A consumer's wish to add money. Whether it was paid stands in the journal alone."""

    id: int
    part: int
    consumer_id: int
    amount: Money
    token: str
    """The secret part of its link."""
    created_at: int
    expires_at: int


class Directory(Protocol):
    """The database behind it. Methods block; every write is one transaction of its own."""

    @property
    def mode(self) -> Mode:
        """Whether this database holds test or live money; keys of the other mode are refused."""
        ...

    def sole_developer(self) -> Developer:
        """The developer of an embedded ledger, made with it."""
        ...

    def create_consumer(self, name: str) -> Consumer:
        """A new consumer with an empty account."""
        ...

    def consumers(self) -> Sequence[Consumer]:
        """All consumers, oldest first."""
        ...

    def create_key(self, role: Role, owner_id: int, *, label: str = "", server_id: int = 0, expires_at: int = 0) -> ApiKey:
        """A new key. Its text leaves here once and is not stored."""
        ...

    def find_key(self, digest: bytes) -> KeyRecord | None:
        """The key with this SHA-256."""
        ...

    def list_keys(self) -> Sequence[KeyRecord]:
        """All keys, oldest first, the revoked ones too."""
        ...

    def revoke_key(self, key_id: int) -> None:
        """Refuse this key from now on, also for calls that wait. Raises `NotFound`."""
        ...

    def ensure_server(self, developer_id: int, name: str) -> Server:
        """The developer's server of this name, made if it is new."""
        ...

    def publish(self, server_id: int, prices: Mapping[Target, PriceSpec]) -> None:
        """Record a server's price list as the current one. A version once published is never changed or removed."""
        ...

    def listings(self, target: Target) -> Sequence[Listing]:
        """The price of this target in the current price list of every server that has one."""
        ...

    def create_top_up(self, consumer_id: int, amount: Money, *, expires_at: int) -> TopUpRequest:
        """A new top-up request with a secret token."""
        ...

    def find_top_up(self, *, top_up_id: int = 0, token: str = "") -> TopUpRequest | None:
        """A top-up request by id or token."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...
