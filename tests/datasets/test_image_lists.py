"""Images in the layouts that CUB-200-2011 and ImageNet are published in, in tiny."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from phasegrid.datasets import ImageFolderOptions, image_lists
from phasegrid.datasets.image_files import facts, find_images, fingerprint
from phasegrid.datasets.image_folder import load
from phasegrid.datasets.text_files import options_of
from phasegrid.declare import DatasetFacts
from phasegrid.errors import DataError
from phasegrid.keys import Json

BIRDS = ("001.Albatross", "002.Bunting", "003.Crow")
SYNSETS = {1: "n0300", 2: "n0100", 3: "n0200"}  # as in the kit, numbers are not in order of names
TRUTH = (3, 1, 2, 1, 2, 3)


def paint(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 9, 3), value, np.uint8)).save(path)


def lines(path: Path, values: dict[int, object]) -> None:
    path.write_text("".join(f"{number} {value}\n" for number, value in values.items()))


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Nine images, of each class two to train on and one to test on; the first is for testing."""
    folder = tmp_path / image_lists.CUB
    images = {3 * c + i + 1: f"{BIRDS[c]}/{i}.png" for c in range(3) for i in range(3)}
    for number, name in images.items():
        paint(folder / "images" / name, 20 * number)
    lines(folder / "images.txt", dict(images))
    lines(folder / "classes.txt", dict(enumerate(BIRDS, start=1)))
    lines(folder / "image_class_labels.txt", {n: (n - 1) // 3 + 1 for n in images})
    lines(folder / "train_test_split.txt", {n: int(n % 3 != 1) for n in images})
    return tmp_path


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """Six validation images as they are published, and their classes in the development kit."""
    for number, label in enumerate(TRUTH, start=1):
        paint(tmp_path / f"val/ILSVRC2012_val_{number:08d}.png", 10 * number + label)
    data = tmp_path / image_lists.DEVKIT
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, TRUTH)))
    kinds = [("ILSVRC2012_ID", float), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    leaves = [(number, name, "a", "b", 0.0) for number, name in SYNSETS.items()]
    table: Any = np.array([*leaves, (4, "n0000", "c", "d", 3.0)], [*kinds, ("num_children", float)])
    savemat(data / "meta.mat", {"synsets": table})
    return tmp_path


def args(root: Path, layout: str, **more: Json) -> dict[str, Json]:
    sizes: dict[str, Json] = {"resize": 8, "size": 8, "fraction": 1.0, "aside": 0.0}
    return {"root": str(root), "layout": layout, **sizes, "normalize": False, **more}


def test_the_birds_are_split_and_numbered_as_in_their_lists(birds: Path) -> None:
    given = args(birds, "cub200")
    data = load(**given).decoded()
    assert facts(given) == data.facts == DatasetFacts(6, 3, (3, 8, 8), 3)
    assert data.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    numbers = (data.train_inputs[:, 0, 0, 0] * 255 / 20).round().int().tolist()
    assert numbers == [2, 5, 8, 3, 6, 9]
    assert (data.test_inputs[:, 0, 0, 0] * 255 / 20).round().int().tolist() == [1, 4, 7]
    one = find_images(options_of(ImageFolderOptions, args(birds, "cub200", per_class=1)))
    assert [path.name for path, _ in one.train] == ["1.png"] * 3


def test_another_split_or_class_of_the_same_files_is_another_data_set(birds: Path) -> None:
    before = fingerprint(args(birds, "cub200"))
    folder = birds / image_lists.CUB
    lines(folder / "train_test_split.txt", {n: int(n % 3 != 2) for n in range(1, 10)})
    split = fingerprint(args(birds, "cub200"))
    lines(folder / "image_class_labels.txt", {n: n // 3 % 3 + 1 for n in range(1, 10)})
    assert len({str(each) for each in (before, split, fingerprint(args(birds, "cub200")))}) == 3


def test_validation_images_have_the_classes_of_the_development_kit(kit: Path) -> None:
    given = args(kit, "imagenet", train="val")
    data = load(**given).decoded()
    assert facts(given) == data.facts == DatasetFacts(6, 6, (3, 8, 8), 3)
    names = sorted(SYNSETS.values())
    for value, label in zip(data.test_inputs[:, 0, 0, 0], data.test_labels, strict=True):
        number, kind = divmod(round(float(value) * 255), 10)
        assert TRUTH[number - 1] == kind
        assert names[int(label)] == SYNSETS[kind]


def test_training_images_of_imagenet_are_in_folders(kit: Path) -> None:
    for name in SYNSETS.values():
        paint(kit / "train" / name / "1.png", 1)
    assert facts(args(kit, "imagenet")) == DatasetFacts(3, 6, (3, 8, 8), 3)


def test_wrong_lists_are_refused_with_what_to_do(birds: Path, kit: Path) -> None:
    folder, data = birds / image_lists.CUB, kit / image_lists.DEVKIT
    lines(folder / "image_class_labels.txt", dict.fromkeys(range(1, 10), 7))
    with pytest.raises(DataError, match=r"image 1 of .*images.txt has the class 7 and the split 0"):
        facts(args(birds, "cub200"))
    (folder / "classes.txt").write_text("1 a b\n")
    with pytest.raises(DataError, match=r"line 1 of .*classes.txt has 3 words; allowed: an id"):
        facts(args(birds, "cub200"))
    (folder / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*classes.txt .* Set dataset.root"):
        facts(args(birds, "cub200"))
    truth = data / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1 9")
    with pytest.raises(
        DataError, match=r"found 6 images in .*val and 2 classes .*, of them unknown"
    ):
        facts(args(kit, "imagenet", train="val"))
    (data / "meta.mat").write_text("no table")
    with pytest.raises(
        DataError, match=r"cannot read synsets from .*meta.mat .*; unpack the devel"
    ):
        facts(args(kit, "imagenet", train="val"))


def test_birds_are_fetched_where_that_is_allowed(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published archive, by its published checksum; what is there already is not fetched."""
    asked: list[tuple[object, ...]] = []

    def fetch(url: str, root: str, md5: str) -> None:
        asked.append((url, root, md5))
        raise RuntimeError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    facts(args(birds, "cub200", download=True))
    assert not asked
    empty = tmp_path / "empty"
    with pytest.raises(
        DataError, match=r"fetching https.*CUB_200_2011.tgz to .*empty failed \(no "
    ):
        facts(args(empty, "cub200", download=True))
    assert asked == [(image_lists.CUB_URL, str(empty), image_lists.CUB_MD5)]
