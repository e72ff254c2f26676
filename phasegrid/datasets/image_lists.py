"""Which images are of which class, and in which split: folders named after the classes, or lists as
CUB-200-2011 and ImageNet are published with. Without torch.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from phasegrid.datasets import ImageFolderOptions
from phasegrid.datasets.text_files import listing, read_text
from phasegrid.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
"""Of the names of images, in lower case; other files are passed over."""

CUB = "CUB_200_2011"
CUB_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
CUB_MD5 = "97eceeb196236b17998738112f37df78"

DEVKIT = "ILSVRC2012_devkit_t12/data"

ByClass = Mapping[str, Sequence[Path]]
"""The images of each class, in the order of names."""


def images_by_class(options: ImageFolderOptions) -> tuple[ByClass, ByClass]:
    """Return the images of both splits by class, in the order of the classes.

    Raises:
        DataError: if a folder or a list is missing or malformed, or an image has no class.
    """
    root = Path(options.root)
    if options.layout == "cub200":
        return _cub(root, options.download)
    if options.layout == "imagenet":
        found = [_imagenet(root, name) for name in (options.train, options.val)]
        return found[0], found[1]
    return _folders(root / options.train), _folders(root / options.val)


def _folders(folder: Path) -> ByClass:
    found = {name: _images(folder / name) for name in _entries(folder, of_folders=True)}
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise DataError(
            f"loading data set image_folder: {folder} holds no image for {listing(empty)}; allowed:"
            f" files {', '.join(ENDINGS)} directly in the folder of a class"
        )
    return found


def _cub(root: Path, download: bool) -> tuple[ByClass, ByClass]:
    """Read the lists of CUB-200-2011 (Wah et al. 2011), each of which has an id at the beginning of
    a line.
    """
    folder = root / CUB
    if download and not (folder / "images.txt").exists():
        _fetch_cub(root)
    names = _listed(folder / "classes.txt")
    images, classes, training = (
        _listed(folder / f"{name}.txt")
        for name in ("images", "image_class_labels", "train_test_split")
    )
    train, test = ({name: list[Path]() for name in names.values()} for _ in range(2))
    for number, image in images.items():
        kind, first = names.get(classes.get(number, "")), training.get(number)
        if kind is None or first not in ("0", "1"):
            raise DataError(
                f"loading data set image_folder: image {number} of {folder / 'images.txt'} has the"
                f" class {classes.get(number)} and the split {first}; allowed: a class of"
                " classes.txt in image_class_labels.txt, and 0 or 1 in train_test_split.txt"
            )
        (train if first == "1" else test)[kind].append(folder / "images" / image)
    return _in_order(train), _in_order(test)


def _in_order(by_class: ByClass) -> ByClass:
    return {name: sorted(images) for name, images in by_class.items() if images}


def _listed(path: Path) -> dict[str, str]:
    lines = [line.split() for line in read_text("image_folder", path).splitlines()]
    for number, words in enumerate(lines, start=1):
        if len(words) != 2:
            raise DataError(
                f"loading data set image_folder: line {number} of {path} has {len(words)} words;"
                " allowed: an id and a value"
            )
    return {str(key): str(value) for key, value in lines}


def _fetch_cub(root: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(CUB_URL, str(root), md5=CUB_MD5)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise DataError(
            f"loading data set image_folder: fetching {CUB_URL} to {root.absolute()} failed"
            f" ({error}); try again, or unpack the archive there"
        ) from error


def _imagenet(root: Path, name: str) -> ByClass:
    """Return the images of a folder of ImageNet: in folders named after synsets, or, as the
    validation images are published, numbered and with their classes in the development kit.
    """
    folder = root / name
    if _entries(folder, of_folders=True):
        return _folders(folder)
    path = root / DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
    labels = read_text("image_folder", path).split()
    synsets, images = _synsets(root / DEVKIT / "meta.mat"), _images(folder)
    unknown = sorted({label for label in labels if label not in synsets})
    if unknown or len(labels) != len(images):
        raise DataError(
            f"loading data set image_folder: found {len(images)} images in {folder} and"
            f" {len(labels)} classes in {path}{_also(unknown)}; allowed: a number of meta.mat for"
            " each image"
        )
    found: dict[str, list[Path]] = {name: [] for name in sorted(synsets.values())}
    for image, label in zip(images, labels, strict=True):
        found[synsets[label]].append(image)
    return _in_order(found)


def _also(unknown: Sequence[str]) -> str:
    return f", of them unknown {listing(unknown)}" if unknown else ""


def _synsets(path: Path) -> dict[str, str]:
    """Return the name of the synset of each number in the development kit; numbers are not in the
    order of names. Synsets with children are no classes.
    """
    from scipy.io import loadmat

    try:
        table: Iterable[Any] = loadmat(str(path), squeeze_me=True)["synsets"]
        rows = [(row[0], row[1], row[4]) for row in table]
    except Exception as error:  # whatever a damaged file makes scipy raise
        raise DataError(
            f"loading data set image_folder: cannot read synsets from {path} ({error}); unpack the"
            " development kit of ILSVRC2012 (task 1 and 2) there"
        ) from error
    return {str(int(number)): str(name) for number, name, children in rows if not int(children)}


def _entries(folder: Path, of_folders: bool) -> list[str]:
    try:
        return sorted(e.name for e in os.scandir(folder) if e.is_dir() == of_folders)
    except OSError as error:
        raise DataError(
            f"loading data set image_folder: cannot read {folder.absolute()} ({error.strerror});"
            " set dataset.root to the folder that holds a folder for each split, and dataset.train"
            " and dataset.val to their names"
        ) from error


def _images(folder: Path) -> list[Path]:
    names = _entries(folder, of_folders=False)
    return [folder / name for name in names if name.lower().endswith(ENDINGS)]
