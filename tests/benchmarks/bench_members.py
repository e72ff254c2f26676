"""Five seeds of a ResNet18 as one pack against one after another, and what a member costs in packs
of 1 to 40.

The other way is that of a script: torch.nn and torch.optim, one seed after another, NCHW memory.
Ours is the way a worker goes: the strategy and stack size that `phasegrid.train.autotune` measures,
memory kept between updates (`phasegrid.run.worker.malloc`). One thread, each way in its own
process, taking turns; medians of CPU time.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict

import torch

from phasegrid.jobs import Part, Trial
from phasegrid.run.worker.malloc import keep_freed_memory
from phasegrid.train.autotune import measure_choice
from phasegrid.train.recipe import Recipe
from tests.benchmarks.bench_packing import Case, own_way, plain_way, random_data
from tests.benchmarks.contest import Score, compete, line

SEEDS, ROUNDS = 5, 7
TINY = Case("resnet18-4 8px", Part("resnet18", 1, {"width": 4}), (3, 8, 8), 16)
SMALL = Case("resnet18-8 32px", Part("resnet18", 1, {"width": 8}), (3, 32, 32), 64)
PERCEPTRON = Case(
    "mlp-16", Part("mlp", 1, {"width": 16, "depth": 2, "activation": "relu"}), (1, 8, 8), 16
)
TARGETS = ((TINY, 3.5), (SMALL, 1.4))
SIZES = (1, 5, 10, 20, 40)


def main() -> list[str]:
    """Return a line for each target and a row of sizes for each network."""
    lines = [five_seeds(case, target) for case, target in TARGETS]
    return lines + [sizes(case) for case in (PERCEPTRON, TINY, SMALL)]


def five_seeds(case: Case, target: float) -> str:
    """Race a pack of five against one after another, per update of all."""
    updates = _updates(case)
    peer = "one after another, torch.nn and torch.optim"
    scores = compete({peer: (_plain, (case, updates)), "ours": (_ours, (case, updates))}, ROUNDS)
    each = {
        name: Score([s / updates for s in score.seconds], score.answer, score.peak_gib)
        for name, score in scores.items()
    }
    what = (
        f"training {SEEDS} seeds of {case.name}, batch {case.batch_size}, an update of all,"
        f" {scores['ours'].answer}"
    )
    return line(what, each, "ours", target)


def sizes(case: Case) -> str:
    """Say what an update of one member costs in packs of several sizes, all members in one
    stack.
    """
    updates = max(2, _updates(case) // 4)
    scores = compete({str(n): (_stack, (case, updates, n)) for n in SIZES}, ROUNDS - 2)
    told = [
        f"{n}: {1e3 * scores[str(n)].median_s / updates / n:.3f} ms ({scores[str(n)].peak_gib:.2f}"
        " GiB)"
        for n in SIZES
    ]
    return (
        f"an update of one of M members in one stack, {case.name}, batch {case.batch_size} | M = 1"
        f" (loop) | {', '.join(told)} | no limit"
    )


def _updates(case: Case) -> int:
    return 6 if case == SMALL else 60


def _plain(case: Case, updates: int) -> Callable[[], None]:
    torch.set_num_threads(1)
    data = random_data(case, updates * case.batch_size, "cpu")
    return plain_way(case, data, SEEDS, _recipe(case))


def _ours(case: Case, updates: int) -> Callable[[], str]:
    torch.set_num_threads(1)
    keep_freed_memory()
    data, recipe = random_data(case, updates * case.batch_size, "cpu"), _recipe(case)
    trial = Trial("0" * 32, Part("random", 1, {}), case.model, asdict(recipe), 0)
    choice, _ = measure_choice(trial, data, torch.device("cpu"))
    most = choice.stack_size if choice.strategy == "fused" else 1
    parts = [min(most, SEEDS - start) for start in range(0, SEEDS, most)]
    epochs = [own_way(case, data, n, recipe, "fused" if n > 1 else "loop") for n in parts]

    def turn() -> str:
        for epoch in epochs:
            epoch()
        return f"{choice.strategy} by {'+'.join(map(str, parts))}"

    return turn


def _stack(case: Case, updates: int, count: int) -> Callable[[], None]:
    torch.set_num_threads(1)
    keep_freed_memory()
    data = random_data(case, updates * case.batch_size, "cpu")
    return own_way(case, data, count, _recipe(case), "fused" if count > 1 else "loop")


def _recipe(case: Case) -> Recipe:
    return Recipe(batch_size=case.batch_size, epochs=2, lr=0.01)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    print("\n".join(main()))
