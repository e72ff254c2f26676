"""How much faster is a pack than its members one at a time? One ratio a strategy.

    python tests/benchmarks/bench_packing.py [--device cuda] [--members 3] [--quick]

Each line is one network and batch size: the time of an update of all members by the plain way
(torch.nn and torch.optim, one member after another) and how many times faster each strategy of
`phasegrid.train.stack` is. Ways are interleaved and the best of several rounds is taken, so other
work on the machine disturbs all alike.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Part
from phasegrid.models.build import build_model
from phasegrid.models.fused import read_architecture
from phasegrid.models.strategies import Strategy
from phasegrid.models.weights import cpu_state, parameters_vector
from phasegrid.tasks.batches import Cut, epoch_bounds
from phasegrid.train.batches import DataStream
from phasegrid.train.epoch import run_epoch
from phasegrid.train.optimizers import new_slots
from phasegrid.train.recipe import Recipe
from phasegrid.train.stack import MemberState, Stack

CLASSES = 10


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table: what to train, on inputs of what shape, in batches of what size."""

    name: str
    model: Part
    shape: tuple[int, ...]
    batch_size: int


def cases(quick: bool) -> list[Case]:
    """List the perceptrons and small convolutional networks of the table."""
    found = []
    for width in (2, 16, 64, 256):
        part = Part("mlp", 1, {"width": width, "depth": 2, "activation": "relu"})
        sizes = (4, 256) if quick else (4, 16, 64, 256)
        found += [Case(f"mlp-{width}", part, (1, 8, 8), size) for size in sizes]
    cnn = Part("small_cnn", 1, {"width": 8, "batch_norm": True})
    found += [Case("small_cnn-8", cnn, (1, 8, 8), size) for size in (16, 256)]
    for width, pixels, size in ((4, 8, 16), (4, 8, 256), (4, 32, 64), (8, 32, 64)):
        if pixels == 8 or not quick:
            part = Part("resnet18", 1, {"width": width})
            found.append(Case(f"resnet18-{width} {pixels}px", part, (3, pixels, pixels), size))
    return found


def random_data(case: Case, num: int, device: str) -> Dataset:
    """Make `num` random training examples."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num, *case.shape, generator=generator)
    labels = torch.randint(0, CLASSES, (num,), generator=generator)
    one = torch.ones(case.shape[0], 1, 1)
    return Dataset("random", inputs, labels, inputs[:1], labels[:1], CLASSES, one, one).to(device)


def plain_way(case: Case, data: Dataset, count: int, recipe: Recipe) -> Callable[[], None]:
    """Return an epoch by torch.nn and torch.optim, one member after another."""
    modules = [build(case, seed).to(data.train_inputs.device) for seed in range(count)]
    optimizers = [
        torch.optim.SGD(
            m.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        for m in modules
    ]

    def epoch() -> None:
        for module, optimizer in zip(modules, optimizers, strict=True):
            running, correct = 0.0, 0
            order = torch.randperm(len(data.train_inputs)).to(data.train_inputs.device)
            for index in order.split(case.batch_size):
                labels = data.train_labels[index]
                optimizer.zero_grad()
                logits = module(data.train_inputs[index])
                loss = cross_entropy(logits, labels)
                loss.backward()
                optimizer.step()
                running += loss.detach() * len(index)
                correct += (logits.argmax(1) == labels).sum()

    return epoch


def own_way(
    case: Case, data: Dataset, count: int, recipe: Recipe, strategy: Strategy
) -> Callable[[], None]:
    """Return an epoch by one strategy."""
    modules = [build(case, seed).to(data.train_inputs.device) for seed in range(count)]
    states = []
    for module in modules:
        tensors = {k: v.to(data.train_inputs.device) for k, v in cpu_state(module).items()}
        states.append(MemberState(tensors, new_slots(recipe, parameters_vector(module))))
    feeds = [
        DataStream(data, seed, torch.Generator(), torch.Generator(), recipe.lr, recipe.weight_decay)
        for seed in range(count)
    ]
    cut = Cut(epoch_bounds(len(data.train_inputs), case.batch_size, False, True))
    if strategy == "loop":
        stacks = [
            (Stack(m, [s], "loop"), [f]) for m, s, f in zip(modules, states, feeds, strict=True)
        ]
    else:
        blueprint = read_architecture(modules[0]) if strategy == "fused" else None
        stacks = [(Stack(modules[0], states, strategy, blueprint), feeds)]

    def epoch() -> None:
        for stack, fed in stacks:
            for _ in run_epoch(stack, fed, recipe, cut, 0, 0):
                pass

    return epoch


def build(case: Case, seed: int) -> nn.Module:
    """Build one member."""
    return build_model(case.model, case.shape, CLASSES, seed=seed).train()


def measure(case: Case, count: int, device: str, rounds: int) -> dict[str, float]:
    """Return seconds per update of all members for each way."""
    updates = max(4, min(60, 2048 // case.batch_size))
    data = random_data(case, updates * case.batch_size, device)
    recipe = Recipe(batch_size=case.batch_size, epochs=2, lr=0.01)
    ways: dict[str, Callable[[], None]] = {"plain": plain_way(case, data, count, recipe)}
    strategies: tuple[Strategy, ...] = ("loop", "vmap", "fused")
    for strategy in strategies:
        ways[strategy] = own_way(case, data, count, recipe, strategy)
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds + 1):  # the first round warms up; the minimum forgets it
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if device == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], (time.perf_counter() - started) / updates)
    return best


def main(device: str = "cpu", members: int = 3, rounds: int = 3, quick: bool = True) -> list[str]:
    """Return one line a case: how many times faster than a plain torch.optim loop each strategy
    is.
    """
    torch.set_num_threads(1)
    lines = []
    for case in cases(quick):
        best = measure(case, members, device, rounds)
        ratios = ", ".join(f"{w} {best['plain'] / best[w]:.2f}x" for w in ("loop", "vmap", "fused"))
        lines.append(
            f"training {members} members as one, {case.name}, batch {case.batch_size}, {device}:"
            f" {ratios} against a plain torch.optim loop ({1000 * best['plain']:.2f} ms an update)"
        )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    print("\n".join(main(asked.device, asked.members, asked.rounds, asked.quick)))
