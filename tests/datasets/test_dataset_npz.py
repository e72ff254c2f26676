"""The user's own arrays: layouts, facts without loading, fingerprint, and every refusal."""

import hashlib
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phasegrid.datasets import NpzOptions, npz
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.load import load_dataset
from phasegrid.datasets.npz_file import facts, fingerprint, read_arrays
from phasegrid.declare import DatasetFacts, make_part
from phasegrid.errors import DataError

ARGS = {key: value for key, value in asdict(NpzOptions()).items() if key != "path"}


def load(**args: Any) -> Dataset:
    return npz.load(**args).decoded()


def arrays(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {
        "train_images": rng.integers(0, 256, (12, 3, 8, 6), dtype=np.uint8),
        "train_labels": np.arange(12, dtype=np.uint8) % 4,
        "test_images": rng.integers(0, 256, (5, 3, 8, 6), dtype=np.uint8),
        "test_labels": np.arange(5) % 4,
    }
    made.update(changes)
    return {name: value for name, value in made.items() if value is not None}


def written(folder: Path, **changes: Any) -> str:
    path = folder / "mine.npz"
    np.savez(path, **arrays(**changes))
    return str(path)


def facts_of(path: str, fraction: float = 1.0) -> DatasetFacts:
    return facts({**ARGS, "path": path, "fraction": fraction})


def test_arrays_come_back_as_written(tmp_path: Path) -> None:
    data = load(path=written(tmp_path), normalize=False)
    np.testing.assert_allclose(data.train_inputs * 255, arrays()["train_images"], atol=1e-4)
    assert data.test_labels.tolist() == [0, 1, 2, 3, 0]
    assert data.num_classes == 4
    assert data.pixel.shape == (3, 1, 1)


def test_channels_last_images_are_turned(tmp_path: Path) -> None:
    turned = {
        name: arrays()[name].transpose(0, 2, 3, 1) for name in ("train_images", "test_images")
    }
    path = written(tmp_path, **turned)
    np.testing.assert_array_equal(
        read_arrays({"path": path})["train_inputs"], arrays()["train_images"]
    )
    assert facts_of(path).input_shape == (3, 8, 6)


def test_grey_images_get_their_channel(tmp_path: Path) -> None:
    grey = {name: arrays()[name][:, 0] for name in ("train_images", "test_images")}
    path = written(tmp_path, **grey)
    assert facts_of(path).input_shape == load(path=path).input_shape == (1, 8, 6)


def test_inputs_may_be_vectors_of_any_range(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(100, 20, (12, 7))
    path = written(
        tmp_path,
        train_images=None,
        test_images=None,
        train_inputs=vectors,
        test_inputs=vectors[:5].astype(np.float32),
    )
    data = load(path=path, normalize=False)
    assert facts_of(path).input_shape == data.input_shape == (7,)
    np.testing.assert_allclose(data.train_inputs, vectors, rtol=1e-6)
    assert data.pixel.tolist() == pytest.approx([np.ptp(vectors) / 255] * 7)


def test_facts_are_true_after_loading(tmp_path: Path) -> None:
    path = written(tmp_path, test_labels=np.array([0, 1, 2, 3, 6]))
    assert facts_of(path, 0.4) == DatasetFacts(5, 5, (3, 8, 6), 7)
    data = load(path=path, fraction=0.4)
    assert (len(data.train_labels), data.num_classes) == (5, 7)


def test_the_fingerprint_is_the_hash_of_the_bytes(tmp_path: Path) -> None:
    path = written(tmp_path)
    expected = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert fingerprint({"path": path}) == {"sha256": expected}
    assert fingerprint({"path": path, "sha256": expected}) == {"sha256": expected}
    assert load(path=path, sha256=expected).num_classes == 4


def test_a_file_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    part = make_part("npz", 1, NpzOptions, {**ARGS, "path": path, "sha256": "0" * 64})
    with pytest.raises(DataError, match=r"but dataset\.sha256 is 0+: the file has changed"):
        load_dataset(part)


def test_no_path_is_refused() -> None:
    with pytest.raises(DataError, match=r"dataset\.path is empty"):
        fingerprint({"path": ""})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    args = {**ARGS, "path": str(tmp_path / "none.npz")}
    for function in (fingerprint, facts, read_arrays):
        with pytest.raises(DataError, match=r"cannot read .*none\.npz \(No such file"):
            function(args)


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.npz"
    path.write_text("not an archive")
    with pytest.raises(DataError, match=r"text\.npz is no \.npz file"):
        facts_of(str(path))


def test_an_array_without_a_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_labels.npy", b"rubbish")
    with pytest.raises(DataError, match=r"array train_labels of .* has no valid header"):
        facts_of(str(path))


def test_a_damaged_array_is_refused(tmp_path: Path) -> None:
    images = np.full((12, 3, 64, 64), 77, dtype=np.uint8)  # more than is read with the header
    path = Path(written(tmp_path, train_images=images, test_images=images[:5]))
    content = bytearray(path.read_bytes())
    content[content.index(images.tobytes())] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read train_images of .*the file is damaged"):
        read_arrays({"path": str(path)})


def test_pickled_objects_are_refused_unread(tmp_path: Path) -> None:
    labels = np.array([0, 1, "two"] * 4, dtype=object)
    with pytest.raises(
        DataError, match="train_labels holds Python objects, which would need pickle"
    ):
        read_arrays({"path": written(tmp_path, train_labels=labels)})


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"train_images": None}, "train_images or train_inputs is missing"),
    ({"test_labels": None}, "test_labels is missing.*It holds train_images uint8"),
    ({"train_images": np.zeros((12, 3, 8, 6), np.int64)}, "train_images has the type int64"),
    (
        {"train_images": np.zeros((12, 3), np.uint8)},
        r"has 2 dimensions; allowed: 3 to 4 \(vectors are called train_inputs\)",
    ),
    ({"test_images": np.zeros((0, 3, 8, 6), np.uint8)}, "test_images is empty"),
    ({"test_labels": np.float64(3)}, r"test_labels has the shape \(\)"),
    ({"train_labels": np.zeros((12, 1), np.int64)}, r"train_labels has the shape \(12, 1\)"),
    ({"train_labels": np.zeros(12)}, "train_labels has the type float64; labels must be integers"),
    ({"train_labels": np.arange(9)}, "train_images holds 12 examples, but train_labels 9"),
    (
        {"test_images": np.zeros((5, 3, 8, 8), np.uint8)},
        r"shape \(3, 8, 6\), but one of test_images",
    ),
    ({"test_images": np.zeros((5, 3, 8, 6))}, "train_images is uint8, but test_images float64"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_arrays_that_do_not_fit_are_refused_before_reading(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        facts_of(written(tmp_path, **change))


def test_all_mistakes_of_a_file_are_reported_together(tmp_path: Path) -> None:
    path = written(tmp_path, train_images=None, test_labels=np.zeros(5))
    with pytest.raises(DataError, match=r"train_images or .* missing; test_labels has the type"):
        facts_of(path)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.arange(12) - 1, "from -1 to 10"),
        (np.arange(12) * 10_000, "from 0 to 110000"),
        (np.zeros(12, np.int64), "from 0 to 0"),
    ],
)
def test_labels_out_of_range_are_refused(tmp_path: Path, labels: Any, found: str) -> None:
    path = written(tmp_path, train_labels=labels, test_labels=np.zeros(5, np.int64))
    for function in (facts, read_arrays):
        with pytest.raises(DataError, match=f"labels of .* run {found}; allowed: 0 to 65535"):
            function({**ARGS, "path": path})


def test_inputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    images = np.zeros((12, 3, 8, 6), np.float32)
    images[4, 0, 0, 0], images[7, 1, 2, 3] = np.nan, np.inf
    path = written(tmp_path, train_images=images, test_images=np.ones((5, 3, 8, 6), np.float32))
    with pytest.raises(
        DataError, match="NaN or infinities in 2 of 12 examples, first in example 4"
    ):
        read_arrays({"path": path})


@pytest.mark.parametrize("mark", [np.finfo(np.float64).max, -np.finfo(np.float64).max, 1e154])
def test_marks_of_missing_values_are_refused_and_not_turned_into_zeros(
    tmp_path: Path, mark: float
) -> None:
    """The deviation of their column would overflow, and every example of it would become zero."""
    rng = np.random.default_rng(0)
    clean, marked = rng.normal(size=(12, 4)), rng.normal(size=(12, 4))
    marked[7, 2] = mark
    labels = np.arange(12) % 3
    for split in ("train", "test"):
        arrays = {"train": clean, "test": clean, split: marked}
        path = tmp_path / f"{split}.npz"
        np.savez(
            path, train_inputs=arrays["train"], train_labels=labels,
            test_inputs=arrays["test"], test_labels=labels,
        )  # fmt: skip
        message = f"{split}_inputs of .* beyond 1e\\+145 .* in 1 of 12 examples, first in example 7"
        with pytest.raises(DataError, match=message):
            load(path=str(path))


@pytest.mark.parametrize("scale", [1e-200, 1e-300, 1e100, 1e144])
def test_inputs_of_any_unit_are_normalised_alike(tmp_path: Path, scale: float) -> None:
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(12, 4)), np.arange(12) % 3
    found = []
    for name, factor in (("one", 1.0), ("other", scale)):
        path = tmp_path / f"{name}.npz"
        np.savez(
            path, train_inputs=factor * inputs, train_labels=labels,
            test_inputs=factor * inputs[:3], test_labels=labels[:3],
        )  # fmt: skip
        found.append(load(path=str(path)))
    # float64 gives 1e-300 thirteen digits at the least
    assert torch.allclose(found[0].train_inputs, found[1].train_inputs, atol=1e-6)
    assert torch.allclose(found[0].test_inputs, found[1].test_inputs, atol=1e-6)


def test_what_float32_cannot_hold_is_refused_with_its_place(tmp_path: Path) -> None:
    inputs, labels = np.ones((12, 4)), np.arange(12) % 3
    inputs[5, 1] = 1e39
    path = tmp_path / "large.npz"
    np.savez(
        path,
        train_inputs=inputs,
        train_labels=labels,
        test_inputs=inputs[:3],
        test_labels=labels[:3],
    )
    part = make_part("npz", 1, NpzOptions, {**asdict(NpzOptions(path=str(path), normalize=False))})
    with pytest.raises(DataError, match=r"cannot hold .* in 1 of 12 examples, first in example 5"):
        load_dataset(part)


def test_the_real_cifar10_subset_has_the_statistics_of_cifar10(shared_data: Path) -> None:
    path = str(shared_data / "cifar10_subset.npz")
    assert facts_of(path) == DatasetFacts(5085, 1017, (3, 32, 32), 10)
    data = load(path=path)
    std = 1 / (255 * data.pixel.flatten())
    mean = -data.padding.flatten() * std
    # the usual constants of the full set; the subset's means have a standard error near 0.002
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.2470, 0.2435, 0.2616]), atol=0.01, rtol=0)
