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
}
