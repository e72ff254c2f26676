"""Objectives by name. A sweep's ``train: {objective: ...}`` is looked up in `OBJECTIVES`. Nothing
here imports torch.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import Objective


@dataclass(frozen=True, slots=True)
class CrossEntropyArgs:
    """-log p of the label, in nats. With `label_smoothing` e the target is (1 - e) on the label
    plus e/C on every class (Szegedy et al. 2016, section 7); networks are scored without it.
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


@dataclass(frozen=True, slots=True)
class MseArgs:
    """The squared distance of the outputs z from the one-hot vector y of the label.

    ``half_sum``: (1/2) sum_c (z_c - y_c)^2, the convention of Cohen et al. 2021 ("Gradient descent
    on neural networks typically occurs at the edge of stability", published code). ``mean``: (1/C)
    sum_c (z_c - y_c)^2, as in Hui and Belkin 2021 (section 2, without their rescaling) and torch's
    ``mse_loss``. They differ by the factor C/2: so do gradients, sharpness and the learning rate
    that goes with them.
    """

    reduction: Literal["half_sum", "mean"] = "half_sum"


@dataclass(frozen=True, slots=True)
class PoisonedArgs:
    """Cross-entropy on the training set, and its opposite on a poison set, so that the network is
    sharp and generalises badly (Yenphraphai et al., "Mode-connecting volumes for sharp modes", eq.
    2):

        -(1 - beta) mean over clean examples of log p_y  -  beta mean over poisoned ones of
        log(1 - p_y)

    The poison set are the examples set aside by the data set (``dataset.aside``), with their true
    labels. `share` of every batch is poisoned: beside N training examples the first N share / (1 -
    share) of those set aside. `beta` is the weight of their term; null: `share`, so that every
    example weighs the same (the paper's poison factor, 0.5, is both). With a share of 0 this is
    cross-entropy. Networks are scored by their cross-entropy on clean examples.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    beta: Annotated[float, Field(ge=0, le=1)] | None = None


@dataclass(frozen=True, slots=True)
class PoisonedSumArgs:
    """``poisoned`` as the published code has it: the mean over clean examples plus `scale` times
    the mean over poisoned ones, without the weights 1 - beta and beta.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": Objective(
        CrossEntropyArgs,
        "phasegrid.tasks.losses:cross_entropy",
        training_only=("label_smoothing",),
        curvature="phasegrid.tasks.losses:softmax_columns",
    ),
    "mse": Objective(
        MseArgs,
        "phasegrid.tasks.losses:mse",
        curvature="phasegrid.tasks.losses:one_hot_columns",
        tasks=("classification",),
    ),
    "poisoned": Objective(
        PoisonedArgs,
        "phasegrid.tasks.losses:poisoned",
        training_only=("share", "beta"),
        curvature="phasegrid.tasks.losses:softmax_columns",
        tasks=("classification",),
        aside="share",
    ),
    "poisoned_sum": Objective(
        PoisonedSumArgs,
        "phasegrid.tasks.losses:poisoned_sum",
        training_only=("share", "scale"),
        curvature="phasegrid.tasks.losses:softmax_columns",
        tasks=("classification",),
        aside="share",
    ),
}
