"""Measure the loss along straight lines through trained weights.

L(theta + t s epsilon), L the mean loss of the trial's objective (Xu et al. 2024, eq. 1): a line
for each direction that is read. Losses are exact for the drawn examples, in float32 (or
`precision`) with float64 sums. A line shows one of many dimensions.

Letters: D directions, P trainable parameters, T points, N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.directions.left import read_directions
from phasegrid.metrics.directions.scaling import normalise, usual_scaling
from phasegrid.metrics.lines import LinesArgs
from phasegrid.metrics.lines.patches import Patches, measure_patches
from phasegrid.metrics.lines.shapes import count_stationary, extrema_of, falls_to_centre, shape_of
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.slice.evaluation import (
    Examples,
    MovingNetwork,
    draw_some,
    make_examples,
    refresh_inputs,
)
from phasegrid.models.weights import has_batch_norm, parameter_slices

Numbers = list[float | None]
Row = dict[str, float | int | str | bool | list[float] | Numbers | None]


@dataclass(frozen=True, slots=True)
class Sets:
    """The sets on which a line is measured: the drawn training examples as they are, and what is
    prepared of them and of the test set.
    """

    inputs: Tensor
    labels: Tensor
    prepared: Sequence[Examples]


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source],
    **args: object,
) -> list[Row]:
    """Measure lines through the first of `models` along the directions of `sources`; `args` are the
    fields of `LinesArgs`. Return a row for each.

    Deterministic in `rng` and the model, which is not changed. A point whose outputs are not finite
    has null loss and null error.

    Raises:
        MetricError: if the directions belong to other weights or are not there, one becomes zero,
            the outputs have a wrong shape, or the loss at the trained weights is not finite.
    """
    settings = LinesArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    left = read_directions(models, sources, "lines")
    names = left.names if settings.along is None else settings.along
    model, seed = models[0], settings.example_seed
    refreshed = settings.batch_norm == "refreshed"
    statistics = refresh_inputs(model, data, settings.refresh_examples, seed) if refreshed else None
    network = MovingNetwork(model, statistics, settings.precision)
    chosen = draw_some(data.train_inputs, data.train_labels, settings.examples, seed)
    prepared = [make_examples(network, *chosen, data.scoring)]
    if settings.test:
        tested = draw_some(data.test_inputs, data.test_labels, settings.examples, seed)
        prepared.append(make_examples(network, *tested, data.scoring))
    sets = Sets(*chosen, prepared)
    common: Row = {
        "num_classes": data.facts.num_classes,
        "num_examples": len(chosen[1]),
        "num_test_examples": len(tested[1]) if settings.test else None,
        "batch_norm": settings.batch_norm if has_batch_norm(model) else None,
    }
    rows = []
    for name in names:
        direction, how = _scaled(left.pick([name], "lines"), left.weights, name, model, settings)
        rows.append({"direction": name, **how, **common})
        rows[-1] |= _line(network, direction, sets, settings, rng)
    return rows


def equally_spaced(low: float, high: float, points: int) -> list[float]:
    """Return `points` coordinates from `low` to `high`, ends and, where it is one of them, 0
    exact.

    >>> equally_spaced(-1, 2, 4)
    [-1.0, 0.0, 1.0, 2.0]
    """
    last = points - 1
    return [(low * (last - i) + high * i) / last for i in range(points)]


def _scaled(
    vector: Tensor, weights: Tensor, name: str, model: nn.Module, settings: LinesArgs
) -> tuple[Tensor, Row]:
    """Return s epsilon (P,) of a direction (1, P), and what was done to it."""
    how = usual_scaling(name) if settings.normalize == "auto" else settings.normalize
    biases = settings.biases
    if biases == "auto":
        biases = "zero" if how in ("layer", "filter") else "kept"
    scaled = normalise(vector, weights, parameter_slices(model), how, keep_biases=biases == "kept")
    step = settings.scale * scaled[0]
    length = float(torch.linalg.vector_norm(step, dtype=torch.float64))
    return step, {"normalize": how, "biases": biases, "length": length}


def _line(
    network: MovingNetwork,
    direction: Tensor,
    sets: Sets,
    settings: LinesArgs,
    rng: torch.Generator,
) -> Row:
    axis = equally_spaced(settings.low, settings.high, settings.points)
    centre = network.flat.rows()[0]
    at_centre = _each(network, centre, sets.prepared[:1])[0][0]
    if finite_or_none(float(at_centre.mean())) is None:
        raise MetricError(
            f"lines: the loss at the trained weights is {float(at_centre.mean())}; these are not"
            " the weights of a successful training. Was it recorded as diverged?"
        )
    found = [_each(network, torch.add(centre, direction, alpha=t), sets.prepared) for t in axis]
    losses = [torch.stack([point[place][0] for point in found]) for place in range(len(found[0]))]
    row: Row = {"axis": axis, "centre_loss": float(at_centre.mean())}
    for place, name in enumerate(("train", "test")):
        there = place < len(losses)
        errors = [point[place][1] for point in found] if there else None
        row |= _columns(name, losses[place] if there else None, errors)
    row |= _shape_columns(losses[0], at_centre, axis, settings)
    network.flat.assign(centre)
    network.settle()
    patches = None
    if settings.patches:
        at = equally_spaced(settings.low, settings.high, max(2, settings.patches))
        at = at[: settings.patches]
        patches = measure_patches(
            network,
            direction,
            at,
            (sets.inputs, sets.labels),
            sets.prepared[0],
            settings.patch_radius,
            rng,
        )
    return row | _patch_columns(patches)


def _each(
    network: MovingNetwork, weights: Tensor, sets: Sequence[Examples]
) -> list[tuple[Tensor, float]]:
    """Return of each set the losses (N,) of its labels at some weights, in float64 on the CPU, and
    the error in percent.
    """
    network.flat.assign(weights)
    network.settle()
    found = []
    for examples in sets:
        losses, correct = network.each(examples)
        found.append((losses, 100 - 100 * float(correct.mean())))
    return found


def _columns(name: str, losses: Tensor | None, errors: Sequence[float] | None) -> Row:
    row: Row = {}
    means: Numbers | None = None
    percents: Numbers | None = None
    if losses is not None and errors is not None:
        means = [finite_or_none(mean) for mean in losses.mean(dim=1).tolist()]
        pairs = zip(means, errors, strict=True)
        percents = [None if mean is None else error for mean, error in pairs]
    for column, values in ((f"{name}_loss", means), (f"{name}_error_percent", percents)):
        row[column] = values
        present = [value for value in values or () if value is not None]
        whole = values is not None and len(present) == len(values)
        row[f"lowest_{column}"] = min(present) if whole else None
        row[f"highest_{column}"] = max(present) if whole else None
    return row


def _shape_columns(
    losses: Tensor, at_centre: Tensor, axis: Sequence[float], settings: LinesArgs
) -> Row:
    means = [finite_or_none(mean) for mean in losses.mean(dim=1).tolist()]
    present = [mean for mean in means if mean is not None]
    row: Row = {"num_stationary_points": count_stationary(means)}
    if len(present) < len(means):
        return row | dict.fromkeys(
            ("shape", "num_extrema", "falls_to_centre", "drop", "drop_at"), None
        )
    lowest = min(present)
    return row | {
        "shape": shape_of(losses, axis, settings.significance),
        "num_extrema": len(extrema_of(losses, settings.significance)),
        "falls_to_centre": falls_to_centre(losses, axis, settings.significance),
        "drop": float(at_centre.mean()) - lowest,
        "drop_at": axis[present.index(lowest)],
    }


def _patch_columns(patches: Patches | None) -> Row:
    if patches is None:
        names = ("patch_t", "patch_loss", "patch_slope", "patch_curvature", "patch_error")
        return dict.fromkeys(names, None)
    return {
        "patch_t": patches.t,
        "patch_loss": patches.loss,
        "patch_slope": patches.slope,
        "patch_curvature": patches.curvature,
        "patch_error": patches.error,
    }
