"""The 8x8 digits that come with scikit-learn: 1,797 grey images (Alpaydin and Kaynak 1998, UCI
"Optical recognition of handwritten digits", its test part). No download, trains in seconds: for
quickstarts and tests.

Pixels are counts 0..16, scaled by 255/16 to pixel units 0..255 (exact in float32). The split into
1,297 training and 500 test images is ours: stratified by class, drawn once with the seed below, the
same for everybody.
"""

import numpy as np
from numpy.typing import NDArray

from phasegrid.datasets import Options
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.preparing import Raw, prepare, read_options
from phasegrid.keys import Json

NUM_TEST = 500
SPLIT_SEED = 1797


def load(**args: Json) -> Dataset:
    """Load the digits; images (1, 8, 8), ten classes. `args` are the fields of `Options`."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).astype(np.float32)[:, None]
    labels = bunch.target.astype(np.int64)
    test = _test_indices(labels)
    train = np.setdiff1d(np.arange(len(labels)), test)
    raw = Raw("digits", images[train], labels[train], images[test], labels[test], num_classes=10)
    return prepare(raw, read_options(Options, args)).decoded()


def _test_indices(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw the test set: `NUM_TEST` examples, shared among the classes by largest remainder; in
    file order.
    """
    shares = np.bincount(labels) * (NUM_TEST / len(labels))
    counts = np.floor(shares).astype(np.int64)
    most_short = np.argsort(counts - shares, kind="stable")
    counts[most_short[: NUM_TEST - counts.sum()]] += 1
    rng = np.random.default_rng(SPLIT_SEED)
    drawn = [
        rng.permutation(np.flatnonzero(labels == digit))[:count]
        for digit, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(drawn))
