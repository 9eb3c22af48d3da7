"""A ledger of the version before payments, brought up to date: nothing is lost, on either database."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError, IntegrityError

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.errors import InsufficientBalance
from payre_mcp.ledger.model import Kind, Refund, Send
from payre_mcp.money import Money
from payre_mcp.payments import EventState, InboxEvent, Payment, PaymentKind, PaymentState
from payre_mcp.storage import migrate
from payre_mcp.storage.deploy import role_script
from payre_mcp.storage.engine import make_engine, server_engine
from tests.both_databases import ledger_url
from tests.fakes import RING, Funded, audited, fund, journal_of, open_holds_of, snapshots
from tests.postgres_server import Databases

__all__ = ["ledger_url"]

BEFORE = "0004"
LINES = sa.text("select part, transfer_id, account, owner_id, amount_micros from posting order by 1, 2, 3, 4, 5")


class Old(NamedTuple):
    """A database of the older version, not open, with the rows of a payer's ledger."""

    url: str
    engine: sa.Engine
    payer: Funded

    def lines(self) -> list[Any]:
        """The journal as double-entry lines."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(LINES)]

    def run(self, sql: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(sql))

    def upgrade(self, clock: ManualClock) -> Connection:
        """The ledger as this version opens it."""
        migrate.upgrade(self.engine)
        return open_ledger(self.url, clock=clock, ring=RING)


@pytest.fixture
def older(request: pytest.FixtureRequest, ledger_url: str, tmp_path: Path) -> Iterator[tuple[str, sa.Engine]]:
    """Another database of the same sort, empty."""
    if ledger_url.startswith("sqlite"):
        path = tmp_path / "payre.db"
        yield f"sqlite:///{path}", make_engine(path)
        return
    databases: Databases = request.getfixturevalue("databases")
    url = databases.new()
    engine = server_engine(url)
    yield url, engine
    engine.dispose()
    databases.drop(url)


@pytest.fixture
def old(older: tuple[str, sa.Engine], connection: Connection, clock: ManualClock) -> Old:
    url, engine = older
    payer = lived(connection, clock)
    with engine.begin() as before, connection.ledger.engine.connect() as now:
        as_it_was(before)
        copy_rows(now, before)
    return Old(url, engine, payer)


def lived(connection: Connection, clock: ManualClock) -> Funded:
    """A consumer of whom the journal has every kind of row that there was, a hold still open."""
    payer = fund(connection.ledger, 1_000_000)
    ask = payer.ledger.writer.ask
    charge = ask(payer.charge(9_000, key="paid")._replace(server_id=41, grant_micros=1_000)).transfer
    number, part, consumer_id, developer_id, _ = payer.start()
    ask(Refund(number, part, charge.id, consumer_id, developer_id, 3_000, "back"))
    ask(payer.capture(ask(payer.hold(500)).transfer.id, 300))
    ask(payer.void(ask(payer.hold(600)).transfer.id))
    ask(payer.hold(700))
    clock.advance(901)
    payer.ledger.writer.sweep()
    ask(payer.hold(800)._replace(expires_at=10**18))
    assert {row.kind for row in journal_of(payer.ledger)} == set(range(1, 9))
    return payer


def as_it_was(connection: sa.Connection) -> None:
    """The tables of the version before."""
    config = Config()
    config.set_main_option("script_location", "payre_mcp.storage:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, BEFORE)


def copy_rows(source: sa.Connection, target: sa.Connection) -> None:
    look = sa.inspect(target)
    for table in set(look.get_table_names()) - {migrate.VERSION_TABLE}:
        names = [column["name"] for column in look.get_columns(table)]
        rows = source.execute(sa.text(f"select {', '.join(names)} from {table}")).mappings().all()
        if rows:
            values = ", ".join(f":{name}" for name in names)
            target.execute(sa.text(f"insert into {table} ({', '.join(names)}) values ({values})"), [dict(row) for row in rows])


def accounts_of(connection: Connection) -> list[Any]:
    return sorted(row for part in snapshots(connection.ledger) for row in part.accounts())


def test_every_row_is_kept_and_the_books_balance(old: Old, connection: Connection, clock: ManualClock) -> None:
    before = old.lines()
    assert before
    with closing(old.upgrade(clock)) as new:
        assert old.lines() == before
        assert journal_of(new.ledger) == journal_of(connection.ledger)
        assert open_holds_of(new.ledger) == open_holds_of(connection.ledger) != {}
        assert accounts_of(new) == accounts_of(connection) != []
        assert new.ledger.directory.list_keys() == connection.ledger.directory.list_keys()
        assert audited(new.ledger, clock.now_us()).violations == []
        new.ledger.check_schema()


def test_what_was_begun_before_ends_after_and_a_balance_may_fall_below_zero(old: Old, clock: ManualClock) -> None:
    with closing(old.upgrade(clock)) as new:
        payer = old.payer._replace(ledger=new.ledger)
        ask = new.ledger.writer.ask
        (hold,) = open_holds_of(new.ledger)
        assert ask(payer.charge(9_000, key="paid")).replayed
        number, part, consumer_id, *_ = payer.start()
        ask(Send(number, part, Kind.CHARGEBACK, consumer_id, 0, 1_000_000, "dispute"))
        assert ask(payer.capture(hold, 800)).transfer.kind == Kind.CAPTURE
        assert payer.account().balance_micros < 0
        with pytest.raises(InsufficientBalance):
            ask(payer.charge(1))
        assert audited(new.ledger, clock.now_us()).violations == []


def test_the_limits_of_an_account_are_those_of_this_version(old: Old) -> None:
    debt = "update account set balance_micros = -5, held_micros = 0"
    with pytest.raises(IntegrityError):
        old.run(debt)
    migrate.upgrade(old.engine)
    old.run(debt)
    for wrong in ("balance_micros = 1000000000001", "held_micros = -1"):
        with pytest.raises(IntegrityError):
            old.run(f"update account set {wrong}")


@pytest.mark.parametrize("change", ["update transfer set detail = ''", "delete from transfer"])
def test_the_journal_is_still_append_only(old: Old, change: str) -> None:
    migrate.upgrade(old.engine)
    with pytest.raises(DBAPIError, match="append-only"):
        old.run(change)


def use_payments(connection: Connection, payer: Funded) -> None:
    """Write to each of the tables that are new, through what a server does with them."""
    payments, inbox, now = connection.ledger.payments, connection.ledger.inbox, connection.ledger.clock.now_us()
    payment = Payment(
        7,
        PaymentKind.RECHARGE,
        PaymentState.CREATED,
        payer.id,
        payer.record.part,
        0,
        Money(5),
        Money(0),
        "",
        "",
        "",
        "",
        now,
        now,
    )
    assert payments.add(payment)
    assert payments.advance(7, PaymentState.SUCCEEDED, processor_id="pi_1").state == PaymentState.SUCCEEDED
    changed = payments.change_payer(
        payer.id, lambda known: known._replace(method_id="pm_1", threshold=Money(10**9), amount=Money(5))
    )
    payments.save_payer(changed)
    assert payments.due_for_recharge(now, 9) == [changed]
    assert payments.payable(payer.developer_id, payer.record.part, mature_id=2**62, first_mature_id=2**62) > 0
    payments.set_reconciled("events", 5)
    assert inbox.receive(InboxEvent("evt_1", "platform", "refund.updated", False, "", "", "{}", EventState.WAITING, 0, "", 1, 0))
    inbox.finish("evt_1", EventState.DONE)


def test_an_upgraded_ledger_keeps_payments(old: Old, clock: ManualClock) -> None:
    with closing(old.upgrade(clock)) as new:
        use_payments(new, old.payer)
        assert new.ledger.inbox.prune(2) == 1


def test_a_role_that_serves_may_keep_payments(database: str, clock: ManualClock) -> None:
    engine = server_engine(database)
    with engine.begin() as owner:
        owner.exec_driver_sql(role_script("payre_keeping"))
    engine.dispose()
    with closing(open_ledger(database.replace("//payre@", "//payre_keeping@"), clock=clock, ring=RING)) as served:
        payer = fund(served.ledger, 1_000)
        served.ledger.writer.ask(payer.charge(100))
        use_payments(served, payer)
        assert served.ledger.inbox.prune(2) == 1
