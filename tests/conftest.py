"""What every test may ask for: both event loops, a ledger of its own in `tmp_path`, a consumer with money."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.storage.embedded import open_embedded
from tests.fakes import Funded, fund


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="the long fault-injection runs too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--faults"):
        for item in items:
            if item.get_closest_marker("fault"):
                item.add_marker(pytest.mark.skip(reason="a long fault-injection run: --faults"))


@pytest.fixture(scope="session")
def faults(request: pytest.FixtureRequest) -> bool:
    """Whether the long fault-injection runs were asked for."""
    return bool(request.config.getoption("--faults"))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Everything async runs on both."""
    return str(request.param)


@pytest.fixture(scope="session")
def blank_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a migrated, empty ledger, made once: migrating takes a tenth of a second."""
    folder = tmp_path_factory.mktemp("blank")
    open_embedded(folder / "payre.db", ManualClock()).close()
    return folder


@pytest.fixture
def ledger_path(blank_ledger: Path, tmp_path: Path) -> Path:
    """An empty ledger of this test's own, not open."""
    shutil.copytree(blank_ledger, tmp_path / "ledger")
    return tmp_path / "ledger" / "payre.db"


@pytest.fixture
def clock() -> ManualClock:
    """Time that the test moves."""
    return ManualClock()


@pytest.fixture
def connection(ledger_path: Path, clock: ManualClock) -> Iterator[Connection]:
    """An open ledger, on the test's clock."""
    connection = open_ledger(f"sqlite:///{ledger_path}", clock=clock)
    yield connection
    connection.close()


@pytest.fixture
def consumer(connection: Connection) -> Funded:
    """A consumer with $1.00."""
    return fund(connection.ledger, 1_000_000)
