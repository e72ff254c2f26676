"""Sharpness as sharpness-aware training sees it: the rise of the loss at the worst point near the
weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from phasegrid.declare import UNIT_OF_LOSS, Column, Finding, Metric
from phasegrid.metrics.on_examples import (
    BATCH_NORM,
    LOSS,
    NUM_EXAMPLES,
    BatchNormPolicy,
    gradient_bytes,
    gradients,
    sharpness,
    stderr_of,
)
from phasegrid.metrics.ranges import Count, NonNegative, Positive, Seed


@dataclass(frozen=True, slots=True)
class SamSharpnessArgs:
    """max L(w + e) - L(w) over |T^-1 e| <= `rho`, where T = 1, or with `adaptive` T = diag(|w|) +
    `eta`. L is the mean loss of training examples, without weight decay.

    - `rho`: 0.05 as in Foret et al. 2021. With `adaptive` larger ones are usual (0.5: Kwon et al.
      2021). `norm`: ``l2``, or ``linf``, the largest change of a single weight.
    - `steps`: 1 is the step of SAM: one gradient at w, and the loss at the end of a step of length
      `rho` along it (Foret et al., equation 2; Kwon et al., equation 6). With more, each
      further step of length `rho` is drawn back into the ball, and the highest point counts.
      (Andriushchenko et al. 2023 maximise by Auto-PGD.) Either is a lower bound of the
      maximum.
    - `m`: the maximum is taken for each batch of m examples on its own, and averaged over the
      batches (m-sharpness: Foret et al., section 4.1); null: one maximum for all `examples`.
    - `normalize_logits`: of each example to standard deviation 1, so that the scale of the outputs
      does not matter (Andriushchenko et al.).
    - `eta`: 0, as in Andriushchenko et al.; 0.01 is that of training with ``sam``. Only for 0 does
      the number stay when layers of a ReLU network are rescaled against each other.
    - `examples`, drawn with `example_seed`, the same for every trial; all if the set is smaller.
      `batch_norm`: as in the metric ``hessian``; statistics stay those at w.
    """

    rho: Positive = 0.05
    adaptive: bool = False
    norm: Literal["l2", "linf"] = "l2"
    steps: Count = 1
    m: Count | None = None
    normalize_logits: bool = False
    eta: NonNegative = 0.0
    examples: Count = 1000
    example_seed: Seed = 0
    batch_norm: BatchNormPolicy = "as_saved"


def eta_is_adaptive(args: Mapping[str, Any]) -> Finding | None:
    """Check that `eta` is asked for only where it says something."""
    if args["eta"] and not args["adaptive"]:
        return "eta", f"found {args['eta']} with adaptive: false; allowed: 0"
    return None


SAM_SHARPNESS = Metric(
    over="trial",
    args=SamSharpnessArgs,
    compute="phasegrid.metrics.sam_sharpness.compute:compute",
    label="SAM sharpness",
    rules=(eta_is_adaptive,),
    cost=lambda job: gradients(job, 1 + int(job.args["steps"])),
    memory=lambda job: gradient_bytes(job, vectors=4),
    columns=(
        sharpness(
            "sam_sharpness",
            "loss at the worst point found, less that at the weights",
            "SAM sharpness",
            UNIT_OF_LOSS,
            stderr="sam_sharpness_stderr",
        ),
        stderr_of(
            "sam_sharpness",
            "standard error over batches of m; null for a single batch",
            UNIT_OF_LOSS,
        ),
        Column(
            "num_batches", "int64", "", "batches of examples, each with a worst point of its own"
        ),
        LOSS,
        NUM_EXAMPLES,
        BATCH_NORM,
    ),
)
