"""Find and decode images whose classes `image_lists` finds, without torch: facts, a fingerprint,
and arrays of pixels.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phasegrid.datasets import ImageFolderOptions, facts_of_options
from phasegrid.datasets.image_lists import ByClass, images_by_class
from phasegrid.datasets.prepared import Arrays, Entry, known_digests, scratch
from phasegrid.datasets.text_files import listing, options_of, require_digest
from phasegrid.declare import DatasetFacts
from phasegrid.errors import DataError
from phasegrid.keys import Json, content_key

TOGETHER = 256
"""Images that are decoded before they are written: bounds memory."""


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The chosen images of both splits, each with the number of its class."""

    classes: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    val: tuple[tuple[Path, int], ...]

    @property
    def paths(self) -> list[Path]:
        """All files, training first."""
        return [path for path, _ in (*self.train, *self.val)]


def find_images(options: ImageFolderOptions) -> ImageFiles:
    """List the images that `options` choose, the first of each class, the second of each, ...

    Raises:
        DataError: if a folder is missing, a class has no image, or a class of `val` is not in
            `train`.
    """
    root, (train, val) = Path(options.root), images_by_class(options)
    unknown = sorted(val.keys() - train.keys())
    if unknown or len(train) < 2:
        where = root if options.layout == "cub200" else root / options.train
        found = f"{len(train)} classes in {where}"
        more = f", and without an equal there {listing(unknown)}" if unknown else ""
        raise DataError(
            f"loading data set image_folder: found {found}{more}; allowed: a folder for each class,"
            f" at least two, and for those of {options.val} folders of the same names"
        )
    numbers = {name: number for number, name in enumerate(train)}
    return ImageFiles(
        tuple(train),
        _in_turn(train, numbers, options.per_class),
        _in_turn(val, numbers, options.val_per_class),
    )


def facts(args: Mapping[str, Json]) -> DatasetFacts:
    """Return the facts of the images that `args`, the fields of `ImageFolderOptions`, choose; no
    file is read.

    Raises:
        DataError: as `find_images`.
    """
    options = options_of(ImageFolderOptions, args)
    found = find_images(options)
    shape = (3, options.size, options.size)
    return facts_of_options(len(found.train), len(found.val), shape, len(found.classes), args)


def fingerprint(args: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return ``{"sha256": ...}`` of the names and contents of the chosen files: their identity.

    Raises:
        DataError: as `find_images`, if a file cannot be read, or if they have another digest than a
            given ``sha256``.
    """
    options = options_of(ImageFolderOptions, args)
    found = find_images(options)
    digest = digest_of_images(options, found)
    files = f"the images of {options.train} and {options.val} in {options.root}"
    require_digest("image_folder", files, digest, options.sha256)
    return {"sha256": digest}


def digest_of_images(options: ImageFolderOptions, found: ImageFiles) -> str:
    """Return the SHA-256 of the names of files in `root` and of their SHA-256 digests. Files are
    read only if they are not, unchanged, those of an entry (`phasegrid.datasets.prepared`).
    """
    known = known_digests(entry_of(options, found)) or {}
    whole = hashlib.sha256()
    for path, name in zip(found.paths, _names(options, found), strict=True):
        whole.update(f"{name}\0{known.get(path) or _digest(path)}\n".encode())
    return whole.hexdigest()


def entry_of(options: ImageFolderOptions, found: ImageFiles) -> Entry:
    """Return the place of the decoded images."""
    args: Mapping[str, Json] = {
        "files": content_key("image_folder", 1, _names(options, found)),
        "resize": options.resize,
        "size": options.size,
    }
    return Entry(Path(options.root), "image_folder", args)


def decode_images(options: ImageFolderOptions, found: ImageFiles) -> Arrays:
    """Decode all images: ``train_inputs`` (N, 3, size, size) uint8, ``train_labels`` (N,) int64,
    likewise ``test_*`` of `val`. `TOGETHER` images are in memory at once.

    Raises:
        DataError: if one cannot be decoded.
    """
    entry, arrays = entry_of(options, found), dict[str, NDArray[np.generic]]()
    for split, images in (("train", found.train), ("test", found.val)):
        pixels = scratch(entry, (len(images), 3, options.size, options.size))
        paths = [path for path, _ in images]
        for index, image in enumerate(_decoded(paths, options.resize, options.size)):
            pixels[index] = image
        arrays[f"{split}_inputs"] = pixels
        arrays[f"{split}_labels"] = np.array([number for _, number in images], dtype=np.int64)
    return arrays


def _decoded(paths: Sequence[Path], resize: int, size: int) -> Iterator[NDArray[np.uint8]]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), TOGETHER):
            some = paths[start : start + TOGETHER]
            yield from pool.map(lambda path: _decode(path, resize, size), some)


def _decode(path: Path, resize: int, size: int) -> NDArray[np.uint8]:
    """Return an image as pixels (3, size, size), as torchvision's usual evaluation for ImageNet:
    bilinear with antialiasing.
    """
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms import functional

    try:
        image = pil_loader(str(path))
    except (OSError, ValueError, SyntaxError) as error:  # whatever a damaged file makes PIL raise
        raise DataError(
            f"loading data set image_folder: cannot decode {path} ({error}); repair or remove it"
        ) from error
    cut = functional.center_crop(functional.resize(image, resize), size)
    return np.asarray(cut, dtype=np.uint8).transpose(2, 0, 1)


def _in_turn(
    by_class: ByClass, numbers: Mapping[str, int], most: int | None
) -> tuple[tuple[Path, int], ...]:
    ranked = [
        (rank, numbers[name], path)
        for name, paths in by_class.items()
        for rank, path in enumerate(paths[:most])
    ]
    return tuple((path, number) for _, number, path in sorted(ranked))


def _names(options: ImageFolderOptions, found: ImageFiles) -> list[Json]:
    """Return the name of each file within `root`, which says its split and its class unless they
    are in lists: then these are before it.
    """
    splits = [("train", found.train), ("val", found.val)]
    return [
        (f"{split} {found.classes[number]} " if options.layout != "folders" else "")
        + path.relative_to(options.root).as_posix()
        for split, images in splits
        for path, number in images
    ]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"loading data set image_folder: cannot read {path} ({error.strerror or error})"
        ) from error
