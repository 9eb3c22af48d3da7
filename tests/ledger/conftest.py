"""What several tests of the ledger ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.ledger.writer import Writer
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.sqlite import SqliteStore
from tests.fakes import ScriptedStore, fund
from tests.ledger.desk import Desk


@pytest.fixture
def desk(ledger_path: Path, clock: ManualClock) -> Iterator[Desk]:
    ledger = open_embedded(ledger_path, clock)
    ledger.writer.close()
    store = ScriptedStore(SqliteStore(ledger_path))
    writer = Writer(store, clock, ledger.ids, sweep_every_s=3600)
    payer = fund(ledger, 1_000_000, writer=writer)
    store.begun.clear()
    store.committed.clear()
    yield Desk(ledger, store, writer, clock, payer, ledger_path)
    writer.close()
    ledger.close()
