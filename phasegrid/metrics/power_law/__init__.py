"""How heavy-tailed the spectra of the layers are: exponents of power laws, without any data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, Column, Metric
from phasegrid.estimates import RATE, Guess, Measurement


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


MEAN = "mean"
"""The label of the row over all layers."""


def _cost(job: Measurement) -> Guess:
    """A singular value decomposition of layers of about equal size, and the fits."""
    per_layer = job.work.num_parameters / max(1, job.work.layers)
    one = 20 * per_layer**1.5 / RATE
    return Guess(job.work.layers * (one + 2e-3 * (1 + int(job.args["bootstrap"]))))


def _tail(name: str, unit: str, doc: str) -> Column:
    return Column(name, "float64", unit, doc, role="detail")


POWER_LAW = Metric(
    over="trial",
    args=PowerLawArgs,
    compute="phasegrid.metrics.power_law.compute:compute",
    label="Power laws of spectra",
    cost=_cost,
    memory=lambda job: 12 * job.work.num_parameters,
    columns=(
        Column(
            "layer",
            "string",
            "",
            "the layer; one row each, and one for the mean over layers",
            role="axis",
            usual=MEAN,
        ),
        Column(
            "alpha",
            "float64",
            "",
            "exponent of the power law; of the mean: unweighted",
            label="power-law exponent alpha",
            better="lower",
            stderr="alpha_stderr",
        ),
        _tail(
            "alpha_stderr", "", "(alpha - 1) / sqrt(tail), given x_min; of a mean: over the layers"
        ),
        Column(
            "alpha_hat",
            "float64",
            "",
            "alpha times the decadic logarithm of the largest eigenvalue (weighted alpha)",
            label="weighted alpha",
            better="lower",
        ),
        _tail("x_min", "", "smallest eigenvalue of the fit"),
        _tail("x_max", "", "largest eigenvalue"),
        Column(
            "ks_distance",
            "float64",
            "",
            "Kolmogorov-Smirnov distance of the fit from the eigenvalues of its tail",
            role="detail",
        ),
        _tail("p_value", "", "share of synthetic samples with a larger distance; null without"),
        Column("num_eigenvalues", "int64", "", "positive eigenvalues"),
        Column("num_tail", "int64", "", "eigenvalues of the fit"),
        Column("num_layers", "int64", "", "layers with a fit; null for a single layer"),
    ),
)
