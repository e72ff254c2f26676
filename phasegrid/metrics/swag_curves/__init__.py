"""Curves through bends that are drawn from SWAG's Gaussian over the bends of a curve."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric, later, list_column
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation, evaluation_bytes, passes
from phasegrid.metrics.augmentation import AsTrained, augments_images
from phasegrid.metrics.plane import PLANE
from phasegrid.metrics.ranges import Count, NonNegative, Positive


@dataclass(frozen=True, slots=True)
class SwagCurvesArgs:
    """Curves of bends drawn from SWAG's Gaussian over the bends of a trained curve (Benton et al.
    2021, section 4.1 and figure 2), ``of`` a mode connectivity with ``swag_from_epoch``.

    - `samples` bends are drawn as by Maddox et al. 2019, equation 1, with their covariance times
      2 `scale`. As many random bends are compared with them, each as far from the mean bend as one
      of the samples, in a uniformly random direction; and as many that are as long as the mean
      bend, in a uniformly random direction.
    - Each curve is evaluated at `points` equally spaced t, with BatchNorm statistics of at most
      `refresh_examples` training examples, augmented by `refresh_augment` (null: as those of the
      trained curve); its loss is the mean over t (trapezoid rule) or the
      highest.
    - The plane goes through the two ends and the trained bend, as in ``plane``, with `resolution`
      points on a side (null: no plane); sampled bends and their curves are projected onto it.
    """

    samples: Count = 20
    scale: Positive = 0.5
    points: Annotated[int, Field(ge=3, le=MAX_COUNT)] = 21
    refresh_examples: Count | None = None
    refresh_augment: AsTrained = later(None)
    resolution: Annotated[int, Field(ge=2, le=MAX_COUNT)] | None = 21
    margin: NonNegative = 0.2


GROUPS: Mapping[str, tuple[str, str]] = {
    "sample": ("sampled", "of each sampled bend"),
    "step": ("random, as near", "of each random bend as far from the mean bend as a sample"),
    "random": ("random, as long", "of each random bend as long as the mean bend"),
}
"""The groups of curves that are compared, in few words and in more."""


def _cost(job: Measurement) -> Guess:
    args = job.args
    point = 2 * evaluation(job.work) + passes(job.work, job.work.num_train, 500, 1)
    grid = int(args["resolution"] or 0) ** 2
    return ((len(GROUPS) * int(args["samples"]) + 2) * int(args["points"]) + grid) * point


def _memory(job: Measurement) -> int:
    vectors = int(job.args["samples"]) + 30
    return FLOAT * vectors * job.work.num_parameters + evaluation_bytes(job.work)


def _has_moments(_args: Mapping[str, Any], curve: Mapping[str, Any]) -> Finding | None:
    if curve["swag_from_epoch"] is not None:
        return None
    return "of", "found a curve without moments; give it swag_from_epoch: 20, or another epoch"


def _lists(group: str) -> tuple[Column, ...]:
    """Return the lists of a group of curves."""
    short, where = GROUPS[group]
    kinds = {
        "mean_train_loss": (UNIT_OF_LOSS, "mean training loss over t"),
        "max_train_loss": (UNIT_OF_LOSS, "highest training loss"),
        "mean_test_loss": (UNIT_OF_LOSS, "mean test loss over t"),
        "mean_test_error_percent": ("%", "mean test error over t"),
        "distance": ("", "distance from the mean bend"),
    }
    return tuple(
        Column(
            f"{group}_{name}",
            "list<float64>",
            unit,
            f"{what}, {where}",
            label=f"{short}: {what}",
        )
        for name, (unit, what) in kinds.items()
    )


def _of_curve(name: str, called: str) -> tuple[Column, ...]:
    kinds = {"train_loss": "training loss", "test_loss": "test loss"}
    return tuple(
        Column(
            f"{name}_{kind}_{loss}",
            "float64",
            UNIT_OF_LOSS,
            f"{'highest' if kind == 'max' else 'mean'} {what} on the curve of the {called}",
            role="asked",
            quantity=f"swag_curves_{name}_{kind}_{loss}",
        )
        for loss, what in kinds.items()
        for kind in ("mean", "max")
    )


def _ratio(name: str, doc: str) -> Column:
    return Column(name, "float64", "", doc, label=doc, scale="log", quantity=f"swag_curves_{name}")


SWAG_CURVES = Metric(
    over="artifact",
    args=SwagCurvesArgs,
    compute="phasegrid.metrics.swag_curves.compute:compute",
    min_trials=2,
    one_model=True,
    heavy=True,
    label="SWAG over bends",
    reads=("curve_moments",),
    source_rules={"curve_moments": _has_moments},
    fits=augments_images,
    cost=_cost,
    memory=_memory,
    columns=(
        _ratio("highest_sample", "highest loss of a sampled curve over that of the trained"),
        _ratio("lowest_step", "lowest loss at random bends as near, over that of the trained"),
        _ratio("lowest_random", "lowest loss at random bends as long, over that of the trained"),
        *_of_curve("trained", "trained bend"),
        *_of_curve("mean_bend", "mean bend"),
        Column("num_collected", "int64", "", "bends that the moments are of", role="detail"),
        Column("rank", "int64", "", "deviations of the low-rank part", role="detail"),
        *(column for group in GROUPS for column in _lists(group)),
        *(
            replace(column, doc=f"{column.doc}, as in plane")
            for column in PLANE.columns
            if column.type.startswith("list") or column.name == "num_bends"
        ),
        list_column("samples_u", "u of each sampled bend"),
        list_column("samples_v", "v of each sampled bend"),
        list_column("samples_distance", "its distance from the plane"),
        Column("samples_path_u", "list<list<float64>>", "", "u of points of each sampled curve"),
        Column("samples_path_v", "list<list<float64>>", "", "v of these"),
    ),
)
