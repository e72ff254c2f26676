"""Relative flatness of a layer: curvature measured in units of its weights."""

from dataclasses import dataclass
from typing import Annotated, Literal

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
    num_used,
    sharpness,
    stderr_of,
)
from phasegrid.metrics.ranges import Count, Seed


@dataclass(frozen=True, slots=True)
class RelativeFlatnessArgs:
    """kappa = sum_{s,s'} <w_s, w_s'> Tr(H_ss') of a layer with rows w_s, where H_ss' is the Hessian
    of the mean loss in the rows s and s' (Petzka et al. 2021). It does not change
    when layers of a ReLU network are rescaled against each other.

    - `layer`: the name of a module with a `weight` of two dimensions or more, as in
      `named_modules`; ``last`` is the last linear layer, which maps features to logits. A kernel of
      a convolution is the matrix (channels out, channels in x kernel).
    - `method`: ``auto`` is exact for a linear layer that is called once, with one row for an
      example, and estimated elsewhere; ``estimate`` always estimates, from `probes` products with
      the Hessian, with a standard error.
    - `examples`, drawn with `example_seed`, and `batch_norm`: as in the metric ``hessian``. With
      statistics of the batch (``train``) it is always estimated.
    """

    layer: Annotated[str, Field(min_length=1)] = "last"
    method: Literal["auto", "estimate"] = "auto"
    probes: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 40
    examples: Count = 200
    example_seed: Seed = 0
    batch_norm: BatchNormPolicy = "as_saved"


def _cost(job: Measurement) -> Guess:
    num = num_used(job)
    return int(job.args["probes"]) * passes(job.work, num, num, 6, PRODUCT_LAUNCHES)


RELATIVE_FLATNESS = Metric(
    over="trial",
    args=RelativeFlatnessArgs,
    compute="phasegrid.metrics.relative_flatness.compute:compute",
    label="Relative flatness",
    cost=_cost,
    recorded=True,
    memory=lambda job: graph_bytes(job, 2),
    columns=(
        sharpness(
            "relative_flatness",
            "sum over pairs of rows of their product times the trace of their Hessian; smaller is"
            " flatter",
            "relative flatness (small: flat)",
            stderr="relative_flatness_stderr",
        ),
        stderr_of("relative_flatness", "standard error over the probes; 0 where it is exact"),
        Column("layer", "string", "", "the layer measured"),
        Column("method", "string", "", "exact, or estimate"),
        LOSS,
        NUM_EXAMPLES,
        BATCH_NORM,
    ),
)
