"""The gateway runs on both databases."""

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    """An empty ledger of this test's own, on each database in turn."""
    if request.param == "postgres":
        return request.getfixturevalue("database")
    return f"sqlite:///{request.getfixturevalue('ledger_path')}"
