"""Load MNIST, CIFAR-10, CIFAR-100 and SVHN from the folders that torchvision's data set classes
write.

`root` is the folder that torchvision gets; it holds ``MNIST/``, ``cifar-10-batches-py/``,
``cifar-100-python/`` or ``train_32x32.mat``. With `download`, missing files are fetched.
torchvision checks the published checksums of CIFAR and SVHN before reading. Of SVHN, the splits
``train`` and ``test`` are used; digit 0 has label 0.
"""

from pathlib import Path
from typing import Any

import numpy as np

from phasegrid.datasets import FIXED_FACTS, FileOptions
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.preparing import Array, Raw, prepare, read_options
from phasegrid.errors import DataError
from phasegrid.keys import Json


def load_mnist(**args: Json) -> Dataset:
    """Load MNIST; images (1, 28, 28), ten classes. `args` are the fields of `FileOptions`."""
    return _load("mnist", "MNIST", args)


def load_cifar10(**args: Json) -> Dataset:
    """Load CIFAR-10; images (3, 32, 32), ten classes. `args` are the fields of `FileOptions`."""
    return _load("cifar10", "CIFAR10", args)


def load_cifar100(**args: Json) -> Dataset:
    """Load CIFAR-100; images (3, 32, 32), a hundred fine classes. `args` are the fields of
    `FileOptions`.
    """
    return _load("cifar100", "CIFAR100", args)


def load_svhn(**args: Json) -> Dataset:
    """Load SVHN, cropped digits; images (3, 32, 32), ten classes. `args` are the fields of
    `FileOptions`.
    """
    return _load("svhn", "SVHN", args)


def _load(name: str, class_name: str, args: dict[str, Json]) -> Dataset:
    options = read_options(FileOptions, args)
    train_inputs, train_labels = _read_split(name, class_name, options, train=True)
    test_inputs, test_labels = _read_split(name, class_name, options, train=False)
    classes = FIXED_FACTS[name].num_classes
    raw = Raw(name, train_inputs, train_labels, test_inputs, test_labels, classes)
    return prepare(raw, options)


def _read_split(
    name: str, class_name: str, options: FileOptions, *, train: bool
) -> tuple[Array, Array]:
    import torchvision.datasets

    source: Any = getattr(torchvision.datasets, class_name)
    split = {"split": "train" if train else "test"} if class_name == "SVHN" else {"train": train}
    try:
        read = source(options.root, download=options.download, **split)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        raise DataError(_explain(name, source, options, error)) from error
    labels = read.labels if class_name == "SVHN" else read.targets
    return _channels_first(class_name, np.asarray(read.data)), np.asarray(labels, dtype=np.int64)


def _channels_first(class_name: str, images: Array) -> Array:
    """Return (N, C, H, W): torchvision keeps MNIST as (N, H, W), CIFAR as (N, H, W, C), SVHN as (N,
    C, H, W).
    """
    if class_name == "MNIST":
        return images[:, None]
    if class_name == "SVHN":
        return images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _explain(name: str, source: Any, options: FileOptions, error: Exception) -> str:
    files = _expected_files(source, Path(options.root))
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
        f"(dataset.root is {options.root}); {found}. {remedy}. torchvision says: {error}"
    )


def _expected_files(source: Any, root: Path) -> list[Path]:
    if hasattr(source, "resources"):
        folder = root / source.__name__ / "raw"
        return [folder / Path(url).stem for url, _ in source.resources]
    if hasattr(source, "split_list"):
        return [root / source.split_list[split][1] for split in ("train", "test")]
    folder = root / source.base_folder
    names = [name for name, _ in [*source.train_list, *source.test_list]]
    return [folder / name for name in [*names, source.meta["filename"]]]
