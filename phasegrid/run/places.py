"""Make the executor that does the packs of a sweep: in this process, or on Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from phasegrid.config.load import Sweep, user_files
from phasegrid.errors import DataError, DeviceError, SweepError
from phasegrid.jobs import Part
from phasegrid.keys import canonical_json
from phasegrid.packs import Outcome, Pack
from phasegrid.plan import gpu_memory
from phasegrid.plan.contents import Plan
from phasegrid.plan.devices import Device, device_of
from phasegrid.run import crashes
from phasegrid.run.cards.nvml import read_cards
from phasegrid.run.cards.ours import processes_of
from phasegrid.run.cards.watch import CardWatch, Read, watched
from phasegrid.run.executors.base import Executor, LaneBytesOf, PackOptions, Serial
from phasegrid.run.status import name_in
from phasegrid.run.stopping import Stop
from phasegrid.run.underway import Underway
from phasegrid.run.worker import node_folder
from phasegrid.store.provenance import user_commit
from phasegrid.store.store import Store

if TYPE_CHECKING:
    from phasegrid.run.executors.ray.executor import RayExecutor


@dataclass(frozen=True, slots=True)
class RunTarget:
    """Where a run happens: in this process (`serial`), on the Ray at `address` (which
    `address_from` gave), or on one that is started for it.
    """

    serial: bool = False
    address: str | None = None
    max_in_flight: int | None = None
    num_cpus: int | None = None
    device: str | None = None
    strategy: Literal["auto", "loop", "vmap", "fused", "merged"] = "auto"
    address_from: str | None = None


@contextmanager
def executor_for(
    sweep: Sweep,
    store: Store,
    where: RunTarget,
    stop: Stop,
    console: Console,
    packs: Sequence[Pack],
    plan: Plan,
    underway: Underway,
) -> Iterator[Executor]:
    """Try the data sets that the packs of a run read, then make its executor."""
    if where.serial:
        from phasegrid.run.worker.pack import check_dataset

        tried = [check_dataset(part, where.device) for part in _data_files(packs)]
        _refuse_bad_data([problem for problem in tried if problem])
        if sweep.run.timeout_s is not None:
            console.print(
                "note: run.timeout_s needs Ray; with --serial a job that hangs is not ended"
            )
        with crashes.witnessed() as begin:
            yield _serial(sweep, store, where, stop, begin, plan, underway)
        return
    assert underway.run is not None
    with _on_ray(sweep, store, where, console, packs, plan, underway.run) as executor:
        yield executor


@contextmanager
def cards_watched(
    where: RunTarget, store: Store, sweep: Sweep, console: Console, run: str | None, stop: Stop
) -> Iterator[CardWatch]:
    """Watch the GPUs of a run, on all its nodes; a run that was asked to use none has none. If all
    are lost, ask it to stop, unless its packs may run without.
    """

    def say(text: str) -> None:
        console.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True)

    def end(why: str) -> None:
        if sweep.resources.num_gpus != 0:
            stop.why = stop.why or why

    keep = partial(store.notes.put_cards, sweep.name)
    with watched(CardWatch(_card_reader(where, run), say, keep, end)) as cards:
        yield cards


def _card_reader(where: RunTarget, run: str | None) -> Read:
    if where.device is not None and not where.device.startswith("cuda"):
        return lambda: None
    if where.serial:
        from torch import cuda

        if not cuda.is_available():
            return lambda: None
        return lambda: None if (found := read_cards(processes_of(None))) is None else [found]
    assert run is not None
    from phasegrid.run.executors.ray.cards import ClusterCards

    return ClusterCards(run).read


@contextmanager
def _on_ray(
    sweep: Sweep,
    store: Store,
    where: RunTarget,
    console: Console,
    packs: Sequence[Pack],
    plan: Plan,
    run: str,
) -> Iterator[Executor]:
    from phasegrid.run.executors.ray import nodes, start

    def say(text: str) -> None:
        console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    say(f"joining Ray at {where.address}" if where.address else "starting Ray on this machine")
    node_folder.drive(run)
    try:
        start.start_ray(where.address, where.num_cpus, run, where.address_from, say)
        if where.address:
            for warning in nodes.probe_storage(store.url, store.id):
                console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
        device = "cpu" if sweep.resources.num_gpus == 0 else where.device
        _refuse_bad_data(nodes.check_datasets(_data_files(packs), run, device))
        executor = _ray_executor(sweep, store, where, plan, run)
        try:
            yield executor
        finally:
            executor.close()
    finally:
        start.stop_ray()
        node_folder.forget(run)


def _ray_executor(
    sweep: Sweep, store: Store, where: RunTarget, plan: Plan, run: str
) -> "RayExecutor":
    from phasegrid.run.executors.ray.executor import RayExecutor
    from phasegrid.run.executors.ray.nodes import smallest_gpu

    threads = max(1, int(sweep.resources.num_cpus))
    timeout_s = sweep.run.timeout_s
    place = _place(where, sweep, threads, shared_data=run, timeout_s=timeout_s)
    most = where.max_in_flight or sweep.run.max_in_flight
    uses_gpus = sweep.resources.num_gpus != 0 and where.device in (None, "cuda")
    card = smallest_gpu() if uses_gpus else None
    return RayExecutor(
        store.url,
        place,
        sweep.resources,
        most,
        _gpu_shares(card[0] if card else None, plan),
        card[1] if card else None,
        _lane_bytes(plan),
    )


def _gpu_shares(gpu_bytes: int | None, plan: Plan) -> Callable[[Pack], float]:
    """Return a function from a pack to its share of a GPU: the share that its metric declares, or
    the share of the memory that it needs; 1 if the memory of the GPUs is not known.
    """
    if gpu_bytes is None:
        return lambda _pack: 1.0
    works = {trial.key: cell.work for cell in plan.cells for trial in cell.trials}
    return lambda pack: gpu_memory.pack_share(pack, works, gpu_bytes)


def _lane_bytes(plan: Plan) -> LaneBytesOf:
    """Return a function from a pack to the estimated bytes of its trainings on a GPU."""
    works = {trial.key: cell.work for cell in plan.cells for trial in cell.trials}
    return partial(gpu_memory.known_lane_bytes, works=works)


def _data_files(packs: Sequence[Pack]) -> list[Part]:
    """Return one data set for each set of files that the trainings read. Data sets that do not name
    their files are left out.
    """
    parts = [trial.dataset for pack in packs if pack.kind == "train" for trial in pack.trials]
    return list({canonical_json([p.name, p.locators]): p for p in parts if p.locators}.values())


def _refuse_bad_data(problems: Sequence[str]) -> None:
    if problems:
        raise DataError("\n".join(problems))


def refuse_stacking(sweep: Sweep, where: RunTarget) -> None:
    if sweep.run.reproducible and where.strategy in ("vmap", "fused", "merged"):
        raise SweepError(
            f"running {sweep.name}: strategy {where.strategy} trains several networks as one,"
            f" which run.reproducible forbids; remove one of the two"
        )


def _place(
    where: RunTarget,
    sweep: Sweep,
    threads: int,
    shared_data: str | None = None,
    timeout_s: float | None = None,
) -> PackOptions:
    """Return where and how the packs of a sweep run, with the code and the commit that its rows
    will name.
    """
    alone = sweep.run.reproducible
    return PackOptions(
        where.device,
        threads,
        "loop" if alone else where.strategy,
        shared_data=shared_data,
        timeout_s=timeout_s,
        code={(str(one.kind), one.name): one.code.digest for one in sweep.code},
        user=user_commit(user_files(sweep)),
        reproducible=alone,
    )


def _serial(
    sweep: Sweep,
    store: Store,
    where: RunTarget,
    stop: Stop,
    begin: Callable[[Sequence[str]], None],
    plan: Plan,
    underway: Underway,
) -> Serial:
    """Return an executor that does packs in this process; `begin` gets the names of each pack's
    jobs.
    """
    from phasegrid.run.worker.malloc import keep_freed_memory
    from phasegrid.run.worker.pack import do
    from phasegrid.run.worker.queues import open_queues

    open_queues()
    keep_freed_memory()
    place, gpu, name_of = _place(where, sweep, where.num_cpus or 1), _own_gpu(where), name_in(plan)
    lane_bytes_of = _lane_bytes(plan)

    def do_here(pack: Pack) -> list[Outcome]:
        known = {} if gpu is None else lane_bytes_of(pack)
        names = [name_of(key) for key in pack.job_keys()]
        begin(names)
        on_epoch = partial(underway.note, pack.key)
        try:
            options = replace(place, lane_bytes=known)
            return do(pack, store, options, lambda: stop.why is not None, on_epoch)
        except DeviceError as error:
            raise DeviceError(f"the GPU was lost in {crashes.few(names)}: {error}") from error

    return Serial(do_here, gpu=gpu)


def _own_gpu(where: RunTarget) -> Device | None:
    """Return the kind of GPU that this process uses; None if it uses none."""
    from torch import cuda

    asked = where.device or "cuda"
    if not asked.startswith("cuda") or not cuda.is_available():
        return None
    return device_of("cuda", cuda.get_device_name(asked))
