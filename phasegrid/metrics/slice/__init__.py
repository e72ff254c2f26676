"""The loss on a line or a plane through trained weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric, later
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation_bytes, passes
from phasegrid.metrics.directions.names import names_mistake, unknown_direction
from phasegrid.metrics.ranges import Count, NonNegative, Positive, Seed
from phasegrid.texts import counted

Names = Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]


@dataclass(frozen=True, slots=True)
class SliceArgs:
    """The loss at w + a d_1 (+ b d_2) around the trained weights w, with a and b from -`radius` to
    `radius` (Li et al. 2018, section 3).

    - With ``of``, the directions are those that a request for `directions` left: the first of them,
      or the two named in `along`; the other networks of that job are projected onto the plane.

    - `directions`: ``random`` (Gaussian), or ``hessian``: eigenvectors of the largest eigenvalues
      of the Hessian on the same `examples`, from at least 40 Lanczos steps (Xu et al. 2024, section
      2.4). The sign of an eigenvector has no meaning. ``weights``: the weights themselves, so that
      a line is the loss at (1 + a) w (Yenphraphai et al., "Mode-connecting volumes for sharp
      modes", section 4.1; their code has a from -0.2 to 0.2).
    - `normalize`: ``filter`` scales every filter of a direction to the norm of the network's
      filter, and sets biases and BatchNorm parameters (all that has one dimension) to zero (Li et
      al. 2018, section 4, and their published code with ``ignore=biasbn``). ``none`` scales the
      whole direction to the norm of w (Xu et al. 2024, section 2.1). ``auto``: ``filter`` for
      random directions, ``none`` for others, which filter normalisation would turn into other
      directions (the weights into those without biases and BatchNorm parameters). ``layer`` scales
      each parameter as a whole, without biases too; ``raw`` scales nothing, so that 1 is the other
      network along ``to_1``. With ``of``, ``auto`` is ``none`` for Gaussian directions,
      eigenvectors and components, and ``raw`` for others, each direction by itself.
    - `dimensions`: 1, a line, or 2, a plane. `points` on each axis: 41 as in Xu et al. 2024,
      section 2.2, for a line (their code is not published; Li et al. publish commands with 51).
      With an odd number, w itself is on the grid. Both papers use `radius` 1. `low`, `high`,
      `low_2`, `high_2` and `points_2` set the ends and the points of each axis (null: -`radius`,
      `radius`, `points`).
    - `coarse`: the grid is measured only where it bends, beginning with cells so many points wide
      (8 for 41 points); the rest is interpolated, up to differences of about `tolerance`, as a
      share of the range of the loss (0.02: less than half a level of a figure). Null: all points.
    - `curvature_step`, `significance`: the curvature at w along both axes of a plane is measured
      over so long a step; less than so many standard errors over the examples count as none.
    - `batch_norm`: running statistics ``as_saved`` (the published code of Li et al.), or
      ``refreshed`` at every point by one pass over `refresh_examples` training examples, the same
      at every point and for every trial (the default of Xu et al. 2024). A refreshed slice shows
      the loss with statistics that fit the weights; a saved one includes the cost of statistics
      that do not.
    - `examples`: training examples for the loss, drawn with `example_seed`, the same for every
      trial; null for all. (Li et al. use all; Xu et al. do not say; 1,000 is our choice.) ``test:
      true`` also measures as many examples of the test set.
    - `precision`: ``fp32``, or ``bf16`` for convolutions and products in bfloat16 (autocast;
      weights are still mixed in float32 and the loss is summed in float64).

    For sentence pairs the loss is the mean token cross-entropy, the error is the token error, and a
    "filter" of an embedding is the vector of one word.
    """

    directions: Literal["random", "hessian", "weights"] = "random"
    normalize: Literal["auto", "filter", "none", "layer", "raw"] = "auto"
    dimensions: Literal[1, 2] = 2
    points: Annotated[int, Field(ge=3, le=MAX_COUNT)] = 41
    radius: Positive = 1.0
    batch_norm: Literal["as_saved", "refreshed"] = "as_saved"
    refresh_examples: Count = 500
    examples: Count | None = 1000
    example_seed: Seed = 0
    test: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    along: Names | None = later(None)
    low: float | None = later(None)
    high: float | None = later(None)
    low_2: float | None = later(None)
    high_2: float | None = later(None)
    points_2: Annotated[int, Field(ge=3, le=MAX_COUNT)] | None = later(None)
    coarse: Annotated[int, Field(ge=2, le=MAX_COUNT)] | None = later(None)
    tolerance: Positive = later(0.02)
    curvature_step: Positive = later(0.01)
    significance: NonNegative = later(2.0)


def ends_of(args: Mapping[str, Any], second: bool = False) -> tuple[float, float]:
    """Return the ends of an axis.

    >>> ends_of({"radius": 1.0, "low": -0.5, "high": None})
    (-0.5, 1.0)
    """
    low, high = (args[f"{end}_2" if second else end] for end in ("low", "high"))
    radius = args["radius"]
    return (-radius if low is None else low, radius if high is None else high)


def _ordered(args: Mapping[str, Any]) -> Finding | None:
    for suffix in ("", "_2"):
        low, high = ends_of(args, second=bool(suffix))
        if low >= high:
            given = "high" if args[f"high{suffix}"] is not None else "low"
            wanted = f"more than {low:g}" if given == "high" else f"less than {high:g}"
            found = high if given == "high" else low
            return f"{given}{suffix}", f"found {found:g}; allowed: {wanted}, the other end"
    return None


def _second_axis(args: Mapping[str, Any]) -> Finding | None:
    given = [name for name in ("low_2", "high_2", "points_2") if args[name] is not None]
    if args["dimensions"] == 2 or not given:
        return None
    return given[0], "found with dimensions: 1, which has no second axis; leave it out"


def _num_named(args: Mapping[str, Any]) -> Finding | None:
    along, num = args["along"], int(args["dimensions"])
    if along is None or len(along) == num:
        return None
    return (
        "along",
        f"found {counted(len(along), 'direction')} with dimensions: {num}; allowed: {num}",
    )


def _named(args: Mapping[str, Any]) -> Finding | None:
    return names_mistake(args["along"] or (), "along")


def _known(args: Mapping[str, Any], source: Mapping[str, Any]) -> Finding | None:
    if args["directions"] != "random":
        return (
            "directions",
            f"found {args['directions']} beside of, which has directions; leave it out",
        )
    there, num = len(source["along"]), int(args["dimensions"])
    if args["along"] is None and there < num:
        return "dimensions", f"found {num}, but only {counted(there, 'direction')} is read"
    unknown = unknown_direction(args["along"] or (), source)
    return None if unknown is None else ("along", unknown)


def _weights_span_a_line(args: Mapping[str, Any]) -> Finding | None:
    if args["directions"] != "weights" or args["dimensions"] == 1:
        return None
    message = "with directions: weights, which are one direction; allowed: 1"
    return "dimensions", f"found {args['dimensions']} {message}"


_GRID = (
    "entry [j][i] at w + axis[i] d_1 + axis_2[j] d_2 (one row for a line); null where it is not"
    " finite"
)


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    asked = work.num_train if args["examples"] is None else int(args["examples"])
    tested = min(asked, work.num_test) if args["test"] else 0
    point = passes(work, min(asked, work.num_train) + tested, 128, 1)
    if args["batch_norm"] == "refreshed":
        point = point + passes(work, min(int(args["refresh_examples"]), work.num_train), 500, 1)
    points = int(args["points"])
    if args["dimensions"] == 2:
        points *= int(args.get("points_2") or points)
    share = 1.0 if args.get("coarse") is None else USUAL_SHARE
    return share * points * point


USUAL_SHARE = 0.5
"""The share of the points that is planned to be measured where a grid is measured as it bends."""


def _memory(job: Measurement) -> int:
    vectors = 4 + job.num_networks if job.args.get("along") is not None else 0
    return evaluation_bytes(job.work) + FLOAT * vectors * job.work.num_parameters


def _curvature(name: str, axis: str) -> tuple[Column, Column]:
    doc = f"second derivative of the training loss at w along the {axis} axis, over"
    stderr = f"{name}_stderr"
    return (
        Column(
            name,
            "float64",
            "",
            f"{doc} `curvature_step`; null for a line",
            label=f"curvature along direction {1 if axis == 'first' else 2}",
            role="asked",
            quantity=f"slice_{name}",
            stderr=stderr,
        ),
        Column(stderr, "float64", "", "its standard error over the examples", role="detail"),
    )


def _of_networks(name: str, what: str) -> Column:
    doc = f"{what}, of each network of the job whose directions are read; null for others"
    return Column(name, "list<float64>", "", doc)


SLICE = Metric(
    over="trial",
    args=SliceArgs,
    compute="phasegrid.metrics.slice.compute:compute",
    label="Slice",
    reads=("directions",),
    source_rules={"directions": _known},
    of_only={"along": ("directions",)},
    rules=(_weights_span_a_line, _named, _num_named, _second_axis, _ordered),
    cost=_cost,
    recorded=True,
    memory=_memory,
    columns=(
        Column(
            "axis",
            "list<float64>",
            "",
            "coordinates along the first direction, ascending",
            label="along direction 1",
        ),
        Column("axis_2", "list<float64>", "", "coordinates along the second; null for a line"),
        Column(
            "train_loss",
            "list<list<float64>>",
            UNIT_OF_LOSS,
            f"mean loss, {_GRID}",
            label="training loss",
        ),
        Column(
            "train_error_percent",
            "list<list<float64>>",
            "%",
            "error on the same examples, likewise",
            label="training error",
        ),
        Column(
            "test_loss",
            "list<list<float64>>",
            UNIT_OF_LOSS,
            "on the test set; null unless requested",
        ),
        Column("test_error_percent", "list<list<float64>>", "%", "likewise"),
        Column(
            "centre_loss",
            "float64",
            UNIT_OF_LOSS,
            "training loss at the trained weights",
            role="detail",
        ),
        Column(
            "num_stationary_points",
            "int64",
            "",
            "inner points of a line above or below both neighbours (Xu et al. 2024, appendix A.3);"
            " null for a plane, or with nulls",
        ),
        Column("direction_norms", "list<float64>", "", "Euclidean norm of each direction"),
        Column(
            "weight_norm",
            "float64",
            "",
            "Euclidean norm of the trainable parameters w",
            role="detail",
        ),
        Column(
            "direction_cosine",
            "float64",
            "",
            "cosine of the angle between the directions as used; null for a line",
            role="detail",
        ),
        Column(
            "eigenvalues",
            "list<float64>",
            "",
            "Ritz values of the unit eigenvectors before scaling; null for other directions",
        ),
        Column(
            "eigenvalue_residuals", "list<float64>", "", "|H v - lambda v| of these eigenvectors"
        ),
        Column(
            "hvp_method",
            "string",
            "",
            "how second derivatives were taken, as in the metric hessian; null for other"
            " directions",
        ),
        Column("num_examples", "int64", "examples", "training examples (or sentence pairs) used"),
        Column("num_test_examples", "int64", "examples", "test examples used; null for none"),
        Column(
            "normalize",
            "string",
            "",
            "normalisation used, of each direction if both differ",
        ),
        Column("batch_norm", "string", "", "BatchNorm policy used; null without BatchNorm"),
        Column(
            "direction_names",
            "list<string>",
            "",
            "names of the directions that were read; null for others",
        ),
        *_curvature("curvature", "first"),
        *_curvature("curvature_2", "second"),
        Column(
            "shape",
            "string",
            "",
            "shape of the surface at w by the signs of both curvatures: bowl (+ +), bottle_bottom"
            " (- -), saddle (+ -); with one that does not stand out from noise, trough (+ 0), ridge"
            " (- 0) and flat (0 0); null for a line",
        ),
        Column(
            "measured",
            "list<list<float64>>",
            "",
            "1 where a point of the grid was measured, 0 where it was interpolated",
        ),
        Column(
            "measured_share",
            "float64",
            "",
            "share of the points that were measured",
            label="share of points measured",
            role="asked",
        ),
        _of_networks("points_u", "coordinate along the first direction"),
        _of_networks("points_v", "coordinate along the second; 0 on a line"),
        _of_networks("points_distance", "Euclidean distance from the line or plane"),
    ),
)
