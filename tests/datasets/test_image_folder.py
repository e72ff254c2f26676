"""Images in folders named after their classes: files, decoding, what is kept, mistakes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms._presets import ImageClassification

from phasegrid import load_sweep
from phasegrid.datasets import ImageFolderOptions, image_files, prepared
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.image_files import facts, find_images, fingerprint
from phasegrid.datasets.image_folder import load
from phasegrid.datasets.text_files import options_of
from phasegrid.declare import DatasetFacts
from phasegrid.errors import DataError, SweepError
from phasegrid.keys import Json

SIZES = {"train": 5, "val": 2}
CLASSES = ("ant", "bee", "cat")


def pixels(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of 5 and 2 images, each of another shape, some grey, some not JPEG."""
    for split, num in SIZES.items():
        for number, name in enumerate(CLASSES):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(num):
                image = Image.fromarray(pixels(10 * number + index, 40 + 7 * index, 61 - 5 * index))
                ending = ("jpg", "JPEG", "png")[index % 3]
                (image.convert("L") if index == 1 else image).save(folder / f"{index}.{ending}")
            (folder / "notes.txt").write_text("no image")
    return tmp_path


def args(root: Path, **more: Json) -> dict[str, Json]:
    return {"root": str(root), "resize": 36, "size": 32, "fraction": 1.0, "aside": 0.0} | more


def loaded(root: Path, **more: Json) -> Dataset:
    return load(**args(root, **more)).decoded()


def test_numbers_are_those_of_torchvisions_own_evaluation(root: Path) -> None:
    data = loaded(root)
    for split, inputs, labels in (
        ("train", data.train_inputs, data.train_labels),
        ("val", data.test_inputs, data.test_labels),
    ):
        theirs = ImageFolder(
            str(root / split), transform=ImageClassification(crop_size=32, resize_size=36)
        )
        order = np.argsort([int(Path(path).stem) for path, _ in theirs.samples], kind="stable")
        expected = torch.stack([theirs[i][0] for i in order])
        torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-6)  # float32 near 2.6
        assert labels.tolist() == [theirs.targets[i] for i in order]


def test_facts_are_those_of_what_is_loaded(root: Path) -> None:
    for more in ({}, {"per_class": 2, "val_per_class": 1}, {"fraction": 0.4, "aside": 0.5}):
        found = facts(args(root, **more))
        assert found == loaded(root, **more).facts
    assert facts(args(root)) == DatasetFacts(15, 6, (3, 32, 32), 3)


def test_any_share_of_the_images_has_all_classes(root: Path) -> None:
    assert loaded(root, fraction=0.2).train_labels.tolist() == [0, 1, 2]
    few = find_images(options_of(ImageFolderOptions, args(root, per_class=1)))
    assert [path.parent.name for path, _ in few.train] == ["ant", "bee", "cat"]
    assert [path.name for path, _ in few.train] == ["0.jpg"] * 3


def test_own_statistics_are_those_of_the_training_images(root: Path) -> None:
    data = loaded(root, statistics="own")
    assert data.train_inputs.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (data.train_inputs.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


@pytest.fixture
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "WORTH", 0)
    monkeypatch.setattr(prepared, "SETTLED_S", -1.0)  # files are written just before


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are decoded, as they are."""
    seen, decode = list[str](), image_files._decode

    def watched(path: Path, resize: int, size: int) -> NDArray[np.uint8]:
        seen.append(f"{path.parent.name}/{path.name}")
        return decode(path, resize, size)

    monkeypatch.setattr(image_files, "_decode", watched)
    return seen


@pytest.mark.usefixtures("keep_all")
def test_images_are_decoded_once_and_then_mapped(root: Path, decoded: list[str]) -> None:
    sha256 = fingerprint(args(root))["sha256"]
    first, again = (load(**args(root, sha256=sha256)) for _ in range(2))
    assert len(decoded) == 21
    assert again.is_mapped
    assert torch.equal(first.decoded().train_inputs, again.decoded().train_inputs)
    load(**args(root, size=16))
    assert len(decoded) == 42
    assert sorted(path.suffix for path in (root / prepared.FOLDER).iterdir()).count(".json") == 2
    assert not list((root / prepared.FOLDER).glob("*.part"))


@pytest.mark.usefixtures("keep_all")
def test_files_that_are_kept_are_not_read_again_for_their_identity(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(args(root))
    load(**args(root))

    def fail(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr(image_files, "_digest", fail)
    assert fingerprint(args(root)) == before


@pytest.mark.usefixtures("keep_all")
def test_where_nothing_can_be_written_images_are_decoded_in_memory(root: Path) -> None:
    usual = loaded(root)
    shutil.rmtree(root / prepared.FOLDER)
    (root / prepared.FOLDER).write_text("in the way")
    assert torch.equal(loaded(root).train_inputs, usual.train_inputs)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "train/ant/0.jpg").rename(root / "train/ant/00.jpg"),
        lambda root: (root / "val/bee/0.jpg").write_bytes((root / "val/ant/0.jpg").read_bytes()),
        lambda root: shutil.copy(root / "val/bee/0.jpg", root / "val/bee/9.jpg"),
        lambda root: (root / "train/cat/4.JPEG").unlink(),
    ],
)
def test_other_files_are_another_data_set(root: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint(args(root))["sha256"]
    change(root)
    assert fingerprint(args(root))["sha256"] != before
    with pytest.raises(DataError, match=rf"images in .* SHA-256 .* but dataset.sha256 is {before}"):
        load(**args(root, sha256=before))


def test_a_folder_is_known_by_its_contents_not_by_its_place(root: Path) -> None:
    moved = root / "moved"
    for split in SIZES:
        shutil.copytree(root / split, moved / split)
    assert fingerprint(args(root)) == fingerprint(args(moved))


def test_wrong_folders_are_refused_with_what_to_do(root: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere.* set dataset.root to the folder"):
        facts(args(root, val="nowhere"))
    (root / "val/dog").mkdir()
    with pytest.raises(DataError, match=r"val holds no image for dog; allowed: files .jpg, "):
        facts(args(root))
    (root / "val/ant/0.jpg").rename(root / "val/dog/0.jpg")
    with pytest.raises(DataError, match=r"found 3 classes in .*, and without an equal there dog;"):
        facts(args(root))
    shutil.rmtree(root / "val/dog")
    (root / "train/bee/0.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cannot decode .*bee/0.jpg .*; repair or remove it"):
        load(**args(root))
    for name in ("bee", "cat"):
        shutil.rmtree(root / "train" / name)
    with pytest.raises(DataError, match=r"found 1 classes .*without an equal there bee, cat;"):
        facts(args(root))


SWEEP = """\
schema: 1
name: folders
dataset: {name: image_folder, root: ROOT, resize: 36, size: SIZE}
model: {name: torchvision, arch: resnet18}
train: {epochs: 1, batch_size: 5}
load: {param: dataset.per_class, values: [2, null]}
seeds: 1
metrics: [accuracy]
"""


def test_a_sweep_reads_folders_and_reports_their_mistakes_in_place(
    root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "folders.yaml"
    path.write_text(SWEEP.replace("ROOT", str(root)).replace("SIZE", "32"))
    sweep = load_sweep(path)
    assert [point.facts.num_train for point in sweep.points if point.facts] == [6, 15]
    assert len({point.dataset.args["sha256"] for point in sweep.points}) == 2
    path.write_text(SWEEP.replace("ROOT", str(root)).replace("SIZE", "40"))
    with pytest.raises(SweepError, match=r"folders.yaml:3:\d+: dataset.size: found 40 with resize"):
        load_sweep(path)
    path.write_text(SWEEP.replace("ROOT", "none").replace("SIZE", "32"))
    with pytest.raises(SweepError, match=r"folders.yaml:3:\d+: dataset.root: .*cannot read"):
        load_sweep(path)
