"""One request of the API as its handler sees it: who asks, for what, under which name. And one row of the endpoint table."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from payre_mcp.connection import Connection
from payre_mcp.directory import Developer, KeyRecord
from payre_mcp.gateway.local import LocalGateway
from payre_mcp.gateway.schemas import Message
from payre_mcp.gateway.statement import Statements
from payre_mcp.hub.metrics import Meters

LARGEST_BODY, LARGEST_BATCH = 1 << 20, 8 << 20
"""Bytes of a request; a batch may carry the results of its captures."""

AskedT = TypeVar("AskedT", bound=Message)

Who = Literal["developer", "consumer", "either"]
Naming = Literal["none", "optional", "required"]


class Desk:
    """One ledger and its many sellers."""

    def __init__(self, connection: Connection, meters: Meters) -> None:
        self.connection, self.meters = connection, meters
        ledger = connection.ledger
        self.statements = Statements(ledger.issuer, ledger.directory.mode, ledger.ring)
        self._sellers: dict[int, LocalGateway] = {}

    def seller(self, developer_id: int) -> LocalGateway:
        """The gateway of a developer, which remembers the prices that it has read."""
        gateway = self._sellers.get(developer_id)
        if gateway is None:
            gateway = self._sellers[developer_id] = self.connection.seller(Developer(developer_id, ""))
        return gateway


@dataclass(frozen=True, slots=True)
class Call(Generic[AskedT]):
    """A request that was let in and read."""

    desk: Desk
    caller: KeyRecord
    key: str
    """The text of the caller's own key. Never log it."""
    asked: AskedT
    """The body, or of a GET the query."""
    path: Mapping[str, str]
    """The variable parts of the address."""
    name: str
    """Its idempotency key; empty for none."""

    @property
    def gateway(self) -> LocalGateway:
        """The gateway of the developer who asks."""
        return self.desk.seller(self.caller.owner_id)


class Endpoint(NamedTuple):
    """What the API takes at one method and path, and what it answers."""

    method: str
    path: str
    who: Who
    handler: Callable[[Call[Any]], Awaitable[Message]]
    """Its docstring is the endpoint's description."""
    request: type[Message]
    answers: tuple[type[Message], ...]
    naming: Naming = "none"
    """Whether it takes an `Idempotency-Key`."""
    largest: int = LARGEST_BODY


class Nothing(Message):
    """An empty request."""
