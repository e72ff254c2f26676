"""Draw bends from SWAG's Gaussian over the bends of a curve, and measure their curves.

The ratios are those of mean training losses along a curve (uniform in t): of the worst sample, and
of the best random bend, over that of the trained bend.

Letters: n bends, P parameters, S samples, T points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.connectivity.along import summary
from phasegrid.metrics.connectivity.left import LeftCurve, read_curve
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.gaussian import Gaussian, gaussian_of
from phasegrid.metrics.network.left import Refresh, left_evaluator
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import (
    Numbers,
    Row,
    live_network,
    numbers_at,
)
from phasegrid.metrics.plane.compute import compute as plane
from phasegrid.metrics.plane.frame import make_frame, project
from phasegrid.metrics.swag_curves import SWAG_CURVES, SwagCurvesArgs
from phasegrid.seeding import nothing_drawn

PATH_POINTS = 41
"""Points of each sampled curve that are projected."""


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> dict[str, object]:
    """Measure curves between two models through bends drawn from the moments in `sources`; `args`
    are the fields of `SwagCurvesArgs`.

    Losses are exact at the drawn bends, which `rng` draws, but for the training examples that
    refresh BatchNorm.

    Raises:
        MetricError: if the artifact does not hold the moments of a curve between the models.
    """
    settings = SwagCurvesArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    with nothing_drawn("swag_curves", data.train_inputs.device):
        curve = read_curve(models, sources, "swag_curves")
        gaussian = gaussian_of(sources[0].tensors, "swag_curves")
        groups = _drawn(gaussian, settings, rng)
        shape, mean = curve.vertices[1:-1].shape, gaussian.mean
        curves = {
            "trained": [curve.vertices[1:-1]],
            "mean_bend": [mean.view(shape)],
            **{name: [bend.view(shape) for bend in bends] for name, bends in groups.items()},
        }
        along = _Along(curve, models[0], data, settings, rng)
        found = {name: [along.measured(bends) for bends in each] for name, each in curves.items()}
        row = {**_losses(found), **_distances(groups, mean), **_ratios(found)}
        row["num_collected"] = int(sources[0].tensors["count"])
        row["rank"] = len(gaussian.deviations)
        if settings.resolution is not None:
            row |= _on_plane(models, data, sources, settings, curve, curves["sample"], rng)
    return row


def _drawn(
    gaussian: Gaussian, settings: SwagCurvesArgs, rng: torch.Generator
) -> dict[str, list[Tensor]]:
    """Return the bends (n P,) of each group, in float64."""
    mean = gaussian.mean
    samples = [gaussian.sample(settings.scale, rng) for _ in range(settings.samples)]
    away = [float(torch.linalg.vector_norm(sample - mean)) for sample in samples]
    length = float(torch.linalg.vector_norm(mean))
    return {
        "sample": samples,
        "step": [mean + far * _direction(mean, rng) for far in away],
        "random": [length * _direction(mean, rng) for _ in samples],
    }


def _direction(like: Tensor, rng: torch.Generator) -> Tensor:
    """Return a vector of length 1 and uniformly random direction."""
    drawn = torch.randn(len(like), generator=rng, dtype=torch.float64).to(like)
    direction: Tensor = drawn / torch.linalg.vector_norm(drawn)
    return direction


class _Along:
    """Measures curves between the ends of one curve through other bends."""

    def __init__(
        self,
        curve: LeftCurve,
        model: nn.Module,
        data: Dataset,
        settings: SwagCurvesArgs,
        rng: torch.Generator,
    ) -> None:
        self._curve, self._flat = curve, live_network(model)
        refresh = Refresh(settings.refresh_examples, settings.refresh_augment)
        self._evaluator = left_evaluator(curve.args, self._flat.module, data, refresh, rng)
        self._passes = Passes(self._flat, data.scoring)
        t = torch.linspace(0, 1, settings.points, dtype=torch.float64)
        self._coefficients = curve.coefficients(t)

    def measured(self, bends: Tensor) -> dict[str, float | None]:
        """Return the mean and the highest of what is measured along a curve with these `bends` (n,
        P).
        """
        curve = replace(self._curve, vertices=_with_bends(self._curve.vertices, bends))
        found = []
        for coefficients in self._coefficients:
            curve.place(self._flat, coefficients)
            found.append(self._evaluator.measure(self._passes))
        each: dict[str, float | None] = {}
        for name, values in numbers_at(found).items():
            each |= summary(name, values, [1.0] * (len(values) - 1))
        return each


def _with_bends(vertices: Tensor, bends: Tensor) -> Tensor:
    return torch.cat([vertices[:1], bends.to(vertices), vertices[-1:]])


Found = Mapping[str, Sequence[Mapping[str, float | None]]]
"""What was measured along the curves of each group."""


def _losses(found: Found) -> dict[str, object]:
    """Return the columns of the losses along curves."""
    columns: dict[str, object] = {}
    for group in ("trained", "mean_bend"):
        for loss in ("train_loss", "test_loss"):
            for kind in ("mean", "max"):
                columns[f"{group}_{kind}_{loss}"] = found[group][0][f"{kind}_{loss}"]
    for group in ("sample", "step", "random"):
        for name in ("mean_train_loss", "max_train_loss", "mean_test_loss"):
            columns[f"{group}_{name}"] = [each[name] for each in found[group]]
        errors: Numbers = [each["mean_test_error_percent"] for each in found[group]]
        columns[f"{group}_mean_test_error_percent"] = errors
    return columns


def _distances(groups: Mapping[str, Sequence[Tensor]], mean: Tensor) -> Row:
    """Return how far the bends of each group are from the mean bend."""
    return {
        f"{name}_distance": [float(torch.linalg.vector_norm(bend - mean)) for bend in bends]
        for name, bends in groups.items()
    }


def _ratios(found: Found) -> Row:
    """Return the worst sample and the best random bends over the trained one; null where a loss is
    not finite or the trained one is 0.
    """
    trained = found["trained"][0]["mean_train_loss"]
    columns: Row = {}
    for name, group, choose in (
        ("highest_sample", "sample", max),
        ("lowest_step", "step", min),
        ("lowest_random", "random", min),
    ):
        losses = [each["mean_train_loss"] for each in found[group]]
        present = [loss for loss in losses if loss is not None]
        whole = len(present) == len(losses)
        columns[name] = choose(present) / trained if trained and whole else None
    return columns


def _on_plane(
    models: Sequence[nn.Module],
    data: Dataset,
    sources: Sequence[Source],
    settings: SwagCurvesArgs,
    curve: LeftCurve,
    samples: Sequence[Tensor],
    rng: torch.Generator,
) -> dict[str, object]:
    """Return the plane through the ends and the middle bend, and where sampled bends and their
    curves lie on it.
    """
    row = plane(
        models,
        data,
        rng,
        sources,
        points=settings.resolution,
        margin=settings.margin,
        refresh_examples=settings.refresh_examples,
        refresh_augment=settings.refresh_augment,
    )
    num = len(curve.vertices) - 2
    three = (0, (num + 1) // 2, num + 1)
    every = torch.cat([curve.vertices, *(bends.to(curve.vertices) for bends in samples)])
    projected = project(every, three, make_frame(curve.vertices[list(three)]))
    at = curve.coefficients(torch.linspace(0, 1, PATH_POINTS, dtype=torch.float64))
    paths = []
    for index in range(len(samples)):
        mixes = torch.zeros(PATH_POINTS, len(every), dtype=torch.float64)
        first = num + 2 + index * num
        mixes[:, 0], mixes[:, num + 1] = at[:, 0], at[:, -1]
        mixes[:, first : first + num] = at[:, 1:-1]
        paths.append(projected.mixed(mixes))
    new = slice(num + 2, None)
    shown = {name: value for name, value in row.items() if name in _PLANE}
    return shown | {
        "samples_u": projected.u[new].tolist(),
        "samples_v": projected.v[new].tolist(),
        "samples_distance": projected.rest.diag()[new].sqrt().tolist(),
        "samples_path_u": [u.tolist() for u, _, _ in paths],
        "samples_path_v": [v.tolist() for _, v, _ in paths],
    }


_PLANE = frozenset(column.name for column in SWAG_CURVES.columns)
