"""do(pack, store): the jobs of one pack, here, now.

Everything a worker process does is in this file: read what is stored, train or measure, publish
each result in one step, and return small outcomes. A failure is a value with its traceback, written
to the store and returned.
"""

import math
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import torch

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import Metric, import_function
from phasegrid.errors import DataError, StoreError, SweepError
from phasegrid.fallbacks import Fallback, collected, fall_back
from phasegrid.jobs import MetricJob, Part, Trial
from phasegrid.keys import stream_seed
from phasegrid.models.evaluation import evaluate
from phasegrid.packs import Layout, Outcome, Pack
from phasegrid.redaction import redact
from phasegrid.registry import Kind, code_digests, resolve_dataset, resolve_metric
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.stopping import Stopped
from phasegrid.run.worker import broken_devices
from phasegrid.run.worker.inputs import (
    JobInputs,
    arguments_of,
    dataset_of,
    generator_of,
    load_module,
    scored_as,
)
from phasegrid.run.worker.starts import StoredPublisher, beginning_of, void_results
from phasegrid.seeding import kept_draws, repeatable
from phasegrid.store.failures import fallback_of_pack
from phasegrid.store.provenance import provenance
from phasegrid.store.schemas import trial_columns
from phasegrid.store.store import Store
from phasegrid.train.autotune import (
    WORTH_S,
    StackPlan,
    from_record,
    measure_choice,
    timing_key,
    to_record,
)
from phasegrid.train.compat import recipe_of
from phasegrid.train.loop import train_pack
from phasegrid.train.member import EpochRecord, Trained, best_of_run
from phasegrid.train.precision import deterministic_kernels, tensor_float_32
from phasegrid.train.recipe import CROSS_ENTROPY_NAME

ShouldStop = Callable[[], bool]
OnEpoch = Callable[[int, int], None]

_kind = cache(resolve_dataset)  # an entry point is looked for in all that is installed


def do(
    pack: Pack,
    store: Store,
    place: PackOptions,
    should_stop: ShouldStop = lambda: False,
    on_epoch: OnEpoch = lambda _epoch, _epochs: None,
) -> list[Outcome]:
    """Do the jobs of a pack that the store does not hold, and publish each as it is finished.
    `on_epoch` is told the epoch that a training has done, and of how many.

    Raises:
        Stopped: when `should_stop` says so; what is finished is stored, a training is in its
        snapshot. StoreError: when the storage itself fails: no other job could be stored either.
        DeviceError: when this process has lost its GPU: no other job could be done here either.
    """
    with _fallbacks_stored(store, pack) as fallbacks:
        outcomes = _do(pack, store, place, should_stop, on_epoch)
    if fallbacks and outcomes:
        said = tuple(redact(str(fallback)) for fallback in fallbacks.values())
        outcomes[0] = replace(outcomes[0], fallbacks=said)
    return outcomes


def _do(
    pack: Pack, store: Store, place: PackOptions, should_stop: ShouldStop, on_epoch: OnEpoch
) -> list[Outcome]:
    device = torch.device(place.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with (
        _threads(place.threads),
        tensor_float_32(False),  # but in updates of a recipe that asks for it
        deterministic_kernels(device, place.reproducible),
    ):
        try:
            place = replace(place, code=_own_code(pack, place))
        except SweepError as error:
            return _all_failed(pack, store, error)
        if pack.kind == "train":
            return _train(pack, store, place, device, partial(_after_epoch, should_stop, on_epoch))
        with kept_draws(device):  # each job seeds what the process draws from
            return _measure(pack, store, place, device, should_stop)


@contextmanager
def _fallbacks_stored(store: Store, pack: Pack) -> Iterator[dict[str, Fallback]]:
    """Collect what of a pack is done another way, and store it, however the pack ends."""
    with collected() as fallbacks:
        try:
            yield fallbacks
        finally:
            for fallback in fallbacks.values():
                store.put_failure(fallback_of_pack(pack, fallback))


def check_dataset(part: Part, shared_data: str | None = None) -> str | None:
    """Load a data set once, before any job, and keep it for the first; return what is wrong with
    it, or None.
    """
    try:
        dataset_of(part, torch.device("cpu"), shared_data)
    except DataError as error:
        return str(error)
    return None


def _own_code(pack: Pack, place: PackOptions) -> dict[tuple[str, str], str]:
    """Return the digests of the plug-ins of a pack as they are here, which are those with which the
    run began.
    """
    names: set[tuple[Kind, str]] = {("metric", job.metric.name) for job in pack.metric_jobs}
    for trial in pack.trials:
        names |= {("model", trial.model.name), ("dataset", trial.dataset.name)}
        names.add(("schedule", recipe_of(trial).schedule.name))
        names.add(("objective", _objective(trial)))
    found = code_digests(names)
    for (kind, name), digest in found.items():
        if place.code.get((kind, name), digest) != digest:
            raise SweepError(
                f"{kind} {name}: its code here is not that with which the run began; it was edited"
                " since, or this node has another copy. Run the same command again, which tells"
                " what has changed"
            )
    return found


def _all_failed(pack: Pack, store: Store, error: Exception) -> list[Outcome]:
    """Fail the jobs of a pack that are not stored."""
    tables = {job.key: f"metrics/{job.metric.name}" for job in pack.metric_jobs}
    return [
        (
            Outcome(key, "already")
            if store.has(tables.get(key, "trials"), key)
            else _failed(store, pack, key, error)
        )
        for key in pack.job_keys()
    ]


def _train(
    pack: Pack, store: Store, place: PackOptions, device: torch.device, on_epoch: OnEpoch
) -> list[Outcome]:
    found = {trial.key: _found(store, pack, "trials", trial.key) for trial in pack.trials}
    outcomes = [outcome for outcome in found.values() if outcome is not None]
    missing = {key for key, outcome in found.items() if outcome is None}
    if not missing:
        return outcomes
    laid_out = pack.layout.trials if pack.layout else pack.trials
    stand_in = pack.layout is not None and place.strategy != "loop"
    trials = [trial for trial in laid_out if stand_in or trial.key in missing]

    def publish(index: int, result: Trained) -> bool:
        trial = trials[index]
        work = partial(_publish_trial, store, trial, result, data[index], device, size, place)
        outcomes.append(_guarded(store, pack, trial.key, work))
        return outcomes[-1].status != "failed"

    data: list[Dataset] = []
    size = 1 if place.reproducible else len(laid_out if pack.layout else trials)
    try:
        data += [dataset_of(trial.dataset, device, place.shared_data) for trial in trials]
        void = void_results(store, trials)
        for i, trial in enumerate(trials):
            if trial.key in void and trial.key in missing:
                publish(i, void[trial.key])
        data = [each for each, trial in zip(data, trials, strict=True) if trial.key not in void]
        trials = [trial for trial in trials if trial.key not in void]
        if missing.isdisjoint(trial.key for trial in trials):
            return outcomes
        choice = _choice(pack, store, place, trials, data, device)
        train_pack(
            trials,
            data,
            device=device,
            strategy=choice.strategy if choice else place.strategy,
            stack_size=choice.stack_size if choice else None,
            starts=[beginning_of(store, trial) for trial in trials],
            publisher=StoredPublisher(store),
            wanted=[i for i, trial in enumerate(trials) if trial.key in missing],
            snapshots=store.snapshots(),
            same_stacks=pack.layout is not None,
            snapshot_every_s=place.snapshot_every_s,
            on_epoch=on_epoch,
            on_trained=publish,
        )
    except Exception as error:
        _raise_if_of_no_job(error)
        ended = {outcome.key for outcome in outcomes}
        left = [trial for trial in trials if trial.key in missing - ended]
        if len(trials) == 1:
            return [*outcomes, *(_failed(store, pack, trial.key, error) for trial in left)]
        fall_back(f"{len(left)} trainings that failed together were each done alone", error)
        for trial in left:  # alone from the beginning, so that the culprit is named
            alone = replace(pack, trials=(trial,), layout=Layout(trials=(trial,)))
            outcomes += _train(alone, store, place, device, on_epoch)
    return outcomes


def _found(store: Store, pack: Pack, table: str, key: str) -> Outcome | None:
    """Return what has become of a job that is stored already, or whose place something else has
    taken; None if it is to do.
    """
    try:
        return Outcome(key, "already") if store.has(table, key) else None
    except StoreError as error:
        _raise_if_of_no_job(error)
        return _failed(store, pack, key, error)


def _after_epoch(should_stop: ShouldStop, on_epoch: OnEpoch, epoch: int, epochs: int) -> None:
    on_epoch(epoch, epochs)
    if should_stop():
        raise Stopped


def _choice(
    pack: Pack,
    store: Store,
    place: PackOptions,
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    device: torch.device,
) -> StackPlan | None:
    """Return how the trials of a pack run fastest, from a stored or a new measurement; None where
    none is worth it.
    """
    predicted_s = pack.layout.cost_s if pack.layout else pack.cost_s
    if place.strategy != "auto" or len(trials) == 1 or predicted_s < WORTH_S:
        return None
    key = timing_key(trials[0], data[0], device)
    known = from_record(store.read_timing(key))
    if known is not None:
        return known
    choice, timings = measure_choice(trials[0], data[0], device)
    if not timings:
        return choice
    store.put_timing(key, to_record(choice, timings))
    return from_record(store.read_timing(key)) or choice  # of several, the first is everyone's


def _publish_trial(
    store: Store,
    trial: Trial,
    result: Trained,
    data: Dataset,
    device: torch.device,
    size: int,
    place: PackOptions,
) -> Outcome:
    numbers = _final_numbers(trial, result, data, device)
    if numbers is None and result.outcome == "done":
        result = replace(result, outcome="diverged", diverged_epoch=result.kept_epoch)
    record = {
        **trial_columns(trial),
        "outcome": result.outcome,
        "diverged_epoch": result.diverged_epoch,
        "diverged_update": result.diverged_update,
        "epochs_run": result.epochs_run,
        "kept_epoch": result.kept_epoch,
        "stopped_epoch": result.stopped_epoch,
        "updates_run": result.updates_run,
        "num_parameters": result.num_parameters,
        "density": result.density,
        "task": data.task,
        "num_classes": data.num_classes,
        **(numbers or {}),
        **_best_of_run(trial, result),
        "dataset_code_digest": place.code.get(("dataset", trial.dataset.name)),
        "model_code_digest": place.code.get(("model", trial.model.name)),
        "objective_code_digest": place.code.get(("objective", _objective(trial))),
        "schedule_code_digest": place.code.get(("schedule", recipe_of(trial).schedule.name)),
        **provenance(device.type, place.user),
        "created_at": datetime.now(UTC),
        "seconds": result.seconds,
        "pack_size": size,
        "reproducible": place.reproducible,
        "strategy": result.strategy,
    }
    history = [{"key": trial.key, **_as_row(epoch)} for epoch in result.history]
    vocabulary = _kind(trial.dataset.name).vocabulary
    if vocabulary is not None:
        store.put_vocabulary(trial.dataset, import_function(vocabulary)(data))
    store.put_trial(record, history, result.weights, result.published)
    return Outcome(
        trial.key, "diverged" if result.outcome == "diverged" else "done", result.seconds
    )


def _objective(trial: Trial) -> str:
    chosen = recipe_of(trial).objective
    return CROSS_ENTROPY_NAME if chosen is None else str(chosen["name"])


def _final_numbers(
    trial: Trial, result: Trained, data: Dataset, device: torch.device
) -> dict[str, Any] | None:
    """Return loss and accuracy of the kept weights in eval mode; None if it diverged.

    Finite weights can overflow in eval mode, where BatchNorm no longer divides by the spread of the
    batch: then too.
    """
    if result.outcome == "diverged":
        return None
    model = load_module(trial, result.weights, data, device)
    scoring = scored_as(data, trial).scoring
    seed = stream_seed(trial.stream, "evaluation")
    train, test = (
        repeatable(seed, device, partial(evaluate, model, inputs, labels, scoring))
        for inputs, labels in (
            (data.train_inputs, data.train_labels),
            (data.test_inputs, data.test_labels),
        )
    )
    if not (math.isfinite(train.loss) and math.isfinite(test.loss)):
        return None
    return {
        "train_loss": train.loss,
        "train_accuracy_percent": train.accuracy_percent,
        "test_loss": test.loss,
        "test_accuracy_percent": test.accuracy_percent,
    }


def _best_of_run(trial: Trial, result: Trained) -> dict[str, Any]:
    """Return the columns of optimal early stopping; none where the test set was not watched."""
    best = best_of_run(recipe_of(trial), result.history)
    if best is None:
        return {}
    return {f"best_{spec.name}": getattr(best, spec.name) for spec in fields(best)}


def _measure(
    pack: Pack, store: Store, place: PackOptions, device: torch.device, should_stop: ShouldStop
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    todo: list[MetricJob] = []
    for job in pack.metric_jobs:
        table = f"metrics/{job.metric.name}"
        outcome = _found(store, pack, table, job.key)
        if outcome and job.wanted and store.tells_of_artifacts(table, job.key) is False:
            outcome = None  # measured by an earlier release, which left nothing
        if outcome is None:
            todo.append(job)
        else:
            outcomes.append(outcome)
    if not todo:
        return outcomes
    trials = {trial.key: trial for trial in pack.trials}
    inputs = JobInputs(store, device, trials, place)
    missing = {job.key for job in todo}
    resolved = cache(resolve_metric)  # an entry point is looked for in all that is installed
    for group in _groups(pack, todo):
        if should_stop():
            raise Stopped
        metric = resolved(group[0].metric.name)
        outcomes.extend(_measure_group(pack, store, inputs, metric, group, missing, should_stop))
    return outcomes


def _groups(pack: Pack, jobs: Sequence[MetricJob]) -> list[Sequence[MetricJob]]:
    """Return what is computed together to do some jobs of a pack: as it was laid out, stored ones
    too, each once.

    Jobs that were torn from that are with those of one metric and arguments that the pack has.
    """
    groups: dict[str | int, Sequence[MetricJob]] = {}
    if pack.layout is None:
        for job in jobs:
            groups[id(job.metric)] = [*groups.get(id(job.metric), ()), job]
        return list(groups.values())
    of_job = {job.key: group for group in pack.layout.groups for job in group}
    for job in jobs:
        group = of_job.get(job.key, (job,))
        groups.setdefault(group[0].key, group)
    return list(groups.values())


def _measure_group(
    pack: Pack,
    store: Store,
    inputs: JobInputs,
    metric: Metric,
    jobs: Sequence[MetricJob],
    missing: set[str],
    should_stop: ShouldStop,
) -> list[Outcome]:
    """Do those jobs of a group that are missing; a stored one is computed beside them only where it
    shapes the computation.
    """
    outcomes, sound = [], []
    for job in jobs:
        try:
            why = inputs.why_void(job)
        except StoreError as error:
            _raise_if_of_no_job(error)
            outcomes += [_failed(store, pack, job.key, error)] if job.key in missing else []
            continue
        if why is None:
            sound.append(job)
        elif job.key in missing:
            publish = partial(inputs.publish_void, metric, job, why)
            outcomes.append(_guarded(store, pack, job.key, publish))
    left = [job for job in sound if job.key in missing]
    if (
        metric.compute_many is not None
        and len(sound) > 1
        and left
        and not any(job.sources for job in sound)
        and not inputs.place.reproducible
        and len({inputs.data_and_objective(job) for job in sound}) == 1
    ):
        together = _measure_many(pack, store, inputs, metric, sound, missing)
        if together is not None:
            return outcomes + together
    for job in left:
        if should_stop():
            raise Stopped
        outcomes.append(_guarded(store, pack, job.key, partial(inputs.measure, metric, job)))
    return outcomes


def _measure_many(
    pack: Pack,
    store: Store,
    inputs: JobInputs,
    metric: Metric,
    jobs: Sequence[MetricJob],
    missing: set[str],
) -> list[Outcome] | None:
    """Do several jobs from one computation and publish those that are missing; None if they are to
    be done one by one.

    That is where the metric says so, and where it failed: then the culprit is named, and the others
    are done.
    """
    started = time.perf_counter()
    networks = list(dict.fromkeys(network for job in jobs for network in job.networks))
    place = {network: index for index, network in enumerate(networks)}
    try:
        assert metric.compute_many is not None
        compute = import_function(metric.compute_many)
        tables = inputs.watched(
            jobs[0],
            networks,
            lambda models, data: compute(
                models,
                [tuple(place[network] for network in job.networks) for job in jobs],
                data,
                [generator_of(job.key) for job in jobs],
                **arguments_of(jobs[0], metric),
            ),
        )
    except Exception as error:
        _raise_if_of_no_job(error)
        name = jobs[0].metric.name
        fall_back(f"{len(jobs)} jobs of {name} that failed together were each done alone", error)
        return None
    if tables is None:
        return None
    seconds = (time.perf_counter() - started) / len(jobs)
    assert isinstance(tables, list)
    return [
        _guarded(store, pack, job.key, partial(inputs.publish, metric, job, rows, seconds))
        for job, rows in zip(jobs, tables, strict=True)
        if job.key in missing
    ]


def _guarded(store: Store, pack: Pack, key: str, work: Callable[[], Outcome]) -> Outcome:
    try:
        return work()
    except Exception as error:
        _raise_if_of_no_job(error)
        return _failed(store, pack, key, error)


def _raise_if_of_no_job(error: Exception) -> None:
    """Let an error of the storage at large, or of a GPU that is lost, end the pack: other jobs
    would meet it too.
    """
    if isinstance(error, StoreError) and error.fault is not None:
        raise error
    broken_devices.raise_if_broken(error)


def _failed(store: Store, pack: Pack, key: str, error: Exception) -> Outcome:
    """Write the failure of a job to the store, with its traceback, and return it as a value."""
    text = "".join(traceback.format_exception(error))
    kind: Any = "oom" if _is_out_of_memory(error) else "app"
    summary = redact(f"{type(error).__name__}: {error}".removesuffix(": "))
    try:
        store.put_failure(
            {
                "id": uuid.uuid4().hex,
                "key": key,
                "pack": pack.key,
                "kind": kind,
                "exception": summary,
                "traceback": text[-8000:],
                "attempt": 1,
                "host": provenance("cpu")["host"],
                "created_at": datetime.now(UTC),
            }
        )
    except StoreError as lost:
        summary += f" (and the failure could not be written: {lost})"
    return Outcome(key, "failed", error=summary, kind=kind)


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out, a GPU's or a CPU's; torch has no class for the latter."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _as_row(record: EpochRecord) -> dict[str, Any]:
    return {spec.name: getattr(record, spec.name) for spec in fields(record)}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
