"""Angles between random directions and stored ones.

The angle of a Gaussian direction to a fixed one has the density sin^(P-2) on [0, pi]: mean 90
degrees, deviation near (180 / pi) / sqrt(P) for large P, whatever the fixed one is (Xu et al. 2024,
section 2.3). Another distribution says that directions are related.

Letters: D stored directions, P trainable parameters, R random directions.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.angles import AnglesArgs
from phasegrid.metrics.directions.drawing import draw_directions, loss_and_gradient
from phasegrid.metrics.directions.left import read_directions
from phasegrid.metrics.hessian.preparing import as_parameters
from phasegrid.metrics.measured import Source
from phasegrid.models.network_state import copy_network
from phasegrid.seeding import nothing_drawn

Row = dict[str, float | int | str | list[float] | None]


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> list[Row]:
    """Compare the directions in `sources`, through the first of `models`, with random ones; `args`
    are the fields of `AnglesArgs`. Return a row for each direction.

    Deterministic in `rng` and the model, which is not changed. Cosines are summed in float64.

    Raises:
        MetricError: if the artifact is not of this network, has no such direction, or a direction
            is zero; or if a gradient is zero, or the loss not finite.
    """
    settings = AnglesArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    with nothing_drawn("angles", data.train_inputs.device):
        left = read_directions(models, sources, "angles")
        names = left.names if settings.along is None else settings.along
        vectors = left.pick(names, "angles")
        norms = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
        for name, norm in zip(names, norms.tolist(), strict=True):
            if norm == 0:
                raise MetricError(f"angles: the direction {name} is zero; leave it out of along")
        draw = _drawing(models[0], data, left.weights, settings, rng)
        found = torch.stack([_angles(vectors, norms, draw()) for _ in range(settings.num)], dim=1)
    gaussian = settings.draw == "gaussian"
    theory = math.degrees(1) / math.sqrt(vectors.shape[1]) if gaussian else None
    return [
        {
            "direction": name,
            "angles": angles.tolist(),
            "mean_angle": float(angles.mean()),
            "mean_angle_stderr": float(angles.std()) / math.sqrt(settings.num),
            "std_angle": float(angles.std()),
            "theory_std": theory,
            "smallest_angle": float(angles.min()),
            "num_parameters": vectors.shape[1],
        }
        for name, angles in zip(names, found, strict=True)
    ]


def _drawing(
    model: nn.Module, data: Dataset, weights: Tensor, settings: AnglesArgs, rng: torch.Generator
) -> Callable[[], Tensor]:
    """Return what draws the next random direction (P,)."""
    if settings.draw == "gaussian":
        return lambda: draw_directions(1, weights, rng)[0]
    module, num = copy_network(model).eval(), len(data.train_labels)

    def gradient() -> Tensor:
        order = torch.randperm(num, generator=rng, device=rng.device)[: settings.batch_size]
        chosen = order.to(data.train_labels.device)
        inputs = as_parameters(data.train_inputs[chosen], module)
        _, found = loss_and_gradient(module, inputs, data.train_labels[chosen], data.scoring)
        return -found

    return gradient


def _angles(vectors: Tensor, norms: Tensor, drawn: Tensor) -> Tensor:
    """Return the angles (D,), in degrees, of `vectors` (D, P) with these `norms` to a vector (P,),
    on the CPU.
    """
    long = drawn.double()
    products = torch.stack([vector.double() @ long for vector in vectors])
    own = torch.linalg.vector_norm(long)
    if not bool(own > 0):
        raise MetricError("angles: a drawn gradient is zero, so that it has no direction")
    return torch.rad2deg((products / (norms * own)).clamp(-1, 1).acos()).cpu()
