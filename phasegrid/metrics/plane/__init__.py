"""The loss on the plane through three networks, the ends and a bend of a curve, or three vertices
of a complex.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric, later, list_column
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation_bytes, passes
from phasegrid.metrics.augmentation import AsTrained, augments_images
from phasegrid.metrics.ranges import Count, NonNegative
from phasegrid.metrics.refreshing import nothing_refreshed
from phasegrid.metrics.simplex.vertices import Vertex, unknown_connector, unknown_mode

Resolution = Annotated[int, Field(ge=2, le=MAX_COUNT)]


@dataclass(frozen=True, slots=True)
class PlaneArgs:
    """The loss on a plane in weight space (Garipov et al. 2018, figure 1 and appendix A.1).

    The plane goes through the first three networks: its origin is the first, u points along the
    line to the second, and v along the part of the third that is orthogonal to u (Gram-Schmidt).
    All further networks are projected onto it. ``of`` a mode connectivity the three are the two
    ends, which are on u, and a bend; the curve and its other bends are projected. Of several bends
    the middle one is used (of an even number, the earlier one), unless `bend` selects one, counted
    from 1. ``of`` a complex the three are its `vertices`, by name (modes w0, w1, ..., connectors
    c0, c1, ...): the first and the last are on u. All other vertices are projected.

    The grid has `points` x `points_2` points (null: as many as on u) over the bounding rectangle of
    the three points and, without ``of``, of the projections of other networks, extended by `margin`
    of its width and `margin_2` of its height (null: `margin`) on every side (21 and 0.2: the
    published code of Garipov et al.).

    Means are over the points of the grid in the triangle of the three points, and over those
    outside of it in the triangle that is `SCALED` times as large with the same centre, as far as
    the grid goes (a margin of 0.35 holds all of it).

    BatchNorm statistics are recomputed at every point from at most `refresh_examples` training
    examples, augmented by `refresh_augment` (null: as those of the curve or the complex, if that
    says it), unless the complex has ``batch_norm: saved``. The loss is evaluated on `examples` of
    each set, drawn once; null: all of them. The regularised loss is the loss + weight_decay/2
    |w|^2; a `weight_decay` of null is that with which the curve was trained, and without a curve
    there is no regularised loss. (The published code adds a sum of norms instead of their squares,
    which is not the loss that it minimises.)
    """

    points: Resolution = 21
    margin: NonNegative = 0.2
    bend: Count | None = None
    examples: Count | None = None
    refresh_examples: Count | None = None
    points_2: Resolution | None = later(None)
    margin_2: NonNegative | None = later(None)
    weight_decay: NonNegative | None = later(None)
    vertices: tuple[Vertex, ...] | None = later(None)
    refresh_augment: AsTrained = later(None)


SCALED = 1.5
"""The size of the triangle around that of the three points."""

MEASURED: Mapping[str, tuple[str, str, bool]] = {
    "train_loss": ("training loss", UNIT_OF_LOSS, True),
    "train_error_percent": ("training error", "%", False),
    "test_loss": ("test loss", UNIT_OF_LOSS, False),
    "test_error_percent": ("test error", "%", True),
    "train_regularised_loss": ("regularised training loss", UNIT_OF_LOSS, False),
    "test_regularised_loss": ("regularised test loss", UNIT_OF_LOSS, False),
}
"""What is measured at every point, in words, with its unit, and whether its highest number between
the networks and along the path is shown unasked.
"""

TRIANGLES = {
    "inside": "in the triangle of the three points",
    "outside": f"outside of this triangle, in the one {SCALED:g} times as large around it",
}


def _columns(name: str) -> tuple[Column, ...]:
    called, unit, shown = MEASURED[name]
    role: Literal["value", "asked"] = "value" if shown else "asked"
    surface = f"{called}, entry [j][i] at origin + axis[i] u + axis_2[j] v; null if not finite"
    on = "interpolated between the points of the grid"
    return (
        Column(name, "list<list<float64>>", unit, surface, label=called),
        Column(f"points_{name}", "list<float64>", unit, f"{called} of each point as a network"),
        Column(
            f"max_edge_{name}",
            "float64",
            unit,
            f"highest {called} on the straight lines between the networks of the plane, {on}",
            label=f"highest {called} between the networks",
            better="lower",
            role=role,
            quantity=f"plane_max_edge_{name}",
        ),
        Column(
            f"max_path_{name}",
            "float64",
            unit,
            f"highest {called} on the projection of the curve, or on the edges of the complex"
            f" between the three points, {on}; null without either",
            label=f"highest {called} on the projected curve",
            better="lower",
            role=role,
            quantity=f"plane_max_path_{name}",
        ),
        *(
            Column(
                f"mean_{where}_{name}",
                "float64",
                unit,
                f"mean {called} over the points of the grid {which}; null if there is none, or"
                " one is null",
                label=f"mean {called} {where} the triangle",
                better="lower",
                role="asked",
                quantity=f"plane_mean_{where}_{name}",
            )
            for where, which in TRIANGLES.items()
        ),
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
    across, up = int(args["points"]), int(args.get("points_2") or args["points"])
    return (across * up + job.num_networks) * point


def _memory(job: Measurement) -> int:
    vectors = max(3, job.num_networks) + 2
    return FLOAT * vectors * job.work.num_parameters + evaluation_bytes(job.work)


def _fits_curve(args: Mapping[str, Any], curve: Mapping[str, Any]) -> Finding | None:
    num, bend = curve["bends"], args["bend"]
    if num == 0:
        return "of", "found a curve without bends, which spans no plane; give it bends: 1 or more"
    if bend is not None and bend > num:
        return "bend", f"found bend {bend}, but the curve has bends: {num}; allowed: 1 to {num}"
    return None


def _fits_complex(args: Mapping[str, Any], complex_: Mapping[str, Any]) -> Finding | None:
    three = args["vertices"]
    if three is None:
        return "vertices", "found none; of a complex, write three of its vertices: [w0, c0, w1]"
    if len(three) != 3 or len(set(three)) < 3:
        found = ", ".join(three) or "none"
        return "vertices", f"found {found}; a plane goes through three vertices, each once"
    unknown = unknown_connector(three, complex_)
    return nothing_refreshed(args, complex_) if unknown is None else ("vertices", unknown)


def _has_modes(args: Mapping[str, Any], num: int) -> Finding | None:
    unknown = unknown_mode(args["vertices"] or (), num)
    return None if unknown is None else ("vertices", unknown)


def _detail(name: str, doc: str) -> Column:
    return Column(name, "float64", "", doc, role="detail")


PLANE = Metric(
    over="cell",
    args=PlaneArgs,
    compute="phasegrid.metrics.plane.compute:compute",
    min_trials=3,
    one_model=True,
    heavy=True,
    label="Plane",
    reads=("curve", "complex"),
    of_only={"bend": ("curve",), "vertices": ("complex",)},
    of_networks=_has_modes,
    fits=augments_images,
    source_rules={"curve": _fits_curve, "complex": _fits_complex},
    cost=_cost,
    memory=_memory,
    columns=(
        list_column("axis", "coordinates along u, in weight space, ascending"),
        list_column("axis_2", "those along v"),
        *chain.from_iterable(map(_columns, MEASURED)),
        list_column(
            "points_u",
            "u of each network in order; or of the first end, each bend, and the end; or of each"
            " vertex of a complex, modes before connectors",
        ),
        list_column("points_v", "v of these points"),
        list_column("points_distance", "distance of these points from the plane"),
        Column(
            "points_name", "list<string>", "", "names of these vertices; null without a complex"
        ),
        Column("corners", "list<string>", "", "names of the three points; null without a complex"),
        Column(
            "edges",
            "list<list<float64>>",
            "",
            "pairs of corners, by their place, with an edge"
            " of the complex between them; null without one",
        ),
        Column("num_bends", "int64", "", "how many of these points are bends of a curve"),
        list_column("path_t", "121 equally spaced points of the curve; null without a curve"),
        list_column("path_u", "u of these points of the curve"),
        list_column("path_v", "v of these points of the curve"),
        list_column("path_distance", "distance of these points of the curve from the plane"),
        _detail("width", "length of the side along u, from the first to the second point on it"),
        _detail("height", "distance of the third point from the line through these"),
        _detail("shear", "place of the third point along this line, as a share of the width"),
        Column("weight_decay", "float64", "", "of the regularised loss", role="detail"),
    ),
)
