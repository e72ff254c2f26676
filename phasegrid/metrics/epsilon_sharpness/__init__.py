"""Sharpness as the largest loss in a small box around the weights."""

from dataclasses import dataclass

from phasegrid.declare import Column, Metric
from phasegrid.metrics.on_examples import (
    BATCH_NORM,
    LOSS,
    NUM_EXAMPLES,
    BatchNormPolicy,
    gradient_bytes,
    gradients,
    sharpness,
)
from phasegrid.metrics.ranges import Count, Positive, Seed


@dataclass(frozen=True, slots=True)
class EpsilonSharpnessArgs:
    """100 (max L(w + A y) - L(w)) / (1 + L(w)) over the box |y_i| <= `epsilon` (|(A^+ w)_i| + 1)
    (Keskar et al. 2017, metric 2.1).

    - `epsilon`: 1e-3 (they also use 5e-4).
    - `dimension`: null for the full space, A = 1; or p, for a random subspace: A (P, p) has
      independent normal entries (they use p = 100). It takes 16 P p bytes.
    - `iterations` of L-BFGS-B: 10, as in their section 2.2.2. It finds a local maximum, so the
      number is a lower bound. `starts`: it begins at w, and, for more than one, at points drawn
      uniformly in the box; the highest loss counts.
    - `examples`: they take the whole training set; ``batch_norm`` and the others are those of the
      metric ``sam_sharpness``.
    """

    epsilon: Positive = 1e-3
    dimension: Count | None = None
    iterations: Count = 10
    starts: Count = 1
    examples: Count = 1000
    example_seed: Seed = 0
    batch_norm: BatchNormPolicy = "as_saved"


HISTORY = 30
"""Vectors of the searched space that L-BFGS-B holds, in float64: ten pairs and scratch space."""

EVALUATIONS = 1.3
"""Gradients for an iteration."""

EPSILON_SHARPNESS = Metric(
    over="trial",
    args=EpsilonSharpnessArgs,
    compute="phasegrid.metrics.epsilon_sharpness.compute:compute",
    label="Epsilon sharpness",
    cost=lambda job: gradients(
        job, 1 + EVALUATIONS * int(job.args["starts"]) * (int(job.args["iterations"]) + 1)
    ),
    memory=lambda job: gradient_bytes(
        job, vectors=4 + 4 * (int(job.args["dimension"]) if job.args["dimension"] else 0)
    ),
    columns=(
        sharpness(
            "epsilon_sharpness",
            "highest loss found in the box, less that at the weights, over 1 + that",
            "epsilon sharpness",
            "%",
        ),
        Column("num_gradients", "int64", "", "gradients spent"),
        LOSS,
        NUM_EXAMPLES,
        BATCH_NORM,
    ),
)
