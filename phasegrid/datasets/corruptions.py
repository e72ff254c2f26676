"""Declare the corruptions of images under which networks are measured. No torch here.

Hendrycks and Dietterich 2019 corrupt the test images of CIFAR-10 in five severities (CIFAR-10-C).
`AMOUNTS` are made here, on tensors; the constants are those of its published code
(``make_cifar_c.py``). Three things are ours: brightness is added to each channel
instead of the value of HSV, pixelation takes means over areas, and nothing is rounded to bytes. The
published files have these differences, and other draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Field

from phasegrid.declare import DatasetFacts, Finding, later, locator

SEVERITIES = 5

AMOUNTS: Mapping[str, tuple[float, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
}
"""The corruptions that are made, with the amount of each severity; x are pixels in 0..1, and what
leaves 0..1 is clipped.

- ``gaussian_noise``: x + a z, z ~ N(0, 1).
- ``shot_noise``: Poisson(a x) / a, x to the nearest 1/65280.
- ``impulse_noise``: a share a of the numbers becomes 0 or 1, half of them each.
- ``blur``: a Gaussian of standard deviation a pixels, cut off at 4 a, edges repeated.
- ``contrast``: m + a (x - m), m the mean of a channel of an image.
- ``brightness``: x + a.
- ``pixelate``: means over floor(a H) x floor(a W) equal rectangles, at least one, enlarged by
  repetition.
"""

Benchmark: TypeAlias = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
"""The corruptions of CIFAR-10-C over which its means are taken."""

BENCHMARK: tuple[str, ...] = get_args(Benchmark)

Corruption: TypeAlias = Literal[
    "none", "all", Benchmark, "blur", "speckle_noise", "spatter", "saturate"
]
"""``all`` of one source, or one. ``blur`` is the file ``gaussian_blur.npy``."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Arguments that say how the test images are corrupted: a shift of the data that no training
    has seen. What no `corruption` is named for stays as it is.

    - `corruption`: one by name, or ``all``: the test set is then all corrupted sets, one after
      another, so that errors, losses and Brier scores are means over the corruptions; calibration
      errors are means of those of each.
    - `severity`: 1 to 5; 0 leaves the images as they are.
    - `corruption_seed` seeds the noise: all networks get the same images, however their data are
      normalised (shot noise: if pixels are bytes or sixteenths).
    - `corruption_source`: ``made`` (`AMOUNTS`), or the published ``files`` of CIFAR-10-C or
      CIFAR-100-C in `corruption_root`: ``gaussian_noise.npy``, ..., ``labels.npy``, of five
      severities of the whole test set, one after another. ``all`` are the seven that are made, or
      the fifteen of the benchmark. The files are taken for the published ones: their contents are
      not part of the identity of a measurement.
    """

    corruption: Corruption = later("none")
    severity: Annotated[int, Field(ge=0, le=SEVERITIES)] | None = later(None)
    corruption_seed: Annotated[int, Field(ge=0)] = later(0)
    corruption_source: Literal["made", "files"] = later("made")
    corruption_root: str = locator("data/CIFAR-10-C")


def names_of(args: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the corruptions that arguments ask for, each of which makes a test set; none if the
    images stay as they are.

    >>> names_of({"corruption": "blur", "severity": 3})
    ('blur',)
    >>> len(names_of({"corruption": "all", "severity": 3}))
    7
    """
    name = str(args.get("corruption", "none"))
    if name == "none" or not args.get("severity"):
        return ()
    if name != "all":
        return (name,)
    return BENCHMARK if args.get("corruption_source") == "files" else tuple(AMOUNTS)


def num_test_sets(args: Mapping[str, Any]) -> int:
    """Return how many test sets arguments ask for: one for each corruption, or the clean one."""
    return max(1, len(names_of(args)))


def severity_belongs(args: Mapping[str, Any]) -> Finding | None:
    """Find a severity without a corruption, or a corruption without a severity."""
    if args["corruption"] == "none" and args["severity"]:
        return "severity", (
            f"found {args['severity']}, but no corruption; name one, or write severity: 0"
        )
    if args["corruption"] != "none" and args["severity"] is None:
        return "corruption", (
            f"found {args['corruption']} without a severity; write severity: 1 to {SEVERITIES},"
            " or 0 for clean images"
        )
    return None


def can_be_made(args: Mapping[str, Any]) -> Finding | None:
    """Find a corruption that only the published files have."""
    name = args["corruption"]
    if args["corruption_source"] == "files" or name in ("none", "all", *AMOUNTS):
        return None
    return "corruption", (
        f"found {name}, which is not made; made are {', '.join(AMOUNTS)}; write corruption_source:"
        " files to read those of CIFAR-10-C"
    )


SHIFT_RULES = (severity_belongs, can_be_made)


def fits_images(
    args: Mapping[str, Any], _recipe: Mapping[str, Any], facts: DatasetFacts
) -> Finding | None:
    """Find a corruption of inputs that are not images."""
    if args["corruption"] == "none":
        return None
    if facts.task == "classification" and len(facts.input_shape) == 3:
        return None
    return "corruption", (
        f"found {args['corruption']}, but an input of the data set has the shape"
        f" {facts.input_shape}; it needs images (channels, height, width); allowed: none"
    )
