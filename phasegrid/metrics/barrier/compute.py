"""The barrier on the straight segment between two trained networks.

barrier = max_t [L(t) - ((1 - t) L(0) + t L(1))] with L(t) the loss, or the error in percent, at
theta(t) = (1 - t) theta_0 + t theta_1 (Frankle et al. 2020, section 2; Entezari et al. 2022,
definition 3). It is never negative, as both ends are among the points; a convex loss has none. Mean
losses are exact over their sets; the maximum is over the given t, so it is a lower bound of that
over all t.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.barrier import BarrierArgs
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.network.joining import require_ends, rest_of
from phasegrid.metrics.network.matching import aligned
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import (
    Evaluator,
    Numbers,
    PointEvaluation,
    Row,
    live_network,
    losses_and_errors,
    make_evaluator,
)
from phasegrid.models.weights import batch_norm_modules, l2_distance
from phasegrid.seeding import nothing_drawn


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure the segment between two models; `args` are the fields of `BarrierArgs`.

    Deterministic in `rng` and the models. The models are not changed. A point at which the outputs
    are not finite has null loss and null error, and so has a barrier over it.

    Raises:
        MetricError: if there are not two models of one architecture, or their channels cannot be
            matched.
    """
    settings = BarrierArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 2:
        raise MetricError(f"a barrier is between two models, got {len(models)}")
    with nothing_drawn("barrier", data.train_inputs.device):
        return _row(models[0], models[1], data, rng, settings)


def barrier(values: Numbers, t: Sequence[float]) -> float | None:
    """Return max_t [L(t) - ((1 - t) L(0) + t L(1))]; None if a value is missing.

    >>> barrier([1.0, 3.0, 2.0], [0.0, 0.5, 1.0])
    1.5
    """
    present = [value for value in values if value is not None]
    if len(present) != len(values):
        return None
    first, last = present[0], present[-1]
    pairs = list(zip(present, t, strict=True))[1:-1]  # exactly 0 at the ends
    return max(0.0, *(value - (first + s * (last - first)) for value, s in pairs))


def _row(
    first: nn.Module,
    second: nn.Module,
    data: Dataset,
    rng: torch.Generator,
    settings: BarrierArgs,
) -> Row:
    moved = None
    if settings.align == "weights":
        second, moved = aligned(second, first, data.train_inputs, rng)
    ends = stack_vertices([first, second])
    t = torch.linspace(0, 1, settings.points, dtype=torch.float64).tolist()
    measured = _measured(first, second, ends, t, data, rng, settings)
    train_loss, train_error = losses_and_errors([point.train for point in measured])
    test_loss, test_error = losses_and_errors([point.test for point in measured])
    return {
        "train_loss_barrier": barrier(train_loss, t),
        "train_error_barrier": barrier(train_error, t),
        "test_loss_barrier": barrier(test_loss, t),
        "test_error_barrier": barrier(test_error, t),
        "t": list(t),
        "train_loss": train_loss,
        "train_error_percent": train_error,
        "test_loss": test_loss,
        "test_error_percent": test_error,
        "end_distance": l2_distance(ends[0], ends[1]),
        "moved_percent": moved,
    }


def _measured(
    first: nn.Module,
    second: nn.Module,
    ends: Tensor,
    t: Sequence[float],
    data: Dataset,
    rng: torch.Generator,
    settings: BarrierArgs,
) -> list[PointEvaluation]:
    """Evaluate the points at `t` between two networks with the weights `ends` (2, P)."""
    flat, rest = live_network(first), rest_of([first, second])
    refreshed = make_evaluator(
        flat.module, data, settings.refresh_examples, settings.batch_size, rng
    )
    saved = Evaluator(data, None, settings.batch_size)
    evaluator = refreshed if settings.batch_norm == "refreshed" else saved
    passes, measured = Passes(flat, data.scoring), []
    for place in t:
        flat.assign(torch.lerp(ends[0], ends[1], place))
        rest.place(flat, torch.tensor([1 - place, place], dtype=torch.float64))
        mix_statistics(flat.module, first, second, place)
        measured.append(evaluator.measure(passes))
    for which, place, model in (("first", 0, first), ("last", 1, second)):
        flat.assign(ends[place])
        rest.place(flat, torch.eye(2, dtype=torch.float64)[place])
        require_ends(flat.module, model, data.train_inputs, f"the {which} point of the segment")
    return measured


def mix_statistics(module: nn.Module, first: nn.Module, second: nn.Module, t: float) -> None:
    """Set the statistics of BatchNorm in `module` to those between two networks."""
    layers = (batch_norm_modules(each) for each in (module, first, second))
    for own, one, other in zip(*layers, strict=True):
        for name in ("running_mean", "running_var"):
            getattr(own, name).copy_(torch.lerp(getattr(one, name), getattr(other, name), t))
