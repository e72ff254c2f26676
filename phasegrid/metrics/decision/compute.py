"""Measure what networks answer over the plane of two inputs (Benton et al. 2021, section 5.3).

The field of a network is p(label | x) = softmax(z(x))_label; that of M networks is the mean of
these, or that of the mean logits. A choice is the argmax. All in float64, from logits in the
networks' dtype.

Letters: M networks, S of them shown one by one, N training points, K places of the grid, C classes.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.decision import DecisionArgs
from phasegrid.metrics.decision.fields import (
    Grid,
    are_away,
    grid_around,
    roughness,
    usual_radius,
)
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.left import Refresh
from phasegrid.metrics.predictions.networks import networks_behind
from phasegrid.models.evaluation import predict
from phasegrid.seeding import nothing_drawn

SHOWN = 1000
"""Training points that are stored for a figure, at most."""

Row = dict[str, object]


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> Row:
    """Measure the fields of `models`, or of networks in the complex or on the curve in `sources`;
    `args` are the fields of `DecisionArgs`.

    Exact on the grid, but for the points of a complex and the training examples that refresh
    BatchNorm, which `rng` draws.

    Raises:
        MetricError: if an input is not two numbers, or the outputs of a network are not finite.
    """
    settings = DecisionArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    points = data.train_inputs
    if data.input_shape != (2,):
        raise MetricError(f"decision needs inputs of two numbers, got {data.input_shape}")
    with nothing_drawn("decision", points.device):
        grid = grid_around(points, settings.grid, settings.margin)
        asked = torch.cat([grid.places.to(points), points])
        networks: Iterable[nn.Module] = models
        if sources:
            num, refresh = settings.points, Refresh(settings.refresh_examples)
            networks, _ = networks_behind(models, sources[0], num, refresh, data, rng, "decision")
        logits = torch.stack([_logits(network, asked) for network in networks])
    return _row(logits, grid, data, settings)


def _logits(network: nn.Module, inputs: Tensor) -> Tensor:
    logits = predict(network, inputs).double()
    if not bool(logits.isfinite().all()):
        raise MetricError("decision: the outputs of a network are not finite")
    return logits


def _row(logits: Tensor, grid: Grid, data: Dataset, settings: DecisionArgs) -> Row:
    """Return the row of networks with these logits (M, K + N, C) at the grid and at the points."""
    points, num = data.train_inputs, len(grid.places)
    few = logits[_spread(len(logits), settings.samples)]
    means = settings.mean == "logits"
    of_all = logits.mean(0).softmax(1) if means else logits.softmax(2).mean(0)
    field, *fields = (
        some[:num, settings.label].view(len(grid.axis_2), len(grid.axis))
        for some in (of_all, *few.softmax(2))
    )
    choices = few.argmax(2)
    differ = (choices != choices[0]).any(0)
    radius = usual_radius(points) if settings.radius is None else settings.radius
    away = are_away(grid.places, points, radius)
    shown = points[:SHOWN].double()
    return {
        "axis": grid.axis.tolist(),
        "axis_2": grid.axis_2.tolist(),
        "field": field.tolist(),
        "sample_fields": [one.flatten().tolist() for one in fields],
        "train_x": shown[:, 0].tolist(),
        "train_y": shown[:, 1].tolist(),
        "train_labels": data.train_labels[:SHOWN].double().tolist(),
        "train_agreement_percent": _percent(~differ[num:]),
        "away_disagreement_percent": _percent(differ[:num][away]),
        "near_disagreement_percent": _percent(differ[:num][~away]),
        "train_error_percent": _percent(of_all[num:].argmax(1) != data.train_labels),
        "roughness": roughness(field, grid),
        "sample_roughness": sum(roughness(one, grid) for one in fields) / len(fields),
        "radius": radius,
        "away_percent": _percent(away),
        "num_networks": len(logits),
        "num_samples": len(few),
        "label": settings.label,
    }


def _spread(num: int, most: int) -> list[int]:
    """Return the places of at most `most` of `num` networks, evenly spread."""
    return torch.linspace(0, num - 1, min(num, most)).round().int().tolist()


def _percent(found: Tensor) -> float | None:
    """Return the share of places where something holds; None if there is no place."""
    return 100 * float(found.double().mean()) if len(found) else None
