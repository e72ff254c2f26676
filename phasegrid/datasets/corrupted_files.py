"""Read the published corrupted test sets, CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich
2019).

A folder holds ``labels.npy`` and one file for each corruption: uint8 images (5 N, H, W, C), the
whole test set of N images in its order at severity 1, then at 2, ... Files are mapped, so that only
the severity that is asked for is read. Files that would need pickle are refused: nothing in them is
executed.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from phasegrid.datasets.corruptions import SEVERITIES
from phasegrid.errors import DataError

FILE_NAMES = {"blur": "gaussian_blur"}
"""The files that are called otherwise than our corruption."""


def read_images(
    root: Path, name: str, severity: int, shape: tuple[int, ...], labels: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return the test images (N, C, H, W) of a corruption at a severity, in bytes, for a test set
    with images of this `shape` (C, H, W) and these `labels` (N,).

    Raises:
        DataError: if a file is missing, is no array, has another type or shape, or if the labels
            are not those of the test set.
    """
    channels, height, width = shape
    whole = SEVERITIES * len(labels)
    told = _mapped(root / "labels.npy", "integers", (whole,))
    file = root / f"{FILE_NAMES.get(name, name)}.npy"
    images = _mapped(file, "bytes", (whole, height, width, channels))
    own = slice((severity - 1) * len(labels), severity * len(labels))
    if not np.array_equal(told[own], labels):
        raise DataError(
            f"reading {root / 'labels.npy'}: its labels of severity {severity} are not those of the"
            " test set in its order; allowed: the files of the same data set, such as CIFAR-10-C"
            " with cifar10"
        )
    return np.array(images[own].transpose(0, 3, 1, 2), order="C")


def _mapped(file: Path, kind: Literal["bytes", "integers"], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of a file, mapped into memory, if it has this type and shape."""
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(
            f"reading corrupted images: {file.resolve()} does not exist; set corruption_root to the"
            " folder that holds the .npy files of CIFAR-10-C"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"reading {file}: not a whole .npy file of numbers ({error})") from error
    if not isinstance(found, np.ndarray):  # .npz
        found.close()
        raise DataError(f"reading {file}: found an archive; allowed: one array in .npy format")
    fits = found.dtype == np.uint8 if kind == "bytes" else found.dtype.kind in "iu"
    if not fits or found.shape != shape:
        raise DataError(
            f"reading {file}: found {found.dtype} of the shape {found.shape}; allowed:"
            f" {kind} of the shape {shape}, five severities of the whole test set"
        )
    return found
