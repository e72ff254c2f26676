"""Curvature at trained weights: extreme eigenvalues, trace and spectral density of the Hessian."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Metric
from phasegrid.estimates import COPIES, FLOAT, Guess, Measurement, passes, per_example
from phasegrid.metrics.ranges import Count, Seed


@dataclass(frozen=True, slots=True)
class HessianArgs:
    """The Hessian of the mean loss at the trained weights. The loss is that of the trial's
    objective (cross-entropy by default), without label smoothing.

    - `examples`: drawn without replacement from the training set with `example_seed`, the same for
      every trial (200: Yang et al. 2021); all of them if the set is smaller.
    - `batch_norm`: running statistics ``as_saved`` (published code), ``refreshed`` by one pass over
      the training set, or those of the batch (``train``).
    - `steps`: Lanczos steps, with full reorthogonalisation. More are made, up to four times as
      many, until lambda_max, and at last lambda_min, are known to the relative `tolerance`.
    - `density_probes`: Lanczos runs for the spectral density. Converged eigenvalues of the first
      run have the exact weight 1/P; the rest is estimated by its other nodes and by further runs on
      the remaining subspace, averaged.
    - `trace`: ``auto`` is exact where tr(H) = tr(GGN) is known to hold (piecewise-linear networks
      in eval mode). Otherwise it is a deflated Hutchinson estimate from `trace_probes` probes, with
      a standard error.

    For sentence pairs `examples` counts pairs, and the loss is the sum over all scored target
    tokens of these pairs, divided by their number. Attention and LayerNorm are not piecewise
    linear, so the trace of a transformer is an estimate.
    """

    examples: Count = 200
    example_seed: Seed = 0
    batch_norm: Literal["as_saved", "refreshed", "train"] = "as_saved"
    steps: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 40
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    density_probes: Count = 1
    trace: Literal["auto", "hutchinson"] = "auto"
    trace_probes: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 20


SECOND_ORDER = 7
"""The memory of a Hessian whose gradient's graph is kept, in units of the activations of its
examples: 6.6 was measured (ResNet18 of width 8).
"""


PRODUCT_LAUNCHES = 25
"""Kernels of a product with the Hessian, in units of those of a forward pass: 62 ms of launches
were read on an H200, where an update (3) takes 7.4 ms (ResNet18 of width 8).
"""


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    examples = min(int(args["examples"]), work.num_train)
    exact = args["trace"] == "auto" and work.labels_per_example == 1.0  # half a product a class
    trace = work.num_classes / 2 if exact else int(args["trace_probes"])
    products = int(args["steps"]) * int(args["density_probes"]) + trace
    return products * passes(work, examples, examples, 6, PRODUCT_LAUNCHES)


def _memory(job: Measurement) -> int:
    examples = min(int(job.args["examples"]), job.work.num_train)
    vectors = FLOAT * (COPIES + int(job.args["steps"])) * job.work.num_parameters
    return vectors + FLOAT * SECOND_ORDER * examples * per_example(job.work)


HESSIAN = Metric(
    over="trial",
    args=HessianArgs,
    compute="phasegrid.metrics.hessian.compute:compute",
    version=2,  # the density is deflated
    label="Hessian",
    cost=_cost,
    recorded=True,
    memory=_memory,
    columns=(
        Column(
            "lambda_max",
            "float64",
            "",
            "largest eigenvalue (algebraic)",
            label="ln top Hessian eigenvalue",
            transform="log_mean",
            colours="magma_r",
        ),
        Column(
            "lambda_max_residual",
            "float64",
            "",
            "norm of H v - lambda v for the unit Ritz vector",
            role="detail",
        ),
        Column(
            "lambda_min",
            "float64",
            "",
            "smallest eigenvalue (algebraic; negative at a saddle)",
            label="smallest Hessian eigenvalue",
            centre=0.0,
            colours="PuOr_r",
        ),
        Column(
            "lambda_min_residual",
            "float64",
            "",
            "norm of H v - lambda v for the unit Ritz vector",
            label="error bound of the smallest eigenvalue",
            better="lower",
            scale="log",
            colours="cividis_r",
        ),
        Column(
            "trace",
            "float64",
            "",
            "sum of the eigenvalues",
            label="ln Hessian trace",
            transform="log_mean",
            hidden_by="lambda_max",
            colours="magma_r",
        ),
        Column(
            "trace_stderr",
            "float64",
            "",
            "standard error of the trace; 0 where it is exact",
            role="detail",
        ),
        Column("trace_method", "string", "", "exact_ggn, exact_spectrum or hutchinson_deflated"),
        Column("layers", "list<string>", "", "layers with parameters; null without layer_traces"),
        Column(
            "layer_traces",
            "list<float64>",
            "",
            "share of each layer in the trace; null unless it is exact_ggn",
            label="Hessian trace of the layer",
        ),
        Column(
            "density_nodes",
            "list<float64>",
            "",
            "Ritz values: nodes of the spectral density, ascending",
        ),
        Column(
            "density_weights",
            "list<float64>",
            "",
            "weights of the nodes: 1/P where converged, the rest estimated; they sum to 1",
        ),
        Column("num_hvps", "int64", "", "Hessian-vector products spent"),
        Column(
            "hvp_method",
            "string",
            "",
            "how second derivatives were taken: double_backward or, if that is not"
            " symmetric, reference or differences",
        ),
        Column(
            "num_examples", "int64", "examples", "training examples (or sentence pairs) of the loss"
        ),
        Column(
            "loss",
            "float64",
            UNIT_OF_LOSS,
            "the loss on these examples, under the BatchNorm policy",
            role="detail",
        ),
        Column("num_parameters", "int64", "", "dimension of the Hessian"),
        Column("batch_norm", "string", "", "BatchNorm policy used; null without BatchNorm"),
    ),
)
