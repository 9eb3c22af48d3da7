"""Who is who: developers, consumers, their keys, servers and what these publish. Types, and the port to a database."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from payre_mcp.errors import Forbidden
from payre_mcp.keys import ApiKey, Mode, Role
from payre_mcp.money import Money
from payre_mcp.pricing import PriceSpec, Target

LimitWindow = Literal["call", "day", "month", "tool"]
"""What a spending limit is for; `tool` is a day of one tool."""


class Developer(NamedTuple):
    """Who runs paid servers and earns."""

    id: int
    name: str


class Consumer(NamedTuple):
    """Who pays: one prepaid balance. `part` is the consumer's home in a ledger of several parts, fixed for life."""

    id: int
    part: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingLimits:
    """The most that a key may spend. None is no limit; zero lets free calls through and nothing else.

    Windows are calendar days and months of UTC, and a call counts in the one in which it was held. A limit counts from
    when it was set, and a refund does not give it back.
    """

    call: Money | None = None
    day: Money | None = None
    month: Money | None = None
    tools: Mapping[str, Money] = field(default_factory=dict[str, Money])
    """The most per day for single tools, by name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tools", MappingProxyType(dict(self.tools)))
        amounts = (self.call, self.day, self.month, *self.tools.values())
        if any(amount is not None and amount.micros < 0 for amount in amounts):
            raise ValueError("a spending limit is zero or more")

    def __bool__(self) -> bool:
        return self != NO_LIMITS

    def __hash__(self) -> int:
        return hash(self.dump())

    def __str__(self) -> str:
        return ", ".join(f"{amount} {per_window(*what)}" for what, amount in self.each().items()) or "no limits"

    def each(self) -> dict[tuple[LimitWindow, str], Money]:
        """Every limit that there is by (window, tool); the tool is empty but for a limit of one."""
        amounts: dict[tuple[LimitWindow, str], Money | None] = {
            ("call", ""): self.call, ("day", ""): self.day, ("month", ""): self.month,
            **{("tool", name): amount for name, amount in self.tools.items()},
        }  # fmt: skip
        return {what: amount for what, amount in amounts.items() if amount is not None}

    def lowered(self, to: "SpendingLimits") -> "SpendingLimits":
        """These limits with those of `to` in their place.

        Raises:
            Forbidden: One of them would rise.
        """
        now, wanted = self.each(), to.each()
        for what, amount in wanted.items():
            if amount > now.get(what, amount):
                raise Forbidden(
                    f"this key may spend {now[what]} {per_window(*what)}, and {amount} would raise that. Nothing was changed: "
                    "a limit can only be lowered here; a person can raise or remove it with `payre keys limits`"
                )
        changed = {window: amount for (window, _), amount in wanted.items() if window != "tool"}
        return replace(self, tools={**self.tools, **to.tools}, **changed)

    def dump(self) -> str:
        """Canonical JSON of micros; empty where nothing is limited."""
        amounts = {"call": self.call, "day": self.day, "month": self.month}
        known: dict[str, object] = {name: amount.micros for name, amount in amounts.items() if amount is not None}
        if self.tools:
            known["tools"] = {name: amount.micros for name, amount in self.tools.items()}
        return json.dumps(known, separators=(",", ":"), sort_keys=True) if known else ""

    @classmethod
    def load(cls, text: str) -> "SpendingLimits":
        """The inverse of `dump`. A limit of a name that is not known is a `TypeError`: none is ever ignored."""
        known: dict[str, Any] = json.loads(text) if text else {}
        tools: dict[str, int] = known.pop("tools", {})
        return cls(
            tools={name: Money(micros) for name, micros in tools.items()},
            **{name: Money(micros) for name, micros in known.items()},
        )


def per_window(window: LimitWindow, tool: str = "") -> str:
    """What a limit is for in words: `per call`, `per day for forecast`."""
    return f"per day for {tool}" if window == "tool" else f"per {window}"


NO_LIMITS = SpendingLimits()


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
    limits: SpendingLimits = NO_LIMITS
    root_id: int = 0
    """The first key of its line: rotation makes a new key of the same line, and a line's spending is counted as one."""

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

    def create_key(
        self, role: Role, owner_id: int, *,
        label: str = "", server_id: int = 0, expires_at: int = 0, limits: SpendingLimits = NO_LIMITS,
    ) -> ApiKey:  # fmt: skip
        """A new key. Its text leaves here once and is not stored."""
        ...

    def find_key(self, digest: bytes) -> KeyRecord | None:
        """The key with this SHA-256."""
        ...

    def list_keys(self) -> Sequence[KeyRecord]:
        """All keys, oldest first, the revoked ones too."""
        ...

    def keys_of(self, role: Role, owner_id: int) -> Sequence[KeyRecord]:
        """All keys of one owner, oldest first, the revoked ones too."""
        ...

    def revoke_key(self, key_id: int) -> None:
        """Refuse this key from now on, also for calls that wait. Raises `NotFound`."""
        ...

    def set_limits(self, key_id: int, limits: SpendingLimits) -> None:
        """Limit this key and all keys of its line from now on, in place of what limited them. Raises `NotFound`."""
        ...

    def lower_limits(self, key_id: int, limits: SpendingLimits) -> SpendingLimits:
        """Lower these limits of this key and all keys of its line, or set them where there are none; answers all of them.

        Compared and written in one transaction, so of several at once none raises what another lowered.

        Raises:
            NotFound: No such key.
            Forbidden: One would rise; nothing was changed.
        """
        ...

    def rotate_key(self, key_id: int, *, overlap_us: int) -> ApiKey:
        """A new key in place of this one, which goes on for `overlap_us` at the most; limits and end stay as they are.

        Raises:
            NotFound: No such key.
            InvalidRequest: It is revoked or expired, or the overlap is below zero; nothing was changed.
        """
        ...

    def create_developer(self, name: str) -> Developer:
        """A new developer, who has earned nothing yet."""
        ...

    def find_developer(self, developer_id: int) -> Developer | None:
        """The developer with this id."""
        ...

    def developers(self) -> Sequence[Developer]:
        """All developers, oldest first."""
        ...

    def servers(self, developer_id: int) -> Sequence[Server]:
        """A developer's servers, by name."""
        ...

    def find_server(self, developer_id: int, name: str) -> Server | None:
        """The developer's server of this name."""
        ...

    def server_with_id(self, server_id: int) -> Server | None:
        """The server with this id."""
        ...

    def ensure_server(self, developer_id: int, name: str) -> Server:
        """The developer's server of this name, made if it is new."""
        ...

    def publish(self, server_id: int, prices: Mapping[Target, PriceSpec]) -> None:
        """Record a server's price list as the current one. A version once published is never changed or removed."""
        ...

    def publish_one(self, server_id: int, target: Target, spec: PriceSpec) -> None:
        """Record one price beside the others of the current list, in place of the one that its target had."""
        ...

    def find_price(self, server_id: int, target: Target, version: str) -> PriceSpec | None:
        """A price that this server published, now or once."""
        ...

    def price_list(self, server_id: int) -> Sequence[Listing]:
        """A server's current price list, by kind and name."""
        ...

    def listings(self, target: Target) -> Sequence[Listing]:
        """The price of this target in the current price list of every server that has one."""
        ...

    def catalogue(self, query: str, *, limit: int) -> Sequence[Listing]:
        """The current price lists of so many servers, by name; with a query, of those that have it in their name or in that
        of something they sell."""
        ...

    def offers(self, developer_id: int, target: Target) -> Sequence[tuple[str, str]]:
        """(server, version) of this target's price in every current price list of a developer, by server."""
        ...

    def has_credit(self) -> bool:
        """Whether free credit was ever granted in this ledger."""
        ...

    def credit_of(self, consumer_id: int, server_id: int) -> Money | None:
        """What a consumer has free at a server; None where nothing was granted yet."""
        ...

    def credits_of(self, consumer_id: int) -> Sequence[tuple[Server, Money]]:
        """What a consumer may spend free now, by server; those alone where there is some."""
        ...

    def create_top_up(self, consumer_id: int, amount: Money, *, expires_at: int) -> TopUpRequest:
        """A new top-up request with a secret token."""
        ...

    def find_top_up(self, *, top_up_id: int = 0, token: str = "") -> TopUpRequest | None:
        """A top-up request by id or token."""
        ...

    def set_top_up_amount(self, top_up_id: int, amount: Money) -> bool:
        """Ask for another amount; False, and nothing changes, where somebody began to pay it by card, or there is none."""
        ...

    def top_ups(self, consumer_id: int, *, before: int, limit: int) -> Sequence[TopUpRequest]:
        """A consumer's top-up requests, newest first, from before this one; 0 is the newest."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...
