"""The path through the origin, along which the predictions of a network do not change."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Metric
from phasegrid.estimates import Guess, Measurement, evaluation, evaluation_bytes


@dataclass(frozen=True, slots=True)
class OriginPathArgs:
    """Loss and error on the path from zero weights to a trained network (Garipov et al. 2018,
    appendix A.6): layer i has the weights t W_i and the biases t^i b_i, for `points` equally spaced
    t in [0, 1].

    In a chain of n linear layers or convolutions with ReLU or pooling between them the logits are
    then t^n times those of the network. So its predictions are the same for every t > 0, and the
    cross-entropy goes to ln(classes) as t goes to 0: two networks are always joined by a path of
    low error, and its loss says nothing about the landscape. Other networks (BatchNorm, activations
    such as tanh, residual connections) are refused.
    """

    points: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 11


def _cost(job: Measurement) -> Guess:
    return 2 * int(job.args["points"]) * evaluation(job.work)


ORIGIN_PATH = Metric(
    over="trial",
    args=OriginPathArgs,
    compute="phasegrid.metrics.origin_path.compute:compute",
    label="Path through the origin",
    cost=_cost,
    memory=lambda job: evaluation_bytes(job.work),
    takes="classification",
    columns=(
        Column("t", "list<float64>", "", "points of the path, from the origin to the network"),
        Column("train_loss", "list<float64>", UNIT_OF_LOSS, "loss at each t"),
        Column(
            "train_error_percent",
            "list<float64>",
            "%",
            "training error at each t; null at the origin, where no class is the largest",
        ),
        Column("test_loss", "list<float64>", UNIT_OF_LOSS, "loss at each t"),
        Column("test_error_percent", "list<float64>", "%", "test error at each t, likewise"),
        Column(
            "scaling_error",
            "float64",
            "",
            "largest |logits(t) - t^n logits(1)| over the largest |t^n logits(1)|, on the test set"
            " at every t > 0: rounding",
            role="asked",
        ),
        Column("num_changed", "int64", "", "test examples whose class changes at some t > 0"),
        Column("num_layers", "int64", "", "linear layers and convolutions: n"),
    ),
)
