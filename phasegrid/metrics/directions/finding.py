"""Find the directions that are not trained, by name.

Letters: D directions, K eigenvectors, M networks, P trainable parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.directions import DirectionsArgs
from phasegrid.metrics.directions.drawing import draw_directions, loss_and_gradient
from phasegrid.metrics.directions.eigenvectors import extreme_eigenvectors
from phasegrid.metrics.directions.names import numbers_of
from phasegrid.metrics.directions.scaling import cosine, inner_products
from phasegrid.metrics.hessian.operator import with_right_products
from phasegrid.metrics.hessian.preparing import as_parameters, draw_examples, prepare
from phasegrid.models.weights import has_batch_norm

Row = dict[str, float | int | str | list[str] | list[float | None] | None]


@dataclass(frozen=True, slots=True)
class Found:
    """The `vectors` (P,) of directions through the `weights` (P,), by name, and what else is known
    of each: columns of its row.
    """

    weights: Tensor
    vectors: dict[str, Tensor] = field(default_factory=dict)
    known: dict[str, Row] = field(default_factory=dict)


def find_untrained(
    models: Sequence[nn.Module], data: Dataset, settings: DirectionsArgs, rng: torch.Generator
) -> Found:
    """Find all directions that are asked for and not trained.

    Gaussian directions are drawn first: they do not depend on what else is asked for.

    Raises:
        MetricError: if the networks differ in architecture, there are fewer than a direction needs,
            or the loss at the weights is not finite.
    """
    vertices = stack_vertices(models)
    found = Found(vertices[0])
    if drawn := numbers_of(settings.along, "gaussian"):
        gaussian = draw_directions(max(drawn) + 1, vertices[0], rng)
        found.vectors.update({f"gaussian_{number}": gaussian[number] for number in drawn})
    found.vectors["weights"] = vertices[0]
    _find_between(found, vertices, settings)
    aligned = numbers_of(settings.along, "aligned")
    if aligned or "gradient" in settings.along:
        _find_gradient(found, models[0], data, settings, rng)
    _find_aligned(found, aligned, rng)
    _find_eigenvectors(found, models[0], data, settings, rng)
    return found


def components(offsets: Tensor, num: int) -> tuple[Tensor, list[float]]:
    """Return the first `num` principal components (num, P) of `offsets` (M, P) from a base, unit
    vectors in falling order of the squares along them, and the share of each in the sum of squares.

    Nothing is centred: the base is the origin (Li et al. 2018, section 7.2: that is the last
    network of a training, and the offsets are those of the earlier ones). The sign of a component
    has no meaning.

    Raises:
        MetricError: if the offsets span fewer dimensions.
    """
    products = inner_products(offsets)
    squares, mixes = torch.linalg.eigh(products)
    squares, mixes = squares.flip(0)[:num], mixes.flip(1)[:, :num]
    total = float(products.trace())
    rank = int((squares > 1e-12 * total).sum())  # float64: rounding of the products is below
    if rank < num:
        raise MetricError(
            f"directions: component_{rank + 1} was asked for, but the networks of the job span"
            f" {rank} dimensions around the first one; ask for at most component_{rank}"
        )
    vectors = (mixes / squares.sqrt()).t().to(offsets) @ offsets
    return vectors, (squares / total).tolist()


def _find_between(found: Found, vertices: Tensor, settings: DirectionsArgs) -> None:
    """Find the directions to the other networks, and the principal components of all."""
    for kind in ("to", "component"):
        if (most := max(numbers_of(settings.along, kind), default=0)) >= len(vertices):
            raise MetricError(
                f"directions: {kind}_{most} needs {most + 1} networks, got {len(vertices)}"
            )
    for number in numbers_of(settings.along, "to"):
        found.vectors[f"to_{number}"] = vertices[number] - vertices[0]
    if asked := numbers_of(settings.along, "component"):
        vectors, shares = components(vertices[1:] - vertices[0], max(asked))
        for number in asked:
            found.vectors[f"component_{number}"] = vectors[number - 1]
            found.known[f"component_{number}"] = {"share": shares[number - 1]}


def _find_gradient(
    found: Found, model: nn.Module, data: Dataset, settings: DirectionsArgs, rng: torch.Generator
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


def _find_aligned(found: Found, asked: Sequence[int], rng: torch.Generator) -> None:
    """Find, of the first so many Gaussian draws, the one at the smallest angle to the negative
    gradient, and scale it to its norm.
    """
    best, nearest = found.weights, -2.0
    for number in range(1, max(asked, default=0) + 1):
        descent, drawn = found.vectors["gradient"], draw_directions(1, found.weights, rng)[0]
        if (nearness := cosine(drawn, descent)) > nearest:
            best, nearest = drawn, nearness
        if number in asked:
            norm = torch.linalg.vector_norm(descent) / torch.linalg.vector_norm(best.double())
            found.vectors[f"aligned_{number}"] = best.double() * norm


def _find_eigenvectors(
    found: Found, model: nn.Module, data: Dataset, settings: DirectionsArgs, rng: torch.Generator
) -> None:
    top, bottom = (
        max(numbers_of(settings.along, kind), default=0) for kind in ("positive", "negative")
    )
    if not top + bottom:
        return
    module = prepare(model, settings.batch_norm, data.train_inputs, rng)
    inputs, labels = draw_examples(data, settings.hessian_examples, settings.example_seed)
    pairs, loss = with_right_products(
        module,
        as_parameters(inputs, module),
        labels,
        rng,
        lambda H: (
            extreme_eigenvectors(H, top, bottom, rng, settings.steps, settings.tolerance),
            H.loss,
        ),
        data.scoring,
    )
    names = [f"positive_{i + 1}" for i in range(top)]
    names += [f"negative_{i + 1}" for i in range(bottom)]
    for place, name in enumerate(names):
        found.vectors[name] = pairs.vectors[place]
        found.known[name] = {
            "eigenvalue": pairs.eigenvalues[place],
            "eigenvalue_residual": pairs.residuals[place],
            "hvp_method": pairs.hvp_method,
            "loss": loss,
            "num_examples": len(labels),
            "batch_norm": settings.batch_norm if has_batch_norm(model) else None,
        }
