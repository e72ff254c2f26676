"""Power-law exponents of the spectra of layers (Martin and Mahoney 2021, section 3.2; Martin, Peng
and Mahoney 2021, equations 1 and 2).

For the matrix W of a layer, x = eigenvalues of W^T W, the squares of its singular values; alpha by
`phasegrid.metrics.power_law.fitting`. Over L layers,

    alpha = (1/L) sum_l alpha_l,   alpha_hat = (1/L) sum_l alpha_l log10 x_max,l.

Singular values are computed in float64. Those below the rounding errors of the largest are zeros of
a matrix of lower rank, and left out.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.power_law import MEAN, PowerLawArgs
from phasegrid.metrics.power_law.fitting import Vector, fit_power_law, p_value
from phasegrid.models.weights import parameter_slices, parameters_vector

Row = dict[str, float | int | str | None]


def compute(
    models: Sequence[nn.Module], _data: Dataset, rng: torch.Generator, **args: object
) -> list[Row]:
    """Fit the spectra of one model's layers; `args` are the fields of `PowerLawArgs`.

    One row for the mean over layers and one for each trainable tensor of two dimensions or more. An
    estimate from the few eigenvalues of a layer, with its standard error.

    Raises:
        MetricError: if there is not one model, it has no matrix that trains, or weights are not
            finite.
    """
    settings = PowerLawArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 1:
        raise MetricError(f"power_law is measured on one model, got {len(models)}")
    slices = [part for part in parameter_slices(models[0]) if len(part.shape) > 1]
    if not slices:
        raise MetricError(
            f"power_law: {type(models[0]).__name__} has no trainable tensor of two dimensions or"
            " more"
        )
    weights = parameters_vector(models[0]).double()
    if not bool(weights.isfinite().all()):
        raise MetricError("power_law: the weights are not finite. Was the training diverged?")
    draws = np.random.default_rng(int(torch.randint(2**62, (), generator=rng, device=rng.device)))
    rows = []
    for part in slices:
        tensor = weights[part.start : part.stop].view(part.shape)
        spectrum = eigenvalues(tensor, settings.convolutions)
        rows.append(
            {"layer": part.name.removesuffix(".weight"), **_of_layer(spectrum, settings, draws)}
        )
    return [_mean(rows), *rows]


def eigenvalues(tensor: Tensor, convolutions: str) -> Vector:
    """Return the positive eigenvalues of W^T W for the matrix, or matrices, W of a tensor."""
    if convolutions == "positions" and tensor.dim() > 2:
        matrices = tensor.flatten(2).permute(2, 0, 1)
    else:
        matrices = tensor.flatten(1).unsqueeze(0)
    values = torch.linalg.svdvals(matrices)
    smallest = values.amax() * max(matrices.shape[1:]) * torch.finfo(torch.float32).eps
    found: Vector = values[values > smallest].square().cpu().numpy()
    return found


def _of_layer(spectrum: Vector, settings: PowerLawArgs, draws: np.random.Generator) -> Row:
    fit, largest = fit_power_law(spectrum, settings.min_tail), float(spectrum.max(initial=0.0))
    empty = ("alpha", "alpha_stderr", "alpha_hat", "x_min", "ks_distance", "p_value", "num_tail")
    known: Row = {
        "x_max": largest or None,
        "num_eigenvalues": len(spectrum),
        "num_layers": None,
    }
    if fit is None:
        return {**dict.fromkeys(empty), **known}
    p = None
    if settings.bootstrap:
        p = p_value(spectrum, fit, settings.min_tail, settings.bootstrap, draws)
    return {
        "alpha": fit.alpha,
        "alpha_stderr": fit.alpha_stderr,
        "alpha_hat": fit.alpha * math.log10(largest),
        "x_min": fit.x_min,
        "ks_distance": fit.ks_distance,
        "p_value": p,
        "num_tail": fit.num_tail,
        **known,
    }


def _mean(rows: Sequence[Row]) -> Row:
    """Return the row of the mean over layers that have a fit."""
    fitted = [row for row in rows if row["alpha"] is not None]

    def mean(name: str) -> float | None:
        values = [float(row[name] or 0.0) for row in fitted]
        return sum(values) / len(values) if values else None

    alphas = [float(row["alpha"] or 0.0) for row in fitted]
    spread = float(np.std(alphas, ddof=1)) / len(alphas) ** 0.5 if len(alphas) > 1 else None
    return {
        "layer": MEAN,
        **dict.fromkeys(("x_min", "x_max", "p_value", "num_tail")),
        "alpha": mean("alpha"),
        "alpha_stderr": spread,
        "alpha_hat": mean("alpha_hat"),
        "ks_distance": mean("ks_distance"),
        "num_eigenvalues": sum(int(row["num_eigenvalues"] or 0) for row in rows),
        "num_layers": len(fitted),
    }
