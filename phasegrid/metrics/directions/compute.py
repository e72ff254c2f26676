"""Find directions through trained weights theta, and how they lie to each other.

Nothing is scaled: a Gaussian direction has the norm of its draw, the gradient its own, and theta +
to_1 is the second network. So 1 on a line along a direction means what it means there, and what
looks along it decides on a scale (Xu et al. 2024, section 2.1). A pair of directions is nearly
orthogonal if one of them is random: the cosine has mean 0 and standard deviation 1 / sqrt(P).

Letters: D directions, P trainable parameters.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.directions import DirectionsArgs
from phasegrid.metrics.directions.finding import Found, Row, find_untrained
from phasegrid.metrics.directions.scaling import cosines, inner_products
from phasegrid.metrics.measured import Measured
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.models.weights import num_parameters
from phasegrid.seeding import nothing_drawn

_KNOWN: tuple[str, ...] = (
    "loss",
    "num_examples",
    "batch_norm",
    "eigenvalue",
    "eigenvalue_residual",
    "hvp_method",
    "share",
)
"""Columns that only some directions have."""


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Measured:
    """Find directions through the first of `models`; `args` are the fields of `DirectionsArgs`.

    Return a row for each, and the artifact ``directions``: `directions` (D, P) in the dtype of the
    weights, and `weights` (P,). Deterministic in `rng` and the models, which are not changed.

    Raises:
        MetricError: if the networks differ in architecture, there are fewer than a direction needs,
            nothing is trainable, there are fewer parameters than eigenvectors, or the loss at the
            weights is not finite.
    """
    settings = DirectionsArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if not models or num_parameters(models[0]) == 0:
        raise MetricError("directions go through the trainable parameters of a network; got none")
    with nothing_drawn("directions", data.train_inputs.device):
        found = find_untrained(models, data, settings, rng)
    return _measured(found, settings)


def _measured(found: Found, settings: DirectionsArgs) -> Measured:
    directions = torch.stack([found.vectors[name].to(found.weights) for name in settings.along])
    rows = _rows(directions, found, settings)
    return Measured(rows, {"directions": {"directions": directions, "weights": found.weights}})


def _rows(directions: Tensor, found: Found, settings: DirectionsArgs) -> list[Row]:
    products, num = inner_products(directions), directions.shape[1]
    squares, angles = products.diagonal().tolist(), cosines(products).tolist()
    common: Row = {
        "against": list(settings.along),
        "num_parameters": num,
        "weight_norm": float(torch.linalg.vector_norm(found.weights, dtype=torch.float64)),
        **dict.fromkeys(_KNOWN),
    }
    return [
        {
            **common,
            "direction": name,
            "norm": math.sqrt(square),
            "log_density": -square / 2 - num / 2 * math.log(2 * math.pi),
            "cosine": [finite_or_none(cosine) for cosine in row],
            **found.known.get(name, {}),
        }
        for name, square, row in zip(settings.along, squares, angles, strict=True)
    ]
