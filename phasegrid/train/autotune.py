"""Choose how many members train as one stack, and with which strategy, by a short measurement.

A stack of M members is timed for a few updates, alone and for M = 2, 4, 8, ...; the M with the
least time per member and update wins. Stacking helps most for small networks, where launching
kernels costs more than arithmetic, and hurts where one network fills the device. The crossover
depends on the network, the batch and the device, so it is measured. The choice changes how numbers
are rounded, so it is made once and stored.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from phasegrid.datasets.dataset import Dataset
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import Trial
from phasegrid.keys import Json, content_key
from phasegrid.models.fused import find_architecture
from phasegrid.models.strategies import Strategy, why_not_vmap
from phasegrid.models.weights import parameters_vector
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Batch
from phasegrid.train.beginning import fresh_state, initial_network
from phasegrid.train.compat import recipe_of
from phasegrid.train.cuda_graphs import WARM_UP
from phasegrid.train.epoch import run_update
from phasegrid.train.recipe import Recipe
from phasegrid.train.stack import Stack

WORTH_S = 30.0
"""Measure only packs that are predicted to take at least this many seconds."""

BUDGET_S = 3.0
"""Approximate seconds for the timed updates of one measurement."""

GAIN = 0.95
"""A larger stack is chosen only if it takes at most this share of the time of a smaller one,
because timings are noisy.
"""

LARGEST = 32
"""The largest stack that is timed, for any pack, so that the choice does not depend on the pack."""

_REPEATS = 3


@dataclass(frozen=True, slots=True)
class StackPlan:
    """How to train members that could form one stack: the `strategy`, and at most `stack_size`
    members per stack.
    """

    strategy: Strategy
    stack_size: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per member and update of a stack of `size`."""

    strategy: Strategy
    size: int
    seconds: float


def gpu_name(device: torch.device) -> str | None:
    """Return the name of a GPU; None for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def timing_key(trial: Trial, data: Dataset, device: torch.device) -> str:
    """Return the key under which the choice for such trials on this device is stored.

    It holds whatever changes the cost of an update. Collectors are not in it: they take weights
    between updates, at a cost per member that no stack changes.
    """
    recipe = recipe_of(trial)
    name = gpu_name(device) or "cpu"
    spec: Json = {
        "model": trial.model.spec(),
        "input_shape": list(data.input_shape),
        "num_classes": data.num_classes,
        "batch_size": recipe.batch_size,
        "optimizer": recipe.optimizer,
        **({"sam": True} if recipe.sam else {}),
        **({"prune": True} if recipe.prune else {}),
        **_objective_of(recipe),
        "precision": recipe.precision,
        "device": name,
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "torch": torch.__version__,
    }
    return content_key("timing", 1, spec)


def measure_choice(
    trial: Trial, data: Dataset, device: torch.device
) -> tuple[StackPlan, list[Timing]]:
    """Choose for trials like this one by timing; return the choice and the timings.

    Networks with layers that have no grouped kernels are timed under vmap. Networks that cannot be
    stacked, and those whose batches vary in shape, use ``loop`` without a measurement.
    """
    alone = StackPlan("loop", 1)
    if not TASKS[data.task].one_shape:
        return alone, []
    recipe = recipe_of(trial)
    module = initial_network(trial, data).to(device)
    blueprint = find_architecture(module)
    stacked: Strategy = "vmap" if blueprint is None else "fused"
    if blueprint is None and why_not_vmap(module, data.train_inputs[:1]) is not None:
        return alone, []
    state = fresh_state(trial, module)
    mask = torch.ones_like(parameters_vector(module))

    def seconds(strategy: Strategy, size: int) -> float:
        fused = blueprint if strategy == "fused" else None
        stack = Stack(
            module, [state] * size, strategy, fused, [mask] * size if recipe.prune else ()
        )
        return _seconds_per_update(stack, data, recipe) / size

    return search(seconds, stacked)


def search(
    seconds: Callable[[Strategy, int], float], stacked: Strategy = "fused"
) -> tuple[StackPlan, list[Timing]]:
    """Choose from timings between ``loop`` and the `stacked` strategy; ``seconds(strategy, size)``
    measures the seconds per member and update.

    A network that runs alone but fails in a stack uses ``loop``. Sizes are doubled, up to
    `LARGEST`, until a stack is slower than the best so far, memory runs out, or `BUDGET_S` is
    spent.
    """
    timings = [Timing("loop", 1, seconds("loop", 1))]
    best, size = timings[0], 2
    spent = best.seconds * (_REPEATS + 1)
    while size <= LARGEST:
        spent += best.seconds * size * (_REPEATS + 1)
        if spent > BUDGET_S:
            break
        try:
            timing = Timing(stacked, size, seconds(stacked, size))
        except (
            RuntimeError
        ) as error:  # memory, or what torch.func or a library of kernels cannot do
            fall_back(f"stacks ({stacked}) of {size} could not be timed and are not used", error)
            break
        timings.append(timing)
        if timing.seconds < GAIN * best.seconds:
            best = timing
        elif timing.seconds > best.seconds and size > 2:
            break
        size *= 2
    return StackPlan(best.strategy, best.size), timings


def to_record(choice: StackPlan, timings: list[Timing]) -> Json:
    """Return a choice and its timings as JSON."""
    record: Mapping[str, Any] = {"choice": asdict(choice), "timings": [asdict(t) for t in timings]}
    return record


def from_record(record: Json) -> StackPlan | None:
    """Return the choice in a record of `to_record`; None if the record is something else."""
    choice = record.get("choice") if isinstance(record, dict) else None
    if not isinstance(choice, dict) or choice.get("strategy") not in ("loop", "vmap", "fused"):
        return None
    size = choice.get("stack_size")
    return StackPlan(choice["strategy"], size) if isinstance(size, int) and size >= 1 else None


def _objective_of(recipe: Recipe) -> dict[str, Json]:
    """Return the objective by name and version; nothing for cross-entropy."""
    chosen = recipe.objective
    named = ("name", "version")
    return {} if chosen is None else {"objective": {key: chosen[key] for key in named}}


def _seconds_per_update(stack: Stack, data: Dataset, recipe: Recipe) -> float:
    """Return the least time of a few updates of a stack, each on the same batch."""
    size = min(recipe.batch_size, len(data.train_inputs))
    inputs = data.train_inputs[:size].expand(stack.network.size, size, *data.input_shape).clone()
    labels = data.train_labels[:size].expand(stack.network.size, size).contiguous()
    times = []
    warm_up = 1 if stack.recorder is None else WARM_UP + 1  # a graph is recorded, then timed
    for _ in range(_REPEATS + warm_up):
        _wait(stack.network.weights.device)
        started = time.perf_counter()
        run_update(stack, Batch(inputs, labels), data.task, recipe)
        _wait(stack.network.weights.device)
        times.append(time.perf_counter() - started)
    return min(times[warm_up:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
