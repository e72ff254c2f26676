"""Ways of doing one thing, each in a fresh process of its own, taking turns: CPU seconds of every
turn, peak memory of each.

A process of its own has its own allocator, caches and peak memory, and CPU time (user and system)
is little disturbed by other work on the machine.
"""

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

Turn = Callable[[], object]
Setup = Callable[..., Turn]
"""Prepares what is not timed and returns what is; what a turn returns is kept, so it must be
picklable.
"""


@dataclass(frozen=True, slots=True)
class Score:
    """CPU seconds of each turn after the first ones, what the last turn returned, and the peak
    memory of the process.
    """

    seconds: list[float]
    answer: object
    peak_gib: float

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


def compete(
    ways: Mapping[str, tuple[Setup, tuple[object, ...]]], rounds: int, warm_up: int = 1
) -> dict[str, Score]:
    """Prepare every way in its own process, then let them take turns; the first `warm_up` rounds do
    not count.
    """
    context = multiprocessing.get_context("spawn")
    ends, processes = {}, []
    for name, (setup, arguments) in ways.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, setup, arguments))
        process.start()
        ours.recv()  # prepared
        ends[name] = ours
        processes.append(process)
    turns: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(warm_up + rounds):
        for name, end in ends.items():
            end.send("turn")
            turns[name].append(end.recv())
    scores = {}
    for name, end in ends.items():
        end.send("end")
        answer, peak_gib = end.recv()
        scores[name] = Score(turns[name][warm_up:], answer, peak_gib)
    for process in processes:
        process.join()
    return scores


def line(what: str, scores: Mapping[str, Score], ours: str, target: float) -> str:
    """Say ``what | against | ratio | limit`` of two ways."""
    (theirs,) = set(scores) - {ours}
    ratio = scores[theirs].median_s / scores[ours].median_s
    return (
        f"{what} | {theirs} | {ratio:.2f}x ({_told(scores[theirs].median_s)} /"
        f" {_told(scores[ours].median_s)} CPU) | reach {target}x:"
        f" {'met' if ratio >= target else 'missed'}; peak memory {scores[ours].peak_gib:.2f} GiB,"
        f" theirs {scores[theirs].peak_gib:.2f} GiB"
    )


def descendants(root: int) -> dict[int, tuple[float, float]]:
    """Return CPU seconds so far and resident GiB now of every process that descends from `root`.
    Linux only.

    Pages that processes share count for each.
    """
    found: dict[int, tuple[int, float, float]] = {}
    ticks, page = os.sysconf("SC_CLK_TCK"), resource.getpagesize()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # ended meanwhile
        cpu_s = (int(stat[11]) + int(stat[12])) / ticks
        found[int(folder.name)] = int(stat[1]), cpu_s, int(stat[21]) * page / 2**30
    family, size = {root}, 0
    while len(family) > size:
        size = len(family)
        family |= {pid for pid, (parent, _, _) in found.items() if parent in family}
    return {pid: found[pid][1:] for pid in family - {root} if pid in found}


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{1e3 * seconds:.1f} ms"


def _serve(end: Connection, setup: Setup, arguments: tuple[object, ...]) -> None:
    turn = setup(*arguments)
    answer: object = None
    end.send("ready")
    while end.recv() == "turn":
        started = time.process_time()
        answer = turn()
        end.send(time.process_time() - started)
    end.send((answer, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
