"""An update of a connector of a complex: its points in turn, as one stack of networks, and with
those of seven other complexes in one stack.

Four modes, a second connector in training, five points a batch of 128, one thread; processor time,
interleaved, the best of several rounds, without the evaluation of points. Memory is kept between
updates, as a worker keeps it.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from phasegrid.jobs import Part
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.points import live_network
from phasegrid.metrics.network.stacking import live_stack
from phasegrid.metrics.network.turns import finished
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import grow
from phasegrid.metrics.simplex.training import Live, train_last_vertices
from phasegrid.metrics.simplex.wiring import shared
from phasegrid.models.build import build_model
from phasegrid.models.fused import read_architecture
from phasegrid.run.worker.malloc import keep_freed_memory
from tests.benchmarks.bench_packing import CLASSES

MODES, POINTS, MANY, ROUNDS = 4, 5, 8, 5

PIXELS, IMAGE = (1, 8, 8), (3, 32, 32)


def main() -> list[str]:
    """Return how many times faster stacks are than points in turn."""
    torch.set_num_threads(1)
    keep_freed_memory()
    return [
        *(_line(f"MLP w{w} on 8x8", _mlp(w), PIXELS, 20) for w in (16, 64, 256)),
        _line("small CNN w16 on 8x8", _cnn(16), PIXELS, 5),
        _line("small CNN w4 on 32x32", _cnn(4), IMAGE, 2),
        _line("ResNet18 w4 on 8x8", Part("resnet18", 1, {"width": 4}), (3, 8, 8), 2),
    ]


def _mlp(width: int) -> Part:
    return Part("mlp", 1, {"width": width, "depth": 2, "activation": "relu"})


def _cnn(width: int) -> Part:
    return Part("small_cnn", 1, {"width": width, "batch_norm": True})


def _line(name: str, part: Part, shape: tuple[int, ...], updates: int) -> str:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(128 * updates, *shape, generator=rng)
    examples = Examples(inputs, torch.randint(CLASSES, (len(inputs),), generator=rng))
    models = [build_model(part, shape, CLASSES, seed) for seed in range(MODES)]
    vertices = stack_vertices(models)
    for _ in range(2):
        vertices = grow(vertices, range(len(vertices)), 0.1, rng)
    ways = {
        "in turn": _way(Live(live_network(models[0])), vertices, 1, examples),
        "one stack": _way(_stack(models[0], 1), vertices, 1, examples),
        "many": _way(_stack(models[0], MANY), vertices, MANY, examples),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for way, run in ways.items():
            started = time.process_time()
            run()
            best[way] = min(best[way], time.process_time() - started)
    ms = {way: 1e3 * seconds / updates for way, seconds in best.items()}
    ms["many"] /= MANY
    return (
        f"complexes: {POINTS} points in turn / as one stack / {MANY} complexes as one stack, {name},"
        f" batch 128, an update of one: {ms['in turn'] / ms['one stack']:.2f}x and"
        f" {ms['in turn'] / ms['many']:.2f}x ({ms['in turn']:.2f} ms / {ms['one stack']:.2f} ms /"
        f" {ms['many']:.2f} ms)"
    )


def _stack(model: nn.Module, count: int) -> Live:
    return Live(live_stack(read_architecture(model), [model] * count, POINTS))


def _way(live: Live, vertices: Tensor, count: int, examples: Examples) -> Callable[[], object]:
    settings = SimplexArgs(epochs=1, samples=POINTS)

    def run() -> object:
        own = vertices.repeat(count, 1, 1)
        rngs = [torch.Generator().manual_seed(place) for place in range(count)]
        return finished(
            train_last_vertices(
                live, own, shared(MODES, 2), examples, [1e-3] * count, settings, rngs
            )
        )

    return run
