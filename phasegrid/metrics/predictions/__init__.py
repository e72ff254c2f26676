"""Predictions: what a network answers on whole sets, kept for other metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from phasegrid.datasets.corruptions import SHIFT_RULES, Shift, fits_images, num_test_sets
from phasegrid.declare import MAX_COUNT, Column, DatasetFacts, Finding, Metric, later
from phasegrid.estimates import FLOAT, Guess, Measurement, Workload, evaluation_bytes, passes
from phasegrid.metrics.augmentation import AsTrained, augments_images
from phasegrid.metrics.ranges import Count, Positive
from phasegrid.metrics.refreshing import nothing_refreshed

OF_ONLY: Mapping[str, tuple[str, ...]] = {
    "points": ("curve", "complex", "moments"),
    "refresh_examples": ("curve", "complex", "moments"),
    "refresh_augment": ("curve", "complex", "moments"),
    "scale": ("moments",),
}
"""The arguments that say something about these artifacts only."""


@dataclass(frozen=True, slots=True)
class PredictionsArgs(Shift):
    """The outputs (logits) of a network on the test set and on the examples that the data set sets
    aside, and, if `train`, on the training set. They are stored as the artifact ``predictions``, in
    the dtype of the network, so that what reads them passes nothing forward again.

    The network is a trial, as saved or at a checkpoint; or, ``of`` a mode connectivity, `points`
    networks equally spaced in t on its curve, ends included; or, ``of`` a `simplex` or `espro`,
    `points` networks drawn uniformly from its complex; or, ``at: swag``, `points` networks drawn
    from the Gaussian of the moments of its weights (Maddox et al. 2019, equation 1, with the
    covariance times 2 `scale`). On curves and complexes and for drawn networks, BatchNorm
    statistics are recomputed from at most `refresh_examples` training examples, augmented by
    `refresh_augment` (null: as those of the curve or complex).

    The test images can be corrupted: `phasegrid.datasets.corruptions.Shift` has the arguments. The
    other sets stay as they are.

    An artifact takes 4 bytes for each example and class of a network: 0.4 MB for the test set of
    CIFAR-10, 2 MB more for its training set; ten times as much with 100 classes.
    """

    train: bool = False
    points: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 5
    refresh_examples: Count | None = None
    scale: Positive = later(0.5)
    refresh_augment: AsTrained = later(None)


def fits(args: Mapping[str, Any], recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    """Find what is done to images only: to those of the test set, or before BatchNorm."""
    return fits_images(args, recipe, facts) or augments_images(args, recipe, facts)


def outputs_of_one(work: Workload, args: Mapping[str, Any]) -> int:
    """Return how many numbers a network answers: one for each example and class. Measurements of
    earlier releases have no `train` among their `args`: they looked at all sets.
    """
    return _num_examples(work, args) * work.num_classes


def _num_examples(work: Workload, args: Mapping[str, Any]) -> int:
    num = work.num_test * num_test_sets(args) + work.num_aside
    return num + work.num_train * bool(args.get("train", True))


def _num_networks(job: Measurement) -> int:
    return int(job.args["points"]) if job.num_sources else 1


def _cost(job: Measurement) -> Guess:
    work = job.work
    examples = _num_examples(work, job.args) + work.num_train * job.num_sources  # BatchNorm
    return _num_networks(job) * passes(work, examples, 500, 1)


def _left_bytes(job: Measurement) -> int:
    return FLOAT * _num_networks(job) * outputs_of_one(job.work, job.args)


PREDICTIONS = Metric(
    over="trial",
    args=PredictionsArgs,
    compute="phasegrid.metrics.predictions.compute:compute",
    label="Predictions",
    takes="classification",
    reads=("curve", "complex"),
    leaves=("predictions",),
    of_only=OF_ONLY,
    samples=True,
    cost=_cost,
    memory=lambda job: _left_bytes(job) + evaluation_bytes(job.work),
    disk=_left_bytes,
    rules=SHIFT_RULES,
    fits=fits,
    source_rules={"complex": nothing_refreshed},
    columns=(
        Column("num_networks", "int64", "", "networks whose outputs are stored", role="detail"),
        Column("num_train", "int64", "", "training examples that they were given", role="detail"),
        Column("num_test", "int64", "", "test examples that they were given", role="detail"),
        Column("num_aside", "int64", "", "examples set aside that they were given", role="detail"),
    ),
)
