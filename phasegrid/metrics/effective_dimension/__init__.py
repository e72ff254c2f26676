"""How many directions the data determine: the effective dimension of the Hessian."""

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
from phasegrid.metrics.ranges import Count, Positive, Seed


@dataclass(frozen=True, slots=True)
class EffectiveDimensionArgs:
    """N_eff(H, z) = sum_i lambda_i / (|lambda_i| + z) over the eigenvalues of the Hessian (MacKay
    1992; Maddox, Benton and Wilson 2020, who have no negative ones; here they count
    negatively).

    - `z`: 1 as in Maddox et al. `scale`: H is that of the ``mean`` loss, or of the ``sum`` over the
      training set, which is the mean times their number (MacKay's, where z is the precision of the
      prior).
    - A network with at most `exact_parameters` is computed exactly, from its whole spectrum. For
      others the eigenvalues that a Lanczos run of `steps` finds count exactly, and `probes` runs
      estimate the rest. Its standard error can exceed the number itself where P is large and little
      of the spectrum is found: more steps find more of it.
    - `examples`, drawn with `example_seed`, and `batch_norm`: as in the metric ``hessian``.
    """

    z: Positive = 1.0
    scale: Literal["mean", "sum"] = "mean"
    exact_parameters: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 200
    steps: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 80
    probes: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 3
    examples: Count = 200
    example_seed: Seed = 0
    batch_norm: BatchNormPolicy = "as_saved"


def _products(job: Measurement) -> int:
    if job.work.num_parameters <= int(job.args["exact_parameters"]):
        return job.work.num_parameters
    return int(job.args["steps"]) * int(job.args["probes"])


def _cost(job: Measurement) -> Guess:
    num = num_used(job)
    return _products(job) * passes(job.work, num, num, 6, PRODUCT_LAUNCHES)


EFFECTIVE_DIMENSION = Metric(
    over="trial",
    args=EffectiveDimensionArgs,
    compute="phasegrid.metrics.effective_dimension.compute:compute",
    label="Effective dimension",
    cost=_cost,
    recorded=True,
    memory=lambda job: graph_bytes(
        job, max(int(job.args["steps"]), int(job.args["exact_parameters"]))
    ),
    columns=(
        sharpness(
            "effective_dimension",
            "sum of lambda / (|lambda| + z) over the eigenvalues",
            "effective dimension",
            stderr="effective_dimension_stderr",
        ),
        stderr_of("effective_dimension", "standard error over the probes; 0 from a whole spectrum"),
        Column(
            "found_part",
            "float64",
            "",
            "part of it that is the sum over eigenvalues found one by one",
            role="detail",
        ),
        Column("num_hvps", "int64", "", "Hessian-vector products spent"),
        Column(
            "hvp_method",
            "string",
            "",
            "how second derivatives were taken, as in the metric hessian",
        ),
        Column("num_parameters", "int64", "", "dimension of the Hessian"),
        LOSS,
        NUM_EXAMPLES,
        BATCH_NORM,
    ),
)
