"""The local learning coefficient: how fast the volume of low loss around the weights shrinks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from phasegrid.declare import UNIT_OF_LOSS, Column, Finding, Metric
from phasegrid.estimates import FLOAT, Guess, Measurement, passes, training_bytes
from phasegrid.metrics.hessian import PRODUCT_LAUNCHES
from phasegrid.metrics.on_examples import (
    BATCH_NORM,
    GRADIENT_BATCH,
    LOSS,
    graph_bytes,
    sharpness,
    stderr_of,
)
from phasegrid.metrics.ranges import Count, NonNegative, Positive


@dataclass(frozen=True, slots=True)
class LearningCoefficientArgs:
    """lambda = n b (E L(w) - L(w*)), b = 1 / ln n, with w from the posterior tempered by b and held
    near the trained weights w* by a Gaussian, exp(-n b L(w) - `gamma` |w - w*|^2 / 2) (Lau et al.
    2023). n is the number of training labels, L the mean loss of all of them. It is half
    the number of parameters for a regular model, and less for a singular one.

    - The mean is over `chains` runs of SGLD from w* with batches of `batch_size` examples, and
      `draws` steps after `burn_in` others. The loss at w* is taken on the batch of each draw, which
      removes the noise of the batch.
    - `step`: null is 1 / (2 (n b lambda_max + gamma)), with the largest eigenvalue of the Hessian
      on 200 examples: a seventh too much variance along its eigenvector, less elsewhere. A larger
      step can make chains diverge; then the number is null.
    - The result depends on `gamma`, and a chain needs some 2 / (`step` x `gamma`) steps to forget
      its start. `drift`, `loss_trace` and the spread over chains show whether it has.
    - `batch_norm`: ``as_saved`` or ``refreshed``, as in the metric ``hessian``.
    """

    chains: Count = 4
    draws: Count = 200
    burn_in: Count = 100
    step: Positive | None = None
    gamma: NonNegative = 100.0
    batch_size: Count = 128
    batch_norm: Literal["as_saved", "refreshed"] = "as_saved"


CURVED = 200
"""Examples on which the largest eigenvalue is found."""

STEPS = 10
"""Lanczos steps for it, at least."""


def _chains_have_a_spread(args: Mapping[str, Any]) -> Finding | None:
    if args["chains"] < 2:
        return "chains", f"found {args['chains']}; allowed: at least 2, for a standard error"
    return None


def _cost(job: Measurement) -> Guess:
    args, work = job.args, job.work
    batch = min(int(args["batch_size"]), work.num_train)
    steps = int(args["chains"]) * (int(args["draws"]) + int(args["burn_in"]))
    at_weights = passes(work, work.num_train, GRADIENT_BATCH, 1)
    chains = at_weights + steps * passes(work, batch, min(batch, GRADIENT_BATCH), 4)
    if args["step"] is not None:
        return chains
    num = min(CURVED, work.num_train)
    return chains + STEPS * passes(work, num, num, 6, PRODUCT_LAUNCHES)


def _memory(job: Measurement) -> int:
    curvature = graph_bytes(job, STEPS, min(CURVED, job.work.num_train))
    laid_out = FLOAT * job.work.num_train * job.work.input_size
    return laid_out + max(training_bytes(job.work, GRADIENT_BATCH), curvature)


LEARNING_COEFFICIENT = Metric(
    over="trial",
    args=LearningCoefficientArgs,
    compute="phasegrid.metrics.learning_coefficient.compute:compute",
    label="Local learning coefficient",
    rules=(_chains_have_a_spread,),
    cost=_cost,
    memory=_memory,
    columns=(
        sharpness(
            "learning_coefficient",
            "local learning coefficient; negative where the chains find a lower loss",
            "local learning coefficient",
            stderr="learning_coefficient_stderr",
            scale="linear",
        ),
        stderr_of("learning_coefficient", "standard error over the chains"),
        Column(
            "drift",
            "float64",
            "",
            "coefficient from the second half of the draws less that from the first half",
            role="detail",
        ),
        Column("chain_values", "list<float64>", "", "coefficient from each chain"),
        Column(
            "loss_trace",
            "list<float64>",
            UNIT_OF_LOSS,
            "mean over chains of the loss above that at w*, at each step, burn-in included",
        ),
        Column("step", "float64", "", "size of the steps, eps", role="detail"),
        Column("num_labels", "int64", "labels", "training labels, n"),
        Column("num_parameters", "int64", "", "trainable parameters"),
        LOSS,
        BATCH_NORM,
    ),
)
