"""The directory in a database, through SQLModel: reads and rare writes, never an amount that moves."""

import json
import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, SQLModel, col, func, select

from payre_mcp.clock import Clock
from payre_mcp.directory import Consumer, Developer, KeyRecord, Listing, Server, TopUpRequest
from payre_mcp.errors import NotFound, PayreUnavailable
from payre_mcp.ids import IdFactory
from payre_mcp.keys import ApiKey, Mode, Role, new_key
from payre_mcp.money import Money
from payre_mcp.pricing import PriceSpec, Target, load_price
from payre_mcp.storage.engine import make_engine
from payre_mcp.storage.tables import (
    AccountTable,
    ApiKeyTable,
    ConsumerTable,
    DeveloperTable,
    PriceListingTable,
    ServerTable,
    TopUpTable,
)

PART = 0
"""Where new consumers live until there is more than one part."""


class SqlDirectory:
    """`payre_mcp.directory.Directory` on a ledger file. Every method is one transaction; thread-safe."""

    def __init__(self, path: Path, clock: Clock, ids: IdFactory, mode: Mode) -> None:
        self._writer, self._reader = make_engine(path), make_engine(path, read_only=True)
        self._clock, self._ids = clock, ids
        self.mode = mode

    def sole_developer(self) -> Developer:
        """The first developer, made where there is none."""
        with self._transaction() as session:
            row = session.exec(select(DeveloperTable).order_by(col(DeveloperTable.id))).first()
            if row is None:
                row = DeveloperTable(id=self._ids.new(), name="developer")
                session.add(row)
            return Developer(row.id, row.name)

    def create_consumer(self, name: str) -> Consumer:
        """A new consumer with an empty account."""
        consumer = Consumer(self._ids.new(), PART, name)
        self._add(
            ConsumerTable(**consumer._asdict()),
            AccountTable(part=PART, id=consumer.id, balance_micros=0, held_micros=0, last_charge_id=0),
        )
        return consumer

    def consumers(self) -> Sequence[Consumer]:
        """All consumers, oldest first."""
        with self._reading() as session:
            rows = session.exec(select(ConsumerTable).order_by(col(ConsumerTable.id))).all()
            return [Consumer(row.id, row.part, row.name) for row in rows]

    def create_key(self, role: Role, owner_id: int, *, label: str = "", server_id: int = 0, expires_at: int = 0) -> ApiKey:
        """A new key of this database's mode. Its text leaves here once and is not stored."""
        key = new_key(role, self.mode)
        part = 0 if role != Role.CONSUMER else self._part_of(owner_id)
        row = ApiKeyTable(
            id=self._ids.new(), digest=key.digest, role=role, mode=key.mode, owner_id=owner_id, part=part, server_id=server_id,
            label=label, last4=key.text[-4:], created_at=self._clock.now_us(), revoked_at=0, expires_at=expires_at,
        )  # fmt: skip
        self._add(row)
        return key

    def find_key(self, digest: bytes) -> KeyRecord | None:
        """The key with this SHA-256."""
        with self._reading() as session:
            row = session.exec(select(ApiKeyTable).where(ApiKeyTable.digest == digest)).first()
            return _record(row) if row else None

    def list_keys(self) -> Sequence[KeyRecord]:
        """All keys, oldest first, the revoked ones too."""
        with self._reading() as session:
            return [_record(row) for row in session.exec(select(ApiKeyTable).order_by(col(ApiKeyTable.id))).all()]

    def revoke_key(self, key_id: int) -> None:
        """Refuse this key from now on. Revoking it again changes nothing."""
        with self._transaction() as session:
            row = session.get(ApiKeyTable, key_id)
            if row is None:
                raise NotFound("no such key")
            row.revoked_at = row.revoked_at or self._clock.now_us()
            session.add(row)

    def ensure_server(self, developer_id: int, name: str) -> Server:
        """The developer's server of this name, made if it is new."""
        with self._transaction() as session:
            known = select(ServerTable).where(ServerTable.developer_id == developer_id, ServerTable.name == name)
            row = session.exec(known).first()
            if row is None:
                row = ServerTable(id=self._ids.new(), developer_id=developer_id, name=name)
                session.add(row)
            return Server(row.id, row.developer_id, row.name)

    def publish(self, server_id: int, prices: Mapping[Target, PriceSpec]) -> None:
        """Record a server's price list as the current one; a version that is recorded stays as it is."""
        with self._transaction() as session:
            # Whatever the clock says, the list that was published last is the newest.
            newest = select(func.max(PriceListingTable.published_at)).where(PriceListingTable.server_id == server_id)
            now = max(self._clock.now_us(), (session.exec(newest).one() or 0) + 1)
            for target, spec in prices.items():
                row = session.get(PriceListingTable, (server_id, *target, spec.version))
                if row is None:
                    text = json.dumps(spec.canonical(), sort_keys=True)
                    row = PriceListingTable(
                        server_id=server_id, kind=target.kind, name=target.name, version=spec.version, spec=text, published_at=now
                    )  # fmt: skip
                row.published_at = now
                session.add(row)

    def listings(self, target: Target) -> Sequence[Listing]:
        """The price of this target in every current price list."""
        current = select(PriceListingTable.server_id, func.max(PriceListingTable.published_at).label("newest"))
        newest = current.group_by(col(PriceListingTable.server_id)).subquery()
        named = (
            select(ServerTable, PriceListingTable)
            .join(PriceListingTable, col(PriceListingTable.server_id) == ServerTable.id)
            .join(newest, newest.c.server_id == ServerTable.id)
            .where(col(PriceListingTable.published_at) == newest.c.newest)
            .where(PriceListingTable.kind == target.kind, PriceListingTable.name == target.name)
            .order_by(ServerTable.name)
        )
        with self._reading() as session:
            return [
                Listing(Server(server.id, server.developer_id, server.name), target, load_price(json.loads(row.spec)))
                for server, row in session.exec(named).all()
            ]

    def create_top_up(self, consumer_id: int, amount: Money, *, expires_at: int) -> TopUpRequest:
        """A new top-up request with a secret token of 128 bits."""
        request = TopUpRequest(
            self._ids.new(),
            self._part_of(consumer_id),
            consumer_id,
            amount,
            secrets.token_urlsafe(16),
            self._clock.now_us(),
            expires_at,
        )
        fields = request._asdict()
        fields["amount_micros"] = fields.pop("amount").micros
        self._add(TopUpTable(**fields))
        return request

    def find_top_up(self, *, top_up_id: int = 0, token: str = "") -> TopUpRequest | None:
        """A top-up request by id or token."""
        with self._reading() as session:
            wanted = TopUpTable.token == token if token else TopUpTable.id == top_up_id
            row = session.exec(select(TopUpTable).where(wanted)).first()
            if row is None:
                return None
            amount = Money(row.amount_micros)
            return TopUpRequest(row.id, row.part, row.consumer_id, amount, row.token, row.created_at, row.expires_at)

    def close(self) -> None:
        """Let go of the database."""
        self._writer.dispose()
        self._reader.dispose()

    def _part_of(self, consumer_id: int) -> int:
        with self._reading() as session:
            row = session.get(ConsumerTable, consumer_id)
            if row is None:
                raise NotFound("no such consumer")
            return row.part

    def _add(self, *rows: SQLModel) -> None:
        with self._transaction() as session:
            session.add_all(rows)

    @contextmanager
    def _transaction(self) -> Generator[Session]:
        """One transaction that may write."""
        with _translated(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _reading(self) -> Generator[Session]:
        """One transaction that only reads."""
        with _translated(), Session(self._reader) as session:
            yield session


@contextmanager
def _translated() -> Generator[None]:
    """A database in trouble is an unavailable ledger; its own words may hold parameters and stay in the cause."""
    try:
        yield
    except DBAPIError as error:
        raise PayreUnavailable("the payment ledger cannot be read or written; nothing ran and nothing was charged") from error


def _record(row: ApiKeyTable) -> KeyRecord:
    return KeyRecord(
        row.id, Role(row.role), Mode(row.mode), row.owner_id, row.part, row.server_id,
        row.label, row.last4, row.created_at, row.revoked_at, row.expires_at,
    )  # fmt: skip
