"""A step of curve training: in place into live parameters, against the twin-architecture way.

ResNet18 of width 4, 3 x 32 x 32 inputs, batch 32, quadratic Bezier curve, one thread, steps interleaved, medians. The twin keeps
every parameter three times and computes the weights at t inside each layer under autograd (Garipov et al. 2018, published code).
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from phasegrid.jobs import Part
from phasegrid.metrics.curve_training import train_bends
from phasegrid.metrics.curves import stack_vertices
from phasegrid.metrics.declared_curves import ConnectivityArgs
from phasegrid.metrics.point_evaluation import live_network
from phasegrid.models.building import build_model
from tests.metric_oracles_curves import CurveTwin, curve_coefficients

WIDTH, BATCH, STEPS, ROUNDS = 4, 32, 4, 15
WEIGHT_DECAY = 5e-4


def main() -> list[str]:
    """Return the ratio of one step of the twin to one step in place."""
    torch.set_num_threads(1)
    part = Part("resnet18", 1, {"width": WIDTH})
    models = [build_model(part, (3, 32, 32), 10, seed) for seed in (0, 1)]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(STEPS * BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (len(inputs),), generator=generator)
    ends = stack_vertices(models)
    vertices = torch.stack([ends[0], ends.mean(dim=0), ends[1]])
    in_place = _in_place(models[0], vertices.clone(), inputs, labels)
    twin = _twin(build_model(part, (3, 32, 32), 10, 0), vertices, inputs, labels)
    seconds: dict[str, list[float]] = {"in_place": [], "twin": []}
    in_place(), twin()
    for _ in range(ROUNDS):
        for name, run in (("in_place", in_place), ("twin", twin)):
            started = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - started) / STEPS)
    ours, peer = statistics.median(seconds["in_place"]), statistics.median(seconds["twin"])
    return [
        f"curves: twin architecture / in place, ResNet18 w{WIDTH} batch {BATCH}, a step: {peer / ours:.2f}x "
        f"({1e3 * peer:.1f} ms / {1e3 * ours:.1f} ms; target 1.3x)"
    ]


def _in_place(
    model: torch.nn.Module, vertices: Tensor, inputs: Tensor, labels: Tensor
) -> Callable[[], None]:
    flat = live_network(model)
    settings = ConnectivityArgs(epochs=1, batch_size=BATCH, weight_decay=WEIGHT_DECAY)
    rng = torch.Generator().manual_seed(0)

    def run() -> None:
        train_bends(flat, vertices, inputs, labels, settings, rng)

    return run


def _twin(
    model: torch.nn.Module, vertices: Tensor, inputs: Tensor, labels: Tensor
) -> Callable[[], None]:
    net = CurveTwin(model, vertices).train()
    optimizer = torch.optim.SGD(net.bends(), lr=1e-4, momentum=0.9)
    rng = torch.Generator().manual_seed(0)

    def run() -> None:
        order = torch.randperm(len(inputs), generator=rng)
        times = torch.rand(STEPS, generator=rng).tolist()
        for chosen, t in zip(order.split(BATCH), times, strict=True):
            outputs = net(inputs[chosen], curve_coefficients("bezier", 1, t))
            loss = cross_entropy(outputs, labels[chosen]) + WEIGHT_DECAY * net.l2()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run
