"""Declare the augmentation of images on which curves and connectors are trained, and by which
statistics of BatchNorm are recomputed. No torch here.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from phasegrid.declare import DatasetFacts, Finding

Augment: TypeAlias = Literal["none", "flip_crop"]
"""How images are augmented, as in ``dataset``."""

AsTrained: TypeAlias = Augment | None
"""How images are augmented that recompute BatchNorm's statistics on a curve or a complex; null: as
where it was trained (`refresh_augment` there), and not at all elsewhere.
"""


def augments_images(
    args: Mapping[str, Any], _recipe: Mapping[str, Any], facts: DatasetFacts
) -> Finding | None:
    """Find an augmentation, by `augment` or `refresh_augment`, of inputs that are not images."""
    if facts.task == "classification" and len(facts.input_shape) == 3:
        return None
    for name in ("augment", "refresh_augment"):
        if args.get(name) not in (None, "none"):
            return name, (
                f"found {args[name]}, but an input of the data set has the shape"
                f" {facts.input_shape}; it needs images (channels, height, width); allowed: none"
            )
    return None
