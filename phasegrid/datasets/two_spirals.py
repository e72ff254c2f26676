"""Two interleaved spirals in the plane: the toy problem of Benton et al. 2021 (section 5.3; numbers
of its notebook).

    theta = (10 pi / 3) sqrt(U),   U ~ U[0, 1]
    class 0:  x = 1.5 theta (-cos theta, sin theta) + noise * (N(0, 1), N(0, 1))
    class 1:  the same points mirrored at the origin, -x

10 pi / 3 is 600 degrees, 1 2/3 turns. As in the notebook, the points of class 1 are the mirror
images of those of class 0, including noise. Examples alternate between the classes, so that the
`first` part of the training set is balanced. Points are drawn from the streams ``spirals_train``
and ``spirals_test`` of `corruption_seed`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from phasegrid.datasets import SpiralOptions
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.preparing import Raw, prepare, read_options
from phasegrid.keys import Json, stream_seed

TURN = 600 * 2 * math.pi / 360
GROWTH = 1.5


def load(**args: Json) -> Dataset:
    """Draw the spirals; inputs (2,), two classes. `args` are the fields of `SpiralOptions`."""
    options = read_options(SpiralOptions, args)
    streams = [
        np.random.default_rng(stream_seed(options.corruption_seed, name))
        for name in ("spirals_train", "spirals_test")
    ]
    train = draw_spirals(options.per_class, options.noise, streams[0])
    test = draw_spirals(options.test_per_class, options.noise, streams[1])
    unit = float(np.ptp(train)) / 255
    raw = Raw("two_spirals", train, _labels(train), test, _labels(test), 2, unit, divisor=1.0)
    return prepare(raw, options).decoded()


def draw_spirals(per_class: int, noise: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (2 per_class, 2) points, class 0 at even places and its mirror image, class 1, at odd
    ones.
    """
    theta = TURN * np.sqrt(rng.random(per_class))
    spiral = GROWTH * theta * np.stack([-np.cos(theta), np.sin(theta)])
    points = spiral.T + noise * rng.standard_normal((per_class, 2))
    return np.stack([points, -points], axis=1).reshape(-1, 2)


def _labels(points: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.arange(len(points)) % 2
