"""How heavy-tailed the spectra of the layers are: exponents of power laws, without any data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, Column, Metric
from phasegrid.estimates import RATE, Guess, Measurement
from phasegrid.metrics.on_examples import stderr_of


@dataclass(frozen=True, slots=True)
class PowerLawArgs:
    """rho(x) ~ x^-alpha for the largest eigenvalues x >= x_min of W^T W, for each layer's matrix W
    (Martin and Mahoney 2021; Martin, Peng and Mahoney 2021). alpha is fitted by maximum likelihood,
    and x_min is the eigenvalue for which the Kolmogorov-Smirnov distance of the fit is smallest
    (Clauset, Shalizi and Newman 2009, sections 3.1 and 3.3).

    - `convolutions`: a kernel is one matrix (channels out, channels in x kernel) (``unfolded``), or
      a matrix for each of its positions, whose eigenvalues are put together (``positions``, the
      published way of Martin et al.).
    - `min_tail`: a fit has at least as many eigenvalues; a layer with fewer has none, and is left
      out of the mean. The papers' networks have hundreds; small layers give small samples, whose
      standard error is stated.
    - `bootstrap`: so many synthetic samples give a p-value of the fit (Clauset et al., section 4.1:
      below 0.1 a power law is ruled out); 0 for none.
    """

    convolutions: Literal["unfolded", "positions"] = "unfolded"
    min_tail: Annotated[int, Field(ge=3, le=MAX_COUNT)] = 8
    bootstrap: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0


def _cost(job: Measurement) -> Guess:
    """A singular value decomposition of layers of about equal size, and the fits."""
    per_layer = job.work.num_parameters / max(1, job.work.layers)
    one = 20 * per_layer**1.5 / RATE
    return Guess(job.work.layers * (one + 2e-3 * (1 + int(job.args["bootstrap"]))))


def _by_layer(name: str, doc: str) -> Column:
    return Column(f"layer_{name}", "list<float64>", "", f"of each layer: {doc}; null without a fit")


POWER_LAW = Metric(
    over="trial",
    args=PowerLawArgs,
    compute="phasegrid.metrics.power_law.compute:compute",
    label="Power laws of spectra",
    cost=_cost,
    memory=lambda job: 12 * job.work.num_parameters,
    columns=(
        Column(
            "alpha",
            "float64",
            "",
            "exponent of the power law, mean over the layers that have a fit",
            label="power-law exponent alpha",
            better="lower",
            stderr="alpha_stderr",
        ),
        stderr_of("alpha", "standard error over the layers; null for a single one"),
        Column(
            "alpha_hat",
            "float64",
            "",
            "mean over layers of alpha times the decadic logarithm of the largest eigenvalue"
            " (weighted alpha)",
            label="weighted alpha",
            better="lower",
        ),
        Column(
            "ks_distance",
            "float64",
            "",
            "Kolmogorov-Smirnov distance of the fits from the eigenvalues of their tails, mean over"
            " layers",
            role="detail",
        ),
        Column("num_layers", "int64", "", "layers with a fit"),
        Column("layers", "list<string>", "", "the layers, in the order of the lists that follow"),
        _by_layer("alpha", "exponent"),
        _by_layer("alpha_stderr", "(alpha - 1) / sqrt(tail), given x_min"),
        _by_layer("x_min", "smallest eigenvalue of the fit"),
        Column("layer_x_max", "list<float64>", "", "of each layer: largest eigenvalue"),
        _by_layer("ks_distance", "distance of the fit"),
        _by_layer("p_value", "share of synthetic samples with a larger distance, if asked for"),
        _by_layer("num_tail", "eigenvalues of the fit"),
        Column("layer_num_eigenvalues", "list<float64>", "", "of each layer: positive eigenvalues"),
    ),
)
