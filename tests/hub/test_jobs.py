"""What a hub does beside answering."""

import logging

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection
from payre_mcp.hub.jobs import Jobs
from payre_mcp.hub.metrics import Meters
from payre_mcp.storage.library import connect
from payre_mcp.storage.rollup import AGE_US
from payre_mcp.storage.server import open_server
from tests.fakes import RING, file_of, fund
from tests.storage.test_rollup import sell


def test_a_hub_sums_up_and_audits_and_says_that_all_is_well(connection: Connection, clock: ManualClock) -> None:
    sell(fund(connection.ledger, 1_000), 100)
    clock.advance(AGE_US / 1_000_000 + 1)
    Jobs(connection.ledger, Meters()).run_once()
    assert connection.ledger.roll_up() == 0, "it was done"


def test_a_broken_ledger_is_told_as_critical(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    payer = fund(connection.ledger, 1_000)
    file = connect(file_of(connection.ledger))
    file.execute("update account set balance_micros = 999 where id = ?", (payer.id,))
    file.close()
    Jobs(connection.ledger, Meters()).run_once()
    assert [record.levelno for record in caplog.records if "broken" in record.message] == [logging.CRITICAL] * 2


def test_of_two_hubs_one_does_the_jobs_and_the_other_takes_over(database: str, clock: ManualClock) -> None:
    first, second = (open_server(database, clock, ring=RING) for _ in range(2))
    assert [first.lease("jobs", 60), second.lease("jobs", 60), first.lease("jobs", 60)] == [True, False, True]
    assert second.lease("jobs of another kind", 60)
    first.close()
    assert second.lease("jobs", 60)
    second.close()
