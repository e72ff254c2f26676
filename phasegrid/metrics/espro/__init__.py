"""A simplex of low loss grown from one trained network."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, Metric, later
from phasegrid.metrics.augmentation import Augment
from phasegrid.metrics.ranges import Count, Momentum, NonNegative, Percent, Positive, Share
from phasegrid.metrics.simplex import (
    Lambda,
    PoisonBeta,
    PoisonScale,
    PoisonShare,
    cost,
    disk,
    fits,
    lambda_of_each_connector,
    memory,
    trained_passes,
)
from phasegrid.metrics.simplex.columns import COLUMNS
from phasegrid.metrics.simplex.poison import poison_mistake


@dataclass(frozen=True, slots=True)
class EsproArgs:
    """A simplex (w, theta_0, ..., theta_(connectors-1)) of low loss around one trial (ESPRO; Benton
    et al. 2021, section 5.1, eq. 3), trained and measured as in `simplex`, for ensembles of its
    points (``predictions`` and ``ensemble`` that are ``of`` this one).

    The defaults are those of the published code: three connectors, 10 epochs each (20 on
    CIFAR-100), from a learning rate of 0.01, with weight decay 5e-4 on the connector and a volume
    lambda of 1e-6, which is to have the `volume_schedule` ``code``: there the simplex of freshly
    initialised networks has as many vertices as that of the connector. (Its first connector starts
    at the network itself. Here it starts `jitter` times the norm of the weights away from it.)
    """

    connectors: Count = 3
    samples: Count = 5
    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    batch_size: Count = 128
    weight_decay: NonNegative = 5e-4
    volume_lambda: Lambda = 1e-6
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


ESPRO = Metric(
    over="trial",
    args=EsproArgs,
    compute="phasegrid.metrics.simplex.compute:compute_espro",
    compute_many="phasegrid.metrics.simplex.compute:espro_many",
    by_turns="phasegrid.metrics.simplex.compute:espro_by_turns",
    heavy=True,
    label="ESPRO simplex",
    rules=(lambda_of_each_connector, poison_mistake),
    fits=fits,
    cost=cost,
    recorded=True,
    memory=memory,
    disk=disk,
    leaves=("complex",),
    passes=trained_passes,
    columns=tuple(
        replace(
            column,
            label=column.label.replace("simplex", "ESPRO simplex"),
            quantity=f"espro_{column.name}",
        )
        for column in COLUMNS
    ),
)
