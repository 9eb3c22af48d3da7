"""What a batch needs to be judged, what is known of it, and what is decided: the kernel's input and output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from payre_mcp.errors import PayreError
from payre_mcp.ledger.model import (
    Account,
    Capture,
    Charge,
    ComeBack,
    Command,
    Credit,
    Done,
    Expire,
    Extend,
    Extended,
    Hold,
    KeyState,
    OpenHold,
    Send,
    TopUp,
    Transfer,
    Void,
)

Answer = Done | Extended | PayreError
"""What a caller is told: done, or the error to raise."""


CounterKey = tuple[int, str, int]
"""(consumer, name, start of the window)."""


CreditKey = tuple[int, int]
"""(consumer, server)."""


class Needs(NamedTuple):
    """What a batch must have loaded before it can be judged; every list may hold an id that does not exist."""

    accounts: list[int]
    api_keys: list[int]
    holds: list[int]
    keys: list[tuple[int, int, int, str]]
    """(part, consumer, developer, key)."""
    charges: list[int]
    """Charges to refund, with what was refunded of them before."""
    written: list[int]
    """Ids that this batch may have written in an earlier try whose outcome is unknown."""
    counters: list[CounterKey]
    """Counters that prices of this batch depend on."""
    parts: Mapping[int, int] = MappingProxyType({})
    """The home of every consumer, hold, charge and row that is named here, by id."""


def needs(batch: Sequence[Command], *, repeated: bool = False) -> Needs:
    """What `decide` will look up for this batch. `repeated`: an earlier try may have been committed after all."""
    parts: dict[int, int] = {}
    out = Needs([], [], [], [], [], [], [], parts)
    for command in batch:
        out.accounts.append(command.consumer_id)
        parts[command.consumer_id] = command.part
        match command:
            case Hold() | Charge():
                out.api_keys.append(command.api_key_id)
                if command.key:
                    out.keys.append((command.part, command.consumer_id, command.developer_id, command.key))
                if isinstance(command, Hold) and command.metered:
                    out.counters.extend((command.consumer_id, name, start) for name, start in command.metered.counters)
            case Capture() | Void() | Expire() | Extend():
                out.holds.append(command.hold_id)
                parts[command.hold_id] = command.part
            case TopUp():
                out.keys.append((command.part, command.consumer_id, 0, command.key))
            case Send() | ComeBack():
                out.keys.append((command.part, command.consumer_id, command.developer_id, command.key))
            case _:
                out.charges.append(command.charge_id)
                parts[command.charge_id] = command.part
                out.keys.append((command.part, command.consumer_id, command.developer_id, command.key))
        if repeated and not isinstance(command, Extend):
            out.written.append(command.id)
            parts[command.id] = command.part
    return out


_DICT, _LIST = cast(Any, dict), cast(Any, list)
"""Factories of fields: `dict[int, int]()` costs ten times `dict()`."""


@dataclass(slots=True)
class State:
    """All that a batch may need, loaded under lock; `decide` keeps it current while it judges."""

    now: int = 0
    """The database's own time, where it has one that several processes share."""
    accounts: dict[int, Account] = field(default_factory=_DICT)
    api_keys: dict[int, KeyState] = field(default_factory=_DICT)
    holds: dict[int, OpenHold] = field(default_factory=_DICT)
    charges: dict[int, Transfer] = field(default_factory=_DICT)
    late_charges: dict[int, Transfer] = field(default_factory=_DICT)
    """Charges made after their hold had expired, by hold id."""
    written: dict[int, Transfer] = field(default_factory=_DICT)
    ends: dict[int, Transfer] = field(default_factory=_DICT)
    """How a hold that is no longer open ended, by hold id."""
    refunded: dict[int, tuple[int, int]] = field(default_factory=_DICT)
    """Amount and fee already refunded, by charge id."""
    by_key: dict[tuple[int, int, str], list[Transfer]] = field(default_factory=_DICT)
    """The whole history of an idempotency key, by (consumer, developer, key), in order of id."""
    results: dict[int, tuple[str, int]] = field(default_factory=_DICT)
    """Stored results, each with the end of its time, by capture id."""
    counters: dict[CounterKey, tuple[int, int]] = field(default_factory=_DICT)
    """(captured, reserved by open holds) of each counter that has a row."""
    credits: dict[CreditKey, Credit] = field(default_factory=_DICT)
    """The free credit that this batch may spend, where it was granted before."""


@dataclass(slots=True)
class Decision:
    """What to write, all or nothing, and what to answer once it is durable."""

    transfers: list[Transfer] = field(default_factory=_LIST)
    opened: list[OpenHold] = field(default_factory=_LIST)
    closed: list[tuple[int, int]] = field(default_factory=_LIST)
    """(part, hold id) of holds that ended."""
    extended: dict[tuple[int, int], int] = field(default_factory=_DICT)
    """expires_at by (part, hold id)."""
    balances: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=_DICT)
    """(balance delta, held delta, last charge) by (part, consumer)."""
    earnings: dict[tuple[int, int], tuple[int, int]] = field(default_factory=_DICT)
    """(earned, fees) deltas by (part, developer)."""
    results: list[tuple[int, int, str, int]] = field(default_factory=_LIST)
    """(part, capture id, body, expires_at)."""
    counters: dict[tuple[int, int, str, int], tuple[int, int]] = field(default_factory=_DICT)
    """(captured, reserved) deltas by (part, consumer, name, start of the window)."""
    granted: list[tuple[int, int, int, int]] = field(default_factory=_LIST)
    """(part, consumer, server, micros) of credits that are new."""
    credits: dict[tuple[int, int, int], tuple[int, int]] = field(default_factory=_DICT)
    """(balance, held) deltas of credits, new ones too, by (part, consumer, server)."""
    answers: list[Answer] = field(default_factory=_LIST)

    @property
    def is_empty(self) -> bool:
        """Whether nothing needs writing."""
        return not (self.transfers or self.extended)
