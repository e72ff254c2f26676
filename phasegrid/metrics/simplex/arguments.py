"""The arguments of training connectors, which `simplex` and `espro` share, and what must hold
between them. No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, Finding, later
from phasegrid.metrics.augmentation import Augment
from phasegrid.metrics.ranges import Count, Momentum, NonNegative, Percent, Positive, Share
from phasegrid.metrics.refreshing import nothing_refreshed
from phasegrid.metrics.simplex.poison import poison_mistake

Lambda = Annotated[tuple[NonNegative, ...], Field(min_length=1)] | NonNegative
"""A number for every connector, or a list with one for each."""

PoisonShare = Annotated[float, Field(ge=0, lt=1)]
"""The share of every batch that is examples set aside, to be predicted wrongly."""

PoisonBeta = Annotated[float, Field(ge=0, le=1)] | None
"""The weight of their term, beside 1 - beta of the others; null for their share."""

PoisonScale = NonNegative | None
"""The weight of their term beside 1 of the others, as in the published code; null for beta."""


@dataclass(frozen=True, slots=True)
class ConnectorArgs:
    """How the connecting points theta_0, theta_1, ... of a complex K are trained, one after
    another with earlier ones fixed, and how it is measured.

    - `connectors`: their number. theta_j minimises (1/samples) sum_h L(phi_h) - lambda_j log V(K),
      with phi_h drawn from the simplexes of K that contain theta_j, without later connectors.
    - `samples`: H, 5 in the paper and its code.
    - `volume_lambda`: one number, or one per connector. `volume_schedule` makes lambda_j of the one
      number: ``constant``, itself; ``code``, the published code's max(lambda / log(V^2 + 1e-4),
      1e-8), V of a simplex of freshly initialised networks with j + 3 vertices, and 0 for the first
      connector, j = 0; ``paper``, the same with what eq. 1 has, log V(K) of the complex with
      connector j. (The paper leaves lambda_j to its appendix A.2, which the text at hand does not
      have.) In that code lambda_j acts on log V^2 of the first simplex beside a sum over the
      samples: as 2 lambda_j / H here, at H times the `lr`.
    - `jitter`: a connector starts so many times an rms edge away from where it would have no
      volume, in a random direction.
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
      (The published code augments both.) Losses are always those of the images as they are. What
      reads the complex recomputes statistics in the same way.

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
    jitter: Positive = 1e-2
    eval_samples: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 10
    refresh_examples: Count | None = None
    poison_share: PoisonShare = later(0.0)
    poison_beta: PoisonBeta = later(None)
    poison_scale: PoisonScale = later(None)
    volume_schedule: Literal["constant", "paper", "code"] = later("constant")
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


def refreshes_statistics(args: Mapping[str, Any]) -> Finding | None:
    """Find an argument about statistics of BatchNorm that are not recomputed."""
    return nothing_refreshed(args, args)


CONNECTOR_RULES = (lambda_of_each_connector, poison_mistake, refreshes_statistics)
