"""CIFAR-10 of full size, in its own files of random pixels: ready for training the first time, and
from what was kept of it after that: for a worker of a run, which maps what it decoded, for a run in
one process, and as checked bytes for a GPU, which decodes them (not timed here).

Every load has a process of its own that has imported what a worker has. The files are in the page
cache. The alternative is torchvision's class, then the plain formula of normalisation.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from phasegrid.datasets.prepared import FOLDER

FILES = [f"data_batch_{number}" for number in range(1, 6)], ["test_batch"]
PER_FILE = 10_000
ROUNDS = 5


Seconds = tuple[float, float]
"""By the clock, and of CPU time."""


def main() -> list[str]:
    """Return the seconds of each way."""
    with TemporaryDirectory() as folder:
        sums = _write(Path(folder))
        plain = _alone(_by_torchvision, folder, sums)
        first = _alone(_by_phasegrid, folder, sums)
        later = [sorted(_alone(way, folder, sums) for _ in range(ROUNDS)) for way in LATER.values()]
        kept = sum(path.stat().st_size for path in (Path(folder) / FOLDER).iterdir())
    return [
        (
            "CIFAR-10 ready, 60,000 images in the files of its authors (data): the first time |"
            f" torchvision's class and the plain formula, {_told(plain)} |"
            f" {_told(first)}, keeps {kept / 1e6:.0f} MB | -"
        ),
        *(
            f"- after that, {name} | the same | {_told(found[ROUNDS // 2])}, the fastest of {ROUNDS}"
            f" {_told(found[0])} | reach 1 s by the clock: {_reached(found)}"
            for name, found in zip(LATER, later, strict=True)
        ),
    ]


def _reached(found: list[Seconds]) -> str:
    return "met" if found[ROUNDS // 2][0] < 1 else "missed"


def _told(seconds: Seconds) -> str:
    return f"{seconds[0]:.2f} s ({seconds[1]:.2f} s CPU)"


def _write(root: Path) -> dict[str, str]:
    """Write the files, and return their checksums."""
    import hashlib

    import numpy as np

    from tests.datasets.cifar_files import write_batch

    rng = np.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*FILES[0], *FILES[1]]:
        images = rng.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8)
        write_batch(folder / name, images, rng.integers(0, 10, PER_FILE).tolist(), "labels")
    (folder / "batches.meta").write_bytes(b"\x80\x02}q\x01U\x0blabel_namesq\x02]q\x03s.")
    return {
        path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.iterdir()
    }


def _alone(
    way: Callable[[str, dict[str, str]], Seconds], root: str, sums: dict[str, str]
) -> Seconds:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(way, root, sums).result()


def _by_phasegrid(root: str, sums: dict[str, str]) -> Seconds:
    if not (Path(root) / FOLDER).exists():
        _know(sums)
    return _timed(root, None, "cpu")


def _by_worker(root: str, _sums: dict[str, str]) -> Seconds:
    return _in_a_run(root, "cpu")


def _for_gpu(root: str, _sums: dict[str, str]) -> Seconds:
    return _in_a_run(root, "cuda")


def _in_a_run(root: str, device: str) -> Seconds:
    from phasegrid.run.worker import node_folder

    run = f"{os.getpid():08x}"
    try:
        return _timed(root, run, device)
    finally:
        node_folder.forget(run)


LATER = {
    "in a worker on a CPU": _by_worker,
    "in one process on a CPU": _by_phasegrid,
    "as bytes for a GPU": _for_gpu,
}


def _timed(root: str, run: str | None, device: str) -> Seconds:
    import torch

    from phasegrid.datasets import FileOptions
    from phasegrid.declare import make_part
    from phasegrid.run.worker.loaded_data import try_dataset

    torch.set_num_threads(1)
    part = make_part("cifar10", 1, FileOptions, asdict(FileOptions(root=root)))
    started = time.perf_counter(), time.process_time()
    try_dataset(part, torch.device(device), run)
    return time.perf_counter() - started[0], time.process_time() - started[1]


def _by_torchvision(root: str, sums: dict[str, str]) -> Seconds:
    import numpy as np
    import torch

    torch.set_num_threads(1)
    source = _know(sums)
    started = time.perf_counter(), time.process_time()
    images = [
        np.ascontiguousarray(source(root, train=train).data.transpose(0, 3, 1, 2))
        for train in (True, False)
    ]
    train = torch.from_numpy(images[0]).double()
    mean, std = (f(train, dim=(0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    for part in images:
        ((torch.from_numpy(part).double() - mean) / std).float()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def _know(sums: dict[str, str]) -> type:
    """Return torchvision's class, told the checksums of our files."""
    from torchvision.datasets import CIFAR10

    CIFAR10.train_list, CIFAR10.test_list = ([[name, sums[name]] for name in f] for f in FILES)
    CIFAR10.meta = {**CIFAR10.meta, "md5": sums["batches.meta"]}
    return CIFAR10
