"""A data set of CIFAR-10's size in several processes of a node: shared, against loaded by each.

Memory is the sum of the processes' proportional sizes (a page that n processes map counts 1/n in
each) above that of a process that has imported the same. Linux only.
"""

import hashlib
import multiprocessing
import time
import uuid
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

PROCESSES = 4
SHAPE = (3, 32, 32)
NUM_TRAIN, NUM_TEST = 50_000, 10_000


def main() -> list[str]:
    """Return the ratios of memory and of the time until all processes have the data."""
    with TemporaryDirectory() as folder:
        path = _write(Path(folder) / "images.npz")
        digest, run = hashlib.sha256(path.read_bytes()).hexdigest(), uuid.uuid4().hex
        alone_s, alone_gib = _load_in_processes(path, digest, None)
        shared_s, shared_gib = _load_in_processes(path, digest, run)
        from phasegrid.run.worker.node_folder import forget

        forget(run)
    what = (
        f"one data set in {PROCESSES} processes, {NUM_TRAIN + NUM_TEST:,} images 3x32x32 (sharing)"
    )
    return [
        (
            f"{what}: memory | loaded by each | {alone_gib / shared_gib:.1f}x ({alone_gib:.2f} /"
            f" {shared_gib:.2f} GiB) | -"
        ),
        (
            f"- until all have it | the same | {alone_s / shared_s:.1f}x ({alone_s:.1f} /"
            f" {shared_s:.1f} s) | -"
        ),
    ]


def _write(path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 10
    np.savez(path, **arrays)
    return path


def _load_in_processes(path: Path, digest: str, run: str | None) -> tuple[float, float]:
    """Return seconds until every process has the data set and has read it, and GiB that all take
    for it.
    """
    context = multiprocessing.get_context("spawn")
    ends = []
    for _ in range(PROCESSES):
        ours, theirs = context.Pipe()
        context.Process(target=_process, args=(theirs, path, digest, run), daemon=True).start()
        ends.append(ours)
    before = [end.recv() for end in ends]
    started = time.perf_counter()
    for end in ends:
        end.send("load")
    for end in ends:
        end.recv()
    seconds = time.perf_counter() - started
    for end in ends:
        end.send("weigh")  # when all have it
    after = [end.recv() for end in ends]
    for end in ends:
        end.send("end")
    return seconds, (sum(after) - sum(before)) / 2**20


def _process(end: Connection, path: Path, digest: str, run: str | None) -> None:
    import torch

    from phasegrid.datasets import NpzOptions
    from phasegrid.declare import make_part
    from phasegrid.run.worker.loaded_data import dataset_of
    from phasegrid.run.worker.malloc import give_back

    torch.set_num_threads(1)
    part = make_part("npz", 1, NpzOptions, asdict(NpzOptions(path=str(path), sha256=digest)))
    end.send(_proportional_kib())
    end.recv()
    data = dataset_of(part, torch.device("cpu"), run)
    assert torch.isfinite(
        data.train_inputs.sum() + data.test_inputs.sum()
    )  # every page is looked at
    give_back()
    end.send("loaded")
    end.recv()
    end.send(_proportional_kib())
    end.recv()


def _proportional_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
