"""The official MCP conformance suites against one server twice, unpaid and with a price on everything: the results must be equal.

    python tests/conformance/run.py [--suite NAME] [--cache DIR]

Needs Node 22 or newer: the one that `PAYRE_TEST_NODE` names, the one on the path, or one that npm fetches into the cache, as it
fetches the suites. Exits with 0 when the two lists of results are identical, no check failed and the ledger of the paid side is
sound; with 1 when not; with 77 when there is no Node to be had, so nothing ran (with 1 where `PAYRE_REQUIRE_NODE=1`).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

EVERYTHING = Path(__file__).with_name("everything.py")
NODE_AT_LEAST = 22
NOT_RUN = 77
"""The exit code of a run that could not take place; also what automake calls a skipped test."""

INSTALL_WITHIN_S, SUITE_WITHIN_S, STOP_WITHIN_S = 300, 180, 30


class Suite(NamedTuple):
    """One run of one release of the suite."""

    name: str
    release: str
    options: Sequence[str]


SUITES = (
    Suite("0.1.16", "0.1.16", ()),
    Suite("0.2/2025-11-25", "0.2.0-alpha.12", ("--spec-version", "2025-11-25")),
    Suite("0.2/2026-07-28", "0.2.0-alpha.12", ("--spec-version", "2026-07-28")),
)

KNOWN_FAILURES: Mapping[tuple[str, str], str] = {}
"""(scenario, check) that the SDK itself fails, and why. Both sides fail it then; anything else that fails is ours."""


class Result(NamedTuple):
    """What became of one check."""

    scenario: str
    check: str
    status: str


Results = Counter[Result]
"""How often each result was seen."""


class NotRunError(Exception):
    """No Node, or no suite, on this machine; nothing was tested."""


@dataclass
class Side:
    """One of the two servers, while it runs and after."""

    name: str
    url: str = ""
    audit: dict[str, Any] = field(default_factory=dict[str, Any])


def node(cache: Path) -> Path:
    """A Node that is new enough. Raises `NotRunError`."""
    named = os.environ.get("PAYRE_TEST_NODE")  # noqa: TID251 - which Node a test uses is no setting of ours
    for candidate in (named, shutil.which("node")):
        if candidate and _version(candidate) >= NODE_AT_LEAST:
            return Path(candidate)
    fetched = package(cache, "node", str(NODE_AT_LEAST)) / "node" / "bin" / "node"
    if _version(str(fetched)) < NODE_AT_LEAST:
        raise NotRunError(f"npm fetched no Node {NODE_AT_LEAST} that runs here; remove {fetched.parents[3]} to try again")
    return fetched


def package(cache: Path, name: str, release: str) -> Path:
    """The `node_modules` folder with this package; npm fills it once. Raises `NotRunError`."""
    folder = cache / f"{name.rpartition('/')[2]}-{release}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=cache))
        try:
            _install(scratch, f"{name}@{release}")
            scratch.rename(folder)  # filled beside its place and then moved there: what is in its place is whole
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder / "node_modules"


def _install(folder: Path, wanted: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NotRunError(f"there is no npm to fetch {wanted} with; install npm of any version")
    (folder / "package.json").write_text('{"private": true}')  # or npm would look for one further up
    command = [npm, "install", "--no-audit", "--no-fund", "--no-save", "--no-package-lock", wanted]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, timeout=INSTALL_WITHIN_S)
    except subprocess.TimeoutExpired as error:
        raise NotRunError(f"npm did not fetch {wanted} within {INSTALL_WITHIN_S} s") from error
    if done.returncode:
        raise NotRunError(f"npm cannot fetch {wanted}: {done.stderr.strip()[-500:]}")


@contextmanager
def serving(side: Side, *options: str) -> Generator[None]:
    """Run a server of our own; its audit, if it has one, is there when the block has ended."""
    process = subprocess.Popen([sys.executable, EVERYTHING, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        side.url = process.stdout.readline().strip()
        if not side.url:
            raise RuntimeError(f"the {side.name} server did not start")
        try:
            yield
        finally:
            process.terminate()
            out, _ = process.communicate(timeout=STOP_WITHIN_S)
            side.audit = json.loads(out) if out.strip() else {}


def run(suite: Suite, side: Side, program: Path, cache: Path) -> Results:
    """The results of one suite against one server; none when it does not end, or breaks down."""
    index = package(cache, "@modelcontextprotocol/conformance", suite.release) / "@modelcontextprotocol/conformance/dist/index.js"
    with tempfile.TemporaryDirectory() as folder:
        command = [program, index, "server", "--url", side.url, "--suite", "all", *suite.options, "-o", folder]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SUITE_WITHIN_S)
        except subprocess.TimeoutExpired:
            say(f"{suite.name} did not end within {SUITE_WITHIN_S} s against the {side.name} server")
            return Results()
        found = results_in(Path(folder))
    if not found:
        say((done.stdout + done.stderr)[-2000:])
    return found


def results_in(folder: Path) -> Results:
    """What a suite wrote: a folder for every scenario, named for it and the time."""
    found = Results()
    for file in folder.glob("*/checks.json"):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT.*$", "", file.parent.name)
        found.update(Result(scenario, f"{each['id']} ({each['name']})", each["status"]) for each in json.loads(file.read_text()))
    return found


def differences(unpaid: Results, paid: Results) -> list[str]:
    """What one side has and the other has not, a line each; empty when the two are identical."""
    lines = [("-", each) for each in (unpaid - paid).elements()] + [("+", each) for each in (paid - unpaid).elements()]
    return [f"{sign} {each.scenario}: {each.check}: {each.status}" for sign, each in sorted(lines, key=lambda line: line[1])]


def problems(unpaid: Results, paid: Results) -> list[str]:
    """Why a suite does not hold; empty when it does. Lines with `-` are of the unpaid side alone, with `+` of the paid one."""
    failed = {(each.scenario, each.check) for each in unpaid if each.status == "FAILURE"} - KNOWN_FAILURES.keys()
    return [
        *([] if unpaid and paid else ["no results at all"]),
        *(f"fails without any price: {scenario}: {check}" for scenario, check in sorted(failed)),
        *differences(unpaid, paid),
    ]


def unsound(audit: Mapping[str, Any]) -> list[str]:
    """What is wrong with the ledger of the paid side."""
    if not audit:
        return ["the paid server left no audit"]
    return [*audit["violations"], *([] if audit["charges"] else ["nothing was charged"])]


def compare(suites: Sequence[Suite], program: Path, cache: Path) -> list[str]:
    """Run the suites against both servers and say what came out; every problem that was found."""
    unpaid, paid = Side("unpaid"), Side("paid")
    found: list[str] = []
    say(f"{'suite':<16}{'side':<8}{'scenarios':>10}{'passed':>8}{'failed':>8}{'warned':>8}{'other':>7}{'seconds':>9}")
    with serving(unpaid), serving(paid, "--paid"):
        for suite in suites:
            results = [_timed(suite, side, program, cache) for side in (unpaid, paid)]
            found += [f"{suite.name}: {problem}" for problem in problems(*results)]
    say(f"ledger of the paid side: {json.dumps(paid.audit)}")
    return found + unsound(paid.audit)


def _timed(suite: Suite, side: Side, program: Path, cache: Path) -> Results:
    start = time.perf_counter()
    results = run(suite, side, program, cache)
    seconds = time.perf_counter() - start
    by_status = Counter(each.status for each in results.elements())
    counts = [len({each.scenario for each in results}), *(by_status.pop(each, 0) for each in ("SUCCESS", "FAILURE", "WARNING"))]
    columns = "".join(f"{count:>{width}}" for count, width in zip(counts, (10, 8, 8, 8), strict=True))
    say(f"{suite.name:<16}{side.name:<8}{columns}{by_status.total():>7}{seconds:>9.1f}")
    return results


def _version(program: str) -> int:
    """The major version of a Node; 0 for what is none."""
    try:
        out = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=30).stdout
    except OSError:
        return 0
    found = re.match(r"v(\d+)\.", out)
    return int(found[1]) if found else 0


def say(line: str) -> None:
    """Print a line, now."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[suite.name for suite in SUITES], help="one suite; without it, all")
    parser.add_argument(
        "--cache", type=Path, default=Path(platformdirs.user_cache_dir("payre")) / "conformance", help="where npm's packages are"
    )
    options = parser.parse_args()
    suites = [suite for suite in SUITES if options.suite in (None, suite.name)]
    cache: Path = options.cache.absolute()
    try:
        program = node(cache)
        for suite in suites:
            package(cache, "@modelcontextprotocol/conformance", suite.release)
    except NotRunError as error:
        say(f"NO CONFORMANCE SUITE RAN: {error}")
        required = os.environ.get("PAYRE_REQUIRE_NODE") == "1"  # noqa: TID251 - how CI says that skipping is failing
        return 1 if required else NOT_RUN
    found = compare(suites, program, cache)
    for problem in found:
        say(problem)
    say("the two sides differ, or one is broken" if found else "identical: prices change no result")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
