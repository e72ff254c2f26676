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
from dataclasses import asdict

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.directions.scaling import cosine
from phasegrid.metrics.lines.compute import equally_spaced
from phasegrid.metrics.lines.shapes import count_stationary
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.slice import SliceArgs, ends_of
from phasegrid.metrics.slice.along import Along, find_directions, read_along
from phasegrid.metrics.slice.evaluation import (
    Examples,
    MovingNetwork,
    draw_some,
    make_examples,
    measure_points,
    measure_slice,
    refresh_inputs,
)
from phasegrid.metrics.slice.projecting import project
from phasegrid.metrics.slice.refining import Place, Refined, refine
from phasegrid.metrics.slice.shapes import Curvature, curvatures, surface_shape
from phasegrid.models.weights import has_batch_norm, num_parameters, parameters_vector

Grid = list[list[float | None]]
Row = dict[str, float | int | str | list[float] | list[str] | Grid | None]


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> Row:
    """Measure a slice through one model, or, if `sources` holds directions, through the first of
    `models`, along two of them; `args` are the fields of `SliceArgs`.

    Deterministic in `rng` and the model, which is not changed. For the drawn examples, losses are
    exact to rounding in `precision`, but for those that are interpolated (`coarse`). A point whose
    outputs are not finite has null loss and null error.

    Raises:
        MetricError: if there is not one model, nothing is trainable, its outputs have a wrong
            shape, the loss at the trained weights is not finite, normalisation makes a direction
            zero, or the directions read belong to other weights or do not span a plane.
    """
    settings = SliceArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 1 and not sources:
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
    if sources:
        along = read_along(models, sources, settings)
    else:
        along = find_directions(network, inputs, labels, data.scoring, settings, rng)
    axes = _axes(settings)
    refined = _measure(network, along.vectors, axes, sets, settings)
    return {
        **_grid_columns(axes, refined),
        "centre_loss": centre_loss,
        **_direction_columns(along, network.flat.rows()[0]),
        **_curvature_columns(network, along.vectors, sets[0], settings),
        **_point_columns(models, along),
        "num_examples": len(labels),
        "num_test_examples": len(drawn[1]) if settings.test else None,
        "batch_norm": settings.batch_norm if has_batch_norm(models[0]) else None,
    }


def symmetric_axis(points: int, radius: float) -> list[float]:
    """Return `points` equally spaced coordinates from -`radius` to `radius`, symmetric to the last
    bit.

    >>> symmetric_axis(3, 0.5)
    [-0.5, 0.0, 0.5]
    """
    return [radius * (2 * i - (points - 1)) / (points - 1) for i in range(points)]


def _axes(settings: SliceArgs) -> tuple[list[float], list[float] | None]:
    """Return the coordinates on both axes; no second ones for a line."""
    given, axes = asdict(settings), list[list[float]]()
    for second, points in ((False, settings.points), (True, settings.points_2 or settings.points)):
        low, high = ends_of(given, second)
        if low == -high:
            axes.append(symmetric_axis(points, high))
        else:
            axes.append(equally_spaced(low, high, points))
    return axes[0], axes[1] if settings.dimensions == 2 else None


def _measure(
    network: MovingNetwork,
    directions: Tensor,
    axes: tuple[list[float], list[float] | None],
    sets: Sequence[Examples],
    settings: SliceArgs,
) -> Refined:
    axis, other = axes[0], axes[1] or [0.0]
    if settings.coarse is None:
        values = measure_slice(network, directions, axis, sets, other)
        return Refined(values, torch.ones(len(other), len(axis), dtype=torch.bool))

    def measure(places: Sequence[Place]) -> Tensor:
        points = [(axis[i], other[j]) for j, i in places]
        return measure_points(network, directions, points, sets)

    return refine(measure, (len(other), len(axis)), settings.coarse, settings.tolerance)


def _centre_loss(network: MovingNetwork, examples: Examples) -> float:
    loss = float(network.measure(examples)[0]) / examples.num_scored
    if finite_or_none(loss) is None:
        raise MetricError(
            f"slice: the loss at the trained weights is {loss}; these are not the weights of a"
            f" successful training. Was it recorded as diverged?"
        )
    return loss


def _grid_columns(axes: tuple[list[float], list[float] | None], refined: Refined) -> Row:
    """Return the columns for a grid; null at points with a loss that is not finite, because the
    argmax of NaN is not a prediction.
    """
    losses, errors = refined.values.unbind(dim=-1)
    finite = losses.isfinite()
    tested, plane = len(losses) > 1, axes[1] is not None
    loss, error = _with_nulls(losses, finite), _with_nulls(errors, finite)
    return {
        "axis": axes[0],
        "axis_2": axes[1],
        "train_loss": loss[0],
        "train_error_percent": error[0],
        "test_loss": loss[1] if tested else None,
        "test_error_percent": error[1] if tested else None,
        "num_stationary_points": None if plane else count_stationary(loss[0][0]),
        "measured": refined.measured.double().tolist(),
        "measured_share": float(refined.measured.double().mean()),
    }


def _direction_columns(along: Along, weights: Tensor) -> Row:
    directions, found = along.vectors, along.found
    return {
        "direction_names": None if along.names is None else list(along.names),
        "direction_norms": _norms(directions),
        "weight_norm": _norms(weights.unsqueeze(0))[0],
        "direction_cosine": cosine(directions[0], directions[1]) if len(directions) > 1 else None,
        "eigenvalues": None if found is None else found.eigenvalues,
        "eigenvalue_residuals": None if found is None else found.residuals,
        "hvp_method": None if found is None else found.hvp_method,
        "normalize": along.normalize,
    }


def _curvature_columns(
    network: MovingNetwork, directions: Tensor, examples: Examples, settings: SliceArgs
) -> Row:
    """Return the curvature along both axes of a plane, and the shape that they make."""
    found: list[Curvature] = [Curvature(None, None, None)] * 2
    if len(directions) == 2:
        step, significance = settings.curvature_step, settings.significance
        found = curvatures(network, directions, examples, step, significance)
    row: Row = {"shape": surface_shape(found)}
    for name, one in zip(("curvature", "curvature_2"), found, strict=True):
        row |= {name: one.value, f"{name}_stderr": one.stderr}
    return row


def _point_columns(models: Sequence[nn.Module], along: Along) -> Row:
    """Return where the networks of the job lie whose directions were read."""
    if along.names is None:
        return dict.fromkeys(("points_u", "points_v", "points_distance"), None)
    base = parameters_vector(models[0])
    found = project(
        torch.stack([parameters_vector(model).to(base) - base for model in models]), along.vectors
    )
    u, v = torch.nn.functional.pad(found.coordinates, (0, 2 - len(along.vectors))).t()
    return {
        "points_u": u.tolist(),
        "points_v": v.tolist(),
        "points_distance": found.distances.tolist(),
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
