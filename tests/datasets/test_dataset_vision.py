"""torchvision's folders: tiny files in the real layouts, with checksums of their own."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torchvision.datasets

from phasegrid.datasets import DATASETS, FIXED_FACTS, extra_suffices
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.load import load_dataset
from phasegrid.declare import import_function, make_part
from phasegrid.errors import DataError
from tests.datasets.cifar_files import write_batch


def load(name: str, root: Path, **options: Any) -> Dataset:
    kind = DATASETS[name].args
    args = asdict(kind(root=str(root), **{"normalize": False, **options}))
    return load_dataset(make_part(name, 1, kind, args))


def random_images(num: int, *shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(num).integers(0, 256, (num, *shape), dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_idx(path: Path, values: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    header = bytes([0, 0, 8, values.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(header + sizes + values.tobytes())


def write_mnist(root: Path) -> None:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, num in (("train", 12), ("t10k", 5)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte", random_images(num, 28, 28))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(num, dtype=np.uint8) % 10)


def write_cifar(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = getattr(torchvision.datasets, name)
    folder = root / source.base_folder
    folder.mkdir()
    for attribute, num in (("train_list", 12), ("test_list", 5)):
        files = []
        for index, (file, _) in enumerate(getattr(source, attribute)):
            key = "labels" if name == "CIFAR10" else "fine_labels"
            images = random_images(num + index, 3 * 32 * 32)
            write_batch(folder / file, images, [i % 10 for i in range(num + index)], key)
            files.append([file, md5(folder / file)])
        monkeypatch.setattr(source, attribute, files)


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = dict(torchvision.datasets.SVHN.split_list)
    for split, num in (("train", 12), ("test", 5), ("extra", 20)):
        url, file, _ = splits[split]
        images = random_images(num, 3, 32, 32).transpose(2, 3, 1, 0)
        labels = (np.arange(num, dtype=np.uint8) % 10 + 1)[:, None]
        scipy.io.savemat(root / file, {"X": images, "y": labels})
        splits[split] = [url, file, md5(root / file)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)


def assert_pixels(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found * 255, expected, atol=1e-4)


def test_mnist_is_read_as_grey_images(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = load("mnist", tmp_path)
    assert_pixels(data.train_inputs, random_images(12, 28, 28)[:, None])
    assert_pixels(data.test_inputs, random_images(5, 28, 28)[:, None])
    assert data.test_labels.tolist() == [0, 1, 2, 3, 4]


def test_cifar10_is_read_in_the_order_of_its_files_and_planes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "train_list", torchvision.datasets.CIFAR10.train_list[:1]
    )
    write_cifar(tmp_path, "CIFAR10", monkeypatch)
    data = load("cifar10", tmp_path)
    assert_pixels(data.train_inputs, random_images(12, 3 * 32 * 32).reshape(12, 3, 32, 32))
    assert data.train_labels.tolist() == [*range(10), 0, 1]


def test_cifar100_is_read_with_its_fine_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, "CIFAR100", monkeypatch)
    data = load("cifar100", tmp_path)
    assert_pixels(data.test_inputs, random_images(5, 3 * 32 * 32).reshape(5, 3, 32, 32))
    assert data.num_classes == 100


def test_svhn_is_read_with_digit_zero_labelled_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path, monkeypatch)
    data = load("svhn", tmp_path)
    assert_pixels(data.train_inputs, random_images(12, 3, 32, 32))
    assert data.train_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]


@pytest.mark.parametrize(("aside", "count"), [(0.0, 0), (0.2, 3), (0.5, 12)])
def test_svhn_sets_the_first_images_of_its_extra_split_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: float, count: int
) -> None:
    write_svhn(tmp_path, monkeypatch)
    data = load("svhn", tmp_path, aside=aside, aside_from="extra")
    assert_pixels(data.train_inputs, random_images(12, 3, 32, 32))
    assert_pixels(data.aside_inputs, random_images(20, 3, 32, 32)[:count])
    assert data.aside_labels.tolist() == [(i + 1) % 10 for i in range(count)]
    own = load("svhn", tmp_path, aside=aside)
    assert len(own.train_labels) + len(own.aside_labels) == 12


def test_the_extra_split_is_normalised_like_the_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path, monkeypatch)
    data = load("svhn", tmp_path, aside=0.5, aside_from="extra", normalize=True)
    train = random_images(12, 3, 32, 32).astype(float)
    mean, std = (f(train, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    expected = (random_images(20, 3, 32, 32)[:12] - mean[0]) / std[0]
    np.testing.assert_allclose(data.aside_inputs, expected, atol=1e-5)


def test_a_missing_extra_split_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, monkeypatch)
    (tmp_path / "extra_32x32.mat").unlink()
    assert len(load("svhn", tmp_path).train_labels) == 12
    with pytest.raises(DataError, match=r"missing there: extra_32x32\.mat\. Set dataset\.download"):
        load("svhn", tmp_path, aside_from="extra")


def test_the_published_poison_set_is_as_large_as_the_training_set() -> None:
    kind = DATASETS["svhn"]
    args = {**asdict(kind.args()), "aside": 0.5, "aside_from": "extra"}
    facts = import_function(kind.facts)(args)
    assert facts.num_train == facts.num_aside == FIXED_FACTS["svhn"].num_train == 73_257
    assert extra_suffices(args) is None
    found = extra_suffices({**args, "aside": 0.9})
    assert found is not None
    assert found[0] == "aside"
    assert "659,313 images beside 73,257 to train on; allowed: at most 0.879" in found[1]
    assert extra_suffices({**args, "aside": 0.9, "aside_from": "train"}) is None


@pytest.mark.parametrize(
    ("name", "folder", "missing"),
    [
        ("mnist", "MNIST/raw", "train-images-idx3-ubyte, train-labels-idx1-ubyte"),
        ("cifar10", "cifar-10-batches-py", "data_batch_1, data_batch_2"),
        ("cifar100", "cifar-100-python", "train, test, meta"),
        ("svhn", "", "train_32x32.mat, test_32x32.mat"),
    ],
)
def test_missing_files_are_named_with_the_remedy(
    tmp_path: Path, name: str, folder: str, missing: str
) -> None:
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    message = str(caught.value)
    assert f"looked in {tmp_path / folder}" in message
    assert f"missing there: {missing}" in message
    assert "Set dataset.download: true, or dataset.root" in message


def test_damaged_files_are_told_from_missing_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path, monkeypatch)
    (tmp_path / "train_32x32.mat").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="all files are there, but damaged"):
        load("svhn", tmp_path)


def test_a_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", unreachable)
    with pytest.raises(DataError, match=r"The download failed.*no route"):
        load("cifar10", tmp_path, download=True)
