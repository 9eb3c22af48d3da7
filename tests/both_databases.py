"""A `ledger_url` for tests that run on both databases: import it into a conftest or a file, and name it in `__all__`."""

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    """An empty ledger of this test's own, on each database in turn."""
    if request.param == "postgres":
        return request.getfixturevalue("database")
    return f"sqlite:///{request.getfixturevalue('ledger_path')}"
