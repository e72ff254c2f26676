"""A step of curve training: in place into live parameters, against the twin-architecture way; five
curves as one stack.

ResNet18 of width 4, 3 x 32 x 32 inputs, batch 32, quadratic Bezier curve, one thread, steps
interleaved, medians. The twin keeps every parameter three times and computes the weights at t
inside each layer under autograd (Garipov et al. 2018, published code).

Stacks: five curves of one cell in batches of 128, trained as one stack against one after another;
processor time of this one thread, interleaved, the best of several, without the evaluation of
points.

Epochs: an epoch of a curve against an epoch of training the same network, both without evaluation
(Garipov et al. 2018, A.2: usually less than 15% slower), by our loop and by torch.nn and
torch.optim; processor time of this one thread, interleaved, medians of the ratios of each round.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Part
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.connectivity.stacked import train_bends_together
from phasegrid.metrics.connectivity.training import train_bends
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.points import live_network
from phasegrid.metrics.network.turns import finished
from phasegrid.models.build import build_model
from phasegrid.models.fused import read_architecture
from phasegrid.tasks.batches import cut
from phasegrid.train.recipe import Recipe
from tests.benchmarks.bench_packing import Case, own_way, plain_way, random_data
from tests.metric_oracles_curves import CurveTwin, curve_coefficients

WIDTH, BATCH, STEPS, ROUNDS = 4, 32, 4, 15
WEIGHT_DECAY = 5e-4
PAIRS, STACK_ROUNDS = 5, 7
EPOCH_ROUNDS = 9
CNN = Part("small_cnn", 1, {"width": 16, "batch_norm": True})
EPOCHS = (
    (Case("small CNN w16 on digits, batch 32", CNN, (1, 8, 8), 32), 1280),
    (Case("small CNN w16 on CIFAR-10, batch 128", CNN, (3, 32, 32), 128), 1024),
    (
        Case(
            "ResNet18 w4 on CIFAR-10, batch 32", Part("resnet18", 1, {"width": 4}), (3, 32, 32), 32
        ),
        256,
    ),
)


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
        *(_epoch_line(case, num) for case, num in EPOCHS),
    ]


def _epoch_line(case: Case, num: int) -> str:
    """Return how much longer an epoch of a curve takes than one of training, `num` examples each."""
    data = random_data(case, num, "cpu")
    recipe = Recipe(batch_size=case.batch_size, epochs=2, lr=0.01, weight_decay=WEIGHT_DECAY)
    models = [build_model(case.model, case.shape, 10, seed) for seed in (0, 1)]
    ends = stack_vertices(models)
    vertices = torch.stack([ends[0], ends.mean(dim=0), ends[1]])
    ways = {
        "curve": _curve_epoch(models[0], vertices, data, case.batch_size),
        "loop": own_way(case, data, 1, recipe, "loop"),
        "plain": plain_way(case, data, 1, recipe),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(EPOCH_ROUNDS + 1):  # the first warms up
        for name, run in ways.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    rounds = list(zip(*(seconds[name][1:] for name in ways), strict=True))
    by_loop, by_plain = (
        statistics.median(each[0] / each[place] for each in rounds) for place in (1, 2)
    )
    return (
        f"curves: an epoch of a curve / of training, {case.name}: {by_loop:.2f}x our loop,"
        f" {by_plain:.2f}x torch.optim ({1e3 * statistics.median(seconds['curve'][1:]):.0f} ms an"
        " epoch of the curve; Garipov et al. 2018: usually below 1.15x)"
    )


def _curve_epoch(
    model: torch.nn.Module, vertices: Tensor, data: Dataset, batch_size: int
) -> Callable[[], None]:
    """Return the next epoch of one training of a curve."""
    settings = ConnectivityArgs(
        epochs=EPOCH_ROUNDS + 2, batch_size=batch_size, weight_decay=WEIGHT_DECAY
    )
    examples = Examples(data.train_inputs, data.train_labels)
    rng = torch.Generator().manual_seed(0)
    work = train_bends(live_network(model), vertices, examples, settings, rng)

    def epoch() -> None:
        for _ in cut(len(data.train_inputs), batch_size):
            next(work)

    return epoch


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
