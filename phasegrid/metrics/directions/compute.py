"""Find directions through trained weights theta, and how they lie to each other.

Nothing is scaled: a Gaussian direction has the norm of its draw, the gradient its own, and theta +
to_1 is the second network. So 1 on a line along a direction means what it means there, and what
looks along it decides on a scale (Xu et al. 2024, section 2.1). A pair of directions is nearly
orthogonal if one of them is random: the cosine has mean 0 and standard deviation 1 / sqrt(P).

Letters: D directions, P trainable parameters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.directions import DirectionsArgs
from phasegrid.metrics.directions.drawing import draw_directions, loss_and_gradient
from phasegrid.metrics.directions.names import numbers_of
from phasegrid.metrics.directions.scaling import cosines, inner_products
from phasegrid.metrics.hessian.preparing import as_parameters, draw_examples, prepare
from phasegrid.metrics.measured import Measured
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.models.weights import has_batch_norm, num_parameters
from phasegrid.seeding import nothing_drawn

Value = float | int | str | list[str] | list[float | None] | None
Row = dict[str, Value]


@dataclass(slots=True)
class _Found:
    """Directions by name, and what is known of each beside its vector."""

    vectors: dict[str, Tensor] = field(default_factory=dict)
    known: dict[str, Row] = field(default_factory=dict)


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Measured:
    """Find directions through the first of `models`; `args` are the fields of `DirectionsArgs`.

    Return a row for each, and the artifact ``directions``: `directions` (D, P) in the dtype of the
    weights, and `weights` (P,). Deterministic in `rng` and the models, which are not changed.

    Raises:
        MetricError: if the networks differ in architecture, there are fewer than a direction needs,
            nothing is trainable, or the loss at the weights is not finite.
    """
    settings = DirectionsArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if not models or num_parameters(models[0]) == 0:
        raise MetricError("directions go through the trainable parameters of a network; got none")
    with nothing_drawn("directions", data.train_inputs.device):
        vertices = stack_vertices(models)
        found = _Found()
        _find_plain(found, vertices, settings, rng)
        if "gradient" in settings.along:
            _find_gradient(found, models[0], data, settings, rng)
    directions = torch.stack([found.vectors[name].to(vertices) for name in settings.along])
    rows = _rows(directions, vertices[0], found, settings)
    return Measured(rows, {"directions": {"directions": directions, "weights": vertices[0]}})


def _find_plain(
    found: _Found, vertices: Tensor, settings: DirectionsArgs, rng: torch.Generator
) -> None:
    """Find the directions that need no data: random ones, those to other networks, the weights."""
    drawn = numbers_of(settings.along, "gaussian")
    if drawn:
        gaussian = draw_directions(max(drawn) + 1, vertices[0], rng)
        found.vectors |= {f"gaussian_{number}": gaussian[number] for number in drawn}
    for number in numbers_of(settings.along, "to"):
        if number >= len(vertices):
            raise MetricError(
                f"directions: to_{number} needs {number + 1} networks, got {len(vertices)}"
            )
        found.vectors[f"to_{number}"] = vertices[number] - vertices[0]
    found.vectors["weights"] = vertices[0]


def _find_gradient(
    found: _Found, model: nn.Module, data: Dataset, settings: DirectionsArgs, rng: torch.Generator
) -> None:
    module = prepare(model, settings.batch_norm, data.train_inputs, rng)
    asked = settings.gradient_examples
    num = len(data.train_labels) if asked is None else asked
    inputs, labels = draw_examples(data, num, settings.example_seed)
    loss, gradient = loss_and_gradient(module, as_parameters(inputs, module), labels, data.scoring)
    found.vectors["gradient"] = -gradient
    found.known["gradient"] = {
        "loss": loss,
        "num_examples": len(labels),
        "batch_norm": settings.batch_norm if has_batch_norm(model) else None,
    }


def _rows(
    directions: Tensor, weights: Tensor, found: _Found, settings: DirectionsArgs
) -> list[Row]:
    products, num = inner_products(directions), directions.shape[1]
    squares, angles = products.diagonal().tolist(), cosines(products).tolist()
    common: Row = {
        "against": list(settings.along),
        "num_parameters": num,
        "weight_norm": float(torch.linalg.vector_norm(weights, dtype=torch.float64)),
        "loss": None,
        "num_examples": None,
        "batch_norm": None,
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
