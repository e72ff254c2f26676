"""Load MNIST, CIFAR-10, CIFAR-100 and SVHN from the folders that torchvision's data set classes
write.

`root` is the folder that torchvision gets; it holds ``MNIST/``, ``cifar-10-batches-py/``,
``cifar-100-python/`` or ``train_32x32.mat``. With `download`, missing files are fetched. The
published checksums of CIFAR and SVHN are checked before reading. Of SVHN, the splits ``train`` and
``test`` are used, and ``extra`` if the examples set aside come from there; digit 0 has label 0.
What was read is kept as plain arrays in `root` (`phasegrid.datasets.prepared`); CIFAR's pickles are
never unpickled.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from phasegrid.datasets import FIXED_FACTS, FileOptions, SvhnOptions
from phasegrid.datasets.coded import CodedDataset
from phasegrid.datasets.pickled_batches import read_batch
from phasegrid.datasets.prepared import Array, Arrays, Entry, prepared
from phasegrid.datasets.preparing import Raw, prepare, raw_of, read_options, with_statistics
from phasegrid.errors import DataError
from phasegrid.keys import Json

EXTRA = "extra"
"""The split of SVHN that examples set aside may come from."""

CIFAR_LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
"""What each pickle of CIFAR calls its labels."""


def load_mnist(**args: Json) -> CodedDataset:
    """Load MNIST; images (1, 28, 28), ten classes. `args` are the fields of `FileOptions`."""
    return _load("mnist", "MNIST", read_options(FileOptions, args))


def load_cifar10(**args: Json) -> CodedDataset:
    """Load CIFAR-10; images (3, 32, 32), ten classes. `args` are the fields of `FileOptions`."""
    return _load("cifar10", "CIFAR10", read_options(FileOptions, args))


def load_cifar100(**args: Json) -> CodedDataset:
    """Load CIFAR-100; images (3, 32, 32), a hundred fine classes. `args` are the fields of
    `FileOptions`.
    """
    return _load("cifar100", "CIFAR100", read_options(FileOptions, args))


def load_svhn(**args: Json) -> CodedDataset:
    """Load SVHN, cropped digits; images (3, 32, 32), ten classes. `args` are the fields of
    `SvhnOptions`.
    """
    options = read_options(SvhnOptions, args)
    if options.aside_from == "train":
        return _load("svhn", "SVHN", options)
    entry = Entry(Path(options.root), "svhn", {"split": EXTRA})
    source = _Source("svhn", "SVHN", options, (EXTRA,))
    arrays = prepared(entry, source.find, source.parse)
    extra = arrays[f"{EXTRA}_inputs"], arrays[f"{EXTRA}_labels"]
    return prepare(replace(_read("svhn", "SVHN", options), extra=extra), options)


def _load(name: str, class_name: str, options: FileOptions) -> CodedDataset:
    return prepare(_read(name, class_name, options), options)


def _read(name: str, class_name: str, options: FileOptions) -> Raw:
    source = _Source(name, class_name, options)
    entry = Entry(Path(options.root), name, {})
    arrays = prepared(entry, source.find, lambda files: with_statistics(source.parse(files)))
    return raw_of(name, arrays, FIXED_FACTS[name].num_classes)


@dataclass(frozen=True, slots=True)
class _Source:
    """The files of some `splits` of torchvision's class `class_name`."""

    name: str
    class_name: str
    options: FileOptions
    splits: tuple[str, ...] = ("train", "test")

    @property
    def kind(self) -> Any:
        """torchvision's class; its import waits until files have to be parsed."""
        import torchvision.datasets

        return getattr(torchvision.datasets, self.class_name)

    def find(self) -> list[Path]:
        """Return the files, fetched if they are missing and that is allowed."""
        files = self._files()
        with self._explained():
            if self.name in CIFAR_LABELS:
                _find_cifar(self.kind, self.options)
            elif not all(file.is_file() for file in files):
                for split in self.splits:
                    self._open(split)
        return [file for file in files if file.is_file()]

    def parse(self, _: Sequence[Path]) -> Arrays:
        """Return the inputs and labels of each split."""
        found: dict[str, Array] = {}
        with self._explained():
            for split in self.splits:
                found[f"{split}_inputs"], found[f"{split}_labels"] = self._split(split)
        return found

    def _files(self) -> list[Path]:
        return _expected_files(self.kind, Path(self.options.root), self.splits)

    def _split(self, split: str) -> tuple[Array, Array]:
        if self.name in CIFAR_LABELS:
            return _read_cifar(
                self.name, self.kind, Path(self.options.root), train=split == "train"
            )
        read = self._open(split)
        if self.class_name == "MNIST":  # (N, H, W)
            return np.asarray(read.data)[:, None], np.asarray(read.targets, dtype=np.int64)
        return np.asarray(read.data), np.asarray(read.labels, dtype=np.int64)  # (N, C, H, W)

    def _open(self, split: str) -> Any:
        which = {"split": split} if self.class_name == "SVHN" else {"train": split == "train"}
        return self.kind(self.options.root, download=self.options.download, **which)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError) as error:  # URLError is an OSError
            raise DataError(_explain(self.name, self._files(), self.options, error)) from error


def _find_cifar(kind: Any, options: FileOptions) -> None:
    """Check the files of CIFAR by their published checksums; fetch them if that is allowed.

    Raises:
        RuntimeError, OSError: if one is missing or damaged.
    """
    from torchvision.datasets import utils

    folder = Path(options.root) / kind.base_folder

    def wrong() -> list[str]:
        files = [*kind.train_list, *kind.test_list]
        return [name for name, md5 in files if not utils.check_integrity(str(folder / name), md5)]

    if options.download and wrong():
        utils.download_and_extract_archive(
            kind.url, options.root, filename=kind.filename, md5=kind.tgz_md5
        )
    if found := wrong():
        raise RuntimeError(f"missing, or without its published checksum: {', '.join(found)}")


def _read_cifar(name: str, kind: Any, root: Path, *, train: bool) -> tuple[Array, Array]:
    files = kind.train_list if train else kind.test_list
    labels = CIFAR_LABELS[name]
    batches = [read_batch(name, root / kind.base_folder / file, labels) for file, _ in files]
    images, numbers = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(numbers)


def _explain(name: str, files: Sequence[Path], options: FileOptions, error: Exception) -> str:
    missing = [file.name for file in files if not file.is_file()]
    found = (
        f"missing there: {', '.join(missing)}" if missing else "all files are there, but damaged"
    )
    if options.download:
        remedy = (
            "The download failed: try again, or copy the files there from a machine that has them"
        )
    else:
        remedy = "Set dataset.download: true, or dataset.root to the folder that holds them"
    return (
        f"loading data set {name}: looked in {files[0].parent.resolve()} "
        f"(dataset.root is {options.root}); {found}. {remedy}. What was found: {error}"
    )


def _expected_files(source: Any, root: Path, splits: Sequence[str]) -> list[Path]:
    if hasattr(source, "resources"):
        folder = root / source.__name__ / "raw"
        return [folder / Path(url).stem for url, _ in source.resources]
    if hasattr(source, "split_list"):
        return [root / source.split_list[split][1] for split in splits]
    folder = root / source.base_folder
    names = [name for name, _ in [*source.train_list, *source.test_list]]
    return [folder / name for name in [*names, source.meta["filename"]]]
