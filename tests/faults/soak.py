"""A soak: sweeps of many no-op jobs and of short trainings, on real Rays, under faults drawn from a
seed.

``python -m tests.faults.soak [--minutes 10] [--seed 0] [--jobs 20000] [--keep FOLDER]``, on Linux.
Laps go on until the minutes have passed and the no-op jobs are done; after the end of each run the
same command is run again until all is stored. Each fault is a line: the seconds, the sweep, how
much of it is stored, what was done. In the end every planned job must be stored exactly once and as
by an undisturbed run, `phasegrid verify` must be content, and no process may be left. The last line
has the figures; exit code 1 if anything is not as it should be. No promise: a seed fixes what is
planned, not how the machine interleaves it.
"""

import argparse
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.comparing import assert_same_results, assert_whole
from tests.faults.soak_counting import Count, count_jobs, joined, paths_of
from tests.faults.soak_drivers import (
    PATIENCE_S,
    Driver,
    SoakError,
    TwoNodes,
    end_marked,
    kill,
    marked,
    names_of,
    prepare_environment,
    start,
    wait_for,
)
from tests.faults.soak_faults import Scene, do_fault, make_old
from tests.faults.soak_noop import PAUSE
from tests.faults.soak_schedule import ALL_KINDS_LAPS, KINDS, Fault, laps, needs_two_nodes
from tests.faults.soak_sweeps import (
    TINY_JOBS,
    SoakSweep,
    noop_jobs,
    store_trials,
    write_noop,
    write_tiny,
)

PAUSE_S = 0.01  # of a no-op job: so that a sweep lasts long enough to be disturbed
LAP_MINUTES = 2.5
POLL_S = 0.1


@dataclass(slots=True)
class Soak:
    """A soak under way: what was done and what went wrong so far."""

    storage: Path
    began: float = field(default_factory=time.monotonic)
    done: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    laps: int = 0
    problems: list[str] = field(default_factory=list)
    live: list[Driver] = field(default_factory=list)
    cluster: TwoNodes = field(default_factory=TwoNodes)

    def say(self, text: str) -> None:
        """Print a line with the time."""
        print(f"{time.monotonic() - self.began:7.1f} s  {text}", flush=True)

    def said(self, name: str) -> Path:
        """Return the file that keeps what a run says."""
        return self.storage.with_name("said") / f"{name}.txt"

    def finish(self, sweep: SoakSweep, faults: Sequence[Fault]) -> None:
        """Run a sweep again and again, under faults, until a run says that all is stored and no
        other is left.
        """
        progress, pending = Progress(paths_of(self.storage, sweep.planned)), list(faults)
        finished, since, moved = False, 0, time.monotonic()
        while self.live or not finished:
            finished = self._reap(sweep, progress) or finished
            if not self.live:
                self.cluster.down()
                if finished:
                    break
                since, moved = progress.look(), time.monotonic()
                self._start(sweep, pending)
            before, stored = progress.stored, progress.look()
            moved = time.monotonic() if stored > before else moved
            if pending and stored > since and stored >= pending[0].at:
                self._disturb(sweep, pending.pop(0), progress)
                moved = time.monotonic()
            elif time.monotonic() - moved > PATIENCE_S:
                raise SoakError(f"{sweep.path.stem} stands still: {self._words()}")
            time.sleep(POLL_S)
        for fault in pending:
            self.say(f"{sweep.path.stem}: not come to {fault.kind}")

    def _start(self, sweep: SoakSweep, pending: Sequence[Fault]) -> Driver:
        address = self.cluster.address
        if not self.live:
            address = self.cluster.up() if needs_two_nodes(pending) else None
        self.runs += 1
        said = self.said(f"{self.runs:03}-{sweep.path.stem}")
        self.live.append(start(sweep.path, self.storage, said, address))
        return self.live[-1]

    def _disturb(self, sweep: SoakSweep, fault: Fault, progress: "Progress") -> None:
        scene = Scene(
            self.storage,
            self.live,
            self.cluster,
            random.Random(fault.draw),
            lambda: self._start(sweep, ()),
        )
        what = do_fault(fault.kind, scene)
        if what is not None:
            self.done[fault.kind] += 1
        self.say(
            f"{sweep.path.stem}: {progress.look()} of {progress.planned} stored: {fault.kind}: "
            f"{what or 'could not be done'}"
        )

    def _reap(self, sweep: SoakSweep, progress: "Progress") -> bool:
        """Look after the runs that have ended; say whether one of them said that all is stored."""
        ended = [driver for driver in self.live if not driver.alive]
        self.live[:] = [driver for driver in self.live if driver.alive]
        for driver in ended:
            code, words = driver.process.returncode, driver.words()
            if code not in driver.allowed or "Traceback" in words:
                self._blame(f"{driver.said.name} ended with {code}: {words}")
            if not wait_for(lambda mark=driver.mark: not marked(mark), 30):
                self._blame(f"{driver.said.name} left {names_of(marked(driver.mark))}")
                end_marked(driver.mark)
            if code == 0 and progress.look() < progress.planned:
                missing = progress.planned - progress.stored
                self._blame(f"{driver.said.name} ended well, but {missing} jobs are not stored")
        codes = [driver.process.returncode for driver in ended]
        for code in codes:
            self.say(
                f"{sweep.path.stem}: {progress.look()} of {progress.planned} stored: a run ended"
                f" with {code}"
            )
        return 0 in codes

    def _blame(self, problem: str) -> None:
        self.problems.append(problem)
        self.say(f"PROBLEM: {problem}")

    def _words(self) -> str:
        return "\n".join(driver.words() for driver in self.live)

    def end(self, mark: str) -> None:
        """End whatever still runs; what nobody knew of is a problem."""
        for driver in self.live:
            kill(driver)
        self.cluster.down()
        if not wait_for(lambda: not marked(mark), 60):
            self._blame(f"left running: {names_of(marked(mark))}")
            end_marked(mark)


@dataclass(slots=True)
class Progress:
    """How many of some files are there: looked for until they are seen."""

    missing: list[Path]
    planned: int = 0

    def __post_init__(self) -> None:
        self.planned = len(self.missing)

    @property
    def stored(self) -> int:
        """How many were there at the last look."""
        return self.planned - len(self.missing)

    def look(self) -> int:
        """Look again and return how many are there."""
        self.missing = [path for path in self.missing if not path.exists()]
        return self.stored


def main() -> int:
    """Soak, check and print; return the exit code."""
    options = _options()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="pg-soak-", dir="/tmp"))  # short: sockets
    folder.mkdir(parents=True, exist_ok=True)
    storage = folder.resolve() / "store"
    (storage.with_name("said")).mkdir()
    mark = prepare_environment(folder.resolve(), storage, PAUSE_S)
    soak = Soak(storage)
    count = None
    try:
        sweeps = _laps(soak, options.minutes, options.seed, options.jobs)
        count = _check(soak, sweeps)
    except SoakError as error:
        soak.problems.append(str(error))
    finally:
        soak.end(mark)
    _conclude(soak, count or Count(0, (), (), ()))
    if not options.keep and not soak.problems:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if soak.problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="for how long at least (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (0)")
    parser.add_argument("--jobs", type=int, default=20_000, help="no-op jobs at least (20000)")
    parser.add_argument(
        "--keep", metavar="FOLDER", help="a new folder to work in, which is kept; a short path"
    )
    return parser.parse_args()


def _laps(soak: Soak, minutes: float, seed: int, jobs: int) -> list[SoakSweep]:
    """Do laps until the minutes have passed and the jobs are done; return their sweeps."""
    folder = soak.storage.parent
    a_lap = noop_jobs(math.ceil(jobs / max(1, math.ceil(minutes / LAP_MINUTES))))
    store_trials(soak.storage, write_noop(folder, 0, a_lap))
    shutil.copytree(soak.storage, soak.storage.with_name("undisturbed"))
    sweeps: list[SoakSweep] = []
    soak.began = time.monotonic()
    for lap in laps(seed, a_lap, TINY_JOBS):
        over = time.monotonic() - soak.began >= 60 * minutes
        if over and lap.index * a_lap >= jobs:
            break
        noop, tiny = write_noop(folder, lap.index, a_lap), write_tiny(folder, lap.index)
        trials = len(noop.planned["trials"])  # stored from the beginning
        soak.finish(noop, [Fault(f.kind, f.at + trials, f.draw) for f in lap.noop])
        soak.finish(tiny, lap.tiny)
        sweeps += [noop, tiny]
        soak.laps += 1
    return sweeps


def _check(soak: Soak, sweeps: Sequence[SoakSweep]) -> Count:
    """Do everything that must hold of the store in the end, and note what does not."""
    soak.say("checking")
    count = count_jobs(soak.storage, joined(sweep.planned for sweep in sweeps))
    for what in ("lost", "duplicated", "strange"):
        found = getattr(count, what)
        soak.problems += [f"{len(found)} jobs {what}, first {found[0]}"] if found else []
    _command(soak, "verify")
    for name in ("_tmp", "snapshots"):
        for path in (soak.storage / name).rglob("*"):
            if path.is_file():
                make_old(path)
    _command(soak, "gc", "--delete")
    left = [
        p for name in ("_tmp", "snapshots") for p in (soak.storage / name).rglob("*") if p.is_file()
    ]
    soak.problems += [f"left in the store: {left[:5]}"] if left else []
    soak.say("running undisturbed, to compare")
    undisturbed = soak.storage.with_name("undisturbed")
    os.environ[PAUSE] = "0"
    for sweep in sweeps:
        soak.live.append(start(sweep.path, undisturbed, soak.said("undisturbed"), None))
        if not wait_for(lambda: not soak.live[0].alive, 600) or soak.live[0].process.returncode:
            raise SoakError(f"the undisturbed run failed: {soak.live[0].words()}")
        soak.live.clear()
    try:
        assert_whole(soak.storage)
        assert_same_results(soak.storage, undisturbed)
    except AssertionError as error:
        soak.problems.append(f"not what an undisturbed run stores: {error}")
    return count


def _command(soak: Soak, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "phasegrid", *arguments, "--storage", str(soak.storage)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    said = f"phasegrid {' '.join(arguments)}: exit {done.returncode}: {done.stdout}{done.stderr}"
    soak.say(said.strip())
    if done.returncode:
        soak.problems.append(said)


def _conclude(soak: Soak, count: Count) -> None:
    if soak.laps >= ALL_KINDS_LAPS:
        soak.problems += [f"no fault {kind} was done" for kind in KINDS if not soak.done[kind]]
    elif not soak.done:
        soak.problems.append("no fault was done")
    for problem in soak.problems:
        print(f"PROBLEM: {problem}")
    kinds = ", ".join(f"{kind} {soak.done[kind]}" for kind in KINDS)
    print(
        f"soak: jobs {count.planned}; faults {soak.done.total()} ({kinds}); runs {soak.runs}; lost"
        f" {len(count.lost)}; duplicated {len(count.duplicated)}; seconds"
        f" {time.monotonic() - soak.began:.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
