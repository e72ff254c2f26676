"""Power-law exponents of the spectra of layers (Martin and Mahoney 2021; Martin, Peng and Mahoney
2021).

For the matrix W of a layer, x = eigenvalues of W^T W, the squares of its singular values; alpha by
`phasegrid.metrics.power_law.fitting`. Over L layers,

    alpha = (1/L) sum_l alpha_l,   alpha_hat = (1/L) sum_l alpha_l log10 x_max,l.

Singular values are computed in float64. Those below the rounding errors of the largest are zeros of
a matrix of lower rank, and left out.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.power_law import PowerLawArgs
from phasegrid.metrics.power_law.fitting import Fit, Vector, fit_power_law, p_value
from phasegrid.models.weights import parameter_slices, parameters_vector

Numbers = Sequence[float | None]
Row = dict[str, float | int | Numbers | Sequence[str] | None]


def compute(
    models: Sequence[nn.Module], _data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Fit the spectra of one model's layers; `args` are the fields of `PowerLawArgs`.

    A layer is a trainable tensor of two dimensions or more. Estimates from the few eigenvalues of a
    layer, with their standard errors.

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
    spectra = [
        eigenvalues(weights[part.start : part.stop].view(part.shape), settings.convolutions)
        for part in slices
    ]
    draws = np.random.default_rng(int(torch.randint(2**62, (), generator=rng, device=rng.device)))
    return {
        "layers": [part.name.removesuffix(".weight") for part in slices],
        **_columns(spectra, settings, draws),
    }


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


def _columns(spectra: Sequence[Vector], settings: PowerLawArgs, draws: np.random.Generator) -> Row:
    """Return the fits of all layers, and their means over the layers that have one."""
    fits = [fit_power_law(spectrum, settings.min_tail) for spectrum in spectra]
    fitted = [(fit, float(x.max())) for fit, x in zip(fits, spectra, strict=True) if fit]
    alphas = [fit.alpha for fit, _ in fitted]

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if values else None

    def by_layer(number: Callable[[Fit], float]) -> Numbers:
        return [None if fit is None else number(fit) for fit in fits]

    return {
        "alpha": mean(alphas),
        "alpha_stderr": float(np.std(alphas, ddof=1)) / len(alphas) ** 0.5 if alphas[1:] else None,
        "alpha_hat": mean([fit.alpha * math.log10(largest) for fit, largest in fitted]),
        "ks_distance": mean([fit.ks_distance for fit, _ in fitted]),
        "num_layers": len(fitted),
        "layer_alpha": by_layer(lambda fit: fit.alpha),
        "layer_alpha_stderr": by_layer(lambda fit: fit.alpha_stderr),
        "layer_x_min": by_layer(lambda fit: fit.x_min),
        "layer_x_max": [float(x.max(initial=0.0)) or None for x in spectra],
        "layer_ks_distance": by_layer(lambda fit: fit.ks_distance),
        "layer_p_value": _p_values(spectra, fits, settings, draws),
        "layer_num_tail": by_layer(lambda fit: float(fit.num_tail)),
        "layer_num_eigenvalues": [float(len(x)) for x in spectra],
    }


def _p_values(
    spectra: Sequence[Vector],
    fits: Sequence[Fit | None],
    settings: PowerLawArgs,
    draws: np.random.Generator,
) -> list[float | None]:
    num, least = settings.bootstrap, settings.min_tail
    return [
        p_value(x, fit, least, num, draws) if fit and num else None
        for x, fit in zip(spectra, fits, strict=True)
    ]
