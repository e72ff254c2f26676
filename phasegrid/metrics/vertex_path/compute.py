"""Measure the path of straight lines through vertices v_0, ..., v_K of a complex: at t in [k, k +
1] it is at (k + 1 - t) v_k + (t - k) v_{k + 1}.

Letters: V vertices of the complex, K lines, T points of the path.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.connectivity.along import mean_along
from phasegrid.metrics.connectivity.curves import chords, edge_gram
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.left import Refresh, left_evaluator
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import (
    Numbers,
    live_network,
    numbers_at,
)
from phasegrid.metrics.simplex.left import LeftComplex, read_complex
from phasegrid.metrics.simplex.vertices import places_of
from phasegrid.metrics.vertex_path import VertexPathArgs, path_through
from phasegrid.seeding import nothing_drawn

KINDS = ("max", "min", "mean", "max_vertex", "min_vertex", "max_between")


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> dict[str, object]:
    """Measure the path through vertices of the complex in `sources`, which joins `models`; `args`
    are the fields of `VertexPathArgs`. Exact but for the examples that `rng` draws for BatchNorm.

    Raises:
        MetricError: if there is not one complex through these models, or it has no such vertex.
    """
    settings = VertexPathArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    left = read_complex(models, sources, "vertex_path")
    usual = path_through(len(models), len(left.names) - len(models))
    names = list(settings.through or usual)
    places, lines = places_of(names, left.names, "vertex_path"), len(names) - 1
    t = torch.arange(lines * settings.points + 1, dtype=torch.float64) / settings.points
    with nothing_drawn("vertex_path", data.train_inputs.device):
        measured = _measure(
            left,
            coefficients(t, places, len(left.names)),
            models[0],
            data,
            rng,
            Refresh(settings.refresh_examples, settings.refresh_augment),
        )
    corners = torch.linspace(0, 1, lines + 1, dtype=torch.float64)
    lengths = chords("polychain", edge_gram(left.vertices[places]), corners)
    distances = lengths.repeat_interleave(settings.points) / settings.points
    columns: dict[str, object] = {
        "t": t.tolist(),
        "distance": [0.0, *distances.cumsum(0).tolist()],
        "vertex_name": names,
        "vertex_t": [float(place) for place in range(lines + 1)],
        "vertex_distance": [0.0, *lengths.cumsum(0).tolist()],
    }
    for name, values in measured.items():
        columns[name] = values
        columns |= summary(name, values, distances.tolist(), settings.points)
    return columns


def coefficients(t: Tensor, places: Sequence[int], num: int) -> Tensor:
    """Return the weights (T, V) of all `num` vertices at `t` (T,) on the path through those at
    `places`, in float64; a vertex itself is exact.
    """
    on_path = (1 - (t.unsqueeze(1) - torch.arange(len(places))).abs()).clamp(min=0)
    return on_path @ torch.eye(num, dtype=torch.float64)[list(places)]


def summary(
    name: str, values: Numbers, distances: Sequence[float], points: int
) -> dict[str, float | None]:
    """Return the columns that summarise a list of numbers on a path with so many `points` a line
    and these `distances` between them; they are null if a number is missing.

    >>> found = summary("loss", [1.0, 4.0, 2.0], [1.0, 1.0], 2)
    >>> found["max_loss"], found["max_vertex_loss"], found["max_between_loss"], found["mean_loss"]
    (4.0, 2.0, 4.0, 2.75)
    """
    names = [f"{kind}_{name}" for kind in KINDS]
    present = [value for value in values if value is not None]
    if len(present) != len(values):
        return dict.fromkeys(names)
    between = [value for place, value in enumerate(present) if place % points]
    corners, mean = present[::points], mean_along(present, distances)
    ends = (max(corners), min(corners), max(between, default=None))
    return dict(zip(names, (max(present), min(present), mean, *ends), strict=True))


def _measure(
    left: LeftComplex,
    mixes: Tensor,
    model: nn.Module,
    data: Dataset,
    rng: torch.Generator,
    refresh: Refresh,
) -> dict[str, Numbers]:
    """Return losses and errors at points with the weights `mixes` (T, V)."""
    flat = live_network(model)
    evaluator = left_evaluator(left.args, flat.module, data, refresh, rng)
    passes, measured = Passes(flat, data.scoring), []
    for row in mixes:
        left.place(flat, row)
        measured.append(evaluator.measure(passes))
    return numbers_at(measured)
