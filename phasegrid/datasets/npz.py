"""A user's own arrays: one ``.npz`` file, laid out as `npz_file` describes."""

import numpy as np

from phasegrid.datasets import NpzOptions
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.npz_file import fingerprint, read_arrays
from phasegrid.datasets.preparing import Raw, prepare, read_options
from phasegrid.keys import Json


def load(**args: Json) -> Dataset:
    """Load the file at `path`. `args` are the fields of `NpzOptions`.

    uint8 inputs are in pixel units; for floating-point inputs one pixel unit is 1/255 of the
    training set's range.

    Raises:
        DataError: if the file is missing, does not fit, or is not the one that `sha256` names.
    """
    options = read_options(NpzOptions, args)
    if options.sha256:
        fingerprint(args)
    arrays = read_arrays(args)
    is_pixels = arrays.train_inputs.dtype == np.uint8
    raw = Raw(
        "npz",
        arrays.train_inputs,
        arrays.train_labels,
        arrays.test_inputs,
        arrays.test_labels,
        arrays.num_classes,
        pixel_unit=1.0 if is_pixels else _range(arrays.train_inputs) / 255,
        divisor=255.0 if is_pixels else 1.0,
    )
    return prepare(raw, options)


def _range(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> float:
    return float(values.max()) - float(values.min())
