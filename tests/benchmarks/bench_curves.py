"""A step of curve training: in place into live parameters, against the twin-architecture way; five
curves as one stack.

ResNet18 of width 4, 3 x 32 x 32 inputs, batch 32, quadratic Bezier curve, one thread, steps
interleaved, medians. The twin keeps every parameter three times and computes the weights at t
inside each layer under autograd (Garipov et al. 2018, published code).

Stacks: five curves of one cell in batches of 128, trained as one stack against one after another;
processor time of this one thread, interleaved, the best of several, without the evaluation of
points.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from phasegrid.jobs import Part
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.connectivity.stacked import train_bends_together
from phasegrid.metrics.connectivity.training import Examples, train_bends
from phasegrid.metrics.network.points import live_network
from phasegrid.metrics.network.turns import finished
from phasegrid.models.build import build_model
from phasegrid.models.fused import read_architecture
from tests.metric_oracles_curves import CurveTwin, curve_coefficients

WIDTH, BATCH, STEPS, ROUNDS = 4, 32, 4, 15
WEIGHT_DECAY = 5e-4
PAIRS, STACK_ROUNDS = 5, 7


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
    mlps = [Part("mlp", 1, {"width": w, "depth": 2, "activation": "relu"}) for w in (16, 64)]
    return [
        (
            f"curves: twin architecture / in place, ResNet18 w{WIDTH} batch {BATCH}, a step:"
            f" {peer / ours:.2f}x ({1e3 * peer:.1f} ms / {1e3 * ours:.1f} ms; target 1.3x)"
        ),
        _stack_line("MLP w16 on 8x8", mlps[0], (1, 8, 8), 1280, 5),
        _stack_line("MLP w64 on 8x8", mlps[1], (1, 8, 8), 1280, 5),
        _stack_line(f"ResNet18 w{WIDTH} on 8x8", part, (3, 8, 8), 512, 1),
    ]


def _stack_line(name: str, part: Part, shape: tuple[int, ...], num: int, epochs: int) -> str:
    """Return the ratio of training `PAIRS` curves one after another to training them as one
    stack.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num, *shape, generator=generator)
    labels = torch.randint(10, (num,), generator=generator)
    models = [build_model(part, shape, 10, seed) for seed in range(PAIRS + 1)]
    settings = ConnectivityArgs(epochs=epochs)
    flats = [live_network(model) for model in models[:-1]]
    ends = [stack_vertices(pair) for pair in pairwise(models)]
    begun = [torch.stack([e[0], e.mean(dim=0), e[1]]) for e in ends]
    blueprint, examples = read_architecture(models[0]), Examples(inputs, labels)

    def one_by_one(vertices: list[Tensor], rngs: list[torch.Generator]) -> None:
        for flat, own, rng in zip(flats, vertices, rngs, strict=True):
            finished(train_bends(flat, own, examples, settings, rng))

    def stacked(vertices: list[Tensor], rngs: list[torch.Generator]) -> None:
        modules = [flat.module for flat in flats]
        train_bends_together(blueprint, modules, vertices, examples, settings, rngs)

    seconds: dict[str, list[float]] = {"one_by_one": [], "stacked": []}
    for _ in range(STACK_ROUNDS):
        for key, run in (("one_by_one", one_by_one), ("stacked", stacked)):
            vertices = [own.clone() for own in begun]
            rngs = [torch.Generator().manual_seed(i) for i in range(PAIRS)]
            started = time.process_time()
            run(vertices, rngs)
            seconds[key].append(time.process_time() - started)
    peer, ours = min(seconds["one_by_one"]), min(seconds["stacked"])
    steps = epochs * (num // settings.batch_size)
    return (
        f"curves: {PAIRS} one after another / as one stack, {name}, batch 128, an update of all:"
        f" {peer / ours:.2f}x ({1e3 * peer / steps:.2f} ms / {1e3 * ours / steps:.2f} ms)"
    )


def _in_place(
    model: torch.nn.Module, vertices: Tensor, inputs: Tensor, labels: Tensor
) -> Callable[[], None]:
    flat = live_network(model)
    settings = ConnectivityArgs(epochs=1, batch_size=BATCH, weight_decay=WEIGHT_DECAY)
    rng = torch.Generator().manual_seed(0)

    def run() -> None:
        finished(train_bends(flat, vertices, Examples(inputs, labels), settings, rng))

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
