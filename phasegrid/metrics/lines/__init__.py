"""The loss along straight lines through trained weights, and the shapes that it has there."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation_bytes, passes
from phasegrid.metrics.directions.names import names_mistake, unknown_direction
from phasegrid.metrics.hessian import PRODUCT_LAUNCHES
from phasegrid.metrics.ranges import Count, NonNegative, Positive, Seed

Names = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class LinesArgs:
    """The loss L(theta + t s epsilon) along directions epsilon through trained weights theta, t
    from `low` to `high` (Xu et al. 2024, sections 2.1 and 2.2).

    - `along`: some of the directions that are read, by name; null for all.
    - `points`: equally spaced t, ends included; the paper has 41 from -1 to 1. `scale`: s.
    - `normalize`: how epsilon is scaled before. ``norm``: to the norm of theta, as a whole (the
      paper's usual one). ``layer``, ``filter``: each parameter, or each filter of it, to the norm
      of that of theta (Li et al. 2018, section 4). ``raw``: not at all, so that t = 1 is the other
      network for ``to_1``. ``auto``: ``norm`` for random directions, eigenvectors and components,
      ``raw`` for others.
    - `biases`: parameters of one dimension (biases, BatchNorm) in a direction are ``kept`` (scaled
      as one filter each), or ``zero``. ``auto``: zero with ``layer`` and ``filter``, as in the
      published code of Li et al. (The paper of Xu et al. does not say.)
    - `batch_norm`: running statistics ``refreshed`` at every point by one pass over
      `refresh_examples` training examples (null: all; the paper's UpBN, which does not say how many
      it takes), or ``as_saved`` (No UpBN).
    - `examples`: training examples for the loss, drawn with `example_seed`, the same for every
      trial; null for all. ``test: true`` also measures as many of the test set.
    - `patches`: at so many equally spaced t, the second-order approximation L + b (x - t) + a (x -
      t)^2 / 2 with b = s epsilon^T g and a = s^2 epsilon^T H epsilon there (the paper's section
      3.2 has 11, drawn over t - 0.05 to t + 0.05: `patch_radius`).
    - `significance`: wiggles smaller than so many standard errors do not count for the shape.
      (Standard errors of the difference between two points, over the examples, each compared with
      itself.)
    - `precision`: ``fp32``, or ``bf16`` for convolutions and products in bfloat16; patches are
      always in float32.
    """

    along: Names | None = None
    low: float = -1.0
    high: float = 1.0
    points: Annotated[int, Field(ge=3, le=MAX_COUNT)] = 41
    scale: Positive = 1.0
    normalize: Literal["auto", "norm", "layer", "filter", "raw"] = "auto"
    biases: Literal["auto", "kept", "zero"] = "auto"
    batch_norm: Literal["refreshed", "as_saved"] = "refreshed"
    refresh_examples: Count | None = 500
    examples: Count | None = 1000
    example_seed: Seed = 0
    test: bool = False
    patches: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    patch_radius: Positive = 0.05
    significance: NonNegative = 2.0
    precision: Literal["fp32", "bf16"] = "fp32"


def _ordered(args: Mapping[str, Any]) -> Finding | None:
    if args["low"] < args["high"]:
        return None
    return "high", f"found {args['high']:g}; allowed: more than low, {args['low']:g}"


def _named(args: Mapping[str, Any]) -> Finding | None:
    return names_mistake(args["along"] or (), "along")


def _known(args: Mapping[str, Any], source: Mapping[str, Any]) -> Finding | None:
    unknown = unknown_direction(args["along"] or (), source)
    return None if unknown is None else ("along", unknown)


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    asked = work.num_train if args["examples"] is None else int(args["examples"])
    examples = min(asked, work.num_train)
    point = passes(work, examples + (min(asked, work.num_test) if args["test"] else 0), 128, 1)
    if args["batch_norm"] == "refreshed":
        refreshed = args["refresh_examples"]
        num = work.num_train if refreshed is None else min(int(refreshed), work.num_train)
        point = point + passes(work, num, 500, 1)
    patch = passes(work, examples, examples, 9, PRODUCT_LAUNCHES) + 2 * point
    lines = USUAL_LINES if args["along"] is None else len(args["along"])
    return lines * (int(args["points"]) * point + int(args["patches"]) * patch)


USUAL_LINES = 5
"""The lines that a job is planned with where the directions are all of what it reads."""


def _memory(job: Measurement) -> int:
    return evaluation_bytes(job.work) + FLOAT * (USUAL_LINES + 4) * job.work.num_parameters


def _list(name: str, unit: str, doc: str, label: str = "") -> Column:
    return Column(name, "list<float64>", unit, doc, label=label)


def _asked(name: str, unit: str, doc: str, label: str) -> Column:
    return Column(name, "float64", unit, doc, label=label, role="asked", quantity=f"line_{name}")


def _along(name: str, unit: str, label: str) -> tuple[Column, ...]:
    return (
        _list(name, unit, f"{label} at each t; null where it is not finite", label),
        _asked(f"lowest_{name}", unit, "lowest of these; null if one is", f"lowest {label}"),
        _asked(f"highest_{name}", unit, "highest of these; null if one is", f"highest {label}"),
    )


LINES = Metric(
    over="artifact",
    args=LinesArgs,
    compute="phasegrid.metrics.lines.compute:compute",
    label="Lines",
    reads=("directions",),
    source_rules={"directions": _known},
    rules=(_named, _ordered),
    cost=_cost,
    recorded=True,
    memory=_memory,
    columns=(
        Column("direction", "string", "", "name of the direction", role="axis"),
        _list("axis", "", "t, ascending", "t"),
        *chain(
            _along("train_loss", UNIT_OF_LOSS, "training loss"),
            _along("train_error_percent", "%", "training error"),
            _along("test_loss", UNIT_OF_LOSS, "test loss"),
            _along("test_error_percent", "%", "test error"),
        ),
        Column(
            "shape",
            "string",
            "",
            "v-basin, v-side, w-basin, w-peak, vvv-basin or other; null where a loss is not finite",
        ),
        Column(
            "num_stationary_points",
            "int64",
            "",
            "inner points above or below both neighbours (Xu et al. 2024, appendix A.3); null where"
            " a loss is not finite",
            label="stationary points of a line",
        ),
        Column(
            "num_extrema",
            "int64",
            "",
            "those of them that stand out from noise (`significance`)",
            label="stationary points beyond noise",
            role="asked",
        ),
        Column(
            "falls_to_centre",
            "bool",
            "",
            "whether the loss never rises beyond noise on the way from either end to t = 0; null"
            " where one is not finite, or t = 0 is not between the ends",
        ),
        _asked(
            "drop",
            UNIT_OF_LOSS,
            "training loss at t = 0 less the lowest on the line",
            "drop of the training loss along a line",
        ),
        _asked("drop_at", "", "t at the lowest training loss", "place of the lowest training loss"),
        _asked("length", "", "norm of s epsilon, the step from t = 0 to 1", "length of a line"),
        _list("patch_t", "", "t of the second-order approximations; null without"),
        _list("patch_loss", UNIT_OF_LOSS, "training loss there"),
        _list("patch_slope", "", "b, the first derivative in t there"),
        _list("patch_curvature", "", "a, the second derivative in t there"),
        _list(
            "patch_error",
            UNIT_OF_LOSS,
            "how far the approximation is off at t - `patch_radius` and t + `patch_radius`, the"
            " larger of both",
        ),
        Column("centre_loss", "float64", UNIT_OF_LOSS, "training loss at theta", role="detail"),
        Column("num_classes", "int64", "", "classes: a network that guesses has loss ln of them"),
        Column("normalize", "string", "", "normalisation used"),
        Column("biases", "string", "", "kept, or zero"),
        Column("num_examples", "int64", "examples", "training examples (or sentence pairs) used"),
        Column("num_test_examples", "int64", "examples", "test examples used; null for none"),
        Column("batch_norm", "string", "", "BatchNorm policy used; null without BatchNorm"),
    ),
)
