"""A user's own arrays: one ``.npz`` file, laid out as `npz_file` describes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from phasegrid.datasets import NpzOptions
from phasegrid.datasets.coded import CodedDataset
from phasegrid.datasets.npz_file import fingerprint, is_compressed, read_arrays
from phasegrid.datasets.prepared import Arrays, Entry, prepared
from phasegrid.datasets.preparing import (
    prepare,
    raw_of,
    read_options,
    statistics_of,
    with_statistics,
)
from phasegrid.keys import Json


def load(**args: Json) -> CodedDataset:
    """Load the file at `path`. `args` are the fields of `NpzOptions`.

    uint8 inputs are in pixel units; for floating-point inputs one pixel unit is 1/255 of the
    training set's range.

    Raises:
        DataError: if the file is missing, does not fit, or is not the one that `sha256` names.
    """
    options = read_options(NpzOptions, args)
    if options.sha256:
        fingerprint(args)
    path = Path(options.path)
    arrays = _arrays(path, args)
    is_pixels = arrays["train_inputs"].dtype == np.uint8
    raw = raw_of(
        "npz",
        arrays,
        num_classes=1 + max(int(arrays[f"{split}_labels"].max()) for split in ("train", "test")),
        pixel_unit=1.0 if is_pixels else _range(arrays["train_inputs"]) / 255,
        divisor=255.0 if is_pixels else 1.0,
    )
    return prepare(raw, options)


def _arrays(path: Path, args: Mapping[str, Json]) -> Arrays:
    """Return the arrays of the file with their statistics. Beside it are kept: of a compressed one
    all of them; of another, which is read as fast as what is kept, the statistics.
    """
    if is_compressed(args):
        return prepared(
            Entry(path.parent, "npz", {"file": path.name}),
            lambda: [path],
            lambda _: with_statistics(read_arrays(args)),
        )
    known = prepared(
        Entry(path.parent, "npz", {"file": path.name, "only": "statistics"}),
        lambda: [path],
        lambda _: statistics_of(read_arrays(args)),
    )
    return {**read_arrays(args), **known}


def _range(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> float:
    return float(values.max()) - float(values.min())
