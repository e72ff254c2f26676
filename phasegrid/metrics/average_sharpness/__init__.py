"""Sharpness as the mean rise of the loss under Gaussian perturbations of the weights."""

from dataclasses import dataclass

from phasegrid.declare import UNIT_OF_LOSS, Column, Metric
from phasegrid.metrics.on_examples import (
    BATCH_NORM,
    LOSS,
    NUM_EXAMPLES,
    BatchNormPolicy,
    gradient_bytes,
    losses,
    sharpness,
    stderr_of,
)
from phasegrid.metrics.ranges import Count, NonNegative, Positive, Seed
from phasegrid.metrics.sam_sharpness import eta_is_adaptive


@dataclass(frozen=True, slots=True)
class AverageSharpnessArgs:
    """E L(w + e) - L(w) over e ~ N(0, `rho`^2 T^2), where T = 1, or with `adaptive` T = diag(|w|) +
    `eta` (Andriushchenko et al. 2023). To second order it is `rho`^2 tr(T H T) / 2.

    - `rho`: the standard deviation of each weight; 0.01 is our choice (Andriushchenko et al. try
      several). With `adaptive` it is a share of the weight.
    - `pairs`: as many e are drawn as this, and each is taken with both signs, so that the part of
      the first order cancels.
    - The other arguments are those of the metric ``sam_sharpness``.
    """

    rho: Positive = 0.01
    adaptive: bool = False
    pairs: Count = 20
    normalize_logits: bool = False
    eta: NonNegative = 0.0
    examples: Count = 1000
    example_seed: Seed = 0
    batch_norm: BatchNormPolicy = "as_saved"


AVERAGE_SHARPNESS = Metric(
    over="trial",
    args=AverageSharpnessArgs,
    compute="phasegrid.metrics.average_sharpness.compute:compute",
    label="Average-direction sharpness",
    rules=(eta_is_adaptive,),
    cost=lambda job: losses(job, 1 + 2 * int(job.args["pairs"])),
    memory=lambda job: gradient_bytes(job, vectors=3),
    columns=(
        sharpness(
            "average_sharpness",
            "mean loss at perturbed weights, less that at the weights",
            "average-direction sharpness",
            UNIT_OF_LOSS,
            stderr="average_sharpness_stderr",
        ),
        stderr_of(
            "average_sharpness", "standard error over the pairs; null for one pair", UNIT_OF_LOSS
        ),
        Column("num_pairs", "int64", "", "pairs of perturbations"),
        LOSS,
        NUM_EXAMPLES,
        BATCH_NORM,
    ),
)
