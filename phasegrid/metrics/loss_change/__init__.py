"""How the loss changes under Gaussian perturbations of the weights, against theory."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Metric
from phasegrid.estimates import COPIES, Guess, Measurement, passes
from phasegrid.metrics.hessian import PRODUCT_LAUNCHES
from phasegrid.metrics.on_examples import graph_bytes, num_used
from phasegrid.metrics.ranges import Count, Positive, Seed

CHECKED = 4
"""Lanczos steps by which the products with the Hessian are checked."""


@dataclass(frozen=True, slots=True)
class LossChangeArgs:
    """The loss at theta + lambda epsilon less that at theta, for `num` draws epsilon from N(0,
    `sigma`^2 I) (Xu et al. 2024, sections 2.6 and appendix A.2: 100 draws, sigma 1, lambda 0.001
    and 0.01). The loss is that of the trial's objective, without weight decay.

    - `sizes`: the values of lambda, with the same draws.
    - `examples`: drawn without replacement from the training set with `example_seed`, the same for
      every trial; all of them if the set is smaller. (The paper does not say how many.)
    - `batch_norm`: running statistics ``as_saved``, or ``refreshed`` once by one pass over the
      training set; they stay what they are at theta.
    - `trace_probes`: for the mean by theory the trace is exact where that is known to hold, as in
      ``hessian``. Otherwise it is estimated from so many random sign vectors, which are not the
      draws.
    """

    num: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 100
    sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.001, 0.01)
    sigma: Positive = 1.0
    examples: Count = 200
    example_seed: Seed = 0
    batch_norm: Literal["as_saved", "refreshed"] = "as_saved"
    trace_probes: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 20


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    examples = num_used(job)
    exact = work.labels_per_example == 1.0  # half a product a class
    trace = work.num_classes / 2 if exact else int(args["trace_probes"])
    products = int(args["num"]) + CHECKED + trace
    forward = int(args["num"]) * len(args["sizes"])
    return products * passes(work, examples, examples, 6, PRODUCT_LAUNCHES) + forward * passes(
        work, examples, 500, 1
    )


LOSS_CHANGE = Metric(
    over="trial",
    args=LossChangeArgs,
    compute="phasegrid.metrics.loss_change.compute:compute",
    label="Loss change",
    cost=_cost,
    recorded=True,
    memory=lambda job: graph_bytes(job, COPIES),
    columns=(
        Column("size", "float64", "", "lambda", role="axis"),
        Column("changes", "list<float64>", UNIT_OF_LOSS, "change of the loss, draw by draw"),
        Column(
            "second_order",
            "list<float64>",
            UNIT_OF_LOSS,
            "lambda e^T g + lambda^2 e^T H e / 2 for the same draws e",
            label="second-order change of the loss",
        ),
        Column(
            "mean_change",
            "float64",
            UNIT_OF_LOSS,
            "mean change of the loss",
            label="mean loss change",
            better="lower",
            stderr="mean_change_stderr",
            quantity="loss_change",
        ),
        Column("mean_change_stderr", "float64", UNIT_OF_LOSS, "standard error", role="detail"),
        Column(
            "std_change",
            "float64",
            UNIT_OF_LOSS,
            "standard deviation of the changes",
            role="asked",
            quantity="loss_change_std",
        ),
        Column(
            "mean_second_order",
            "float64",
            UNIT_OF_LOSS,
            "mean second-order change",
            role="asked",
            quantity="loss_change_second_order",
        ),
        Column("std_second_order", "float64", UNIT_OF_LOSS, "their deviation", role="detail"),
        Column(
            "theory_mean",
            "float64",
            UNIT_OF_LOSS,
            "mean second-order change over all epsilon: lambda^2 sigma^2 tr(H) / 2",
            role="asked",
            quantity="loss_change_theory",
        ),
        Column(
            "theory_std",
            "float64",
            UNIT_OF_LOSS,
            "its deviation: the root of lambda^2 sigma^2 |g|^2 + lambda^4 sigma^4 tr(HH) / 2",
            role="asked",
            quantity="loss_change_theory_std",
        ),
        Column(
            "positive_percent",
            "float64",
            "%",
            "share of the draws along which the loss rises",
            role="asked",
            quantity="loss_change_positive_percent",
        ),
        Column("sigma", "float64", "", "standard deviation of the entries of epsilon"),
        Column("loss", "float64", UNIT_OF_LOSS, "the loss at theta", role="detail"),
        Column("gradient_norm", "float64", "", "|g| at theta", role="detail"),
        Column("trace", "float64", "", "tr(H)", role="detail"),
        Column("trace_stderr", "float64", "", "its standard error; 0 if exact", role="detail"),
        Column("trace_method", "string", "", "exact_ggn or hutchinson"),
        Column(
            "trace_of_square",
            "float64",
            "",
            "tr(HH), estimated by the mean of |H e|^2 / sigma^2 over the draws",
            role="detail",
        ),
        Column("trace_of_square_stderr", "float64", "", "its standard error", role="detail"),
        Column("hvp_method", "string", "", "how second derivatives were taken, as in hessian"),
        Column("num_examples", "int64", "examples", "training examples of the loss"),
        Column("num_parameters", "int64", "", "dimension of epsilon"),
        Column("batch_norm", "string", "", "BatchNorm policy used; null without BatchNorm"),
    ),
)
