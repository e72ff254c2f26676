"""Do the trainings of a pack that the store does not hold."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

import torch

from phasegrid.datasets.dataset import Dataset
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import Trial
from phasegrid.packs import Layout, Outcome, Pack
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.worker.failing import failed, found_already, guarded, raise_if_of_no_job
from phasegrid.run.worker.lane_memory import Kind, lanes_within, memory_key, memory_of
from phasegrid.run.worker.loaded_data import dataset_of
from phasegrid.run.worker.starts import StoredPublisher, beginning_of, void_results
from phasegrid.run.worker.trained import publish_trial
from phasegrid.store.store import Store
from phasegrid.train.autotune import (
    WORTH_S,
    from_record,
    measure_choice,
    timing_key,
    to_record,
)
from phasegrid.train.compat import by_kind, parted
from phasegrid.train.loop import train_pack
from phasegrid.train.member import Trained
from phasegrid.train.stack_plan import StackPlan

OnEpoch = Callable[[int, int], None]
"""Takes the number of epochs that are done, and their total."""

Publish = Callable[[Trial, Dataset, Trained], bool]


def train(
    pack: Pack, store: Store, place: PackOptions, device: torch.device, on_epoch: OnEpoch
) -> list[Outcome]:
    """Do the trainings of a pack that the store does not hold, and publish each as it finishes.

    If trainings fail together, each is done alone, so that the failure names the culprit; those of
    several kinds are halved first.
    """
    found = {trial.key: found_already(store, pack, "trials", trial.key) for trial in pack.trials}
    outcomes = [outcome for outcome in found.values() if outcome is not None]
    missing = {key for key, outcome in found.items() if outcome is None}
    if not missing:
        return outcomes
    laid_out = pack.layout.trials if pack.layout else pack.trials
    stand_in = pack.layout is not None and place.strategy != "loop"
    trials = [trial for trial in laid_out if stand_in or trial.key in missing]
    size = 1 if place.reproducible else len(laid_out if pack.layout else trials)

    def publish(trial: Trial, data: Dataset, result: Trained) -> bool:
        work = partial(publish_trial, store, trial, result, data, device, size, place)
        outcomes.append(guarded(store, pack, trial.key, work))
        return outcomes[-1].status != "failed"

    try:
        data = [dataset_of(trial.dataset, device, place.shared_data) for trial in trials]
        void = void_results(store, trials)
        for trial, own in zip(trials, data, strict=True):
            if trial.key in void and trial.key in missing:
                publish(trial, own, void[trial.key])
        data = [own for own, trial in zip(data, trials, strict=True) if trial.key not in void]
        trials = [trial for trial in trials if trial.key not in void]
        if not missing.isdisjoint(trial.key for trial in trials):
            _train_together(pack, store, place, device, trials, data, missing, on_epoch, publish)
    except Exception as error:
        raise_if_of_no_job(error)
        left = [t for t in trials if t.key in missing - {outcome.key for outcome in outcomes}]
        if len(trials) == 1:
            return [*outcomes, *(failed(store, pack, trial.key, error) for trial in left)]
        parts = parted(left)
        how = "each done alone" if len(parts) == len(left) else "done in halves"
        fall_back(f"{len(left)} trainings that failed together were {how}", error)
    else:
        return outcomes
    # The error is let go of before: it holds all that was on the device.
    for part in map(tuple, parts):
        apart = replace(pack, trials=part, layout=Layout(trials=part))
        outcomes += train(apart, store, place, device, on_epoch)
    return outcomes


def _train_together(
    pack: Pack,
    store: Store,
    place: PackOptions,
    device: torch.device,
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    missing: Collection[str],
    on_epoch: OnEpoch,
    publish: Publish,
) -> None:
    """Train trials in one call. Those that are not `missing` only fill their places in stacks."""
    plans = _plans(pack, store, place, trials, data, device)
    memory = memory_of(device, place.gpu_share)
    kinds = [] if memory is None else _kinds(place, trials, data, plans, device, missing)
    with lanes_within(memory, kinds, store.notes) as lanes:
        train_pack(
            trials,
            data,
            device=device,
            strategy=place.strategy,
            plans=plans,
            lanes=lanes,
            starts=[beginning_of(store, trial) for trial in trials],
            publisher=StoredPublisher(store),
            wanted=[i for i, trial in enumerate(trials) if trial.key in missing],
            snapshots=store.snapshots(),
            same_stacks=pack.layout is not None,
            snapshot_every_s=place.snapshot_every_s,
            on_epoch=on_epoch,
            on_trained=lambda index, result: publish(trials[index], data[index], result),
        )


def _plans(
    pack: Pack,
    store: Store,
    place: PackOptions,
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    device: torch.device,
) -> list[StackPlan | None]:
    """Return the fastest way to run each trial of a pack, from stored or new measurements, one for
    each kind of trial; None if measurements would cost more than they save.
    """
    predicted_s = pack.layout.cost_s if pack.layout else pack.cost_s
    if place.strategy != "auto" or len(trials) == 1 or predicted_s < WORTH_S:
        return [None] * len(trials)
    keys = [timing_key(trial, own, device) for trial, own in zip(trials, data, strict=True)]
    if predicted_s < WORTH_S * len(set(keys)):
        return [None] * len(trials)
    first = {key: keys.index(key) for key in keys}
    chosen = {key: _choice(key, store, trials[i], data[i], device) for key, i in first.items()}
    return [chosen[key] for key in keys]


def _choice(key: str, store: Store, trial: Trial, data: Dataset, device: torch.device) -> StackPlan:
    known = from_record(store.notes.read_timing(key))
    if known is not None:
        return known
    choice, timings = measure_choice(trial, data, device)
    if not timings:
        return choice
    store.notes.put_timing(key, to_record(choice, timings))
    return from_record(store.notes.read_timing(key)) or choice  # the first stored holds for all


def _kinds(
    place: PackOptions,
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    plans: Sequence[StackPlan | None],
    device: torch.device,
    missing: Collection[str],
) -> list[Kind]:
    """Return the kinds of trials that a GPU has to hold, in the order in which they begin."""
    kinds = []
    for alike in by_kind(trials):
        left = [trial.key for trial in alike if trial.key in missing]
        if not left:
            continue
        i = trials.index(alike[0])
        plan = plans[i] or StackPlan(place.strategy)
        alone = plan.strategy == "loop"
        size = 1 if alone else plan.stack_size or len(alike)
        key = memory_key(timing_key(alike[0], data[i], device))
        estimate, count = place.lane_bytes.get(left[0]), len(left if alone else alike)
        kinds.append(Kind(key, estimate, count, size, plan.share))
    return kinds
