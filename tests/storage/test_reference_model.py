"""Kernel and stores against a plain model, step by step, with crashes between any two steps."""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from payre_mcp.directory import SpendingLimits
from payre_mcp.ledger.audit import audit
from payre_mcp.ledger.credit import credit_needs
from payre_mcp.ledger.kernel import decide
from payre_mcp.ledger.model import Command, Done, Extend
from payre_mcp.ledger.spending import spending_needs
from payre_mcp.ledger.state import Answer, Decision, needs
from payre_mcp.ledger.store import Store
from payre_mcp.money import Money
from payre_mcp.storage.embedded import snapshot_of
from payre_mcp.storage.engine import server_engine
from payre_mcp.storage.library import connect
from payre_mcp.storage.postgres import PostgresStore
from payre_mcp.storage.readers import PostgresReader
from payre_mcp.storage.snapshot import Snapshot
from payre_mcp.storage.sqlite import SqliteStore
from tests.fakes import PARTS
from tests.ledger.commands import ALICE, BOB, KEY, NOON, SECOND, done, top_up
from tests.ledger.reference_model import DEAD_KEY, LIMIT, LIMITED_KEY, START, Made, Model, commands, said
from tests.postgres_server import Databases

PART = 0
"""The one that SQLite has, and one of those that PostgreSQL has."""


class Place(Protocol):
    """A ledger of one example's own."""

    def store(self) -> Store: ...

    def snapshot(self) -> AbstractContextManager[Snapshot]: ...

    def insert(self, table: str, *values: object) -> None: ...

    def remove(self) -> None: ...


class File:
    """A ledger on SQLite."""

    def __init__(self, template: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="payre-model-"))
        self.path = self.folder / "payre.db"
        shutil.copy(template, self.path)

    def store(self) -> Store:
        return SqliteStore(self.path)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        return snapshot_of(self.path)

    def insert(self, table: str, *values: object) -> None:
        connection = connect(self.path)
        connection.execute(f"insert into {table} values ({', '.join('?' * len(values))})", values)
        connection.close()

    def remove(self) -> None:
        shutil.rmtree(self.folder)


class Database:
    """A ledger on PostgreSQL."""

    def __init__(self, databases: Databases, template: str) -> None:
        self.databases, self.url = databases, databases.new(template)
        self.engine = server_engine(self.url)
        self.reader = PostgresReader(self.engine, PARTS)

    def store(self) -> Store:
        return PostgresStore(self.url, holder="model", own_time=False)

    @contextmanager
    def snapshot(self) -> Generator[Snapshot]:
        with self.reader.at_once() as moment:
            yield Snapshot(moment, PART, guarded=True)

    def insert(self, table: str, *values: object) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"insert into {table} values ({', '.join(['%s'] * len(values))})".encode(), values)

    def remove(self) -> None:
        self.engine.dispose()
        self.databases.drop(self.url)


class LedgerOnDisk(RuleBasedStateMachine):
    """Plays commands, one batch a step; a crash drops the connection before or after the commit and opens another."""

    @staticmethod
    def new_place() -> Place:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.place = self.new_place()
        add_people(self.place)
        self.store = self.place.store()
        self.model, self.now, self.number = Model(), NOON, 10
        self.made: list[Made] = []
        self.commit([here(top_up(1, START)), here(top_up(2, START, consumer=BOB))])

    @rule(data=st.data(), size=st.integers(1, 4))
    def commands_are_played(self, data: st.DataObject, size: int) -> None:
        batch = self.drawn(data, size)
        assert [said(answer) for answer in self.commit(batch)] == [self.model.answer(command) for command in batch]

    @rule(seconds=st.sampled_from([1, 500, 900]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.model.now = self.now

    @rule(data=st.data())
    def the_process_dies_before_the_commit(self, data: st.DataObject) -> None:
        self.decision(self.drawn(data, 2, keep=False))
        self.reopen()

    @rule(data=st.data())
    def the_process_dies_after_the_commit_and_the_callers_ask_again(self, data: st.DataObject) -> None:
        batch = self.drawn(data, 2)
        expected = [self.model.answer(command) for command in batch]
        first = self.commit(batch)
        assert [said(answer) for answer in first] == expected
        self.reopen()
        # What was refused may be granted at another try; what was written is never written again.
        written = {answer.transfer.id: answer.transfer for answer in first if isinstance(answer, Done) and not answer.replayed}
        again = self.commit([each for each in batch if not isinstance(each, Extend) and each.id in written], repeated=True)
        assert [done(answer).transfer for answer in again] == list(written.values())

    @invariant()
    def the_accounts_are_the_models(self) -> None:
        with self.place.snapshot() as snapshot:
            stored = {account.id: (account.balance_micros, account.held_micros) for _, account in snapshot.accounts()}
            earned = {developer: (net, fees) for _, developer, net, fees in snapshot.earnings()}
            counted = {(who, name, start): (taken, kept) for _, who, name, start, taken, kept in snapshot.counters()}
            credits_left = {credit[:2]: credit[2:] for _, credit in snapshot.credits()}
        assert stored == {who: (amount, self.model.held(who)) for who, amount in self.model.money.items()}
        assert earned == self.model.income
        assert {place: counts for place, counts in counted.items() if any(counts)} == self.model.counters()
        assert credits_left == self.model.credits()

    def teardown(self) -> None:
        self.store.close()
        with self.place.snapshot() as snapshot:
            assert audit(snapshot, NOON).violations == []
        self.place.remove()

    def drawn(self, data: st.DataObject, size: int, *, keep: bool = True) -> list[Command]:
        batch: list[Command] = []
        for _ in range(size):
            self.number += 1
            command = here(data.draw(commands(self.number, self.made)))
            batch.append(command)
            if keep and isinstance(command, Made):
                self.made.append(command)
        return batch

    def decision(self, batch: list[Command], *, repeated: bool = False) -> Decision:
        """A transaction up to its commit."""
        self.store.begin(durable=True)
        state = self.store.load(needs(batch, repeated=repeated))
        state.counters |= self.store.load_counters(spending_needs(batch, state, self.now))
        state.credits = self.store.load_credits(credit_needs(batch, state))
        decision = decide(batch, state, self.now)
        self.store.apply(decision)
        return decision

    def commit(self, batch: list[Command], *, repeated: bool = False) -> list[Answer]:
        decision = self.decision(batch, repeated=repeated)
        self.store.commit()
        return decision.answers

    def reopen(self) -> None:
        self.store.close()  # an open transaction goes with its connection
        self.store = self.place.store()


def add_people(place: Place) -> None:
    """Two consumers without money; one live key, one revoked, and one that is limited."""
    for who in (ALICE, BOB):
        place.insert("account", PART, who, 0, 0, 0)
    limits = SpendingLimits(day=Money(LIMIT)).dump()
    for key, revoked_at, limited in ((KEY, 0, ""), (DEAD_KEY, NOON, ""), (LIMITED_KEY, 0, limits)):
        digest = key.to_bytes(32, "big")
        place.insert("api_key", key, digest, "ck", "test", ALICE, PART, 0, "", "0000", 0, revoked_at, 0, limited, key)


def here(command: Command) -> Command:
    """The command in the part where all of this happens."""
    return command._replace(part=PART)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_ledger_on_disk_does_what_the_model_says(request: pytest.FixtureRequest, database: str, faults: bool) -> None:
    if database == "sqlite":
        blank: Path = request.getfixturevalue("blank_ledger")
        new_place = partial(File, blank / "payre.db")
    else:
        new_place = partial(Database, request.getfixturevalue("databases"), request.getfixturevalue("blank_database"))
    machine = type("LedgerOnDisk", (LedgerOnDisk,), {"new_place": staticmethod(new_place)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=2_000 if faults else 15,
            stateful_step_count=50 if faults else 20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
