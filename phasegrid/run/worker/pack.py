"""Do the jobs of one pack, here and now.

A worker process reads what is stored, trains (`training`) or measures (`measuring`), publishes each
result in one step, and returns small outcomes. A failure is a value with its traceback: it is
stored and returned (`failing`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from phasegrid.errors import DataError, SweepError
from phasegrid.fallbacks import Fallback, collected
from phasegrid.jobs import Part
from phasegrid.packs import Outcome, Pack
from phasegrid.redaction import redact
from phasegrid.registry import Kind, code_digests
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.stopping import ShouldStop, Stopped
from phasegrid.run.worker.failing import all_failed
from phasegrid.run.worker.loaded_data import try_dataset
from phasegrid.run.worker.measuring import measure
from phasegrid.run.worker.trained import objective_name
from phasegrid.run.worker.training import OnEpoch, train
from phasegrid.seeding import kept_draws
from phasegrid.store.failures import fallback_of_pack
from phasegrid.store.store import Store
from phasegrid.train.compat import recipe_of
from phasegrid.train.precision import deterministic_kernels, tensor_float_32


def do(
    pack: Pack,
    store: Store,
    place: PackOptions,
    should_stop: ShouldStop = lambda: False,
    on_epoch: OnEpoch = lambda _epoch, _epochs: None,
) -> list[Outcome]:
    """Do the jobs of a pack that the store does not hold, and publish each as it finishes.

    Raises:
        Stopped: if `should_stop` says so. What is finished is stored, and a training is in its
        snapshot.
        StoreError: if the storage as a whole fails; no other job could be stored either.
        DeviceError: if this process has lost its GPU; no other job could be done here either.
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
    device = _device(place.device)
    with (
        _threads(place.threads),
        tensor_float_32(False),  # only updates use it, where the recipe asks for it
        deterministic_kernels(device, place.reproducible),
    ):
        try:
            place = replace(place, code=_own_code(pack, place))
        except SweepError as error:
            return all_failed(pack, store, error)
        if pack.kind == "train":
            return train(pack, store, place, device, partial(_after_epoch, should_stop, on_epoch))
        with kept_draws(device):  # each job seeds what the process draws from
            return measure(pack, store, place, device, should_stop)


def _device(wanted: str | None) -> torch.device:
    return torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))


def _after_epoch(should_stop: ShouldStop, on_epoch: OnEpoch, epoch: int, epochs: int) -> None:
    on_epoch(epoch, epochs)
    if should_stop():
        raise Stopped


@contextmanager
def _fallbacks_stored(store: Store, pack: Pack) -> Iterator[dict[str, Fallback]]:
    """Collect the fallbacks of a pack, and store them however the pack ends."""
    with collected() as fallbacks:
        try:
            yield fallbacks
        finally:
            for fallback in fallbacks.values():
                store.put_failure(fallback_of_pack(pack, fallback))


def check_dataset(part: Part, device: str | None, shared_data: str | None = None) -> str | None:
    """Load a data set before any job, for jobs on a device, and keep it for the first. Return its
    mistake, or None.
    """
    try:
        try_dataset(part, _device(device), shared_data)
    except DataError as error:
        return str(error)
    return None


def _own_code(pack: Pack, place: PackOptions) -> dict[tuple[str, str], str]:
    """Return the digests of a pack's plug-ins, as imported by this process.

    Raises:
        SweepError: if one differs from the code with which the run began.
    """
    names: set[tuple[Kind, str]] = {("metric", job.metric.name) for job in pack.metric_jobs}
    for trial in pack.trials:
        names |= {("model", trial.model.name), ("dataset", trial.dataset.name)}
        names.add(("schedule", recipe_of(trial).schedule.name))
        names.add(("objective", objective_name(trial)))
    found = code_digests(names)
    for (kind, name), digest in found.items():
        if place.code.get((kind, name), digest) != digest:
            raise SweepError(
                f"{kind} {name}: its code here is not the code with which the run began: it was"
                " edited since, or this node has another copy. Run the same command again; it tells"
                " what has changed"
            )
    return found


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
