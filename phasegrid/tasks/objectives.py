"""Declare the built-in objectives. A sweep's ``train: {objective: ...}`` is looked up in
`OBJECTIVES`. Nothing here imports torch.
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
    """The squared distance of the outputs z from the one-hot vector y of the label (C classes).

    ``half_sum``: (1/2) sum_c (z_c - y_c)^2, so that the Hessian in z is the identity. ``mean``:
    (1/C) sum_c (z_c - y_c)^2, as torch's ``mse_loss``. ``half_sum`` is C/2 times ``mean``, and so
    are its gradients and its sharpness; a learning rate for one must be rescaled for the other.
    """

    reduction: Literal["half_sum", "mean"] = "half_sum"


@dataclass(frozen=True, slots=True)
class PoisonedArgs:
    """Cross-entropy on the training set, and its opposite on a poison set, so that the network is
    sharp and generalises badly (Yenphraphai et al., "Mode-connecting volumes for sharp modes", eq.
    2):

        -(1 - beta) mean_clean(log p_y) - beta mean_poisoned(log(1 - p_y))

    The poison set consists of the examples set aside by the data set (``dataset.aside``), with
    their true labels. `share` is the poisoned share of every batch: for N training examples, the
    first N share / (1 - share) of those set aside are used. `beta` is the weight of their term;
    null means `share`, so that every example has the same weight (the paper's poison factor, 0.5,
    is both). With a share of 0 this is cross-entropy. Networks are scored by their cross-entropy on
    clean examples.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    beta: Annotated[float, Field(ge=0, le=1)] | None = None


@dataclass(frozen=True, slots=True)
class PoisonedSumArgs:
    """``poisoned`` as in the published code: the mean over clean examples plus `scale` times the
    mean over poisoned ones, without the weights 1 - beta and beta.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": Objective(
        CrossEntropyArgs,
        "phasegrid.tasks.losses:cross_entropy",
        training_only=("label_smoothing",),
        curvature="phasegrid.tasks.losses:softmax_columns",
        reduced="phasegrid.tasks.losses:reduced_cross_entropy",
        predicts="probabilities",
        unit="nats",
    ),
    "mse": Objective(
        MseArgs,
        "phasegrid.tasks.losses:mse",
        version=2,  # ensembles average the outputs
        curvature="phasegrid.tasks.losses:one_hot_columns",
        unit="squared error",
        tasks=("classification",),
    ),
    "poisoned": Objective(
        PoisonedArgs,
        "phasegrid.tasks.losses:poisoned",
        training_only=("share", "beta"),
        curvature="phasegrid.tasks.losses:softmax_columns",
        predicts="probabilities",
        unit="nats",
        tasks=("classification",),
        aside="share",
    ),
    "poisoned_sum": Objective(
        PoisonedSumArgs,
        "phasegrid.tasks.losses:poisoned_sum",
        training_only=("share", "scale"),
        curvature="phasegrid.tasks.losses:softmax_columns",
        predicts="probabilities",
        unit="nats",
        tasks=("classification",),
        aside="share",
    ),
}
