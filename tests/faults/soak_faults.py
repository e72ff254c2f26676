"""Each fault of a soak, done to what runs at that moment. What is done says so in a line; what
could not be done returns None.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phasegrid.keys import text_key
from tests.faults.commands import workers_at_work
from tests.faults.soak_drivers import Driver, SoakError, TwoNodes, kill, wait_for
from tests.faults.soak_hook import flag_of, hits_of

STALL_HITS = 3  # writes that fail before a storage that stalls is well again
OLD_S = 2 * 86_400


@dataclass(slots=True)
class Scene:
    """What a fault may touch: the store, the runs that live, the cluster if they are on one, and
    how to start another run.
    """

    storage: Path
    live: list[Driver]
    cluster: TwoNodes
    chance: random.Random
    start_another: Callable[[], Driver]

    def victim(self) -> Driver | None:
        """Choose a run that lives."""
        alive = [driver for driver in self.live if driver.alive]
        return self.chance.choice(alive) if alive else None


def do_fault(kind: str, scene: Scene) -> str | None:
    """Do one fault; return what was done, or None."""
    return _FAULTS[kind](scene)


def _worker_killed(scene: Scene) -> str | None:
    workers: list[int] = []

    def any_at_work() -> bool:
        workers[:] = sorted(workers_at_work(os.getpid()))
        return bool(workers) or scene.victim() is None

    wait_for(any_at_work, 60)
    if not workers:
        return None
    pid = scene.chance.choice(workers)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return f"worker {pid} of {len(workers)}"


def _driver_killed(scene: Scene) -> str | None:
    driver = scene.victim()
    if driver is None:
        return None
    kill(driver)
    return f"run {driver.process.pid}"


def _signalled(signum: signal.Signals, to_group: bool) -> Callable[[Scene], str | None]:
    def send(scene: Scene) -> str | None:
        driver = scene.victim()
        if driver is None:
            return None
        driver.allowed.add(128 + signum)
        (os.killpg if to_group else os.kill)(driver.process.pid, signum)
        if not wait_for(lambda: not driver.alive):
            raise SoakError(f"a run goes on after {signum.name}: {driver.words()}")
        return f"run {driver.process.pid}, which ended with {driver.process.returncode}"

    return send


def _second_driver(scene: Scene) -> str | None:
    first = scene.victim()
    if first is None:
        return None
    second = scene.start_another()

    def both_at_work() -> bool:
        below = second.process.pid if second.address is None else os.getpid()
        return bool(workers_at_work(below)) or not second.alive

    wait_for(both_at_work)
    return f"run {second.process.pid} beside {first.process.pid}" if first.alive else None


def _node_removed(scene: Scene) -> str | None:
    """Remove the second node in the middle of its work."""
    second = scene.cluster.second()
    if second is None or scene.victim() is None:
        return None
    wait_for(lambda: workers_at_work(second) or scene.victim() is None, 60)
    busy = len(workers_at_work(second))
    scene.cluster.remove_second()
    return f"of the cluster at {scene.cluster.address}, {busy} at work" if scene.victim() else None


def _storage_stalls(scene: Scene) -> str | None:
    """Let a few writes fail, as a file server that restarts does; runs should only wait."""
    hit = _fail_until(scene, lambda before: _hits(scene) >= before + STALL_HITS)
    return f"{hit} writes failed" if hit else None


def _storage_fails(scene: Scene) -> str | None:
    """Let writes fail for longer than runs wait: they end with exit code 4."""
    drivers = [driver for driver in scene.live if driver.alive]
    for driver in drivers:
        driver.allowed.add(4)
    hit = _fail_until(scene, lambda _before: not any(driver.alive for driver in drivers))
    codes = ", ".join(str(driver.process.poll()) for driver in drivers)
    return f"{hit} writes failed, runs ended with {codes}" if hit and drivers else None


def _fail_until(scene: Scene, enough: Callable[[int], bool]) -> int:
    """Have writes fail until it is enough, or no run lives; return how many did."""
    flag, before = flag_of(str(scene.storage)), _hits(scene)
    flag.touch()
    try:
        wait_for(lambda: enough(before) or scene.victim() is None)
    finally:
        flag.unlink()
    return _hits(scene) - before


def _hits(scene: Scene) -> int:
    with suppress(FileNotFoundError):
        return hits_of(str(scene.storage)).stat().st_size
    return 0


def _torn_write(scene: Scene) -> str:
    """Leave what a process leaves that dies while it writes."""
    name = text_key(str(scene.chance.random()))
    path = scene.storage / "_tmp" / f"{name}.parquet.{scene.chance.getrandbits(128):032x}"
    path.write_bytes(b"PAR1" + scene.chance.randbytes(scene.chance.randint(0, 999)))
    return path.name[:12]


def _snapshot_truncated(scene: Scene) -> str | None:
    """Kill all runs in the middle of trainings and cut the snapshot of one short."""
    wait_for(lambda: _snapshots_needed(scene.storage) or scene.victim() is None, 60)
    if scene.victim() is None:
        return None
    for driver in scene.live:
        kill(driver)
    if not wait_for(lambda: not workers_at_work(os.getpid()), 60):
        raise SoakError("workers go on after their run was killed")
    found = _snapshots_needed(scene.storage)
    if not found:
        return None
    path = scene.chance.choice(found)
    data = path.read_bytes()
    path.write_bytes(data[: scene.chance.randrange(len(data))])
    return f"{path.name[:12]}, all runs killed"


def _snapshots_needed(storage: Path) -> list[Path]:
    """Return the snapshots of trainings that are not stored."""
    found = sorted((storage / "snapshots").glob("*/*.safetensors"))
    return [path for path in found if not _row_of(storage, path).exists()]


def _row_of(storage: Path, snapshot: Path) -> Path:
    key = snapshot.name.partition(".")[0]
    return storage / "trials" / key[:2] / f"{key}.parquet"


def _compacted(scene: Scene) -> str | None:
    """Copy the small files into one while runs write more of them."""
    done = subprocess.run(
        [sys.executable, "-m", "phasegrid", "compact", "--storage", str(scene.storage)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise SoakError(f"compaction ended with {done.returncode}: {done.stderr}")
    return f"{len(done.stdout.splitlines())} tables" if scene.victim() else None


def make_old(path: Path) -> None:
    """Make a file as old as those that are collected."""
    then = time.time() - OLD_S
    os.utime(path, (then, then))


_FAULTS: dict[str, Callable[[Scene], str | None]] = {
    "worker-killed": _worker_killed,
    "driver-killed": _driver_killed,
    "driver-terminated": _signalled(signal.SIGTERM, to_group=False),
    "driver-interrupted": _signalled(signal.SIGINT, to_group=True),
    "second-driver": _second_driver,
    "node-removed": _node_removed,
    "storage-stalls": _storage_stalls,
    "storage-fails": _storage_fails,
    "torn-write": _torn_write,
    "snapshot-truncated": _snapshot_truncated,
    "compacted": _compacted,
}


def known_kinds() -> Sequence[str]:
    """Return the faults that can be done."""
    return sorted(_FAULTS)
