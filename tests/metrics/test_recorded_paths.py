"""Laws of recorded curves and complexes: a row of replays is the row, and within an epoch nothing
waits for the device.
"""

import gc
import weakref
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from point_support import dataset, generator
from recording_support import counting_waits, recording_here
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.fallbacks import collected
from phasegrid.jobs import Part
from phasegrid.metrics.connectivity import ConnectivityArgs, training
from phasegrid.metrics.connectivity.compute import by_turns
from phasegrid.metrics.connectivity.compute import compute as measure_curve
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.connectivity.training import train_bends
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import live_network
from phasegrid.metrics.network.turns import MOST, Work, finished, in_turn
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import grow
from phasegrid.metrics.simplex.compute import compute as measure_simplex
from phasegrid.metrics.simplex.sampling import generator_on
from phasegrid.metrics.simplex.training import Live, train_last_vertices
from phasegrid.metrics.simplex.wiring import shared
from phasegrid.metrics.slice import SliceArgs
from phasegrid.metrics.slice.compute import compute as measure_slice
from phasegrid.metrics.slice.evaluation import MovingNetwork, make_examples
from phasegrid.models import strategies
from phasegrid.models.build import build_model
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import batch_norm_modules, refresh_batch_norm
from phasegrid.train import lanes
from phasegrid.train.cuda_graphs import WARM_UP
from phasegrid.train.lanes import Lanes

CPU = torch.device("cpu")
NETWORK = Part("small_cnn", 1, {"width": 3, "batch_norm": True})
SHAPE = (2, 6, 6)
NUM, BATCH = 70, 16


def networks(num: int = 3) -> list[nn.Module]:
    return [build_model(NETWORK, SHAPE, 3, seed).eval() for seed in range(num)]


def data() -> Dataset:
    rng = generator(4)
    inputs = torch.randn(NUM, *SHAPE, generator=rng)
    return dataset(inputs, torch.randint(0, 3, (NUM,), generator=rng))


def curve_args(**args: Any) -> dict[str, Any]:
    return asdict(ConnectivityArgs(**{"epochs": 3, "points": 4, "batch_size": BATCH, **args}))


def simplex_args(**args: Any) -> dict[str, Any]:
    return asdict(SimplexArgs(**{"epochs": 3, "batch_size": BATCH, "eval_samples": 2, **args}))


ROWS: dict[str, Callable[[], Any]] = {
    name: lambda args=args: measure_curve(networks(2), data(), generator(1), **curve_args(**args))
    for name, args in {
        "bezier": {},
        "two bends": {"bends": 2},
        "polychain": {"curve": "polychain", "bends": 3, "epochs": 6},
        "cut short": {"updates": 13, "epochs": 1},
        "augmented": {"augment": "flip_crop", "refresh_augment": "flip_crop"},
    }.items()
} | {
    name: lambda args=args: measure_simplex(
        networks(), data(), generator(1), **simplex_args(**args)
    )
    for name, args in {
        "simplex": {},
        "two connectors": {"connectors": 2, "samples": 2},
        "equal shares": {"sampling": "simplex", "weight_decay": 1e-3},
        "no volume": {"volume_lambda": 0.0},
        "augmented connectors": {"augment": "flip_crop", "refresh_augment": "flip_crop"},
    }.items()
}


def about(value: Any) -> Any:
    if isinstance(value, list):
        return [about(one) for one in value]
    return pytest.approx(value, rel=1e-4) if isinstance(value, float) else value


@pytest.mark.parametrize("name", list(ROWS))
def test_a_row_of_replays_is_the_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "MAX_FUSED_BYTES", 0)  # points in turn, as on a GPU
    launched = ROWS[name]()
    with recording_here(monkeypatch) as recordings:
        replayed = ROWS[name]()
    assert recordings.made
    assert recordings.replayed >= 5
    rows = [getattr(row, "rows", row) for row in (launched, replayed)]
    for trained in ("final_curve_loss", "length", "connector_losses", "log_volumes"):
        assert rows[0].get(trained) == rows[1].get(trained)
    for column, value in rows[0].items():  # statistics of BatchNorm are averaged in float32
        assert rows[1][column] == about(value), column


def slice_row(**args: Any) -> dict[str, Any]:
    settings = asdict(SliceArgs(**{"points": 5, "examples": 40, "refresh_examples": 40, **args}))
    return dict(measure_slice(networks(1), data(), generator(1), **settings))


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"dimensions": 2, "precision": "bf16"},
        {"batch_norm": "refreshed"},
        {"directions": "hessian"},
    ],
    ids=str,
)
def test_a_slice_of_replays_is_the_slice(
    args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = slice_row(**args)
    with recording_here(monkeypatch) as recordings:
        found = slice_row(**args)
    for column, value in launched.items():
        assert found[column] == about(value), column
    assert recordings.replayed >= 5


def test_from_batch_to_batch_an_evaluation_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (model,), examples = networks(1), data()
    found = []
    for size in (35, 7):
        monkeypatch.setattr("phasegrid.tasks.operations.FEWEST", size)
        monkeypatch.setattr("phasegrid.tasks.operations.IN_CACHE", 1)
        with recording_here(monkeypatch) as recordings:
            passes = Passes(live_network(model), examples.scoring)
            with counting_waits() as waits:
                evaluation = passes.evaluate(examples.train_inputs, examples.train_labels)
        plain = evaluate(model, examples.train_inputs, examples.train_labels, examples.scoring)
        assert evaluation.loss == pytest.approx(plain.loss, rel=1e-12)
        assert evaluation.accuracy_percent == plain.accuracy_percent
        found.append((len(waits.found), recordings.replayed))
    (few, _), (many, replayed) = found
    assert few == many
    assert replayed == 10 - WARM_UP


def test_statistics_from_replays_are_those_of_a_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    (model,), examples = networks(1), data()
    plain = live_network(model)
    refresh_batch_norm(plain.module, examples.train_inputs, 9)
    with recording_here(monkeypatch) as recordings:
        flat = live_network(model)
        passes = Passes(flat, examples.scoring)
        for inputs in (examples.train_inputs * torch.inf, examples.train_inputs):
            passes.refresh(inputs, 9)
    assert recordings.replayed
    assert not any(layer.training for layer in flat.module.modules())
    for name, value in plain.module.state_dict().items():
        torch.testing.assert_close(flat.module.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    momenta = [layer.momentum for layer in batch_norm_modules(flat.module)]
    assert momenta == [layer.momentum for layer in batch_norm_modules(model)]


def test_within_an_epoch_a_curve_waits_for_nothing() -> None:
    models, examples = networks(2), data()
    ends = stack_vertices(models)
    vertices = torch.stack([ends[0], ends.mean(dim=0), ends[1]])
    settings = ConnectivityArgs(epochs=3, batch_size=BATCH)
    work = train_bends(
        live_network(models[0]),
        vertices,
        Examples(examples.train_inputs, examples.train_labels),
        settings,
        generator(2),
    )
    next(work)
    for _ in range(2):
        with counting_waits() as waits:
            next(work)
            next(work)
        assert not waits.found
        for _ in range(3):  # over the end of the epoch
            next(work)


def test_within_an_epoch_a_complex_waits_for_nothing() -> None:
    models, examples = networks(), data()
    vertices = grow(stack_vertices(models), range(len(models)), 1e-2, generator(0))
    work = train_last_vertices(
        Live(live_network(models[0])),
        vertices[None],
        shared(len(models), 1),
        Examples(examples.train_inputs, examples.train_labels),
        [1e-3],
        SimplexArgs(epochs=3, batch_size=BATCH),
        [generator(3)],
    )
    next(work)
    for _ in range(2):
        with counting_waits() as waits:
            for _ in range(3):
                next(work)
        assert not waits.found
        for _ in range(2):  # over the end of the epoch
            next(work)


def test_a_generator_of_the_device_is_the_generator_itself() -> None:
    rng = generator(5)
    assert generator_on(torch.device("cpu"), rng) is rng


def counted(name: str, turns_of_it: int, seen: list[str]) -> Work[str]:
    for _ in range(turns_of_it):
        seen.append(name)
        yield
    return name


def test_up_to_so_many_take_turns_and_results_come_in_order() -> None:
    seen: list[str] = []
    names = "abcdefghijkl"
    begun = [lambda n=n: counted(n, 3, seen) for n in names]
    assert "".join(in_turn(begun, Lanes(CPU, MOST))) == names
    assert "".join(seen) == 3 * names[:MOST] + 3 * names[MOST:]


class GivingLane(lanes.Lane):
    """A lane that is given back when memory runs out."""

    gives_back = True


def test_a_curve_that_runs_out_of_memory_begins_again_and_is_the_curve_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "new_lane", lambda _: GivingLane())
    models, examples = networks(), data()
    pairs, args = [models[:2], models[1:]], curve_args(epochs=1)
    alone = [measure_curve(pair, examples, generator(9), **args) for pair in pairs]
    full = [True]

    def curve(pair: list[nn.Module]) -> Work[Any]:
        work = by_turns(pair, examples, generator(9), **args)
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value
            if full and pair is pairs[1]:
                full.clear()
                raise torch.OutOfMemoryError("no room for two")
            yield

    with collected() as said:
        found = in_turn([partial(curve, pair) for pair in pairs], Lanes(CPU, MOST))
    assert [one.rows for one in found] == [one.rows for one in alone]
    assert len(said) == 1


def slice_network() -> MovingNetwork:
    network = MovingNetwork(networks(1)[0])
    network.settle()
    examples = make_examples(network, data().train_inputs, data().train_labels, data().scoring)
    for _ in range(WARM_UP + 1):
        network.measure(examples)
    return network


def passes_of_a_network() -> Passes:
    passes = Passes(live_network(networks(1)[0]), data().scoring)
    passes.refresh(data().train_inputs, 7)
    passes.evaluate(data().train_inputs, data().train_labels)
    return passes


def products() -> HessianOperator:
    H = HessianOperator(networks(1)[0], data().train_inputs, data().train_labels)
    for _ in range(WARM_UP + 1):
        H(torch.ones(H.size))
    return H


@pytest.mark.parametrize("make", [slice_network, passes_of_a_network, products])
def test_recorded_work_is_freed_without_the_garbage_collector(
    make: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with recording_here(monkeypatch, replays=False):
        made = make()
        watched = weakref.ref(made)
        gc.disable()
        try:
            del made
            assert watched() is None
        finally:
            gc.enable()


def test_tensors_of_a_curve_that_was_trained_are_freed_without_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[weakref.ref[Any]] = []
    init = training._Training.__init__

    def watched(self: Any, *args: Any) -> None:
        init(self, *args)
        kept.append(weakref.ref(self))

    monkeypatch.setattr(training._Training, "__init__", watched)
    gc.disable()
    try:
        with recording_here(monkeypatch, replays=False):
            measure_curve(networks(2), data(), generator(1), **curve_args())
        assert [ref() for ref in kept] == [None]
    finally:
        gc.enable()


def test_work_that_is_finished_returns_its_result() -> None:
    assert finished(counted("a", 0, [])) == "a"


@pytest.mark.gpu
def test_curves_on_streams_are_the_curves_alone() -> None:
    device = torch.device("cuda")
    models = [model.to(device) for model in networks()]
    examples = data().to(device)
    pairs = [(0, 1), (1, 2), (0, 2)]
    args = curve_args(epochs=4)
    rngs = [generator(seed) for seed in range(3)]
    begun = [
        partial(by_turns, [models[i] for i in pair], examples, rng, **args)
        for pair, rng in zip(pairs, rngs, strict=True)
    ]
    together = in_turn(begun, Lanes(device, MOST))
    for seed, (pair, found) in enumerate(zip(pairs, together, strict=True)):
        alone = measure_curve([models[i] for i in pair], examples, generator(seed), **args)
        bends: list[Tensor] = [row.artifacts["curve"]["bends"] for row in (found, alone)]
        # kernels sum in another order from run to run, and training amplifies that
        torch.testing.assert_close(*bends, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bezier", "polychain", "simplex"])
def test_recorded_updates_are_the_launched_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    models, examples = [model.to(device) for model in networks()], data().to(device)

    def row() -> dict[str, Any]:
        if name == "simplex":
            return measure_simplex(models, examples, generator(1), **simplex_args()).rows
        args = curve_args(curve=name)
        return dict(measure_curve(models[:2], examples, generator(1), **args).rows)

    recorded = row()
    monkeypatch.setattr("phasegrid.metrics.network.recording.recorder_on", lambda _: None)
    launched = row()
    for column in ("final_curve_loss", "connector_losses", "expected_train_loss"):
        if column in recorded:
            assert recorded[column] == pytest.approx(launched[column], rel=1e-2)
