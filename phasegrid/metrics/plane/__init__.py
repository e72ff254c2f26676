"""The loss on the plane through the two ends and a bend of a curve."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation_bytes, passes
from phasegrid.metrics.ranges import Count, NonNegative


@dataclass(frozen=True, slots=True)
class PlaneArgs:
    """The loss on the plane through the ends w_0, w_2 and the bend w_1 of a curve (Garipov et al.
    2018, figure 1).

    The origin is w_0; u points along w_2 - w_0, and v along the part of w_1 - w_0 that is
    orthogonal to u (Gram-Schmidt). The grid has `points` x `points` points over the bounding
    rectangle of the three points, extended by `margin` of its width and height on every side (21
    and 0.2: the published code). Of several bends the middle one is used (of an even number, the
    earlier one), unless `bend` selects one, counted from 1.

    BatchNorm statistics are recomputed at every point from at most `refresh_examples` training
    examples. The loss is evaluated on `examples` of each set, drawn once; null: all of them.
    """

    points: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 21
    margin: NonNegative = 0.2
    bend: Count | None = None
    examples: Count | None = None
    refresh_examples: Count | None = None


_GRID = "entry [j][i] at origin + axis[i] u + axis_2[j] v; null where it is not finite"


def _surfaces(part: str, called: str) -> tuple[Column, Column]:
    grid: Literal["list<list<float64>>"] = "list<list<float64>>"
    loss = f"mean loss on the {called} set, {_GRID}"
    error = f"{called} error, likewise"
    return (
        Column(f"{part}_loss", grid, UNIT_OF_LOSS, loss, label=f"{called} loss"),
        Column(f"{part}_error_percent", grid, "%", error, label=f"{called} error"),
    )


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    asked = args["examples"]
    train, test = work.num_train, work.num_test
    if asked is not None:
        train, test = min(train, int(asked)), min(test, int(asked))
    refreshed = args["refresh_examples"]
    refresh = work.num_train if refreshed is None else min(work.num_train, int(refreshed))
    point = passes(work, train + test + refresh, 500, 1)
    return int(args["points"]) ** 2 * point


def _memory(job: Measurement) -> int:
    return FLOAT * 5 * job.work.num_parameters + evaluation_bytes(job.work)


def _bend_of_curve(args: Mapping[str, Any], curve: Mapping[str, Any]) -> Finding | None:
    num, bend = curve["bends"], args["bend"]
    if num == 0:
        return "of", "found a curve without bends, which spans no plane; give it bends: 1 or more"
    if bend is not None and bend > num:
        return "bend", f"found bend {bend}, but the curve has bends: {num}; allowed: 1 to {num}"
    return None


PLANE = Metric(
    over="artifact",
    args=PlaneArgs,
    compute="phasegrid.metrics.plane.compute:compute",
    heavy=True,
    label="Plane",
    reads="curve",
    source_rule=_bend_of_curve,
    cost=_cost,
    memory=_memory,
    columns=(
        Column("axis", "list<float64>", "", "coordinates along u, in weight space, ascending"),
        Column("axis_2", "list<float64>", "", "those along v"),
        *_surfaces("train", "training"),
        *_surfaces("test", "test"),
        Column("points_u", "list<float64>", "", "u of the first end, the bend and the second end"),
        Column("points_v", "list<float64>", "", "v of the first end, the bend and the second end"),
    ),
)
