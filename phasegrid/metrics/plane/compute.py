"""The loss on the plane through the two ends and a bend of a curve (Garipov et al. 2018, figure 1).

With d = w_2 - w_0, e = w_1 - w_0 and c = <e, d> / <d, d>, the axes are u = d / |d| and v = (e - c
d) /
|e - c d|, and the point at (x, y) = (alpha |d|, beta |e - c d|) is

    w_0 + alpha d + beta (e - c d) = (1 - alpha - beta + beta c) w_0 + beta w_1 + (alpha - beta c)
    w_2,

so every point is a mix of the three vertices with weights that sum to 1, and the vertices
themselves are exact. Untrained tensors are mixed by the same weights.

Letters: R points of an axis, V vertices of the curve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.curves import edge_gram
from phasegrid.metrics.connectivity.left import LeftCurve, read_curve
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import (
    finite_or_none,
    live_network,
    make_evaluator,
)
from phasegrid.metrics.plane import PlaneArgs
from phasegrid.models.evaluation import Evaluation
from phasegrid.seeding import nothing_drawn
from phasegrid.tasks.carrying import draw_some

Surface = list[list[float | None]]


@dataclass(frozen=True, slots=True)
class Frame:
    """A plane in weight space: |d| and |e - c d|, the lengths of its sides, and c, the place on the
    line between the ends above which the bend lies.
    """

    width: float
    height: float
    shear: float

    def coefficients(self, alpha: float, beta: float) -> tuple[float, float, float]:
        """Return the weights of w_0, w_1 and w_2 at a point."""
        last = alpha - beta * self.shear
        return 1 - beta - last, beta, last


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> dict[str, object]:
    """Measure the plane of the curve in `sources`, which joins two models; `args` are the fields of
    `PlaneArgs`.

    Raises:
        MetricError: if there is no curve, it has no such bend, or its three points lie on a line.
    """
    settings = PlaneArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    with nothing_drawn("plane", data.train_inputs.device):
        curve = read_curve(models, sources, "plane")
        bend = _bend(curve, settings)
        frame = _frame(curve.vertices[[0, bend, -1]])
        few = _some(data, settings.examples, rng)
        flat = live_network(models[0])
        evaluator = make_evaluator(
            flat.module, data, settings.refresh_examples, int(curve.args["batch_size"]), rng
        )
        evaluator = replace(evaluator, data=few)
        passes = Passes(flat, data.scoring)
        xs = _axis(settings, min(0.0, frame.shear), max(1.0, frame.shear))
        ys = _axis(settings, 0.0, 1.0)
        train: list[list[Evaluation]] = []
        test: list[list[Evaluation]] = []
        for beta in ys:
            measured = []
            for alpha in xs:
                weights = torch.zeros(len(curve.vertices), dtype=torch.float64)
                weights[[0, bend, -1]] = torch.tensor(
                    frame.coefficients(alpha, beta), dtype=torch.float64
                )
                curve.place(flat, weights)
                measured.append(evaluator.measure(passes))
            train.append([point.train for point in measured])
            test.append([point.test for point in measured])
    return {
        "axis": [x * frame.width for x in xs],
        "axis_2": [y * frame.height for y in ys],
        "train_loss": _losses(train),
        "train_error_percent": _errors(train),
        "test_loss": _losses(test),
        "test_error_percent": _errors(test),
        "points_u": [0.0, frame.shear * frame.width, frame.width],
        "points_v": [0.0, frame.height, 0.0],
    }


def _bend(curve: LeftCurve, settings: PlaneArgs) -> int:
    """Return the index of the vertex that is the bend of the plane."""
    num = len(curve.vertices) - 2
    bend = (num + 1) // 2 if settings.bend is None else settings.bend
    if not 1 <= bend <= num:
        raise MetricError(f"plane: found bend {bend}, but the curve has {num}")
    return bend


def _frame(three: Tensor) -> Frame:
    """Compute the plane through the rows of `three` (3, P): w_0, w_1, w_2."""
    gram = edge_gram(three)  # of e and d
    width = math.sqrt(float(gram[1, 1]))
    shear = float(gram[0, 1] / gram[1, 1]) if width > 0 else 0.0
    square = float(gram[0, 0]) - shear * float(gram[0, 1])
    if width == 0 or square <= 1e-12 * float(gram[0, 0]):
        raise MetricError(
            "plane: the ends and the bend lie on a line and do not define a plane; this is so"
            " for a curve that was not trained"
        )
    return Frame(width, math.sqrt(square), shear)


def _axis(settings: PlaneArgs, low: float, high: float) -> list[float]:
    margin = settings.margin * (high - low)
    axis = torch.linspace(low - margin, high + margin, settings.points, dtype=torch.float64)
    numbers: list[float] = axis.tolist()
    return numbers


def _some(data: Dataset, examples: int | None, rng: torch.Generator) -> Dataset:
    """Return this many examples of each set, drawn without replacement; all if there are fewer."""
    if examples is None:
        return data

    def draw(values: Tensor) -> Tensor:
        return draw_some(data.operations, len(values), examples, rng).to(values.device)

    train, test = draw(data.train_inputs), draw(data.test_inputs)
    return replace(
        data,
        train_inputs=data.train_inputs[train],
        train_labels=data.train_labels[train],
        test_inputs=data.test_inputs[test],
        test_labels=data.test_labels[test],
    )


def _losses(grid: Sequence[Sequence[Evaluation]]) -> Surface:
    return [[finite_or_none(point.loss) for point in row] for row in grid]


def _errors(grid: Sequence[Sequence[Evaluation]]) -> Surface:
    return [
        [point.error_percent if math.isfinite(point.loss) else None for point in row]
        for row in grid
    ]
