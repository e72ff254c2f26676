"""The loss on the straight lines from vertex to vertex of a complex."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Annotated, Any

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric, later
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation, evaluation_bytes
from phasegrid.metrics.augmentation import AsTrained, augments_images
from phasegrid.metrics.ranges import Count
from phasegrid.metrics.refreshing import nothing_refreshed
from phasegrid.metrics.simplex.vertices import Vertex, unknown_connector, unknown_mode


@dataclass(frozen=True, slots=True)
class VertexPathArgs:
    """Loss and error on the straight lines through vertices of a complex, one after another.

    `through` names them: modes w0, w1, ... in the order of the networks, connectors c0, c1, ... in
    that of their training. Null: w0, c0, w1, c1, ..., with a connector between every two modes,
    from the first again when there are too few, and those that are left at the end. Each line has
    `points` equally spaced points, its end among them, and the path begins at its first vertex.

    BatchNorm statistics are recomputed at every point from at most `refresh_examples` training
    examples, augmented by `refresh_augment` (null: as those of the complex), unless that has
    ``batch_norm: saved``.
    """

    through: Annotated[tuple[Vertex, ...], Field(min_length=2)] | None = None
    points: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 10
    refresh_examples: Count | None = None
    refresh_augment: AsTrained = later(None)


def path_through(modes: int, connectors: int) -> Iterator[str]:
    """Yield the vertices of the usual path.

    >>> list(path_through(3, 1)), list(path_through(2, 3)), list(path_through(1, 2))
    (['w0', 'c0', 'w1', 'c0', 'w2'], ['w0', 'c0', 'w1', 'c1', 'c2'], ['w0', 'c0', 'c1'])
    """
    yield "w0"
    for mode in range(1, modes):
        yield f"c{(mode - 1) % connectors}"
        yield f"w{mode}"
    for connector in range(modes - 1, connectors):
        yield f"c{connector}"


def _cost(job: Measurement) -> Guess:
    through = job.args["through"]
    usual = max(3, 2 * job.num_networks - 2)  # of one mode or more, with up to three connectors
    lines = usual if through is None else len(through) - 1
    return 2 * lines * int(job.args["points"]) * evaluation(job.work)


def _fits_complex(args: Mapping[str, Any], complex_: Mapping[str, Any]) -> Finding | None:
    unknown = unknown_connector(args["through"] or (), complex_)
    return nothing_refreshed(args, complex_) if unknown is None else ("through", unknown)


def _has_modes(args: Mapping[str, Any], num: int) -> Finding | None:
    unknown = unknown_mode(args["through"] or (), num)
    return None if unknown is None else ("through", unknown)


def _moves(args: Mapping[str, Any]) -> Finding | None:
    """Check that no vertex follows itself."""
    for place, (one, other) in enumerate(pairwise(args["through"] or ())):
        if one == other:
            return f"through.{place + 1}", f"found {other} after itself; leave one of them out"
    return None


MEASURED: Mapping[str, tuple[str, str, bool]] = {
    "train_loss": ("training loss", UNIT_OF_LOSS, True),
    "train_error_percent": ("training error", "%", False),
    "test_loss": ("test loss", UNIT_OF_LOSS, False),
    "test_error_percent": ("test error", "%", True),
}
"""What is measured at every point, in words, with its unit, and whether its highest number is shown
unasked.
"""


def _columns(name: str) -> tuple[Column, ...]:
    called, unit, shown = MEASURED[name]
    kinds = {
        "max": ("highest", "on the path", shown),
        "min": ("lowest", "on the path", False),
        "mean": ("mean", "on the path, uniform in length", False),
        "max_vertex": ("highest", "of the vertices", False),
        "min_vertex": ("lowest", "of the vertices", False),
        "max_between": ("highest", "between the vertices", False),
    }
    return (
        Column(name, "list<float64>", unit, f"{called} at each t; null if not finite", called),
        *(
            Column(
                f"{kind}_{name}",
                "float64",
                unit,
                f"{which} {called} {where}; null if a number is missing",
                label=f"{which} {called} {where.partition(',')[0]}",
                better="lower",
                role="value" if is_shown else "asked",
                quantity=f"path_{kind}_{name}",
            )
            for kind, (which, where, is_shown) in kinds.items()
        ),
    )


def _ticks(at: str) -> tuple[str, str]:
    return at, "vertex_name"


VERTEX_PATH = Metric(
    over="artifact",
    args=VertexPathArgs,
    compute="phasegrid.metrics.vertex_path.compute:compute",
    label="Path through vertices",
    reads=("complex",),
    source_rules={"complex": _fits_complex},
    of_networks=_has_modes,
    rules=(_moves,),
    fits=augments_images,
    cost=_cost,
    memory=lambda job: FLOAT * 8 * job.work.num_parameters + evaluation_bytes(job.work),
    columns=(
        Column(
            "t",
            "list<float64>",
            "",
            "points of the path: 0 at its first vertex, 1 at the second, and so on",
            label="path through the vertices",
            ticks=_ticks("vertex_t"),
        ),
        Column(
            "distance",
            "list<float64>",
            "",
            "length of the path up to each point, in weight space",
            label="length of the path",
            ticks=_ticks("vertex_distance"),
        ),
        Column("vertex_name", "list<string>", "", "names of the vertices on the path, in order"),
        Column("vertex_t", "list<float64>", "", "where they are"),
        Column("vertex_distance", "list<float64>", "", "the same, as a length of the path"),
        *chain.from_iterable(map(_columns, MEASURED)),
    ),
)
