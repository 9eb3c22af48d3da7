"""`payre demo` and `payre dev` as a person runs them: a process, its output, its end."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from payre_mcp.cli.app import app
from payre_mcp.dev.web import listen

PAYRE = [sys.executable, "-m", "payre_mcp"]
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def dev(*arguments: str) -> Generator[dict[str, str]]:
    """`payre dev --json` until the block ends; the line that it prints."""
    process = subprocess.Popen([*PAYRE, "dev", "--port", "0", "--json", *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "payre dev ended before it was ready"
        yield json.loads(line)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130


def test_the_demo_holds_and_says_so() -> None:
    done = subprocess.run([*PAYRE, "demo"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Everything held" in done.stdout
    assert "!!" not in done.stdout
    assert done.stderr == ""


def test_the_demo_tells_machines_every_step() -> None:
    done = CliRunner().invoke(app, ["demo", "--json"])
    story = json.loads(done.stdout)
    assert done.exit_code == 0
    assert story["ok"]
    assert len(story["steps"]) == 11
    assert all(step["ok"] for step in story["steps"])


def test_dev_says_where_everything_is() -> None:
    with dev() as said:
        assert list(said) == ["hub", "wallet", "server", "console", "consumer_key", "developer_key", "data"]
        page = httpx2.get(said["console"])
        assert "forecast" in page.text
        assert "$5.00" in page.text
        assert httpx2.get(said["hub"], headers={"Host": "evil.example"}).status_code == 400
    assert not Path(said["data"]).exists()


def test_dev_keeps_keys_and_money_between_runs(tmp_path: Path) -> None:
    data = tmp_path / "ledger"
    with dev("--data", str(data), "--balance", "7") as first:
        pass
    with dev("--data", str(data), "--balance", "9") as second:
        assert second["consumer_key"] == first["consumer_key"]
        assert second["developer_key"] == first["developer_key"]
        assert "$7.00" in httpx2.get(second["console"]).text
    assert (data / "dev-keys.json").stat().st_mode & 0o077 == 0


def test_dev_serves_a_file_of_yours() -> None:
    with dev("examples/fixed_price.py:server") as said:
        assert "<code>search</code>" in httpx2.get(said["console"]).text


@pytest.mark.parametrize(
    ("content", "place", "advice"),
    [
        (None, "missing.py", "no file"),
        ("x = 1", "empty.py", "0 servers"),
        ("from payre_mcp import PaidMCPServer\na, b = PaidMCPServer('a'), PaidMCPServer('b')", "two.py", "two.py:OBJECT"),
        ("from payre_mcp import PaidMCPServer\na = PaidMCPServer('a')", "one.py:b", "no server 'b'"),
        ("from mcp.server.mcpserver import MCPServer\na = MCPServer('a')", "unpaid.py", "no Payre"),
    ],
)
def test_dev_says_what_is_wrong_with_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, place: str, advice: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / place.partition(":")[0]).write_text(content)
    done = CliRunner().invoke(app, ["dev", place, "--port", "0"])
    assert done.exit_code == 1
    assert advice in done.stderr


def test_dev_says_that_a_port_is_taken() -> None:
    with contextlib.closing(listen()) as taken:
        done = CliRunner().invoke(app, ["dev", "--port", str(taken.getsockname()[1])])
    assert done.exit_code == 1
    assert "--port" in done.stderr


def test_dev_prints_snippets_for_people() -> None:
    process = subprocess.Popen(
        [*PAYRE, "dev", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not (lines and lines[-1].startswith("Press Ctrl-C")):
        lines.append(process.stdout.readline())
        assert lines[-1], "payre dev ended before it was ready"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert "Traceback" not in said
    text = "".join(lines)
    assert "claude mcp add --transport http" in text
    assert '"mcpServers"' in text
    assert '"servers"' in text


def test_a_wallet_without_a_key_does_not_start(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["wallet", "--data", str(tmp_path)])
    assert done.exit_code == 3
    assert "PAYRE_KEY" in done.stderr


def test_help_loads_nothing_heavy_and_names_every_command() -> None:
    done = subprocess.run([*PAYRE, "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    for command in ("demo", "dev", "wallet", "balance", "top-up", "audit", "verify", "doctor", "keys"):
        assert command in done.stdout
