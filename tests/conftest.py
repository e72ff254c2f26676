"""Fixtures for every test: one torch thread, no Ray telemetry, and the folder of real data where
there is one.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("PHASEGRID_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set PHASEGRID_TEST_DATA (looked in {folder})")
    return folder


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Give tests that use torch a single thread; others never import it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def _write_birds(root: Path) -> None:
    """Write the lists of CUB-200-2011 for two classes, with files that only trainings would read."""
    from phasegrid.datasets.image_lists import CUB  # not before the environment is set

    folder = root / CUB
    images = {number: f"00{1 + number % 2}.Bird/{number}.jpg" for number in range(1, 301)}
    lists: dict[str, dict[int, object]] = {
        "images": dict(images),
        "classes": {1: "001.Bird", 2: "002.Bird"},
        "image_class_labels": {number: 1 + number % 2 for number in images},
        "train_test_split": {number: int(number > 40) for number in images},
    }
    for name in images.values():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"read by trainings alone")
    for name, values in lists.items():
        text = "".join(f"{number} {value}\n" for number, value in values.items())
        (folder / f"{name}.txt").write_text(text)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Small files for the sweeps that read a user's own, by data set: the override that names
    them.
    """
    folder = tmp_path_factory.mktemp("inputs")
    images = np.random.default_rng(0).integers(0, 256, (5085, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(5085) % 10
    images_file = folder / "images.npz"
    np.savez(
        images_file,
        train_images=images,
        train_labels=labels,
        test_images=images[:20],
        test_labels=labels[:20],
    )
    for name in ("train.de", "train.en", "test.de", "test.en"):
        lines = [f"ein satz {i} ." for i in range(600)]
        (folder / name).write_text("\n".join(lines) + "\n")
    for name in ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"):
        (folder / name).write_text(" ein satz aus worten \n" * 4000)
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (folder / name).mkdir(parents=True)
        for index in range(64):
            (folder / name / f"{index}.jpg").write_bytes(b"read by trainings alone")
    _write_birds(folder)
    root = f"dataset.root={folder}"
    own = dict.fromkeys(("translation", "language", "image_folder"), root)
    return {"npz": f"dataset.path={images_file}", **own}
