"""The gateway runs on both databases and both event loops; which loop waits is nothing to the database that answers."""

from pathlib import Path

import pytest

from tests.both_databases import ledger_url

__all__ = ["ledger_url"]

HERE = Path(__file__).parent
LOCAL_PAIRS = {("asyncio", "sqlite"), ("trio", "sqlite"), ("asyncio", "postgres")}
REMOTE_PAIRS = {("asyncio", "postgres"), ("trio", "sqlite")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out pairs of loop and database that prove nothing more than others."""
    left_out = [item for item in items if HERE in item.path.parents and not _is_worth_it(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def _is_worth_it(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    pair = (parameters.get("anyio_backend"), parameters.get("ledger_url"))
    if None in pair:
        return True
    return pair in (REMOTE_PAIRS if item.path.name.startswith("test_remote") else LOCAL_PAIRS)
