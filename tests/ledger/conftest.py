"""What several tests of the ledger ask for."""

from collections.abc import Iterator

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection
from payre_mcp.ledger.writer import Writer
from tests.both_databases import ledger_url
from tests.fakes import ScriptedStore, fund
from tests.ledger.desk import Desk, store_on

__all__ = ["ledger_url"]


@pytest.fixture
def desk(connection: Connection, clock: ManualClock) -> Iterator[Desk]:
    ledger = connection.ledger
    ledger.writer.close()
    store = ScriptedStore(store_on(ledger))
    writer = Writer(store, clock, ledger.ids, sweep_every_s=3600)
    payer = fund(ledger, 1_000_000, writer=writer)
    store.begun.clear()
    store.committed.clear()
    yield Desk(ledger, store, writer, clock, payer)
    writer.close()
