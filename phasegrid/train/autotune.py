"""Choose how many members train as one stack, and with which strategy, by a short measurement.

A stack of M members is timed for a few updates, alone and for M = 2, 4, 8, ...; the M with the
least time per member and update wins. On a GPU, lone members are also timed side by side in lanes
(`phasegrid.train.lanes`), with torch's kernels and with merged ones. Stacking helps most for small
networks, where launching kernels costs more than arithmetic, and hurts where one network fills the
device. The crossover depends on the network, the batch and the device, so it is measured. The
choice changes how numbers are rounded, so it is made once and stored.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch

from phasegrid.datasets.dataset import Dataset
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import Trial
from phasegrid.keys import Json, content_key
from phasegrid.models.fused import find_architecture
from phasegrid.models.network_state import copy_network
from phasegrid.models.strategies import Strategy, why_not_vmap
from phasegrid.models.weights import parameters_vector
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Batch
from phasegrid.train.batches import Chunk
from phasegrid.train.beginning import fresh_state, initial_network
from phasegrid.train.compat import recipe_of
from phasegrid.train.cuda_graphs import WARM_UP
from phasegrid.train.epoch import run_chunk
from phasegrid.train.lanes import Lane, new_lane
from phasegrid.train.recipe import Recipe
from phasegrid.train.stack import Stack
from phasegrid.train.stack_plan import StackPlan

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

SOME = 8
"""The number of lanes that is timed first."""

_REPEATS = 3

_AT_ONCE = 4
"""Recorded updates are launched this many at a time before waiting for the device."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per member and update of a stack of `size`, or of `lanes` stacks side by side."""

    strategy: Strategy
    size: int
    seconds: float
    lanes: int = 1


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
        **({"accumulate": recipe.accumulate} if recipe.accumulate > 1 else {}),
        **_objective_of(recipe),
        "precision": recipe.precision,
        "device": name,
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "torch": torch.__version__,
    }
    version = 1 if name == "cpu" else 2  # on a GPU, there are lanes since
    return content_key("timing", version, spec)


def measure_choice(
    trial: Trial, data: Dataset, device: torch.device
) -> tuple[StackPlan, list[Timing]]:
    """Choose for trials like this one by timing; return the choice and the timings.

    Networks with layers that have no grouped kernels are timed under vmap. Networks that cannot be
    stacked, and those whose batches vary in shape, use ``loop`` without a measurement.
    """
    alone = StackPlan("loop", 1, 1)
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

    def stack(strategy: Strategy, size: int) -> Stack:
        known = blueprint if strategy in ("fused", "merged") else None
        masks = [mask] * size if recipe.prune else ()
        return Stack(copy_network(module), [state] * size, strategy, known, masks)

    def seconds(strategy: Strategy, size: int) -> float:
        return _seconds_per_update([(Lane(), stack(strategy, size))], data, recipe) / size

    def seconds_in_lanes(strategy: Strategy, count: int) -> float:
        stacks = []
        for lane in [new_lane(device) for _ in range(count)]:
            with lane.current():
                lane.enter()
                stacks.append((lane, stack(strategy, 1)))
        return _seconds_per_update(stacks, data, recipe) / count

    has_lanes = new_lane(device).gives_back and blueprint is not None
    found = search(seconds, stacked, seconds_in_lanes if has_lanes else None)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the lanes' streams have kept is of no use to others
    return found


def search(
    seconds: Callable[[Strategy, int], float],
    stacked: Strategy = "fused",
    seconds_in_lanes: Callable[[Strategy, int], float] | None = None,
) -> tuple[StackPlan, list[Timing]]:
    """Choose from timings between ``loop`` and the `stacked` strategy; ``seconds(strategy, size)``
    measures the seconds per member and update, and so does ``seconds_in_lanes(strategy, count)`` of
    members that run alone in so many lanes.

    A network that runs alone but fails in a stack uses ``loop``. Sizes are doubled, up to
    `LARGEST`, until a stack is slower than the best so far, memory runs out, or `BUDGET_S` is
    spent. Of lanes fewer numbers are tried: each lane is recorded anew.
    """
    alone = Timing("loop", 1, seconds("loop", 1))
    timings = _doubled(
        f"stacks ({stacked})", lambda size: Timing(stacked, size, seconds(stacked, size)), alone
    )
    best = _best(timings)
    if seconds_in_lanes is not None:
        lanes = _lanes(alone, seconds_in_lanes)
        timings += lanes[1:]
        if best.seconds >= GAIN * _best(lanes).seconds:  # numbers in a lane are those alone
            best = _best(lanes)
    return StackPlan(best.strategy, best.size, best.lanes), timings


def _lanes(alone: Timing, seconds: Callable[[Strategy, int], float]) -> list[Timing]:
    """Time `SOME` lanes of each strategy; then, of the faster one, more if they paid, else
    fewer.
    """
    found = [alone]

    def time_lanes(strategy: Strategy, count: int) -> None:
        try:
            found.append(Timing(strategy, 1, seconds(strategy, count), lanes=count))
        except torch.OutOfMemoryError:
            pass  # so many do not fit, which is no failure
        except RuntimeError as error:
            fall_back(f"lanes ({strategy}) could not be timed and are not used", error)

    time_lanes("loop", SOME)
    time_lanes("merged", SOME)
    best = _best(found)
    if best is not alone and best.seconds * LARGEST * (_REPEATS + 1) < BUDGET_S:
        time_lanes(best.strategy, LARGEST)
    elif best is alone:
        time_lanes("loop", 2)
        time_lanes("merged", 1)
    return found


def _best(timings: Sequence[Timing]) -> Timing:
    best = timings[0]
    for timing in timings[1:]:
        if timing.seconds < GAIN * best.seconds:
            best = timing
    return best


def _doubled(what: str, timed: Callable[[int], Timing], alone: Timing) -> list[Timing]:
    """Return the timings of 1, 2, 4, 8, ... members together, until more no longer pay."""
    found, size = [alone], 2
    spent = alone.seconds * (_REPEATS + 1)
    while size <= LARGEST:
        best = _best(found)
        spent += best.seconds * size * (_REPEATS + 1)
        if spent > BUDGET_S:
            break
        try:
            timing = timed(size)
        except torch.OutOfMemoryError:
            break  # so many do not fit, which is no failure
        except RuntimeError as error:  # what torch.func or a library of kernels cannot do
            fall_back(f"{what} of {size} could not be timed and are not used", error)
            break
        found.append(timing)
        if timing.seconds > best.seconds and size > 2:
            break
        size *= 2
    return found


def to_record(choice: StackPlan, timings: list[Timing]) -> Json:
    """Return a choice and its timings as JSON."""
    record: Mapping[str, Any] = {"choice": asdict(choice), "timings": [asdict(t) for t in timings]}
    return record


def from_record(record: Json) -> StackPlan | None:
    """Return the choice in a record of `to_record`; None if the record is something else."""
    choice = record.get("choice") if isinstance(record, dict) else None
    if not isinstance(choice, dict) or choice.get("strategy") not in get_args(Strategy):
        return None
    size, lanes = choice.get("stack_size"), choice.get("lanes", 1)
    if not all(isinstance(number, int) and number >= 1 for number in (size, lanes)):
        return None
    return StackPlan(choice["strategy"], size, lanes)


def _objective_of(recipe: Recipe) -> dict[str, Json]:
    """Return the objective by name and version; nothing for cross-entropy."""
    chosen = recipe.objective
    named = ("name", "version")
    return {} if chosen is None else {"objective": {key: chosen[key] for key in named}}


def _seconds_per_update(
    stacks: Sequence[tuple[Lane, Stack]], data: Dataset, recipe: Recipe
) -> float:
    """Return the least time of an update of stacks side by side, each on the same batch."""
    recorded, device = stacks[0][1].recorder is not None, stacks[0][1].network.weights.device
    num = _AT_ONCE if recorded else 1
    chunk, times = _repeated_batch(stacks[0][1].network.size, num, data, recipe), []
    warm_up = WARM_UP + 1 if recorded else 1  # a graph is recorded, then timed
    try:
        for _ in range(_REPEATS + warm_up):
            _wait(device)
            started = time.perf_counter()
            running = [(lane, run_chunk(stack, chunk, data.task, recipe)) for lane, stack in stacks]
            for _ in range(num):
                for lane, updates in running:
                    with lane.current():
                        next(updates)
            _wait(device)
            times.append((time.perf_counter() - started) / num)
    finally:  # lanes read the chunk until then, also if one has failed
        _wait(device)
    return min(times[warm_up:])


def _repeated_batch(members: int, num: int, data: Dataset, recipe: Recipe) -> Chunk:
    """Return a chunk of `num` equal batches for each of M members."""
    size = min(recipe.batch_size, len(data.train_inputs))
    inputs = data.train_inputs[:size].repeat(num, *[1] * len(data.input_shape))
    labels = data.train_labels[:size].repeat(num)
    whole = Batch(
        inputs.expand(members, *inputs.shape).contiguous(),
        labels.expand(members, len(labels)).contiguous(),
    )
    parts = [slice(i * size, (i + 1) * size) for i in range(num)]
    batches = [Batch(whole.inputs[:, part], whole.labels[:, part]) for part in parts]
    return Chunk(batches, whole, [size] * num)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
