"""What the benchmarks share: cells in turns, the disk's own speed, percentiles, rows with a target, one JSON object."""

import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from payre_mcp.storage.library import sqlite

REPEATS = 3
"""How often every timed cell runs; its figure is the median."""


class Wrong(Exception):
    """The figures would mean nothing: somebody did other work, or the ledger is broken."""


class Disk(NamedTuple):
    """How fast a folder's disk makes 4 KiB durable, one after another."""

    per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Row:
    """One line of a report. `holds` is None where a figure is only reported, `figure` where there is none."""

    name: str
    what: str
    figure: float | None
    unit: str
    target: str = "report"
    holds: bool | None = None
    cells: dict[str, float] = field(default_factory=dict[str, float])
    """What the figure was made of."""


def held(
    name: str, what: str, figure: float, bound: Literal["at least", "at most"], target: float, cells: dict[str, float]
) -> Row:
    """A ratio with the figure to hold."""
    holds = figure >= target if bound == "at least" else figure <= target
    return Row(name, what, round(figure, 3), "x", f"{bound} {target}x", holds, cells)


def in_turns(repeats: int, *sides: Callable[[], float]) -> list[float]:
    """The median of each, run in turns, so that a slow spell of the machine hits all."""
    taken = [[side() for side in sides] for _ in range(repeats)]
    return [round(statistics.median(each), 1) for each in zip(*taken, strict=True)]


def fsync_probe(folder: Path, seconds: float) -> Disk:
    """Append 4 KiB and wait for the disk, over and over: what one durable charge at a time can reach at best."""
    sync = getattr(os, "fdatasync", os.fsync)
    page, took = os.urandom(4096), list[float]()
    path = folder / "fsync-probe"
    with path.open("wb", buffering=0) as file:
        started = before = time.perf_counter()
        while before - started < seconds:
            file.write(page)
            sync(file.fileno())
            now = time.perf_counter()
            took.append(now - before)
            before = now
    path.unlink()
    return Disk(len(took) / (before - started), percentile(took, 50) * 1000, percentile(took, 99) * 1000)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def progress(text: str) -> None:
    """Say on stderr what runs; stdout is the report's alone."""
    print(text, file=sys.stderr, flush=True)


def print_report(seconds: float, rows: Sequence[Row], **beside: object) -> None:
    """Print the one JSON object; `beside` is what else the machine is made of."""
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
        **beside,
    }
    print(json.dumps({"machine": machine, "seconds": seconds, "rows": [asdict(row) for row in rows]}, indent=2))
