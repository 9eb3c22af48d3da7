"""The runner of the suites: what it compares, when it finds fault, and that it says so when nothing could run."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.text import TextReceiveStream
from mcp import Client

from tests.conformance.run import EVERYTHING, NOT_RUN, Result, Results, differences, problems, results_in, unsound
from tests.fakes import PATIENCE_S

RUN = EVERYTHING.with_name("run.py")
SOUND: dict[str, Any] = {"charges": 3, "open_holds": 0, "violations": []}

PASSED, FAILED = Result("ping", "ping (Ping)", "SUCCESS"), Result("ping", "ping (Ping)", "FAILURE")


def test_identical_lists_of_results_are_no_problem() -> None:
    assert problems(Results([PASSED, PASSED]), Results([PASSED, PASSED])) == []


def test_a_check_that_fails_on_the_paid_side_alone_is_named_on_both_sides() -> None:
    assert differences(Results([PASSED]), Results([FAILED])) == ["+ ping: ping (Ping): FAILURE", "- ping: ping (Ping): SUCCESS"]


def test_a_check_that_is_seen_once_less_is_a_difference() -> None:
    assert problems(Results([PASSED, PASSED]), Results([PASSED])) == ["- ping: ping (Ping): SUCCESS"]


def test_a_failure_of_both_sides_is_a_problem_unless_it_is_known() -> None:
    assert problems(Results([FAILED]), Results([FAILED])) == ["fails without any price: ping: ping (Ping)"]


def test_suites_that_found_nothing_are_a_problem() -> None:
    assert problems(Results(), Results()) == ["no results at all"]


@pytest.mark.parametrize(
    ("audit", "found"),
    [
        (SOUND, []),
        ({}, ["the paid server left no audit"]),
        ({**SOUND, "charges": 0}, ["nothing was charged"]),
        ({**SOUND, "violations": ["a balance is off"]}, ["a balance is off"]),
    ],
)
def test_the_ledger_must_be_sound_and_must_have_charged(audit: dict[str, Any], found: list[str]) -> None:
    assert unsound(audit) == found


def test_results_are_read_by_scenario_and_check(tmp_path: Path) -> None:
    for folder, status in (("server-ping-2026-01-02T03-04-05-678Z", "SUCCESS"), ("server-server-stateless-2026-01-02T0", "INFO")):
        (tmp_path / folder).mkdir()
        checks = [{"id": "ping", "name": "Ping", "status": status}]
        (tmp_path / folder / "checks.json").write_text(json.dumps(checks))
    assert results_in(tmp_path) == Results([PASSED, Result("server-stateless", "ping (Ping)", "INFO")])


@pytest.mark.parametrize(("required", "code"), [("", NOT_RUN), ("1", 1)])
def test_without_node_and_npm_it_says_loudly_that_nothing_ran(tmp_path: Path, required: str, code: int) -> None:
    environment = {"PATH": str(tmp_path), "PAYRE_REQUIRE_NODE": required}
    command: Sequence[Any] = [sys.executable, RUN, "--cache", tmp_path / "cache"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=PATIENCE_S)
    assert done.stdout.startswith("NO CONFORMANCE SUITE RAN"), done.stderr
    assert done.returncode == code


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_behind_its_proxy_the_paid_server_charges_a_client_without_a_key_and_leaves_its_audit() -> None:
    with anyio.fail_after(PATIENCE_S):
        async with await anyio.open_process([sys.executable, EVERYTHING, "--paid"], stderr=None) as process:
            assert process.stdout is not None
            lines = TextReceiveStream(process.stdout)
            async with Client((await lines.receive()).strip()) as client:
                result = await client.call_tool("test_simple_text")
            process.terminate()
            audit = json.loads("".join([text async for text in lines]))
    assert "dev.payre/receipt" in dict(result.meta or {})
    assert (process.returncode, audit["charges"], audit["open_holds"], audit["violations"]) == (0, 1, 0, [])
