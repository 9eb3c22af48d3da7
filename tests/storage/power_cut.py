"""A power cut, simulated: record what a workload hands to the kernel, and rebuild what a disk may hold at any moment.

Recipe: run the workload under strace; replay its log up to a point. Writes to a file before its last sync are kept;
later ones are each kept whole (0.4), torn in pieces of 512 bytes (0.2) or lost (0.4); truncations and removals are kept
or lost.
The workload says `ACK ...` on its standard output after each answer, in the same log, so we know who was promised what.

Run as a program it is the workload: `python -m tests.storage.power_cut FOLDER real|never-durable|open PAIRS`.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from payre_mcp.clock import SystemClock
from payre_mcp.ids import IdFactory
from payre_mcp.ledger.metering import counters_of
from payre_mcp.ledger.model import Capture, Charge, Hold, Metered, Spent, TopUp, Void
from payre_mcp.ledger.store import Store
from payre_mcp.ledger.writer import HOLD_LIFE_US, Writer
from payre_mcp.pricing import Price, Target, Usage
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.library import connect
from payre_mcp.storage.sqlite import SqliteStore
from tests.fakes import FEE_BPS, PATIENCE_S, ROOT, NeverDurable

TRACED = "trace=pwrite64,write,ftruncate,fsync,fdatasync,unlink,rename,link"
LONGEST = 200_000
"""strace cuts longer buffers short; `parse` checks that none was."""

SECTOR = 512
_STEPS = Price.tiered("requests", [(10, "0.0001"), (20, "0.00005"), (None, "0.00002")]).plan("")
METERED = Metered(_STEPS, Usage({"requests": 1}), counters_of(_STEPS, 1, Target("tool", "forecast"), 0))
_NAMES = ("unlink", "rename", "link")
"""Acts on a folder, not on a file: a sync of the folder makes them safe."""


class Act(NamedTuple):
    """One thing the workload asked of the kernel. `file` is a name in the ledger's folder."""

    kind: str
    """write, truncate, sync, unlink, rename, link or ack."""
    file: str = ""
    """Empty for a sync of the folder itself, which makes removals and new names safe."""
    data: bytes = b""
    """What is written; the new name in a rename or link."""
    at: int = 0
    """Where it is written; -1 at the end."""
    said: tuple[str, ...] = ()
    """The words after ACK."""


class Recording(NamedTuple):
    """The ledger's files before the workload, and everything that it did to them."""

    before: dict[str, bytes]
    acts: list[Act]


class UntraceableError(Exception):
    """strace is missing or may not trace here."""


def record(folder: Path, workload: str, *, pairs: int = 0) -> Recording:
    """Run a workload over the ledger in this folder, which nobody else has open, under strace."""
    strace = shutil.which("strace")
    if strace is None:
        raise UntraceableError("strace is not installed")
    log = folder.with_suffix(".strace")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    program = [sys.executable, "-B", "-m", "tests.storage.power_cut", str(folder), workload, str(pairs)]
    tracer = [strace, "-f", "-y", "-xx", "-s", str(LONGEST), "-e", TRACED, "-o", str(log)]
    ran = subprocess.run([*tracer, *program], cwd=ROOT, capture_output=True, timeout=2 * PATIENCE_S, check=False)
    if ran.returncode:
        said = ran.stderr.decode()
        if "ptrace" in said:
            raise UntraceableError(said)
        raise AssertionError(said)
    acts = list(parse(log.read_text(), folder))
    log.unlink()
    assert acts, "strace saw nothing"
    return Recording(before, acts)


_CALL = re.compile(r"(?P<call>\w+)\((?:(?P<fd>\d+)<(?P<path>[^>]*)>(?:, )?)?(?P<rest>.*)\) = (?P<result>-?\d+)")
_UNFINISHED, _RESUMED = " <unfinished ...>", re.compile(r"<\.\.\. \w+ resumed>")


def parse(log: str, folder: Path) -> Iterator[Act]:
    """The acts in a strace log that concern the ledger's folder, and the ACKs."""
    halves: dict[str, str] = {}
    for line in log.splitlines():
        thread, _, text = line.partition(" ")
        text = text.lstrip()
        if text.endswith(_UNFINISHED):
            halves[thread] = text.removesuffix(_UNFINISHED)
            continue
        if resumed := _RESUMED.match(text):
            text = halves.pop(thread) + text[resumed.end() :]
        match = _CALL.match(text)
        if match is None or int(match["result"]) < 0:
            continue
        yield from _act(match, folder)


def _act(match: re.Match[str], folder: Path) -> Iterator[Act]:
    call, rest = match["call"], match["rest"]
    if call == "write" and match["fd"] == "1":
        for line in _text(rest.split(", ")[0]).decode().splitlines():
            assert line.startswith("ACK "), line
            yield Act("ack", said=tuple(line.split()[1:]))
        return
    if call in {"unlink", "rename", "link"}:
        names = [Path(_text(each).decode()) for each in rest.split(", ")]
        if names[-1].parent == folder and not names[0].name.endswith("-shm"):
            yield Act(call, names[0].name, names[-1].name.encode())
        return
    path = Path(_text(match["path"] or "").decode("utf-8", "replace"))
    if path == folder and call == "fsync":
        yield Act("sync")
    if path.parent != folder or path.name.endswith("-shm"):
        return
    if call == "pwrite64":
        text, length, at = rest.split(", ")
        data = _text(text)
        assert len(data) == int(length) == int(match["result"]), "strace cut a buffer short"
        yield Act("write", path.name, data, int(at))
    elif call == "write":
        yield Act("write", path.name, _text(rest.split(", ")[0]), -1)
    elif call == "ftruncate":
        yield Act("truncate", path.name, at=int(rest))
    else:
        assert call in {"fsync", "fdatasync"}, f"{call} of {path.name} is not replayed"
        yield Act("sync", path.name)


def _text(quoted: str) -> bytes:
    assert not quoted.endswith("..."), "strace cut a buffer short"
    return bytes.fromhex(quoted.strip('"').replace("\\x", ""))


class Disk:
    """What is safe, and what is only in the kernel's memory."""

    def __init__(self, before: dict[str, bytes]) -> None:
        self._safe = {name: bytearray(data) for name, data in before.items()}
        self._loose: list[Act] = []

    def do(self, act: Act) -> None:
        """Take an act of the workload."""
        if act.kind == "sync":
            self._settle(lambda each: each.file == act.file and each.kind not in _NAMES if act.file else each.kind in _NAMES)
        elif act.kind != "ack":
            # What is written under the name of a removed file is another file.
            self._settle(lambda each: each.kind == "unlink" and each.file == act.file)
            self._loose.append(act)

    def _settle(self, is_safe_now: Callable[[Act], bool]) -> None:
        for each in self._loose:
            if is_safe_now(each):
                _apply(self._safe, each)
        self._loose = [each for each in self._loose if not is_safe_now(each)]

    def in_memory(self) -> dict[str, bytearray]:
        """The files as the programs see them."""
        files = {name: bytearray(data) for name, data in self._safe.items()}
        for act in self._loose:
            _apply(files, act)
        return files

    def after_cut(self, chance: random.Random) -> dict[str, bytearray]:
        """The files as a power cut may leave them."""
        files = {name: bytearray(data) for name, data in self._safe.items()}
        for act in self._loose:
            fate = chance.random()
            if fate < (0.4 if act.kind == "write" else 0.5):
                _apply(files, act)
            elif act.kind == "write" and fate < 0.6:
                for start in range(0, len(act.data), SECTOR):
                    if chance.random() < 0.5:
                        at = act.at if act.at < 0 else act.at + start
                        _apply(files, act._replace(data=act.data[start : start + SECTOR], at=at))
        return files


def _apply(files: dict[str, bytearray], act: Act) -> None:
    if act.kind in _NAMES:
        file = files.get(act.file, bytearray()) if act.kind == "link" else files.pop(act.file, bytearray())
        if act.kind != "unlink":
            files[act.data.decode()] = file
        return
    file = files.setdefault(act.file, bytearray())
    start = len(file) if act.at < 0 else act.at
    end = start + len(act.data)
    if len(file) < end:
        file.extend(bytes(end - len(file)))
    if act.kind == "truncate":
        del file[start:]
    else:
        file[start:end] = act.data


def cuts(recording: Recording, points: Sequence[int], chance: random.Random) -> Iterator[tuple[dict[str, bytearray], list[Act]]]:
    """For each of the ascending points: the files after a cut there, and the ACKs given before it."""
    disk, said, done = Disk(recording.before), list[Act](), 0
    for point in points:
        for act in recording.acts[done:point]:
            disk.do(act)
            if act.kind == "ack":
                said.append(act)
        done = point
        yield disk.after_cut(chance), list(said)


def workload(folder: Path, kind: str, pairs: int) -> None:
    """A top-up, then calls one at a time: hold and capture, every fifth hold and void, every tenth a charge at once.

    Every third call is metered, over steps that the workload reaches.
    """
    path, clock = folder / "payre.db", SystemClock()
    reader = connect(path, read_only=True)
    ((consumer,),) = reader.execute("select id from account").fetchall()
    ((api_key,),) = reader.execute("select id from api_key").fetchall()
    ((developer,),) = reader.execute("select id from developer").fetchall()
    reader.close()
    ids = IdFactory(clock, 255)
    store: Store = SqliteStore(path)
    if kind == "never-durable":
        store = NeverDurable(store)
    writer = Writer(store, clock, ids, sweep_every_s=3600)
    top_up = writer.ask(TopUp(ids.new(), 0, consumer, 1_000_000, "money"))
    _ack("top-up", top_up.transfer.id)
    for n in range(pairs):
        expires_at, terms = clock.now_us() + HOLD_LIFE_US, METERED if n % 3 == 2 else None
        hold = writer.ask(
            Hold(ids.new(), 0, consumer, developer, api_key, 100, "forecast", expires_at, f"call {n}", "same", terms)
        )
        _ack("hold", hold.transfer.id)
        if n % 5 == 4:
            _ack("void", writer.ask(Void(ids.new(), 0, hold.transfer.id, consumer)).transfer.id)
        else:
            spent = Spent(METERED.plan, METERED.known) if terms else None
            capture = Capture(ids.new(), 0, hold.transfer.id, consumer, developer, 60, FEE_BPS, "{}", '"answer"', 10**18, spent)
            done = writer.ask(capture)
            _ack("capture", done.transfer.id)
        if n % 10 == 9:
            _ack("charge", writer.ask(_charge(ids, consumer, developer, api_key)).transfer.id)
    writer.close()


def _charge(ids: IdFactory, consumer: int, developer: int, api_key: int) -> Charge:
    return Charge(ids.new(), 0, consumer, developer, api_key, 30, FEE_BPS, "forecast", "{}")


def _ack(*words: object) -> None:
    os.write(1, f"ACK {' '.join(map(str, words))}\n".encode())


def first_opening(folder: Path) -> None:
    """Make a ledger where there is none, and say so."""
    ledger = open_embedded(folder / "payre.db", SystemClock())
    _ack("open", 0)
    ledger.close()


if __name__ == "__main__":
    if sys.argv[2] == "open":
        first_opening(Path(sys.argv[1]))
    else:
        workload(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
