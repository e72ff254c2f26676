"""Measure a complex: its volume, and losses and accuracies at points drawn from it; if asked for,
also that of its first 1, 2, ... connectors.

Letters: S simplexes, M modes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import (
    Numbers,
    PointEvaluation,
    Row,
    finite_or_none,
    losses_and_errors,
)
from phasegrid.metrics.network.turns import Work
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import Complex
from phasegrid.metrics.simplex.dimension import log_height, num_sound
from phasegrid.metrics.simplex.growing import Growing
from phasegrid.metrics.simplex.placing import placed_columns
from phasegrid.metrics.simplex.sampling import sample_coefficients
from phasegrid.metrics.simplex.volume import (
    kinds_of,
    log_volumes_of,
    total_log_volume,
    volume_shares,
)
from phasegrid.metrics.simplex.wiring import Simplexes, up_to, vertex_names


def measure(
    growing: Growing, simplexes: Simplexes, settings: SimplexArgs
) -> Work[dict[str, object]]:
    """Return the columns about volumes and points of a complex with trained connectors; yield after
    every point.
    """
    complex_, num = Complex(growing.vertices, simplexes), settings.eval_samples
    log_volumes = log_volumes_of(complex_)
    finite = bool(complex_.vertices.isfinite().all())
    coefficients = draw(growing, complex_, log_volumes, settings)
    corners = torch.eye(len(complex_.vertices)).to(coefficients)
    every = torch.cat([coefficients, corners])
    points = yield from evaluated(growing, complex_, every if finite else coefficients)
    expected = expected_columns(points[:num])
    row: dict[str, object] = {
        "log_volume": finite_or_none(log_volume_of(complex_, log_volumes)),
        "log_volumes": [finite_or_none(value) for value in log_volumes.tolist()],
        "log_code_volume": finite_or_none(2 * float(log_volumes[0])),
        "dimension": max(complex_.dimensions),
        "num_modes": growing.num_modes,
        "num_connectors": settings.connectors,
        "vertex_name": list(vertex_names(growing.num_modes, settings.connectors)),
        "simplexes": [[float(vertex) for vertex in simplex] for simplex in simplexes],
        **(placed_columns(complex_, coefficients, points) if finite else {}),
        **expected,
        "diverged": expected["expected_train_loss"] is None,
        "num_samples": num,
    }
    return row | (yield from _of_first(growing, complex_, expected, settings))


def log_volume_of(complex_: Complex, log_volumes: Tensor) -> float:
    """Return the log-volume of a complex from those (S,) of its simplexes."""
    return total_log_volume(log_volumes, kinds_of(complex_.dimensions, log_volumes.device))


def draw(growing: Growing, complex_: Complex, log_volumes: Tensor, settings: SimplexArgs) -> Tensor:
    """Draw points of a complex whose simplexes have these `log_volumes` (S,)."""
    shares = torch.full_like(log_volumes, 1 / len(log_volumes))
    if settings.sampling == "volume":
        shares = volume_shares(log_volumes, kinds_of(complex_.dimensions, log_volumes.device))
    num_vertices, num = len(complex_.vertices), settings.eval_samples
    return sample_coefficients(shares, complex_.members, num_vertices, num, growing.rng)


def evaluated(
    growing: Growing, complex_: Complex, coefficients: Tensor
) -> Work[list[PointEvaluation]]:
    """Measure points of a complex; yield after each."""
    flat, measured = growing.flat, list[PointEvaluation]()
    passes = Passes(flat, growing.evaluator.data.scoring)
    for row in coefficients.to(complex_.vertices):
        flat.assign(row @ complex_.vertices)
        growing.rest.place(flat, row)
        measured.append(growing.evaluator.measure(passes))
        yield
    return measured


def expected_columns(points: Sequence[PointEvaluation]) -> dict[str, float | None]:
    """Estimate loss and accuracy over a complex from points of it.

    Means, and standard errors s / sqrt(num) with s over the points. Null if a loss is not finite.
    """
    columns: dict[str, float | None] = {}
    for name in ("train", "test"):
        evaluations = [point.train if name == "train" else point.test for point in points]
        loss = torch.tensor([e.loss for e in evaluations], dtype=torch.float64)
        percents = torch.tensor([e.accuracy_percent for e in evaluations], dtype=torch.float64)
        accuracy = sum(percents.tolist()) / len(points)
        sound, root = bool(loss.isfinite().all()), math.sqrt(len(points))
        found = {"loss": (float(loss.mean()), loss), "accuracy_percent": (accuracy, percents)}
        for what, (mean, values) in found.items():
            columns[f"expected_{name}_{what}"] = mean if sound else None
            stderr = float(values.std()) / root if sound else None
            columns[f"expected_{name}_{what}_stderr"] = stderr
    _, errors = losses_and_errors([point.train for point in points])
    present = [error for error in errors if error is not None]
    whole = len(present) == len(errors)
    columns["lowest_train_accuracy_percent"] = 100.0 - max(present) if whole else None
    return columns


def _of_first(
    growing: Growing, complex_: Complex, whole: dict[str, float | None], settings: SimplexArgs
) -> Work[Row]:
    """Return the lists over the first 1, 2, ... connectors, and the dimension by these."""
    num, heights = growing.num_modes, Numbers()
    volumes, code_volumes = Numbers(), Numbers()
    expected = list[dict[str, float | None]]()
    for count in range(1, settings.connectors + 1):
        begun = up_to(complex_.simplexes, num + count)
        part = Complex(complex_.vertices[: num + count], begun)
        log_volumes = log_volumes_of(part)
        volumes.append(finite_or_none(log_volume_of(part, log_volumes)))
        code_volumes.append(finite_or_none(2 * float(log_volumes[0])))
        heights.append(finite_or_none(log_height(part, num + count - 1)))
        if count == settings.connectors:
            expected.append(whole)
        elif settings.every_connector:
            drawn = draw(growing, part, log_volumes, settings)
            points = yield from evaluated(growing, part, drawn)
            expected.append(expected_columns(points))
    row: Row = {
        "first_connectors": [float(count) for count in range(1, settings.connectors + 1)],
        "first_log_volume": volumes,
        "first_log_code_volume": code_volumes,
        "first_log_height": heights,
    }
    sampled = len(expected) == settings.connectors
    for name in FIRST:
        row[f"first_{name}"] = [one[name] for one in expected] if sampled else None
    row["low_loss_dimension"] = None
    if sampled:
        accuracies = [one["lowest_train_accuracy_percent"] for one in expected]
        k = num_sound(heights, accuracies, settings.collapse, settings.least_accuracy_percent)
        begun = up_to(complex_.simplexes, num + k) if k else ()
        row["low_loss_dimension"] = float(max((len(one) - 1 for one in begun), default=0))
    return row


FIRST = (
    "expected_train_loss",
    "expected_train_loss_stderr",
    "expected_test_loss",
    "expected_test_loss_stderr",
    "lowest_train_accuracy_percent",
)
"""The columns of points that are listed by the number of connectors."""
