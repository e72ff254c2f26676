"""Mode connectivity: is there a curve of low loss between two trained networks?

mc = (e(0) + e(1)) / 2 - e(t*), t* = argmax_t |(e(0) + e(1)) / 2 - e(t)|, with e the training error
in percent at points equally spaced in t on a curve trained between the two (Yang et al. 2021,
section 2; curve: Garipov et al. 2018). For sentence pairs e is the token error; the paper takes the
loss there, which is the column `mode_connectivity_loss`. mc < 0: a barrier; mc > 0: the curve is
better than its ends, which are badly trained; near 0: well connected. Both ends are equally far
from their mean; if no other point is farther, t* = 0 (`phasegrid.metrics.connectivity.farthest`). A
curve can lie above the mean at some t and below at others (a W), and mc shows only one of them, so
all points are kept.

Tensors that differ between the two networks but do not train (frozen parameters, buffers) move
along the straight line from one to the other, so that the ends are the networks
(`phasegrid.metrics.network.joining`). A comparison of outputs checks this.

A curve whose training diverges is a result: points at which the network's outputs are not finite
have null loss and null error, and numbers that need them are null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity import SUMMARISED, ConnectivityArgs
from phasegrid.metrics.connectivity.along import regularised, summary
from phasegrid.metrics.connectivity.collecting import BendMoments
from phasegrid.metrics.connectivity.curves import (
    chords,
    curve_length,
    edge_gram,
    place_points,
    squared_norms,
    stack_vertices,
    vertex_weights,
)
from phasegrid.metrics.connectivity.farthest import farthest_from_ends
from phasegrid.metrics.connectivity.left import FAR_END
from phasegrid.metrics.connectivity.stacked import MAX_CURVES, train_bends_together
from phasegrid.metrics.connectivity.training import train_bends
from phasegrid.metrics.measured import Measured
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.fresh import fresh_vector
from phasegrid.metrics.network.joining import Rest, require_ends, rest_of, rest_of_curve
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import (
    Evaluator,
    Numbers,
    PointEvaluation,
    Row,
    finite_or_none,
    live_network,
    losses_and_errors,
    make_evaluator,
)
from phasegrid.metrics.network.stacking import choose_stacks
from phasegrid.metrics.network.turns import Work, finished
from phasegrid.models.evaluation import Evaluation, evaluate
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.weights import l2_distance
from phasegrid.seeding import nothing_drawn
from phasegrid.tasks import TASKS
from phasegrid.tasks.language import perplexity
from phasegrid.tasks.losses import CROSS_ENTROPY


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Measured:
    """Train a curve between two models and measure it; `args` are the fields of `ConnectivityArgs`.

    Deterministic in `rng` and the models. The models are not changed.

    Raises:
        MetricError: if there are not two models of one architecture, if they differ in integer
            tensors or draw in eval mode, or if ``init: random`` meets a layer that cannot be
            initialised anew.
    """
    with nothing_drawn("mode connectivity", data.train_inputs.device):
        return finished(by_turns(models, data, rng, **args))


def compute_many(
    models: Sequence[nn.Module],
    groups: Sequence[tuple[int, ...]],
    data: Dataset,
    rngs: Sequence[torch.Generator],
    **args: object,
) -> list[Measured] | None:
    """Measure several pairs, `groups` of indices into `models`, each with its generator; return
    their rows in order.

    Curves of one architecture train as one stack if that is faster and their ends differ only in
    trained tensors. A row then agrees with that of `compute` to rounding, which grows over many
    updates. The other curves train one after another. Return None if all would: a joint computation
    gains nothing then. (Points are evaluated one after another: their batches are large enough to
    keep the device busy.)

    Raises:
        MetricError: as `compute`, for any of the pairs.
    """
    settings = ConnectivityArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    plain = [i for i, g in enumerate(groups) if rest_of([models[k] for k in g]).vertices is None]
    firsts = [models[groups[i][0]] for i in plain]
    stacks = choose_stacks(firsts, data, settings.batch_size, MAX_CURVES)
    if not stacks or not settings.bends:
        return None
    found: dict[int, Measured] = {}
    for blueprint, places in stacks:
        members = [plain[place] for place in places]
        curves = [_begin([models[k] for k in groups[i]], data, settings, rngs[i]) for i in members]
        losses = train_bends_together(
            blueprint,
            [curve.flat.module for curve in curves],
            [curve.vertices for curve in curves],
            Examples(data.train_inputs, data.train_labels, data.padding),
            settings,
            [rngs[i] for i in members],
            data.objective,
            [curve.moments for curve in curves],
        )
        for i, curve, loss in zip(members, curves, losses, strict=True):
            found[i] = finished(_measured(curve, data, settings, loss))
    return [
        found[i] if i in found else compute([models[k] for k in group], data, rngs[i], **args)
        for i, group in enumerate(groups)
    ]


@dataclass(frozen=True, slots=True)
class _Curve:
    """A curve and what measuring its points needs: the networks at its `ends`, by the places of
    these among the vertices (V, P), the rest, and the network into which points are mixed.
    """

    ends: Mapping[int, nn.Module]
    vertices: Tensor
    rest: Rest
    flat: FlatNetwork
    evaluator: Evaluator
    moments: BendMoments


def place_vertices(
    models: Sequence[nn.Module], settings: ConnectivityArgs, rng: torch.Generator
) -> Tensor:
    """Return ends and untrained bends as rows (V, P).

    ``linear``: bend i of n lies at i/(n+1) of the segment (Garipov et al. 2018). ``midpoint``: all
    bends lie at its middle. ``random``: each bend is a network initialised anew, as in the
    published code of Yang et al. 2021, with BatchNorm weights from U(0, 1) as in the torch of its
    time. On a random segment the last row is the end of a vector from the first network with a
    uniformly random direction and the length of the segment.
    """
    ends = stack_vertices(models)
    if settings.curve == "random_segment":
        return torch.stack([ends[0], ends[0] + _random_step(ends, rng)])
    if settings.init == "random":
        asked = "mode connectivity with init: random; use init: linear"
        bends = [
            fresh_vector(models[0], rng, asked, _uniform_weights).to(ends)
            for _ in range(settings.bends)
        ]
        return torch.stack([ends[0], *bends, ends[1]])
    t = torch.linspace(0, 1, settings.bends + 2, dtype=ends.dtype, device=ends.device)
    if settings.init == "midpoint":
        t[1:-1] = 0.5
    return torch.lerp(ends[0], ends[1], t.unsqueeze(1))


def _random_step(ends: Tensor, rng: torch.Generator) -> Tensor:
    """Return a vector (P,) of uniformly random direction that is as long as the distance of the
    `ends` (2, P).
    """
    drawn = torch.randn(ends.shape[1], generator=rng, dtype=ends.dtype, device=rng.device).to(ends)
    return drawn * (l2_distance(ends[0], ends[1]) / float(torch.linalg.vector_norm(drawn.double())))


def by_turns(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Work[Measured]:
    """Do `compute`; yield after every update and every point."""
    settings = ConnectivityArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    curve, loss = _begin(models, data, settings, rng), None
    if settings.bends:
        loss = yield from train_bends(
            curve.flat,
            curve.vertices,
            Examples(data.train_inputs, data.train_labels, data.padding),
            settings,
            rng,
            curve.rest,
            data.scoring,
            curve.moments,
        )
    return (yield from _measured(curve, data, settings, loss))


def _begin(
    models: Sequence[nn.Module], data: Dataset, settings: ConnectivityArgs, rng: torch.Generator
) -> _Curve:
    """Make the random draws that come before training; their order decides the numbers of a row."""
    if len(models) != 2:
        raise MetricError(f"mode connectivity is between two models, got {len(models)}")
    vertices = place_vertices(models, settings, rng)
    flat = live_network(models[0])
    most, augment = settings.refresh_examples, settings.refresh_augment
    evaluator = make_evaluator(flat.module, data, most, settings.batch_size, rng, augment)
    ends = {0: models[0], -1: models[1]}
    if settings.curve == "random_segment":
        del ends[-1]
    rest = rest_of_curve([ends[0], ends.get(-1, ends[0])], settings.bends)
    return _Curve(ends, vertices, rest, flat, evaluator, BendMoments(settings))


def _measured(
    curve: _Curve, data: Dataset, settings: ConnectivityArgs, final_loss: float | None
) -> Work[Measured]:
    """Return the row of a curve with trained bends, and the curve and its moments as artifacts if
    its bends are finite.
    """
    bends = curve.vertices[1:-1]
    tensors = (
        {"bends": bends} if -1 in curve.ends else {"bends": bends, FAR_END: curve.vertices[-1]}
    )
    sound = bool(bends.isfinite().all())
    left = {"curve": tensors, **curve.moments.left(bends)} if sound else {}
    row = yield from _row(curve, data, settings, final_loss)
    return Measured(row, left)


def _row(
    curve: _Curve, data: Dataset, settings: ConnectivityArgs, final_loss: float | None
) -> Work[Row]:
    """Measure a curve with trained bends."""
    t = torch.linspace(0, 1, settings.points, dtype=torch.float64)
    points, measured = place_points(settings.curve, t, curve.vertices), []
    passes, valid = Passes(curve.flat, data.scoring), list[Evaluation]()
    with_perplexity = TASKS[data.task].perplexity and data.objective == CROSS_ENTROPY
    for index in range(len(t)):
        curve.flat.assign(points.at(index, curve.vertices))
        curve.rest.place(curve.flat, points.coefficients[index])
        measured.append(curve.evaluator.measure(passes))
        if with_perplexity and len(data.aside_labels):
            valid.append(passes.evaluate(data.aside_inputs, data.aside_labels))
        yield
    _require_ends(curve, data)
    gram = edge_gram(curve.vertices)
    length = curve_length(settings.curve, gram)
    distance = l2_distance(curve.vertices[0], curve.vertices[-1])
    weights = vertex_weights(settings.curve, settings.bends, t)
    squares = squared_norms(curve.vertices, weights).tolist()
    columns = _connectivity_columns(t.tolist(), measured)
    columns |= _perplexities(measured, valid, with_perplexity)
    columns |= _regularised_columns(columns, squares, settings.weight_decay)
    distances = chords(settings.curve, gram, t).tolist()
    return {
        **columns,
        **_summaries(columns, distances),
        "length": finite_or_none(length),
        "length_ratio": finite_or_none(length / distance) if distance > 0 else None,
        "end_residual_percent": _end_residual(curve.ends, data, measured, curve.evaluator),
        "final_curve_loss": final_loss,
        "num_bends": settings.bends,
        **_refreshing(curve.evaluator, settings),
    }


def _refreshing(evaluator: Evaluator, settings: ConnectivityArgs) -> Row:
    """Say how the statistics of BatchNorm were recomputed; null without BatchNorm."""
    inputs = evaluator.refresh_inputs
    return {
        "num_refreshed": None if inputs is None else len(inputs),
        "refresh_batch_size": None if inputs is None else evaluator.batch_size,
        "refresh_augmented": None if inputs is None else settings.refresh_augment != "none",
    }


def _require_ends(curve: _Curve, data: Dataset) -> None:
    """Check that the ends of the curve are the networks that it joins."""
    for place, model in curve.ends.items():
        which = "last" if place else "first"
        curve.flat.assign(curve.vertices[place])
        coefficients = torch.zeros(len(curve.vertices))
        coefficients[place] = 1
        curve.rest.place(curve.flat, coefficients)
        require_ends(curve.flat.module, model, data.train_inputs, f"the {which} point of the curve")


def _connectivity_columns(t: list[float], measured: Sequence[PointEvaluation]) -> Row:
    train_loss, train_error = losses_and_errors([point.train for point in measured])
    test_loss, test_error = losses_and_errors([point.test for point in measured])
    mc, index = _farthest_if_whole(train_error)
    return {
        "mode_connectivity": mc,
        "t_star": None if index is None else t[index],
        "mode_connectivity_loss": _farthest_if_whole(train_loss)[0],
        "mode_connectivity_test": _farthest_if_whole(test_error)[0],
        "t": list(t),
        "train_loss": train_loss,
        "train_error_percent": train_error,
        "test_loss": test_loss,
        "test_error_percent": test_error,
    }


def _regularised_columns(columns: Row, squares: Sequence[float], weight_decay: float) -> Row:
    found: Row = {"squared_norm": [finite_or_none(square) for square in squares]}
    for part in ("train", "test"):
        losses, norms = columns[f"{part}_loss"], found["squared_norm"]
        assert isinstance(losses, list)
        assert isinstance(norms, list)
        found[f"{part}_regularised_loss"] = regularised(losses, norms, weight_decay)
    return found


def _summaries(columns: Row, distances: Sequence[float]) -> Row:
    found: Row = {}
    for name in SUMMARISED:
        values = columns[name]
        found |= summary(name, values if isinstance(values, list) else [None], distances)
    return found


def _perplexities(
    measured: Sequence[PointEvaluation], valid: Sequence[Evaluation], exist: bool
) -> Row:
    """Return the perplexity of each text at each point; null where there is no such text."""
    texts = {
        "train": [point.train for point in measured],
        "valid": valid,
        "test": [point.test for point in measured],
    }
    return {
        f"{name}_perplexity": [perplexity(e.loss) for e in found] if exist and found else None
        for name, found in texts.items()
    }


def _farthest_if_whole(values: Numbers) -> tuple[float | None, int | None]:
    present = [value for value in values if value is not None]
    return farthest_from_ends(present) if len(present) == len(values) else (None, None)


def _end_residual(
    ends: Mapping[int, nn.Module],
    data: Dataset,
    measured: Sequence[PointEvaluation],
    evaluator: Evaluator,
) -> float:
    """Return the largest change in an end's training error by refreshing BatchNorm."""
    if evaluator.refresh_inputs is None:
        return 0.0
    train = data.train_inputs, data.train_labels
    saved = {place: evaluate(model, *train, data.scoring) for place, model in ends.items()}
    return max(
        abs(measured[place].train.error_percent - as_saved.error_percent)
        for place, as_saved in saved.items()
    )


def _uniform_weights(layer: nn.Module) -> None:
    if isinstance(layer, _BatchNorm):
        nn.init.uniform_(layer.weight)
