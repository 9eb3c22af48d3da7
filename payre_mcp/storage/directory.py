"""The directory in a database, through SQLModel: reads and rare writes, never an amount that moves."""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, SQLModel, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from payre_mcp.clock import Clock
from payre_mcp.directory import NO_LIMITS, Consumer, Developer, KeyRecord, Listing, Server, SpendingLimits, TopUpRequest
from payre_mcp.errors import InvalidRequest, NotFound
from payre_mcp.ids import IdFactory
from payre_mcp.keys import ApiKey, Mode, Role, new_key
from payre_mcp.money import Money
from payre_mcp.pricing import PriceSpec, Target, load_price
from payre_mcp.storage.readers import Reader
from payre_mcp.storage.sessions import Sessions
from payre_mcp.storage.tables import (
    AccountTable,
    ApiKeyTable,
    ConsumerTable,
    CreditTable,
    DeveloperTable,
    PriceListingTable,
    ServerTable,
    TopUpTable,
)

_FIND_KEY = f"select {', '.join(KeyRecord._fields)} from api_key where digest = ?"
_FIND_OFFERS = """
select s.name, p.version from server s join price_listing p on p.server_id = s.id
 where s.developer_id = ? and p.kind = ? and p.name = ?
   and p.published_at = (select max(published_at) from price_listing where server_id = s.id) order by s.name
"""

_AS_IT_IS = str.maketrans({sign: f"!{sign}" for sign in "!%_"})
_FIND_SELLERS = """
select s.id from server s where exists (
    select 1 from price_listing p
     where p.server_id = s.id and (lower(s.name) like ? escape '!' or lower(p.name) like ? escape '!')
       and p.published_at = (select max(published_at) from price_listing where server_id = s.id))
 order by s.name, s.id limit ?
"""
_FIND_CREDITS = """
select s.id, s.developer_id, s.name, k.balance_micros - k.held_micros
  from consumer c join credit k on k.part = c.part and k.consumer_id = c.id join server s on s.id = k.server_id
 where c.id = ? and k.balance_micros > k.held_micros order by s.name, s.id
"""

_SET_AMOUNT = sa.text(
    "update top_up set amount_micros = :amount_micros "
    "where id = :id and not exists (select 1 from payment where payment.id = :id)"
)


class SqlDirectory:
    """`payre_mcp.directory.Directory` on a ledger's database. Every method is one transaction; thread-safe."""

    def __init__(self, sessions: Sessions, lookups: Reader, clock: Clock, ids: IdFactory, mode: Mode, *, parts: int = 1) -> None:
        self._sessions, self._lookups = sessions, lookups
        self._clock, self._ids, self._parts = clock, ids, parts
        self.mode = mode

    def sole_developer(self) -> Developer:
        """The first developer, made where there is none."""
        with self._sessions.transaction(alone=True) as session:
            row = session.exec(select(DeveloperTable).order_by(col(DeveloperTable.id))).first()
            if row is None:
                row = DeveloperTable(id=self._ids.new(), name="developer")
                session.add(row)
            return Developer(row.id, row.name)

    def create_consumer(self, name: str) -> Consumer:
        """A new consumer with an empty account."""
        consumer = Consumer(self._ids.new(), secrets.randbelow(self._parts), name)
        self._add(
            ConsumerTable(**consumer._asdict()),
            AccountTable(part=consumer.part, id=consumer.id, balance_micros=0, held_micros=0, last_charge_id=0),
        )
        return consumer

    def consumers(self) -> Sequence[Consumer]:
        """All consumers, oldest first."""
        with self._sessions.reading() as session:
            rows = session.exec(select(ConsumerTable).order_by(col(ConsumerTable.id))).all()
            return [Consumer(row.id, row.part, row.name) for row in rows]

    def create_key(
        self, role: Role, owner_id: int, *,
        label: str = "", server_id: int = 0, expires_at: int = 0, limits: SpendingLimits = NO_LIMITS,
    ) -> ApiKey:  # fmt: skip
        """A new key of this database's mode. Its text leaves here once and is not stored."""
        key, key_id = new_key(role, self.mode), self._ids.new()
        part = 0 if role != Role.CONSUMER else self._part_of(owner_id)
        row = ApiKeyTable(
            id=key_id, digest=key.digest, role=role, mode=key.mode, owner_id=owner_id, part=part, server_id=server_id,
            label=label, last4=key.text[-4:], created_at=self._clock.now_us(), revoked_at=0, expires_at=expires_at,
            limits=limits.dump(), root_id=key_id,
        )  # fmt: skip
        self._add(row)
        return key

    def find_key(self, digest: bytes) -> KeyRecord | None:
        """The key with this SHA-256."""
        # Read for every request to a hub: a session costs a hundred times as much.
        found = self._lookups.rows(_FIND_KEY, digest)
        return _record(KeyRecord(*found[0])) if found else None

    def list_keys(self) -> Sequence[KeyRecord]:
        """All keys, oldest first, the revoked ones too."""
        with self._sessions.reading() as session:
            return [_record(row) for row in session.exec(select(ApiKeyTable).order_by(col(ApiKeyTable.id))).all()]

    def keys_of(self, role: Role, owner_id: int) -> Sequence[KeyRecord]:
        """All keys of one owner, oldest first."""
        owned = select(ApiKeyTable).where(ApiKeyTable.role == role, ApiKeyTable.owner_id == owner_id)
        with self._sessions.reading() as session:
            return [_record(row) for row in session.exec(owned.order_by(col(ApiKeyTable.id))).all()]

    def revoke_key(self, key_id: int) -> None:
        """Refuse this key from now on. Revoking it again changes nothing."""
        with self._sessions.transaction() as session:
            row = _key(session, key_id)
            row.revoked_at = row.revoked_at or self._clock.now_us()
            session.add(row)

    def set_limits(self, key_id: int, limits: SpendingLimits) -> None:
        """Limit this key and all keys of its line from now on."""
        with self._sessions.transaction(alone=True) as session:
            _limit_line(session, key_id, limits)

    def lower_limits(self, key_id: int, limits: SpendingLimits) -> SpendingLimits:
        """Lower these limits of this key and its line, or set them where there are none; answers all of them."""
        with self._sessions.transaction(alone=True) as session:
            lowered = SpendingLimits.load(_key(session, key_id).limits).lowered(limits)
            _limit_line(session, key_id, lowered)
        return lowered

    def rotate_key(self, key_id: int, *, overlap_us: int) -> ApiKey:
        """A new key in place of this one, which goes on for `overlap_us` at the most; limits and end stay as they are."""
        if overlap_us < 0:
            raise InvalidRequest("the overlap of two keys is zero or more; nothing was changed")
        now, until = self._clock.now_us(), self._clock.now_us() + overlap_us
        with self._sessions.transaction(alone=True) as session:
            old = _key(session, key_id)
            if old.revoked_at or 0 < old.expires_at <= now:
                raise InvalidRequest("a revoked or expired key cannot be rotated; make a new one. Nothing was changed")
            key = new_key(Role(old.role), Mode(old.mode))
            fresh: dict[str, Any] = {"id": self._ids.new(), "digest": key.digest, "last4": key.text[-4:], "created_at": now}
            session.add(ApiKeyTable(**{**old.model_dump(), **fresh}))
            old.expires_at = min(old.expires_at, until) if old.expires_at else until
            session.add(old)
        return key

    def create_developer(self, name: str) -> Developer:
        """A new developer, who has earned nothing yet."""
        developer = Developer(self._ids.new(), name)
        self._add(DeveloperTable(**developer._asdict()))
        return developer

    def find_developer(self, developer_id: int) -> Developer | None:
        """The developer with this id."""
        with self._sessions.reading() as session:
            row = session.get(DeveloperTable, developer_id)
            return Developer(row.id, row.name) if row else None

    def developers(self) -> Sequence[Developer]:
        """All developers, oldest first."""
        with self._sessions.reading() as session:
            rows = session.exec(select(DeveloperTable).order_by(col(DeveloperTable.id))).all()
            return [Developer(row.id, row.name) for row in rows]

    def servers(self, developer_id: int) -> Sequence[Server]:
        """A developer's servers, by name."""
        with self._sessions.reading() as session:
            owned = select(ServerTable).where(ServerTable.developer_id == developer_id).order_by(ServerTable.name)
            return [Server(row.id, row.developer_id, row.name) for row in session.exec(owned).all()]

    def find_server(self, developer_id: int, name: str) -> Server | None:
        """The developer's server of this name."""
        with self._sessions.reading() as session:
            row = session.exec(_server(developer_id, name)).first()
            return Server(row.id, row.developer_id, row.name) if row else None

    def server_with_id(self, server_id: int) -> Server | None:
        """The server with this id."""
        with self._sessions.reading() as session:
            row = session.get(ServerTable, server_id)
            return Server(row.id, row.developer_id, row.name) if row else None

    def ensure_server(self, developer_id: int, name: str) -> Server:
        """The developer's server of this name, made if it is new."""
        with self._sessions.transaction(alone=True) as session:
            row = session.exec(_server(developer_id, name)).first()
            if row is None:
                row = ServerTable(id=self._ids.new(), developer_id=developer_id, name=name)
                session.add(row)
            return Server(row.id, row.developer_id, row.name)

    def publish(self, server_id: int, prices: Mapping[Target, PriceSpec]) -> None:
        """Record a server's price list as the current one; a version that is recorded stays as it is."""
        with self._sessions.transaction(alone=True) as session:
            # Whatever the clock says, the list that was published last is the newest.
            newest = select(func.max(PriceListingTable.published_at)).where(PriceListingTable.server_id == server_id)
            now = max(self._clock.now_us(), (session.exec(newest).one() or 0) + 1)
            for target, spec in prices.items():
                row = session.get(PriceListingTable, (server_id, *target, spec.version))
                row = row or _listing(server_id, target, spec)
                row.published_at = now
                session.add(row)

    def publish_one(self, server_id: int, target: Target, spec: PriceSpec) -> None:
        """Record one price beside the others of the current list, in place of the one that its target had."""
        with self._sessions.transaction(alone=True) as session:
            mine = select(PriceListingTable).where(PriceListingTable.server_id == server_id)
            rows = session.exec(mine).all()
            newest = max((row.published_at for row in rows), default=0)
            now = max(self._clock.now_us(), newest + 1)
            others = [row for row in rows if row.published_at == newest and (row.kind, row.name) != target]
            row = session.get(PriceListingTable, (server_id, *target, spec.version)) or _listing(server_id, target, spec)
            for each in (*others, row):
                each.published_at = now
                session.add(each)

    def find_price(self, server_id: int, target: Target, version: str) -> PriceSpec | None:
        """A price that this server published, now or once."""
        with self._sessions.reading() as session:
            row = session.get(PriceListingTable, (server_id, *target, version))
            return load_price(json.loads(row.spec)) if row else None

    def price_list(self, server_id: int) -> Sequence[Listing]:
        """A server's current price list, by kind and name."""
        return self._listings(PriceListingTable.server_id == server_id)

    def listings(self, target: Target) -> Sequence[Listing]:
        """The price of this target in every current price list."""
        return self._listings(PriceListingTable.kind == target.kind, PriceListingTable.name == target.name)

    def catalogue(self, query: str, *, limit: int) -> Sequence[Listing]:
        """The current price lists of so many servers that a query finds."""
        wanted = f"%{query.lower().translate(_AS_IT_IS)}%"
        found = [server_id for (server_id,) in self._lookups.rows(_FIND_SELLERS, wanted, wanted, limit)]
        return self._listings(col(ServerTable.id).in_(found)) if found else []

    def offers(self, developer_id: int, target: Target) -> Sequence[tuple[str, str]]:
        """(server, version) of this target's price in every current price list of a developer."""
        return [(name, version) for name, version in self._lookups.rows(_FIND_OFFERS, developer_id, *target)]

    def _listings(self, *wanted: Any) -> Sequence[Listing]:
        """What is wanted of all current price lists."""
        current = select(PriceListingTable.server_id, func.max(PriceListingTable.published_at).label("newest"))
        newest = current.group_by(col(PriceListingTable.server_id)).subquery()
        named = (
            select(ServerTable, PriceListingTable)
            .join(PriceListingTable, col(PriceListingTable.server_id) == ServerTable.id)
            .join(newest, newest.c.server_id == ServerTable.id)
            .where(col(PriceListingTable.published_at) == newest.c.newest)
            .where(*wanted)
            .order_by(ServerTable.name, col(PriceListingTable.kind), col(PriceListingTable.name))
        )
        with self._sessions.reading() as session:
            return [
                Listing(
                    Server(server.id, server.developer_id, server.name),
                    Target(row.kind, row.name),
                    load_price(json.loads(row.spec)),
                )
                for server, row in session.exec(named).all()
            ]

    def has_credit(self) -> bool:
        """Whether free credit was ever granted in this ledger."""
        with self._sessions.reading() as session:
            return session.exec(select(CreditTable.part).limit(1)).first() is not None

    def credit_of(self, consumer_id: int, server_id: int) -> Money | None:
        """What a consumer has free at a server; None where nothing was granted yet."""
        part = self._part_of(consumer_id)
        with self._sessions.reading() as session:
            row = session.get(CreditTable, (part, consumer_id, server_id))
            return None if row is None else Money(row.balance_micros - row.held_micros)

    def credits_of(self, consumer_id: int) -> Sequence[tuple[Server, Money]]:
        """What a consumer may spend free now, by server."""
        return [(Server(*server), Money(micros)) for *server, micros in self._lookups.rows(_FIND_CREDITS, consumer_id)]

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
        with self._sessions.reading() as session:
            wanted = TopUpTable.token == token if token else TopUpTable.id == top_up_id
            row = session.exec(select(TopUpTable).where(wanted)).first()
            if row is None:
                return None
            return _top_up(row)

    def set_top_up_amount(self, top_up_id: int, amount: Money) -> bool:
        """Ask for another amount; False, and nothing changes, where somebody began to pay it by card."""
        return self._sessions.write(_SET_AMOUNT, {"id": top_up_id, "amount_micros": amount.micros}) == 1

    def top_ups(self, consumer_id: int, *, before: int, limit: int) -> Sequence[TopUpRequest]:
        """A consumer's top-up requests, newest first, from before this one; 0 is the newest."""
        own = select(TopUpTable).where(TopUpTable.consumer_id == consumer_id)
        if before:
            own = own.where(col(TopUpTable.id) < before)
        with self._sessions.reading() as session:
            return [_top_up(row) for row in session.exec(own.order_by(col(TopUpTable.id).desc()).limit(limit)).all()]

    def close(self) -> None:
        """Let go of the database."""
        self._lookups.close()
        self._sessions.close()

    def _part_of(self, consumer_id: int) -> int:
        with self._sessions.reading() as session:
            row = session.get(ConsumerTable, consumer_id)
            if row is None:
                raise NotFound("no such consumer")
            return row.part

    def _add(self, *rows: SQLModel) -> None:
        with self._sessions.transaction() as session:
            session.add_all(rows)


def _key(session: Session, key_id: int) -> ApiKeyTable:
    row = session.get(ApiKeyTable, key_id)
    if row is None:
        raise NotFound("no such key")
    return row


def _limit_line(session: Session, key_id: int, limits: SpendingLimits) -> None:
    """Limit all keys of this one's line."""
    root_id = _key(session, key_id).root_id
    for row in session.exec(select(ApiKeyTable).where(ApiKeyTable.root_id == root_id)).all():
        row.limits = limits.dump()
        session.add(row)


def _listing(server_id: int, target: Target, spec: PriceSpec) -> PriceListingTable:
    text = json.dumps(spec.canonical(), sort_keys=True)
    return PriceListingTable(
        server_id=server_id, kind=target.kind, name=target.name, version=spec.version, spec=text, published_at=0
    )


def _server(developer_id: int, name: str) -> SelectOfScalar[ServerTable]:
    return select(ServerTable).where(ServerTable.developer_id == developer_id, ServerTable.name == name)


def _record(row: Any) -> KeyRecord:
    """The record of a row of `api_key`."""
    return KeyRecord(
        row.id, Role(row.role), Mode(row.mode), row.owner_id, row.part, row.server_id,
        row.label, row.last4, row.created_at, row.revoked_at, row.expires_at, SpendingLimits.load(row.limits), row.root_id,
    )  # fmt: skip


def _top_up(row: TopUpTable) -> TopUpRequest:
    amount = Money(row.amount_micros)
    return TopUpRequest(row.id, row.part, row.consumer_id, amount, row.token, row.created_at, row.expires_at)
