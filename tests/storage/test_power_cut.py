"""What a power cut may take: holds that nobody has paid for yet, and never a charge that was answered.

`reference/reliability.md` section 6, faults 3 and 25. A commit of holds and voids alone does not wait for the disk; a
capture does, and takes every hold before it along. Proved by cutting a recorded run of the real store and writer at
many points, and by a control, with no durable commit at all, that must lose money.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from payre_mcp.clock import ManualClock, SystemClock
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.library import connect, wal_is_safe
from tests.fakes import audited, fund
from tests.storage.power_cut import Disk, Recording, UntraceableError, cuts, record

SEED = 20260
PAIRS = 100
NORMAL_POINTS, FAULT_POINTS = 150, 2_000

pytestmark = pytest.mark.skipif(not wal_is_safe(), reason="this SQLite gets a rollback journal, where every commit is durable")


class Losses(Counter[str]):
    """How many answered acts of each kind were lost, over all cuts."""


class Run(NamedTuple):
    """A recorded run of the workload, and the files that it left."""

    recording: Recording
    after: dict[str, bytes]


def run(workload: str, blank_ledger: Path, folder: Path) -> Run:
    """The workload over a ledger with one consumer."""
    shutil.copytree(blank_ledger, folder)
    ledger = open_embedded(folder / "payre.db", ManualClock())
    fund(ledger, 0)
    ledger.close()
    recording = traced(folder, workload, pairs=PAIRS)
    return Run(recording, {path.name: path.read_bytes() for path in folder.iterdir()})


@pytest.fixture(scope="module")
def real_run(blank_ledger: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run("real", blank_ledger, tmp_path_factory.mktemp("real") / "ledger")


def traced(folder: Path, workload: str, *, pairs: int = 0) -> Recording:
    """`record`, skipped loudly where there is no strace."""
    try:
        return record(folder, workload, pairs=pairs)
    except UntraceableError as error:
        if os.environ.get("PAYRE_REQUIRE_STRACE") == "1":  # noqa: TID251 - how CI says that skipping is failing
            pytest.fail(f"PAYRE_REQUIRE_STRACE is set, and {error}")
        pytest.skip(f"NO POWER CUT WAS SIMULATED: {error}; apt-get install strace")


def cut_everywhere(recording: Recording, folder: Path, *, faults: bool) -> Losses:
    """Cut at random points; check that what is left is a sound ledger; count what was promised and is gone."""
    chance, lost = random.Random(SEED), Losses()
    number = FAULT_POINTS if faults else NORMAL_POINTS
    points = sorted(chance.randrange(1, len(recording.acts) + 1) for _ in range(number))
    path = folder / "payre.db"
    for point, (files, said) in zip(points, cuts(recording, points, chance), strict=True):
        put(files, folder)
        where = f"seed {SEED}, cut after act {point} of {len(recording.acts)}"
        reopened = connect(path)
        reopened.execute("pragma synchronous = off")  # the copy is thrown away
        assert reopened.execute("pragma integrity_check").fetchall() == [("ok",)], where
        report = audited(path, SystemClock().now_us())
        assert report.ok, (where, report.violations)
        kept = {row_id for (row_id,) in reopened.execute("select id from transfer").fetchall()}
        reopened.close()
        lost.update(act.said[0] for act in said if int(act.said[1]) not in kept)
    return lost


def put(files: Mapping[str, bytes | bytearray], folder: Path) -> None:
    """Make the folder hold exactly these files."""
    for old in folder.iterdir():
        old.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cut").mkdir()
    return tmp_path / "cut"


@pytest.mark.timeout(900)
def test_a_power_cut_loses_holds_at_most_and_never_a_charge(real_run: Run, folder: Path, faults: bool) -> None:
    lost = cut_everywhere(real_run.recording, folder, faults=faults)
    assert lost["capture"] == lost["charge"] == lost["top-up"] == 0, lost
    assert lost["hold"] > 0, "the fault did not bite: no unsynced hold was ever lost"


@pytest.mark.timeout(900)
def test_a_store_whose_captures_do_not_wait_for_the_disk_loses_them(
    blank_ledger: Path, tmp_path: Path, folder: Path, faults: bool
) -> None:
    """The control: the same workload and the same cuts find the mistake that they are there to find."""
    never_durable = run("never-durable", blank_ledger, tmp_path / "ledger")
    lost = cut_everywhere(never_durable.recording, folder, faults=faults)
    assert lost["capture"] > 0
    assert lost["charge"] > 0


def test_a_hold_and_its_capture_wait_for_the_disk_once(real_run: Run) -> None:
    """Alone: a hold none, a void none, a capture one. A checkpoint now and then syncs more, so most pairs decide."""
    syncs: dict[str, Counter[int]] = {}
    checkpoints = total = since = 0
    for act in real_run.recording.acts:
        if act.kind == "sync":
            since += 1
            total += 1
            checkpoints += act.file == "payre.db"
        elif act.kind == "ack":
            syncs.setdefault(act.said[0], Counter())[since] += 1
            since = 0
    assert checkpoints > 0, "the workload is too short to meet a checkpoint"
    for kind, wanted in {"hold": 0, "void": 0, "capture": 1, "charge": 1}.items():
        assert syncs[kind].most_common(1)[0][0] == wanted, (kind, syncs[kind])
        assert syncs[kind].total() - syncs[kind][wanted] <= checkpoints, (kind, syncs[kind])
    durable = syncs["capture"].total() + syncs["charge"].total() + syncs["top-up"].total()
    assert durable <= total <= durable + 4 * checkpoints


def test_the_replay_ends_where_the_workload_ended(real_run: Run) -> None:
    """The control of the recipe: with nothing lost, the replayed files are byte for byte those that the run left."""
    disk = Disk(real_run.recording.before)
    for act in real_run.recording.acts:
        disk.do(act)
    assert disk.in_memory() == real_run.after


def test_a_power_cut_while_a_ledger_is_made_leaves_one_that_opens(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "new").mkdir()
    recording, chance = traced(tmp_path / "new", "open"), random.Random(SEED)
    points = sorted(chance.sample(range(len(recording.acts) + 1), 12))
    for files, _ in cuts(recording, points, chance):
        put(files, folder)
        (folder / "payre.keys").unlink(missing_ok=True)  # a test of its own, below
        ledger = open_embedded(folder / "payre.db", SystemClock())
        fund(ledger, 100)
        ledger.close()
        assert audited(folder / "payre.db", SystemClock().now_us()).ok


def test_the_receipt_keys_are_on_disk_before_the_ledger_is_open(tmp_path: Path, folder: Path) -> None:
    """A receipt is worth its key: a power cut after the first charges must not take `payre.keys`, nor leave it empty."""
    (tmp_path / "new").mkdir()
    recording, chance = traced(tmp_path / "new", "open"), random.Random(SEED)
    opened = next(n for n, act in enumerate(recording.acts) if act.kind == "ack") + 1
    for files, _ in cuts(recording, [opened] * 20, chance):
        put(files, folder)
        assert (folder / "payre.keys").read_bytes() == (tmp_path / "new" / "payre.keys").read_bytes()
