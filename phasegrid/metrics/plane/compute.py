"""Measure the loss on a plane through three points of weight space (`frame`), with BatchNorm
statistics recomputed at every point, and project further networks, or a curve, onto it.

Untrained tensors are mixed by the same weights as the trained ones.

Letters: V vertices (networks, the ends and bends of a curve, or the vertices of a complex), P
parameters, N points of a grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.along import regularised
from phasegrid.metrics.connectivity.curves import squared_norms, stack_vertices
from phasegrid.metrics.connectivity.left import LeftCurve, read_curve
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.joining import Rest, place_point, rest_of
from phasegrid.metrics.network.left import Refresh, left_evaluator
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import (
    Numbers,
    PointEvaluation,
    live_network,
    numbers_at,
)
from phasegrid.metrics.plane import PlaneArgs
from phasegrid.metrics.plane.frame import Frame, Projections, make_frame, project
from phasegrid.metrics.plane.surfaces import Grid, line, mean_over, triangles
from phasegrid.metrics.simplex.left import LeftComplex, read_complex
from phasegrid.metrics.simplex.vertices import edges_among, places_of
from phasegrid.seeding import nothing_drawn
from phasegrid.tasks.carrying import draw_some

CURVE_POINTS = 121
"""Points of a curve that are projected (Garipov et al. 2018, appendix A.2)."""

BATCH = 128
"""Examples in a batch that refreshes BatchNorm between networks (the published code); along a
curve, as many as trained it.
"""


@dataclass(frozen=True, slots=True)
class _Points:
    """The `vertices` (V, P) and their untrained tensors; which `three` of them span the plane, as
    w_0, w_1, w_2 of `frame`; which of the three are `networks`; and the curve or the complex to
    which they belong, if they do.
    """

    vertices: Tensor
    rest: Rest
    three: tuple[int, int, int]
    networks: Sequence[int]
    curve: LeftCurve | None = None
    complex: LeftComplex | None = None

    @property
    def args(self) -> Mapping[str, Any] | None:
        """The arguments of the measurement that stored the curve or the complex."""
        left = self.curve or self.complex
        return None if left is None else left.args


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> dict[str, object]:
    """Measure the plane through the first three of `models`; or, if `sources` holds a curve between
    two, through these and a bend of it; or, if it holds a complex, through three of its vertices.
    `args` are the fields of `PlaneArgs`.

    Exact but for the examples that `rng` draws. Between the points of the grid, an interpolation.

    Raises:
        MetricError: if there are fewer than three networks, or there is no such curve, bend or
            vertex; if the networks differ in architecture; or if the three points lie on a line.
    """
    settings = PlaneArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    with nothing_drawn("plane", data.train_inputs.device):
        points = _points(models, sources, settings)
        frame = make_frame(points.vertices[list(points.three)])
        projected = project(points.vertices, points.three, frame)
        xs, ys = _axes(settings, frame, projected, points)
        every = _mixes(points, [frame.coefficients(x, y) for y in ys for x in xs])
        measured = _measure(points, every, models[0], data, settings, rng)
    grid = Grid([x * frame.width for x in xs], [y * frame.height for y in ys])
    decay = _weight_decay(settings, points)
    found = numbers_at(measured)
    if decay is not None:
        squares = squared_norms(points.vertices, every).tolist()
        for part in ("train", "test"):
            losses = found[f"{part}_loss"]
            found[f"{part}_regularised_loss"] = regularised(losses, squares, decay)
    return {
        "axis": grid.axis,
        "axis_2": grid.axis_2,
        **_numbers(points, grid, projected, found, every),
        **_places(points, projected),
        "width": frame.width,
        "height": frame.height,
        "shear": frame.shear,
        "weight_decay": decay,
    }


def _points(models: Sequence[nn.Module], sources: Sequence[Source], settings: PlaneArgs) -> _Points:
    if not sources:
        return _of_networks(models, settings)
    on_left = _on_complex if sources[0].name == "complex" else _on_curve
    return on_left(models, sources, settings)


def _of_networks(models: Sequence[nn.Module], settings: PlaneArgs) -> _Points:
    if len(models) < 3:
        raise MetricError(f"plane goes through three networks, got {len(models)}")
    if settings.bend is not None:
        raise MetricError(
            f"plane: found bend {settings.bend}, but no curve; leave bend out, or write of: with"
            " the id of a mode connectivity"
        )
    return _Points(stack_vertices(models), rest_of(models), (0, 2, 1), (0, 1, 2))


def _on_curve(
    models: Sequence[nn.Module], sources: Sequence[Source], settings: PlaneArgs
) -> _Points:
    curve = read_curve(models, sources, "plane")
    num = len(curve.vertices) - 2
    bend = (num + 1) // 2 if settings.bend is None else settings.bend
    if not 1 <= bend <= num:
        raise MetricError(f"plane: found bend {bend}, but the curve has {num}")
    return _Points(curve.vertices, curve.rest, (0, bend, num + 1), (0, num + 1), curve=curve)


def _on_complex(
    models: Sequence[nn.Module], sources: Sequence[Source], settings: PlaneArgs
) -> _Points:
    left = read_complex(models, sources, "plane")
    if settings.vertices is None:
        raise MetricError(f"plane: write three vertices of the complex: {', '.join(left.names)}")
    first, middle, last = places_of(settings.vertices, left.names, "plane")
    networks = [place for place in (first, middle, last) if place < len(models)]
    return _Points(left.vertices, left.rest, (first, middle, last), networks, complex=left)


def _axes(
    settings: PlaneArgs, frame: Frame, projected: Projections, points: _Points
) -> tuple[list[float], list[float]]:
    """Return the coordinates of a grid in units of the sides of the frame."""
    alone = points.curve is None and points.complex is None
    framed = list(range(len(projected.u))) if alone else list(points.three)
    shares = (
        (projected.u[framed] / frame.width).tolist(),
        (projected.v[framed] / frame.height).tolist(),
    )
    first, second = settings.margin, settings.margin_2
    return (
        _axis(min(0.0, *shares[0]), max(1.0, *shares[0]), first, settings.points),
        _axis(
            min(0.0, *shares[1]),
            max(1.0, *shares[1]),
            first if second is None else second,
            settings.points_2 or settings.points,
        ),
    )


def _axis(low: float, high: float, margin: float, points: int) -> list[float]:
    beyond = margin * (high - low)
    axis = torch.linspace(low - beyond, high + beyond, points, dtype=torch.float64)
    numbers: list[float] = axis.tolist()
    return numbers


def _mixes(points: _Points, on_grid: Sequence[tuple[float, float, float]]) -> Tensor:
    """Return the weights of the vertices at the points of the grid and at the vertices, (N + V, V)
    in float64.
    """
    num = len(points.vertices)
    mixes = torch.zeros(len(on_grid), num, dtype=torch.float64)
    mixes[:, list(points.three)] = torch.tensor(on_grid, dtype=torch.float64)
    return torch.cat([mixes, torch.eye(num, dtype=torch.float64)])


def _measure(
    points: _Points,
    mixes: Tensor,
    model: nn.Module,
    data: Dataset,
    settings: PlaneArgs,
    rng: torch.Generator,
) -> list[PointEvaluation]:
    few = _some(data, settings.examples, rng)
    flat = live_network(model)
    args = {"batch_size": BATCH} if points.args is None else points.args
    refresh = Refresh(settings.refresh_examples, settings.refresh_augment)
    evaluator = left_evaluator(args, flat.module, data, refresh, rng)
    evaluator = replace(evaluator, data=few)
    passes, measured = Passes(flat, data.scoring), []
    for coefficients in mixes:
        place_point(flat, points.vertices, points.rest, coefficients)
        measured.append(evaluator.measure(passes))
    return measured


def _weight_decay(settings: PlaneArgs, points: _Points) -> float | None:
    if settings.weight_decay is not None or points.curve is None:
        return settings.weight_decay
    return float(points.curve.args["weight_decay"])


def _numbers(
    points: _Points,
    grid: Grid,
    projected: Projections,
    found: Mapping[str, Numbers],
    mixes: Tensor,
) -> dict[str, object]:
    """Return the surfaces, the numbers of the vertices, the highest along lines, and means."""

    def straight(a: int, b: int) -> tuple[Tensor, Tensor]:
        return line(projected.u[[a, b]], projected.v[[a, b]])

    edges = [straight(*both) for both in combinations(points.networks, 2)]
    path = [] if points.curve is None else [_path(points.curve, projected)[:2]]
    path += [straight(*both) for both in _edges(points)]
    inside, outside = triangles(mixes[: -len(points.vertices), list(points.three)])
    across, size = len(grid.axis), len(grid.axis) * len(grid.axis_2)
    columns: dict[str, object] = {}
    for name, values in found.items():
        surface = [values[start : start + across] for start in range(0, size, across)]
        columns[name] = surface
        columns[f"points_{name}"] = values[size:]
        columns[f"max_edge_{name}"] = grid.highest(surface, edges)
        columns[f"max_path_{name}"] = grid.highest(surface, path)
        columns[f"mean_inside_{name}"] = mean_over(values, inside)
        columns[f"mean_outside_{name}"] = mean_over(values, outside)
    return columns


def _edges(points: _Points) -> list[tuple[int, int]]:
    """Return the edges of the complex between the three points."""
    left = points.complex
    return [] if left is None else edges_among(points.three, left.simplexes)


def _path(curve: LeftCurve, projected: Projections) -> tuple[Tensor, Tensor, Tensor]:
    """Return u, v and the distance from the plane of points of a curve."""
    return projected.mixed(curve.coefficients(_times()))


def _times() -> Tensor:
    return torch.linspace(0, 1, CURVE_POINTS, dtype=torch.float64)


def _places(points: _Points, projected: Projections) -> dict[str, object]:
    """Return where the vertices and the curve lie."""
    columns: dict[str, object] = {
        "points_u": projected.u.tolist(),
        "points_v": projected.v.tolist(),
        "points_distance": projected.rest.diag().sqrt().tolist(),
        "num_bends": 0 if points.curve is None else len(points.vertices) - 2,
    }
    if points.complex is not None:
        own = points.complex.names
        columns["points_name"] = list(own)
        columns["corners"] = [own[place] for place in points.three]
        columns["edges"] = [[float(place) for place in edge] for edge in _edges(points)]
    if points.curve is not None:
        columns["path_t"] = _times().tolist()
        names = ("path_u", "path_v", "path_distance")
        for name, values in zip(names, _path(points.curve, projected), strict=True):
            columns[name] = values.tolist()
    return columns


def _some(data: Dataset, examples: int | None, rng: torch.Generator) -> Dataset:
    """Return this many examples of each set, drawn without replacement; all if there are fewer."""
    if examples is None:
        return data

    def draw(values: Tensor) -> Tensor:
        return draw_some(data.operations, len(values), examples, rng).to(values.device)

    train, test = draw(data.train_inputs), draw(data.test_inputs)
    return replace(
        data,
        train_inputs=data.train_inputs[train],
        train_labels=data.train_labels[train],
        test_inputs=data.test_inputs[test],
        test_labels=data.test_labels[test],
    )
