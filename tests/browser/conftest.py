"""A real browser. Without one these tests are skipped, or fail where `PAYRE_REQUIRE_CHROMIUM` is 1.

It is the Chromium that `PAYRE_CHROMIUM` names, or the machine's own, driven by Playwright.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

import pytest

from tests.fakes import PATIENCE_S, ROOT

if TYPE_CHECKING:
    from playwright.async_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def anyio_backend() -> str:
    """As Playwright is."""
    return "asyncio"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where a Chromium is that can be driven."""
    named = os.environ.get("PAYRE_CHROMIUM")  # noqa: TID251 - where the tests' browser is
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None or importlib.util.find_spec("playwright") is None:
        missing = "no browser: apt-get install chromium, or set PAYRE_CHROMIUM; and pip install playwright"
        required = os.environ.get("PAYRE_REQUIRE_CHROMIUM") == "1"  # noqa: TID251 - how CI says that skipping is failing
        (pytest.fail if required else pytest.skip)(missing)
    return found


@pytest.fixture
async def browser(chromium: str) -> AsyncGenerator["Browser"]:
    """A browser of this test's own."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - not everybody has it

    # Chromium's own sandbox does not work for root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
def dev() -> Generator[dict[str, str]]:
    """`payre dev` as a newcomer starts it: a process of its own; the line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "payre_mcp", "dev", "--port", "0", "--json"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    yield json.loads(line)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
