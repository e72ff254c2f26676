"""The loss on a line or a plane through trained weights, along random directions or eigenvectors of
the Hessian.

f(a, b) = L(w + a d_1 + b d_2), L the mean loss of the trial's objective (Li et al. 2018, section 3;
Xu et al. 2024, section 2.1). The picture depends on the scaling of the directions, on the treatment
of BatchNorm's statistics away from w, and on the examples. All three are arguments, and the row
says what was used. With filter normalisation, a slice does not change if the layers of a ReLU
network are rescaled so that it computes the same (Li et al. 2018, section 4). A slice shows few of
many dimensions: it can show that there is a barrier or a sharp direction, but never that there is
none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.directions.drawing import draw_directions
from phasegrid.metrics.directions.eigenvectors import Eigenvectors, top_eigenvectors
from phasegrid.metrics.directions.scaling import Scaling, cosine, normalise
from phasegrid.metrics.hessian.operator import with_right_products
from phasegrid.metrics.lines.shapes import count_stationary
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.slice import SliceArgs
from phasegrid.metrics.slice.evaluation import (
    Examples,
    MovingNetwork,
    draw_some,
    make_examples,
    measure_slice,
    refresh_inputs,
)
from phasegrid.models.network_state import copy_network
from phasegrid.models.weights import has_batch_norm, num_parameters, parameter_slices
from phasegrid.tasks.scoring import Scoring

Grid = list[list[float | None]]
Row = dict[str, float | int | str | list[float] | Grid | None]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure a slice through one model; `args` are the fields of `SliceArgs`.

    Deterministic in `rng` and the model, which is not changed. For the drawn examples, losses are
    exact to rounding in `precision`. A point whose outputs are not finite has null loss and null
    error.

    Raises:
        MetricError: if there is not one model, nothing is trainable, its outputs have a wrong
            shape, the loss at the trained weights is not finite, or normalisation makes a direction
            zero.
    """
    settings = SliceArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 1:
        raise MetricError(f"a slice is through one model, got {len(models)}")
    if num_parameters(models[0]) == 0:
        raise MetricError(f"slice: {type(models[0]).__name__} has no trainable parameter")
    seed, examples, refreshed = settings.example_seed, settings.examples, None
    if settings.batch_norm == "refreshed":
        refreshed = refresh_inputs(models[0], data, settings.refresh_examples, seed)
    network = MovingNetwork(models[0], refreshed, settings.precision)
    inputs, labels = draw_some(data.train_inputs, data.train_labels, examples, seed)
    sets = [make_examples(network, inputs, labels, data.scoring)]
    if settings.test:
        drawn = draw_some(data.test_inputs, data.test_labels, examples, seed)
        sets.append(make_examples(network, *drawn, data.scoring))
    network.settle()
    centre_loss = _centre_loss(network, sets[0])
    found, directions, how = _find_directions(network, inputs, labels, data.scoring, settings, rng)
    axis = symmetric_axis(settings.points, settings.radius)
    measured = measure_slice(network, directions, axis, sets)
    return {
        **_grid_columns(axis, measured),
        "centre_loss": centre_loss,
        **_direction_columns(directions, network.flat.rows()[0], found),
        "num_examples": len(labels),
        "num_test_examples": len(drawn[1]) if settings.test else None,
        "normalize": how,
        "batch_norm": settings.batch_norm if has_batch_norm(models[0]) else None,
    }


def symmetric_axis(points: int, radius: float) -> list[float]:
    """Return `points` equally spaced coordinates from -`radius` to `radius`, symmetric to the last
    bit.

    >>> symmetric_axis(3, 0.5)
    [-0.5, 0.0, 0.5]
    """
    return [radius * (2 * i - (points - 1)) / (points - 1) for i in range(points)]


def _find_directions(
    network: MovingNetwork,
    inputs: Tensor,
    labels: Tensor,
    scoring: Scoring,
    settings: SliceArgs,
    rng: torch.Generator,
) -> tuple[Eigenvectors | None, Tensor, str]:
    """Return the eigenvectors (None for other directions), the scaled directions (D, P), and the
    normalisation used.
    """
    flat, weights, found = network.flat, network.flat.rows()[0], None
    if settings.directions == "hessian":
        centre = copy_network(flat.module)  # the operator may change its layout
        found = with_right_products(
            centre,
            network.lay_out(inputs),
            labels,
            rng,
            lambda H: top_eigenvectors(H, settings.dimensions, rng),
            scoring,
        )
        directions = found.vectors.to(weights)
    elif settings.directions == "weights":
        directions = weights.expand(settings.dimensions, -1)
    else:
        directions = draw_directions(settings.dimensions, weights, rng)
    how = settings.normalize
    if how == "auto":
        how = "filter" if settings.directions == "random" else "none"
    by: Scaling = "filter" if how == "filter" else "norm"
    slices = parameter_slices(flat.module)
    return found, normalise(directions, weights, slices, by, keep_biases=how == "none"), how


def _centre_loss(network: MovingNetwork, examples: Examples) -> float:
    loss = float(network.measure(examples)[0]) / examples.num_scored
    if finite_or_none(loss) is None:
        raise MetricError(
            f"slice: the loss at the trained weights is {loss}; these are not the weights of a"
            f" successful training. Was it recorded as diverged?"
        )
    return loss


def _grid_columns(axis: list[float], measured: Tensor) -> Row:
    """Return the columns for `measured`, (S, B, A, 2); null at points with a loss that is not
    finite, because the argmax of NaN is not a prediction.
    """
    losses, errors = measured.unbind(dim=-1)
    finite = losses.isfinite()
    tested, plane = len(measured) > 1, measured.shape[1] > 1
    loss, error = _with_nulls(losses, finite), _with_nulls(errors, finite)
    return {
        "axis": axis,
        "axis_2": axis if plane else None,
        "train_loss": loss[0],
        "train_error_percent": error[0],
        "test_loss": loss[1] if tested else None,
        "test_error_percent": error[1] if tested else None,
        "num_stationary_points": None if plane else count_stationary(loss[0][0]),
    }


def _direction_columns(directions: Tensor, weights: Tensor, found: Eigenvectors | None) -> Row:
    return {
        "direction_norms": _norms(directions),
        "weight_norm": _norms(weights.unsqueeze(0))[0],
        "direction_cosine": cosine(directions[0], directions[1]) if len(directions) > 1 else None,
        "eigenvalues": None if found is None else found.eigenvalues,
        "eigenvalue_residuals": None if found is None else found.residuals,
        "hvp_method": None if found is None else found.hvp_method,
    }


def _with_nulls(values: Tensor, finite: Tensor) -> list[Grid]:
    return [
        [
            [value if there else None for value, there in zip(row, present, strict=True)]
            for row, present in zip(grid, mask, strict=True)
        ]
        for grid, mask in zip(values.tolist(), finite.tolist(), strict=True)
    ]


def _norms(vectors: Tensor) -> list[float]:
    norms: list[float] = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).tolist()
    return norms
