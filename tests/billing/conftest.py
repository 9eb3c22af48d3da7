"""A till over a SQLite ledger; files that import `ledger_url` of both databases have it over each."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.billing.till import Till, open_till


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the client of Stripe is used on."""
    return "asyncio"


@pytest.fixture
def ledger_url(ledger_path: Path) -> str:
    """An empty ledger of this test's own."""
    return f"sqlite:///{ledger_path}"


@pytest.fixture
async def till(ledger_url: str) -> AsyncGenerator[Till]:
    """A consumer without money, at a ledger with billing over a fake Stripe that sends its news."""
    async with open_till(ledger_url) as till:
        yield till
