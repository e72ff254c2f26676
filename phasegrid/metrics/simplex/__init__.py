"""Mode-connecting volumes: a simplicial complex of low loss through trained networks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, DatasetFacts, Finding, Metric, later
from phasegrid.estimates import (
    FLOAT,
    Guess,
    Measurement,
    evaluation,
    evaluation_bytes,
    passes,
    training_bytes,
)
from phasegrid.metrics.augmentation import Augment, augments_images
from phasegrid.metrics.ranges import Count, Momentum, NonNegative, Percent, Positive, Share
from phasegrid.metrics.simplex.columns import COLUMNS
from phasegrid.metrics.simplex.poison import poison_fits, poison_mistake
from phasegrid.metrics.simplex.wiring import Wiring, modes_mistake, wiring_mistake

Lambda = Annotated[tuple[NonNegative, ...], Field(min_length=1)] | NonNegative
"""A number for every connector, or a list with one for each."""


PoisonShare = Annotated[float, Field(ge=0, lt=1)]
"""The share of every batch that is examples set aside, to be predicted wrongly."""

PoisonBeta = Annotated[float, Field(ge=0, le=1)] | None
"""The weight of their term, beside 1 - beta of the others; null for their share."""

PoisonScale = NonNegative | None
"""The weight of their term beside 1 of the others, as in the published code; null for beta."""


@dataclass(frozen=True, slots=True)
class SimplexArgs:
    """A simplicial complex of low loss through the trials of a cell (SPRO; Benton et al. 2021,
    section 4, eq. 1).

    - `connectors`: the number of points theta_j. They are trained one after another, with earlier
      ones fixed, on (1/samples) sum_h L(phi_h) - lambda_j log V(K), with phi_h uniform in a simplex
      of the complex K of the simplexes that contain theta_j, without later connectors.
    - `wiring`: the simplexes. ``shared``: simplex i is (w_i, theta_0, ..., theta_(connectors-1)).
      Or a list, each item with the names of the vertices of a simplex, modes ``w0``, ``w1``, ... in
      the order of the networks and connectors ``c0``, ``c1``, ...: ``[[w0, c0], [c0, w1]]``. If
      they differ in dimension, n_d of n having dimension d, these have n_d / n of the points, and
      log V(K) = sum_d (n_d / n) log V_d: volumes of different dimensions have no common unit.
    - `sampling`: the simplex is chosen with probability proportional to its volume (``volume``:
      uniform on the complex, as in the paper) or uniformly (``simplex``: the published code).
    - `volume_lambda`: one number, or one per connector; `samples`: H, 5 in the paper and its code.
      `volume_schedule` makes lambda_j of the one number: ``constant``, itself; ``code``, the
      published code's max(lambda / log(V^2 + 1e-4), 1e-8), V of a simplex of freshly initialised
      networks with j + 3 vertices, and 0 for the first connector, j = 0; ``paper``, the same with
      what eq. 1 has, log V(K) of the complex with connector j. (The paper leaves lambda_j to its
      appendix A.2, which the text at hand does not have.) In that code lambda_j acts on log V^2 of
      the first simplex beside a sum over the samples: as 2 lambda_j / H here, at H times the `lr`.
    - `modes`: how many of the cell's trials are joined, in order of seed (null: all).
    - `start`, `jitter`: a new connector starts at the mean of the earlier vertices of its
      ``simplexes``, or of ``all`` earlier vertices (the published code), plus `jitter` times their
      rms edge in a random direction (at the mean itself V = 0).
    - `lr` falls along a cosine over the `epochs` of each connector, and `weight_decay` acts on the
      connector itself (both as in the published code). `optimizer`: ``sgd`` with `momentum`, or
      ``adam`` (with which the published notebook of two spirals trains, at a constant rate).
    - `eval_samples`: expected losses are means over this many points of the complex, with standard
      errors.
    - `batch_norm`: statistics of BatchNorm are those of a batch in training, and recomputed at each
      point from at most `refresh_examples` training examples (``refreshed``); or, in both, those of
      the modes, mixed as the weights are, of a connector their mean (``saved``).
    - `every_connector`: points of the complexes of the first 1, 2, ... connectors are measured too
      (columns ``first_``). `low_loss_dimension` is the dimension at the largest number k of
      connectors such that each of the first k has at least `collapse` times the height of the first
      one over the vertices before it, and no sampled point with up to k connectors has a training
      accuracy below `least_accuracy_percent`. (The paper counts connectors until the volume
      collapses, by eye. `collapse` must be well above `jitter`, the height at the start.)

    - `poison_share`, `poison_beta`: L is the poisoned loss (Yenphraphai et al., "Mode-connecting
      volumes for sharp modes", eq. 2 in eq. 1), as in the objective ``poisoned``, with this share
      of every batch taken from the examples set aside; or, with `poison_scale`, that of
      ``poisoned_sum``. Points are scored on clean examples.
    - `augment`: of the images on which connectors are trained, as in ``dataset``, whatever the
      networks themselves were trained on; fresh draws every epoch, the same for all points of a
      batch. `refresh_augment`: of the images that recompute BatchNorm's statistics, drawn once.
      (The published code augments both.) Losses are always those of the images as they are.

    For sentence pairs L is the mean token cross-entropy over the scored target tokens of a batch of
    `batch_size` pairs (or of the set), and accuracy is token accuracy.

    The connectors are stored as the artifact ``complex``, for metrics that are ``of`` this one,
    unless one of them has become infinite.
    """

    connectors: Count = 1
    samples: Count = 5
    epochs: Count = 10
    lr: Positive = 0.005
    momentum: Momentum = 0.9
    batch_size: Count = 128
    weight_decay: NonNegative = 0.0
    volume_lambda: Lambda = 1e-3
    sampling: Literal["volume", "simplex"] = "volume"
    jitter: Positive = 1e-2
    eval_samples: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 10
    refresh_examples: Count | None = None
    wiring: Wiring = later("shared")
    poison_share: PoisonShare = later(0.0)
    poison_beta: PoisonBeta = later(None)
    poison_scale: PoisonScale = later(None)
    volume_schedule: Literal["constant", "paper", "code"] = later("constant")
    start: Literal["simplexes", "all"] = later("simplexes")
    batch_norm: Literal["refreshed", "saved"] = later("refreshed")
    every_connector: bool = later(default=False)
    least_accuracy_percent: Percent = later(95.0)
    collapse: Share = later(0.05)
    optimizer: Literal["sgd", "adam"] = later("sgd")
    augment: Augment = later("none")
    refresh_augment: Augment = later("none")


def lambda_of_each_connector(args: Mapping[str, Any]) -> Finding | None:
    """Find a list of lambdas that has not one for each connector, or that has a schedule."""
    given, connectors = args["volume_lambda"], args["connectors"]
    if isinstance(given, (list, tuple)) and len(given) != connectors:
        return (
            "volume_lambda",
            (
                f"found a list of {len(given)}; allowed: one number, or one per connector"
                f" ({connectors})"
            ),
        )
    if isinstance(given, (list, tuple)) and args["volume_schedule"] != "constant":
        return "volume_schedule", "makes a lambda for each connector of one number; found a list"
    return None


def _wired(args: Mapping[str, Any]) -> Finding | None:
    return wiring_mistake(args["wiring"], int(args["connectors"]))


def _joined(args: Mapping[str, Any], num: int) -> Finding | None:
    return modes_mistake(args["wiring"], num)


def fits(args: Mapping[str, Any], recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    """Find what the data or the objective of the networks cannot give: poison, images."""
    return poison_fits(args, recipe, facts) or augments_images(args, recipe, facts)


def trained_passes(args: Mapping[str, Any], _num_train: int) -> float:
    """Return the passes through the training data: one an epoch for each sampled point."""
    return float(args["connectors"] * args["epochs"] * args["samples"])


STACKED = 2.0
"""An update of a stack of points starts as many kernels as that of so many points in turn, those of
the volume included: measured for 5 points of perceptrons of width 16 and 64, 1.8 and 1.4.
"""


def cost(job: Measurement) -> Guess:
    """Guess the seconds: the training of the connectors, then the points and the vertices. (On a
    GPU the points take turns: launches and traffic count for each.)
    """
    work, args = job.work, job.args
    examples = work.num_train / (1 - float(args.get("poison_share", 0.0)))
    trained, samples = (
        examples * int(args["epochs"]) * int(args["connectors"]),
        int(args["samples"]),
    )
    update = passes(work, trained, int(args["batch_size"]), 3)
    steps = replace(samples * update, overhead_s=min(samples, STACKED) * update.overhead_s)
    complexes = int(args["connectors"]) if args.get("every_connector") else 1
    vertices = job.num_networks + int(args["connectors"])
    return steps + 2 * (complexes * int(args["eval_samples"]) + vertices) * evaluation(work)


def memory(job: Measurement) -> int:
    """Return the bytes of GPU memory of the trainings that are done together."""
    connector = training_bytes(job.work, float(job.args["batch_size"]))
    return job.together * connector + evaluation_bytes(job.work)


def disk(job: Measurement) -> int:
    """Return the bytes of the stored connectors."""
    return FLOAT * int(job.args["connectors"]) * job.work.num_parameters


SIMPLEX = Metric(
    over="cell",
    args=SimplexArgs,
    compute="phasegrid.metrics.simplex.compute:compute",
    by_turns="phasegrid.metrics.simplex.compute:by_turns",
    version=2,
    min_trials=2,
    one_model=True,
    heavy=True,
    label="Simplex volume",
    rules=(lambda_of_each_connector, _wired, poison_mistake),
    fits=fits,
    of_networks=_joined,
    for_fewer="espro",
    cost=cost,
    recorded=True,
    memory=memory,
    disk=disk,
    leaves=("complex",),
    passes=trained_passes,
    columns=COLUMNS,
)
