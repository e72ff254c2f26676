"""The steps ``metrics`` and ``product`` of the script for a GPU: measurements that are recorded as
CUDA graphs against the same launched kernel by kernel, and curves side by side.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.connectivity.training import train_bends
from phasegrid.metrics.hessian import HessianArgs
from phasegrid.metrics.hessian.compute import compute as measure_hessian
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import live_network
from phasegrid.metrics.network.turns import Work, finished, in_turn
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import grow
from phasegrid.metrics.simplex.training import Live, train_last_vertices
from phasegrid.metrics.simplex.wiring import shared
from phasegrid.metrics.slice import SliceArgs
from phasegrid.metrics.slice.compute import compute as measure_slice
from phasegrid.models.build import build_model
from phasegrid.train.cuda_graphs import WARM_UP
from phasegrid.train.lanes import Lanes
from tests.benchmarks.bench_packing import random_data

if TYPE_CHECKING:
    from tests.benchmarks.gpu_steps import Record, Sizes

LANES = (8, 4)


@dataclass(frozen=True, slots=True)
class Subject:
    """The networks and data that are measured, on a device."""

    models: list[nn.Module]
    data: Dataset
    device: torch.device
    batch: int
    epochs: int
    examples: int


@contextmanager
def launched() -> Iterator[None]:
    """Record nothing: launch kernel by kernel."""
    with mock.patch("phasegrid.metrics.network.recording.recorder_on", return_value=None):
        yield


def metrics(device: torch.device, sizes: "Sizes") -> "Iterator[Record]":
    """Time a Hessian pass, updates of curves and of a simplex, an evaluation and a slice of a
    narrow network, recorded and launched.
    """
    from tests.benchmarks.gpu_steps import _timed, _warm_up, resnet

    case = resnet(sizes.widths[0], sizes)
    _warm_up(device, sizes)
    models = [build_model(case.model, case.shape, 10, seed).to(device) for seed in range(3)]
    data = random_data(case, max(sizes.examples, 8 * case.batch_size), str(device))
    epochs = 2 + -(-WARM_UP // 8)
    subject = Subject(models, data, device, case.batch_size, epochs, sizes.examples)
    for name, seconds in {
        "hessian pass": _hessian,
        "curve update": _curve_update,
        "simplex update": _simplex_update,
        "evaluation of a point": _point,
        "point of a slice": _slice_point,
    }.items():
        recorded = seconds(subject, _timed)
        yield {"metric": name, "seconds": recorded}
        with launched():
            eager = seconds(subject, _timed)
        yield {"metric": name, "launched_s": eager, "gain": eager / recorded}
    for lanes in LANES:
        took = _curves(subject, lanes, _timed)
        yield {"metric": "curve update", "lanes": lanes, "seconds": took}


Timed = Callable[[Callable[[], object], torch.device], float]


def _hessian(subject: Subject, timed: Timed) -> float:
    """Return the seconds of a pass in a process that has done one before."""
    args = {**asdict(HessianArgs()), "examples": subject.examples}

    def run() -> object:
        rng = torch.Generator().manual_seed(0)
        return measure_hessian(subject.models[:1], subject.data, rng, **args)

    timed(run, subject.device)
    return timed(run, subject.device)


def _curve(subject: Subject, epochs: int) -> Work[Any]:
    ends = stack_vertices(subject.models[:2])
    settings = ConnectivityArgs(epochs=epochs, batch_size=subject.batch)
    return train_bends(
        live_network(subject.models[0]),
        torch.stack([ends[0], ends.mean(dim=0), ends[1]]),
        Examples(subject.data.train_inputs, subject.data.train_labels),
        settings,
        torch.Generator().manual_seed(0),
    )


def _curve_update(subject: Subject, timed: Timed) -> float:
    return _curves(subject, 1, timed)


def _curves(subject: Subject, lanes: int, timed: Timed) -> float:
    """Return the seconds of an update of each of several curves, without those of its recording."""
    seconds = []
    for epochs in (subject.epochs, 3 * subject.epochs):
        works = [partial(_curve, subject, epochs)] * lanes
        run = partial(in_turn, works, Lanes(subject.device, lanes))
        seconds.append(timed(run, subject.device))
    return _per_update(seconds, subject) / lanes


def _simplex_update(subject: Subject, timed: Timed) -> float:
    num, rng = len(subject.models), torch.Generator().manual_seed(0)
    vertices = grow(stack_vertices(subject.models), range(num), 1e-2, rng).unsqueeze(0)
    seconds = []
    for epochs in (subject.epochs, 3 * subject.epochs):
        work = train_last_vertices(
            Live(live_network(subject.models[0])),
            vertices,
            shared(num, 1),
            Examples(subject.data.train_inputs, subject.data.train_labels),
            [1e-3],
            replace(SimplexArgs(), epochs=epochs, batch_size=subject.batch),
            [torch.Generator().manual_seed(0)],
        )
        seconds.append(timed(partial(finished, work), subject.device))
    return _per_update(seconds, subject)


def _per_update(seconds: list[float], subject: Subject) -> float:
    updates = len(subject.data.train_inputs) // subject.batch
    return (seconds[1] - seconds[0]) / (2 * subject.epochs) / updates


def _point(subject: Subject, timed: Timed) -> float:
    """Return the seconds of refreshing and evaluating a network that was recorded before."""
    passes = Passes(live_network(subject.models[0]), subject.data.scoring)
    inputs, labels = subject.data.train_inputs, subject.data.train_labels

    def run() -> None:
        passes.refresh(inputs, subject.batch)
        passes.evaluate(inputs, labels)

    for _ in range(WARM_UP + 1):
        timed(run, subject.device)
    return timed(run, subject.device)


def _slice_point(subject: Subject, timed: Timed) -> float:
    seconds = []
    for points in (5, 15):
        args = {**asdict(SliceArgs(points=points)), "examples": subject.examples}
        rng = torch.Generator().manual_seed(0)
        run = partial(measure_slice, subject.models[:1], subject.data, rng, **args)
        seconds.append(timed(run, subject.device))
    return (seconds[1] - seconds[0]) / 10


def product(device: torch.device, sizes: "Sizes") -> "Iterator[Record]":
    """Time a product with the Hessian of a wide and of a narrow network in gradients: recorded and
    launched, with convolutions' own second derivatives and with torch's.
    """
    from tests.benchmarks.gpu_steps import _timed, resnet

    for width, batch in ((sizes.wide, sizes.large_batch), (sizes.widths[0], sizes.examples)):
        case = replace(resnet(width, sizes), batch_size=batch)
        model = build_model(case.model, case.shape, 10, 0).to(device)
        data = random_data(case, batch, str(device))
        inputs, labels, own = data.train_inputs, data.train_labels, list(model.parameters())

        def gradient(
            model: nn.Module = model,
            inputs: torch.Tensor = inputs,
            labels: torch.Tensor = labels,
            own: list[nn.Parameter] = own,
        ) -> None:
            torch.autograd.grad(cross_entropy(model(inputs), labels), own)

        def best(run: Callable[[], object]) -> float:
            for _ in range(WARM_UP + 1):
                _timed(run, device)
            return min(_timed(run, device) for _ in range(5))

        def of_product(model: nn.Module = model, data: Dataset = data) -> float:
            H = HessianOperator(model, data.train_inputs, data.train_labels)
            return best(partial(H, torch.ones(H.size, device=device)))

        gradient_s, recorded = best(gradient), of_product()
        record: dict[str, Any] = {"width": width, "batch": batch, "gradient_ms": 1e3 * gradient_s}
        yield record | {"gradients_a_product": recorded / gradient_s}
        with launched():
            yield record | {"launched": True, "gradients_a_product": of_product() / gradient_s}
        with mock.patch("phasegrid.metrics.hessian.kernels.convolve", torch.conv2d):
            torchs = of_product()
        yield record | {"torchs_derivatives": True, "gradients_a_product": torchs / gradient_s}
