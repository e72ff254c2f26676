"""CIFAR's files are read without unpickling."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from phasegrid.datasets.pickled_batches import read_batch
from phasegrid.errors import DataError
from tests.datasets.cifar_files import write_batch

IMAGES = np.random.default_rng(1).integers(0, 256, (300, 3072), dtype=np.uint8)
LABELS = [index % 10 for index in range(300)]


class Harm:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (str(self.path), "w")


def test_a_file_of_the_authors_has_the_content_that_unpickling_finds(tmp_path: Path) -> None:
    write_batch(tmp_path / "batch", IMAGES, LABELS, "labels")
    expected = pickle.loads((tmp_path / "batch").read_bytes(), encoding="latin1")
    images, labels = read_batch("cifar10", tmp_path / "batch", "labels")
    np.testing.assert_array_equal(images, expected["data"].reshape(-1, 3, 32, 32))
    assert labels.tolist() == expected["labels"] == LABELS


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_file_that_python_3_wrote_is_read_too(tmp_path: Path, protocol: int) -> None:
    content = {"data": IMAGES, "fine_labels": LABELS, "coarse_labels": [0] * 300}
    (tmp_path / "train").write_bytes(pickle.dumps(content, protocol=protocol))
    images, labels = read_batch("cifar100", tmp_path / "train", "fine_labels")
    np.testing.assert_array_equal(images.reshape(300, -1), IMAGES)
    assert labels.tolist() == LABELS


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    content = {"harm": Harm(tmp_path / "harm"), "data": IMAGES, "labels": LABELS}
    (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=2))
    read_batch("cifar10", tmp_path / "batch", "labels")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"rubbish", ""),
        (b"", ""),
        (pickle.dumps({"data": IMAGES}), "labels"),
        (pickle.dumps({"data": IMAGES, "labels": [1]}, protocol=2), "300, 3072.* for 1 labels"),
        (pickle.dumps({"data": [1], "labels": [1]}), "data is no array"),
        (pickle.dumps({"data": IMAGES.astype(float), "labels": LABELS}), "no array of uint8"),
        (pickle.dumps({"data": {1, 2}, "labels": [1]}, protocol=4), "instruction EMPTY_SET"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(
    tmp_path: Path, content: bytes, what: str
) -> None:
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match=rf"batch is damaged, or no file of its .*{what}"):
        read_batch("cifar10", tmp_path / "batch", "labels")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    write_batch(tmp_path / "batch", IMAGES, LABELS, "labels")
    data = (tmp_path / "batch").read_bytes()
    for kept in (1, 40, 1000, len(data) // 2, len(data) - 1):
        (tmp_path / "batch").write_bytes(data[:kept])
        with pytest.raises(DataError, match="is damaged"):
            read_batch("cifar10", tmp_path / "batch", "labels")
