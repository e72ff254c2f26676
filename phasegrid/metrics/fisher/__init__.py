"""The trace of the Fisher information: the mean squared norm of single examples' gradients."""

from dataclasses import dataclass
from typing import Literal

from phasegrid.declare import Column, Metric
from phasegrid.estimates import Guess, Measurement, passes, training_bytes
from phasegrid.metrics.on_examples import (
    BATCH_NORM,
    GRADIENT_BATCH,
    LOSS,
    NUM_EXAMPLES,
    num_used,
    sharpness,
    stderr_of,
)
from phasegrid.metrics.ranges import Count, Seed


@dataclass(frozen=True, slots=True)
class FisherArgs:
    """tr(F), F = E_x E_{y ~ p(y|x)} g g^T with g the gradient of -log p(y|x) (Jastrzebski et al.
    2021, who draw one y for each x; here the expectation over y is exact), and the same
    with the labels of the data in place of y (the empirical Fisher).

    - `examples`: training examples, drawn with `example_seed`, the same for every trial.
    - `batch_norm`: ``as_saved`` or ``refreshed``, as in the metric ``hessian``. With statistics of
      the batch an example has no gradient of its own.

    For an objective whose outputs are not probabilities, tr(F) is the trace of the Gauss-Newton
    matrix (for ``mse`` with half_sum, the Fisher information of a Gaussian of variance 1); null if
    the objective declares no curvature.
    """

    examples: Count = 200
    example_seed: Seed = 0
    batch_norm: Literal["as_saved", "refreshed"] = "as_saved"


def _cost(job: Measurement) -> Guess:
    num = num_used(job)
    return passes(job.work, num * (2 + 1.5 * job.work.num_classes), min(num, GRADIENT_BATCH), 2)


FISHER = Metric(
    over="trial",
    args=FisherArgs,
    compute="phasegrid.metrics.fisher.compute:compute",
    takes="classification",
    label="Fisher information",
    cost=_cost,
    memory=lambda job: training_bytes(job.work, 2 * GRADIENT_BATCH),
    columns=(
        sharpness(
            "fisher_trace",
            "trace of the Fisher information, labels drawn from the model",
            "Fisher trace",
            stderr="fisher_trace_stderr",
        ),
        stderr_of("fisher_trace", "standard error over the draw of the examples"),
        sharpness(
            "empirical_fisher_trace",
            "mean squared norm of the gradients of single examples with their labels",
            "empirical Fisher trace",
            stderr="empirical_fisher_trace_stderr",
        ),
        stderr_of("empirical_fisher_trace", "standard error over the draw of the examples"),
        Column("gradients_by", "string", "", "layers, by their formulas; or examples, one by one"),
        LOSS,
        NUM_EXAMPLES,
        BATCH_NORM,
    ),
)
