"""What `payre dev` says about cards where it runs as a process."""

import os
import signal
import subprocess
import sys

import pytest

from tests.fakes import PATIENCE_S, ROOT
from tests.hub.card_desk import no_way_out


def lines_of_dev(**environ: str) -> str:
    """What it prints until it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "payre_mcp", "dev", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, env={**os.environ, **environ},  # noqa: TID251 - what the tests run in
    )  # fmt: skip
    assert process.stdout is not None
    lines = list[str]()
    while not (lines and lines[-1].startswith("Press Ctrl-C")):
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()[1]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    return "".join(lines)


@pytest.mark.parametrize(("key", "said"), [("", "4242 4242 4242 4242 pays"), ("sk_test_x", "no webhook comes here")])
def test_dev_says_where_cards_are_paid(key: str, said: str) -> None:
    with no_way_out() as proxy:
        assert said in lines_of_dev(PAYRE_STRIPE_API_KEY=key, HTTPS_PROXY=proxy)
