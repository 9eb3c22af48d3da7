"""Free credit on a real database: what is written, that every row's double-entry lines balance, and who may pay with it."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.errors import InsufficientBalance
from payre_mcp.ledger.model import Charge, Credit, Hold, Kind, Refund
from payre_mcp.money import Money
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.engine import server_engine
from payre_mcp.storage.ledger import OpenLedger
from payre_mcp.storage.library import connect, sqlite
from payre_mcp.storage.readers import PostgresReader, Reader, SqliteReader
from payre_mcp.storage.server import open_server
from tests.fakes import PARTS, RING, Funded, audited, fund, journal_of, snapshots

SERVER, GRANT = 41, 1_000


class Place(NamedTuple):
    """One ledger, on either database."""

    open: Callable[[], OpenLedger]
    """Opens it; as often as it is called."""
    reader: Callable[[], Reader]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, clock: ManualClock) -> Place:
    if request.param == "sqlite":
        path: Path = request.getfixturevalue("ledger_path")
        return Place(lambda: open_embedded(path, clock), lambda: SqliteReader(path))
    url: str = request.getfixturevalue("database")
    return Place(lambda: open_server(url, clock, ring=RING), lambda: PostgresReader(server_engine(url), PARTS))


@pytest.fixture
def payer(place: Place) -> Iterator[Funded]:
    """A consumer with 500 micros."""
    ledger = place.open()
    yield fund(ledger, 500)
    ledger.close()


def free(command: Hold | Charge, *, grant: int = GRANT) -> Hold | Charge:
    return command._replace(server_id=SERVER, grant_micros=grant)


def credits_in(ledger: OpenLedger) -> list[Credit]:
    return [credit for part in snapshots(ledger) for _, credit in part.credits()]


def lines(payer: Funded, place: Place) -> dict[int, dict[str, int]]:
    """The double-entry lines of every kind of row, by account; of several rows of a kind the last."""
    kinds = {row.id: row.kind for row in journal_of(payer.ledger)}
    out: defaultdict[int, dict[str, int]] = defaultdict(dict)
    with closing(place.reader()) as reader:
        for number, account, micros in reader.rows(
            "select transfer_id, account, amount_micros from posting order by transfer_id"
        ):
            out[kinds[number]][account] = micros
    return out


def refund(payer: Funded, charge_id: int, micros: int) -> Refund:
    number, part, consumer, developer, _ = payer.start()
    return Refund(number, part, charge_id, consumer, developer, micros, f"back {number}")


def test_a_call_over_credit_and_balance_is_written_in_lines_that_balance(payer: Funded, place: Place, clock: ManualClock) -> None:
    ask = payer.ledger.writer.ask
    held = ask(free(payer.hold(1_300))).transfer
    charge = ask(payer.capture(held.id, 1_200)).transfer
    assert [row.kind for row in journal_of(payer.ledger)] == [Kind.GRANT, Kind.TOP_UP, Kind.HOLD, Kind.CAPTURE]
    assert (charge.server_id, charge.credit_spent_micros, charge.fee_micros) == (SERVER, GRANT, 6)
    assert credits_in(payer.ledger) == [Credit(payer.id, SERVER, GRANT, 0, 0)]
    assert payer.account().balance_micros == 300
    assert lines(payer, place) == {
        Kind.TOP_UP: {"available": 500, "world": -500},
        Kind.GRANT: {"credit": 1_000, "world": -1_000},
        Kind.HOLD: {"available": -300, "held": 300, "credit": -1_000, "credit_held": 1_000},
        Kind.CAPTURE: {
            "available": 100, "held": -300, "credit_held": -1_000, "developer": 194, "platform": 6, "world": 1_000,
        },
    }  # fmt: skip
    assert audited(payer.ledger, clock.now_us()).violations == []


def test_every_other_act_balances_too(payer: Funded, place: Place, clock: ManualClock) -> None:
    ask = payer.ledger.writer.ask
    charge = ask(free(payer.charge(1_200))).transfer
    ask(refund(payer, charge.id, 600))
    assert lines(payer, place)[Kind.CHARGE] == {
        "available": -200,
        "credit": -1_000,
        "developer": 194,
        "platform": 6,
        "world": 1_000,
    }
    assert lines(payer, place)[Kind.REFUND] == {"available": 100, "credit": 500, "developer": -97, "platform": -3, "world": -500}
    voided = ask(free(payer.hold(550))).transfer
    ask(payer.void(voided.id))
    assert lines(payer, place)[Kind.VOID] == {"available": 50, "held": -50, "credit": 500, "credit_held": -500}
    expired = ask(free(payer.hold(550))).transfer
    clock.advance(901)
    assert payer.ledger.writer.sweep() == 1
    late = ask(payer.capture(expired.id, 520)).transfer
    assert (late.kind, late.credit_micros) == (Kind.CHARGE, 500)
    report = audited(payer.ledger, clock.now_us())
    assert report.violations == []
    assert (report.granted_micros, report.credit_micros, report.credit_spent_micros) == (GRANT, 0, GRANT)


def test_a_consumer_of_many_first_calls_at_once_is_granted_once(payer: Funded, place: Place, clock: ManualClock) -> None:
    second = place.open()
    refused: list[InsufficientBalance] = []

    def spend(ledger: OpenLedger) -> None:
        for _ in range(50):
            try:
                ledger.writer.ask(free(payer.charge(10)))
            except InsufficientBalance as error:
                refused.append(error)

    threads = [threading.Thread(target=spend, args=(ledger,)) for ledger in (payer.ledger, second) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    second.close()
    kinds = [row.kind for row in journal_of(payer.ledger)]
    assert (kinds.count(Kind.GRANT), kinds.count(Kind.CHARGE), len(refused)) == (1, 150, 50)
    assert payer.account().balance_micros == 0
    assert audited(payer.ledger, clock.now_us()).violations == []


def test_what_is_free_is_known_to_the_directory(payer: Funded) -> None:
    directory = payer.ledger.directory
    assert not directory.has_credit()
    assert directory.credit_of(payer.id, SERVER) is None
    payer.ledger.writer.ask(free(payer.hold(300)))
    assert directory.has_credit()
    assert directory.credit_of(payer.id, SERVER) == Money(700)
    assert directory.credit_of(payer.id, SERVER + 1) is None


@pytest.mark.parametrize("change", ["granted_micros = 999", "balance_micros = 1001", "held_micros = 1001", "held_micros = -1"])
def test_the_table_refuses_credit_that_cannot_be(ledger_path: Path, clock: ManualClock, change: str) -> None:
    ledger = open_embedded(ledger_path, clock)
    ledger.writer.ask(free(fund(ledger, 0).charge(0)))
    ledger.close()
    raw = connect(ledger_path)
    with pytest.raises(sqlite.IntegrityError):
        raw.execute(f"update credit set {change}")
    raw.close()
