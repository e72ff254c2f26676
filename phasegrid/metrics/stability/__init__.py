"""Curvature against the learning rate along a training: how near it is to the edge of stability."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from phasegrid.declare import MAX_COUNT, Column, Metric
from phasegrid.estimates import Guess, Measurement, passes
from phasegrid.metrics.hessian import PRODUCT_LAUNCHES
from phasegrid.metrics.on_examples import (
    BATCH_NORM,
    LOSS,
    NUM_EXAMPLES,
    BatchNormPolicy,
    graph_bytes,
    sharpness,
    stderr_of,
)
from phasegrid.metrics.ranges import Count, Seed


@dataclass(frozen=True, slots=True)
class StabilityArgs:
    """Curvature at a network in units of 1 / learning rate, on batches as in training.

    Gradient descent on a quadratic diverges where the curvature exceeds 2 / lr, and trainings of
    networks rise to that edge and stay there (Cohen et al. 2021). So the numbers times the
    learning rate are compared with 2 (with momentum beta, 2 + 2 beta). Measure it along trainings:
    ``over: trajectory, at: checkpoints``.

    - `batches` of `batch_size` training examples each, drawn without replacement with
      `example_seed`, the same for every trial (fewer, of a small set: at least one). L is the mean
      of their losses. `couple` can make `batch_size` that of the training.
    - `batch_norm`: as in the metric ``hessian``; by default the statistics of each batch, as in
      training.
    - lambda_max is the largest eigenvalue of the Hessian of L, from `steps` Lanczos steps or more,
      up to four times as many, until known to `tolerance`.
    - The critical learning rate is the smallest at which a step along -grad L does not lower L
      (Kalra et al. 2026: critical sharpness is 2 over it), found to a relative `search_tolerance`
      by doubling and bisection, a forward pass each. The step has no momentum: that of the training
      is not stored.
    """

    batches: Count = 8
    batch_size: Count = 128
    example_seed: Seed = 0
    batch_norm: BatchNormPolicy = "train"
    steps: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 10
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    search_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05

    @property
    def examples(self) -> int:
        """How many examples all batches have."""
        return self.batches * self.batch_size


def _examples(job: Measurement) -> int:
    return min(int(job.args["batches"]) * int(job.args["batch_size"]), job.work.num_train)


def _cost(job: Measurement) -> Guess:
    examples, batch = _examples(job), int(job.args["batch_size"])
    product = passes(job.work, examples, batch, 6, PRODUCT_LAUNCHES)
    return (int(job.args["steps"]) + 1) * product + passes(job.work, 12 * examples, batch, 1)


def _memory(job: Measurement) -> int:
    vectors = int(job.args["steps"]) + int(job.args["batches"]) + 4
    return graph_bytes(job, vectors, _examples(job))


def _times_rate(name: str, doc: str, label: str) -> Column:
    return Column(name, "float64", "", doc, label=label, scale="log", colours="magma_r")


STABILITY = Metric(
    over="trial",
    args=StabilityArgs,
    compute="phasegrid.metrics.stability.compute:compute",
    label="Stability",
    moments=True,
    cost=_cost,
    memory=_memory,
    columns=(
        _times_rate(
            "lambda_max_lr",
            "lambda_max times the learning rate: 2 at the edge of stability",
            "top eigenvalue × learning rate",
        ),
        _times_rate(
            "critical_sharpness_lr",
            "critical sharpness times the learning rate",
            "critical sharpness × learning rate",
        ),
        _times_rate(
            "batch_sharpness_lr",
            "batch sharpness times the learning rate: 2 at the edge of stochastic stability",
            "batch sharpness × learning rate",
        ),
        sharpness(
            "gradient_noise_scale",
            "tr(Sigma) / |G|^2, Sigma the covariance of gradients of single examples and G the"
            " mean gradient, both without bias from the batches (McCandlish et al. 2018, appendix"
            " A.1); null for one batch, or where |G|^2 is not above 0",
            "gradient noise scale",
            "examples",
            stderr="gradient_noise_scale_stderr",
        ),
        stderr_of("gradient_noise_scale", "jackknife over batches; null below three", "examples"),
        Column("after_epochs", "float64", "", "epochs done when the network was left"),
        Column(
            "lr", "float64", "", "learning rate of the update before; of the first one at the start"
        ),
        Column("lambda_max", "float64", "", "largest eigenvalue (algebraic)", role="detail"),
        Column("lambda_max_residual", "float64", "", "norm of H v - lambda v", role="detail"),
        Column(
            "critical_lr",
            "float64",
            "",
            "critical learning rate; null where no step changes L by more than rounding",
            role="detail",
        ),
        Column("critical_sharpness", "float64", "", "2 / critical_lr", role="detail"),
        Column("critical_passes", "int64", "", "forward passes that the search took"),
        Column(
            "batch_sharpness",
            "float64",
            "",
            "mean of g_b . H_b g_b over the mean of |g_b|^2, g_b and H_b of batch b (Andreyev and"
            " Beneventano 2024)",
            role="detail",
        ),
        stderr_of("batch_sharpness", "jackknife over batches; null for one"),
        Column("gradient_norm", "float64", "", "|grad L|", role="detail"),
        Column("num_batches", "int64", "", "batches used"),
        NUM_EXAMPLES,
        LOSS,
        Column("hvp_method", "string", "", "how second derivatives were taken, as in ``hessian``"),
        BATCH_NORM,
    ),
)
