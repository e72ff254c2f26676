"""Data sets are bit for bit the same from their files, from what is kept of them, and by a plain
computation.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets

from phasegrid.datasets import FileOptions, NpzOptions, prepared, vision
from phasegrid.datasets.dataset import TENSORS, Dataset
from phasegrid.datasets.load import load_dataset
from phasegrid.datasets.preparing import kept_indices, set_aside
from phasegrid.declare import make_part
from tests.datasets.cifar_files import write_batch

CHOICES: list[dict[str, Any]] = [
    {},
    {"normalize": False},
    {"fraction": 0.3, "subset": "sample"},
    {"image_noise": 20.0},
    {"label_noise": 0.5},
    {"aside": 0.2},
]
NUM = 1100  # two steps of the sums over training examples


@pytest.fixture(autouse=True)
def keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "WORTH", 0)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with CIFAR-10 of three files."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    monkeypatch.setattr(torchvision.datasets.utils, "check_integrity", lambda *_: True)
    files = ["data_batch_1", "data_batch_2"], ["test_batch"]
    for attribute, names in zip(("train_list", "test_list"), files, strict=True):
        monkeypatch.setattr(torchvision.datasets.CIFAR10, attribute, [[n, ""] for n in names])
        for seed, name in enumerate(names):
            images, labels = _drawn(NUM // 2, seed)
            write_batch(folder / name, images.reshape(len(images), -1), labels.tolist(), "labels")
    return tmp_path


def _drawn(num: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, num)


def _load(root: Path, **options: Any) -> Dataset:
    args = asdict(FileOptions(**options, root=str(root)))
    return load_dataset(make_part("cifar10", 1, FileOptions, args))


def assert_same(one: Dataset, other: Dataset) -> None:
    for name in TENSORS:
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.numpy().tobytes() == b.numpy().tobytes(), name
    assert (one.name, one.num_classes, one.augment) == (
        other.name,
        other.num_classes,
        other.augment,
    )


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_kept_cifar10_is_bit_for_bit_what_its_files_give(
    cifar: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    first = _load(cifar, **options)
    monkeypatch.setattr(vision, "read_batch", None)  # it cannot be parsed again
    assert_same(_load(cifar, **options), first)


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"aside": 0.2}], ids=str)
def test_inputs_are_bit_for_bit_those_of_the_plain_formula(
    cifar: Path, options: dict[str, Any]
) -> None:
    parts = [_drawn(NUM // 2, seed)[0] for seed in (0, 1)]
    chosen = FileOptions(**options)
    kept, _ = set_aside(kept_indices(NUM, chosen), chosen)
    images = np.concatenate(parts)[kept].astype(np.float32)
    mean, std = np.zeros((3, 1, 1)), np.full((3, 1, 1), 255.0)
    if chosen.normalize:
        steps = [images[start : start + 1024] for start in range(0, len(images), 1024)]
        count = images.size / 3
        mean = (sum(step.sum(axis=(0, 2, 3), dtype=np.float64) for step in steps) / count).reshape(
            3, 1, 1
        )
        squares = sum(np.square(step - mean).sum(axis=(0, 2, 3)) for step in steps)
        std = np.sqrt(squares / count).reshape(3, 1, 1)
    expected = ((images - mean) / std).astype(np.float32)
    for data in (_load(cifar, **options), _load(cifar, **options)):
        assert data.train_inputs.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_a_kept_npz_file_is_bit_for_bit_what_the_file_gives(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    arrays = {}
    for seed, split in enumerate(("train", "test")):
        images, arrays[f"{split}_labels"] = _drawn(60, seed)
        arrays[f"{split}_images"] = images[:, :, :4, :4].transpose(0, 2, 3, 1).astype(kind)
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    loaded = []
    for name in ("plain.npz", "small.npz", "small.npz", "plain.npz"):
        args = asdict(NpzOptions(**options, path=str(tmp_path / name)))
        loaded.append(load_dataset(make_part("npz", 1, NpzOptions, args)))
    kept = {path.name.split(".")[1][:4] for path in tmp_path.glob(f"{prepared.FOLDER}/npz-*.npy")}
    assert len(list(tmp_path.glob(f"{prepared.FOLDER}/npz-*.json"))) == 2
    assert {"mean", "std-", "trai", "test"} <= kept
    for other in loaded[1:]:
        assert_same(loaded[0], other)
    assert torch.isfinite(loaded[2].train_inputs).all()
