"""Loss and accuracy of an ensemble: the mean of the networks' predictions."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Metric
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation, evaluation_bytes
from phasegrid.metrics.ranges import Count


@dataclass(frozen=True, slots=True)
class EnsembleArgs:
    """The mean prediction of several networks (Lakshminarayanan et al. 2017): its error, loss and
    expected calibration error. Softmax outputs are averaged and scored by the negative
    log-likelihood. If their objective has no probabilities (``mse``), the outputs themselves are
    averaged and scored by the objective; the calibration error is then null.

    The networks are the trials of a cell (a deep ensemble), as saved; or, ``of`` a mode
    connectivity, `points` networks equally spaced in t on its curve, ends included (Garipov et al.
    2018, section 5). On a curve, BatchNorm statistics are recomputed at every point from at most
    `refresh_examples` training examples, as in mode connectivity.

    Calibration uses `ece_bins` equal-width confidence bins. For sentence pairs all numbers are over
    scored target tokens, predicted from the true words before them.
    """

    points: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 5
    refresh_examples: Count | None = None
    ece_bins: Count = 15


def _num_networks(job: Measurement) -> int:
    return max(job.num_networks, int(job.args["points"]))


def _cost(job: Measurement) -> Guess:
    return 2 * _num_networks(job) * evaluation(job.work)


def _memory(job: Measurement) -> int:
    networks = FLOAT * _num_networks(job) * job.work.num_parameters
    return networks + evaluation_bytes(job.work)


def _columns(name: str, called: str, where: str) -> tuple[Column, ...]:
    return (
        Column(
            f"{name}_loss",
            "float64",
            UNIT_OF_LOSS,
            f"loss of the mean prediction, {where}: -log of the mean probability of the label",
            label=f"{called} loss of the ensemble",
            quantity=f"ensemble_{name}_loss",
            better="lower",
        ),
        Column(
            f"{name}_error_percent",
            "float64",
            "%",
            f"error of the mean, {where}",
            label=f"{called} error of the ensemble",
            quantity=f"ensemble_{name}_error_percent",
            better="lower",
        ),
        Column(
            f"{name}_ece",
            "float64",
            "",
            f"expected calibration error of the mean, {where}, in [0, 1]",
            label=f"{called} calibration error of the ensemble",
            quantity=f"ensemble_{name}_ece",
            better="lower",
        ),
        Column(
            f"mean_{name}_loss",
            "float64",
            UNIT_OF_LOSS,
            f"mean over the networks of their own loss, {where}",
            role="detail",
        ),
        Column(
            f"mean_{name}_error_percent",
            "float64",
            "%",
            f"mean over the networks of their own error, {where}",
            role="detail",
        ),
    )


ENSEMBLE = Metric(
    over="cell",
    args=EnsembleArgs,
    compute="phasegrid.metrics.ensemble.compute:compute",
    label="Ensemble",
    reads="curve",
    cost=_cost,
    memory=_memory,
    columns=(
        *_columns("train", "training", "training set"),
        *_columns("test", "test", "test set"),
        Column("num_networks", "int64", "", "networks whose outputs were averaged", role="detail"),
    ),
)
