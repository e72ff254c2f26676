"""``phasegrid run``: from a sweep file to stored results and figures, and an exit code.

Exit codes: 0 everything planned is stored; 1 some jobs failed; 3 stopped before the end; 130 and
143 after Ctrl-C and SIGTERM. Usage and sweep errors (2) and storage or cluster errors (4) are
raised and turned into codes by the command line.
"""

import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Literal

from rich.console import Console

from phasegrid.config.load import Sweep, user_files
from phasegrid.errors import ClusterError, DataError, DeviceError, StoreError, SweepError
from phasegrid.fallbacks import Fallback, collected, fall_back
from phasegrid.jobs import Part
from phasegrid.keys import canonical_json
from phasegrid.packs import Outcome, Pack
from phasegrid.plan import cost, gpu_memory, pack_layout
from phasegrid.plan.contents import Plan, plan_hash
from phasegrid.plan.packing import PACK_SIZE, CostOf, make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.plan.rows import job_rows, plan_rows
from phasegrid.run import code_changes, crashes
from phasegrid.run.executors.base import Executor, PackOptions, PackResult, Serial
from phasegrid.run.loop import run_packs
from phasegrid.run.progress_bar import Watch
from phasegrid.run.result import RunResult, conclude, store_fallbacks, tell, tell_fallbacks
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.status import job_names, learn_costs, stored_jobs, stored_keys, tally
from phasegrid.run.stopping import Stop
from phasegrid.run.underway import Underway
from phasegrid.run.worker import node_folder
from phasegrid.store.failures import failure_of_pack
from phasegrid.store.provenance import user_commit
from phasegrid.store.store import Store


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
    strategy: Literal["auto", "loop", "vmap", "fused"] = "auto"
    address_from: str | None = None


def run_sweep(
    sweep: Sweep,
    store: Store,
    where: RunTarget,
    console: Console,
    quiet: bool,
    limit: int | None,
    stop: Stop | None = None,
    accept_changed_code: bool = False,
) -> RunResult:
    """Do what is missing of a sweep, until a `stop` that others may ask for.

    Raises:
        SweepError: if the store holds results of other code under the name and version of a
            plug-in, unless these are accepted; or if networks are to be stacked whose numbers are
            not to depend on others.
    """
    with collected() as fallbacks:
        return _run(
            sweep,
            store,
            where,
            console,
            quiet,
            limit,
            stop or Stop(),
            accept_changed_code,
            fallbacks,
        )


def _run(
    sweep: Sweep,
    store: Store,
    where: RunTarget,
    console: Console,
    quiet: bool,
    limit: int | None,
    stop: Stop,
    accept_changed_code: bool,
    fallbacks: Mapping[str, Fallback],
) -> RunResult:
    _refuse_stacking(sweep, where)
    _settle_code(sweep, store, accept_changed_code, console)
    plan = make_plan(sweep)
    has_new_figures = _keep_plan(store, sweep, plan)
    stored = stored_jobs(store, plan)
    pack_size = sweep.run.pack_size or PACK_SIZE
    cost_of = _cost_of(store, plan, stored)
    packs = make_packs(plan, stored, cost_of, pack_size)
    _announce(sweep, plan, stored, len(packs), console)
    if not packs:
        kept = store_fallbacks(fallbacks, store)
        result = RunResult(sweep.name, store.url, 0, fallbacks=kept, is_news=has_new_figures)
        for line in tell_fallbacks(result):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return result
    pilot = None if limit is None else _first_cells(packs, limit)
    if pilot is not None:
        packs = [pack for pack in packs if pack.cell in pilot]
    underway = Underway(uuid.uuid4().hex)
    with (
        _executor(sweep, store, where, stop, console, packs, plan, underway) as executor,
        _signals(stop),
        Watch(console, quiet, _name_in(plan), underway=underway) as watch,
    ):
        if pack_layout.is_wanted(packs):
            shapes = _kept_layout(store, plan, cost_of, executor.parallel, pack_size)
            packs = pack_layout.shaped(packs, shapes, plan, stored, cost_of, pack_size)
        if pilot is not None:
            packs = _within(_of_cells(packs, pilot, plan), pilot, stored)
        scheduler = Scheduler(packs, stored, sweep.run.retries)
        with _saying_how_to_go_on(scheduler, store):
            run_packs(scheduler, executor, watch, stop, sweep.run, _recorder(store, stop))
    if scheduler.cut_off:
        with _saying_how_to_go_on(scheduler, store):
            _count_published(scheduler, store)
    is_pilot = limit is not None
    result = conclude(scheduler, plan, store, stop, is_pilot, has_new_figures, fallbacks)
    tell(result, scheduler, plan, console)
    return result


def _settle_code(sweep: Sweep, store: Store, accept: bool, console: Console) -> None:
    """Refuse, or accept for good, plug-ins that are not those of stored rows; have the store know
    those of this sweep.
    """
    changes = code_changes.find_changes(store, sweep.code)
    if not accept:
        code_changes.refuse_changes(changes, store)
    code_changes.accept_changes(store, changes)
    for change in changes:
        console.print(f"accepted: {change}", markup=False, highlight=False, soft_wrap=True)
    for note in sweep.tried.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    code_changes.keep_code(store, sweep.code)


def _keep_plan(store: Store, sweep: Sweep, plan: Plan) -> bool:
    """Store the plan and the figures of a sweep; say whether that alone changes what is drawn."""
    of_jobs = plan_hash(plan)
    try:
        before = store.read_table("plans", ["plan_hash"], [sweep.name])["plan_hash"].to_pylist()
    except StoreError as error:
        if error.fault is not None:  # the storage itself
            raise
        fall_back(f"the stored plan of {sweep.name} is damaged; writing it again", error)
        before = []
    store.put_plan(sweep.name, plan_rows(plan, of_jobs), job_rows(plan))
    new_columns = code_changes.keep_columns(store, sweep.code)
    new_figures = store.put_figures(sweep.name, sweep.figures)
    return new_columns or new_figures or set(before) != {of_jobs}


def _announce(sweep: Sweep, plan: Plan, stored: set[str], num_packs: int, console: Console) -> None:
    counts = tally(plan, stored)
    planned, have = sum(t.planned for t in counts), sum(t.stored for t in counts)
    console.print(sweep.name, style="bold", end="", markup=False, highlight=False)
    console.print(
        f": {len(plan.cells)} cells x {len(sweep.seeds)} seeds, {planned} jobs; "
        f"{have} stored, {planned - have} to do in {num_packs} packs",
        highlight=False,
        soft_wrap=True,
    )


def _cost_of(store: Store, plan: Plan, stored: set[str]) -> CostOf:
    corrections = learn_costs(store, plan) if stored else cost.Corrections()
    return cost.predictor(corrections)


def _kept_layout(
    store: Store, plan: Plan, cost_of: CostOf, workers: int, pack_size: int
) -> list[pack_layout.Shape]:
    """Return how the jobs of a plan are laid out: as the store says, and, of new ones, as is
    decided and stored now.

    Of several drivers that decide at once the first one's decision is everyone's.
    """
    while True:
        parts = store.read_layout(plan.sweep)
        known = pack_layout.from_records(parts)
        new = pack_layout.lay_out(plan, known, cost_of, workers, pack_size)
        if not new:
            return known
        store.put_layout(plan.sweep, len(parts), pack_layout.as_record(new))


def _first_cells(packs: list[Pack], limit: int) -> set[int]:
    """Return the first `limit` cells that have something to do: those of a pilot run."""
    return set(sorted({pack.cell for pack in packs})[:limit])


def _within(packs: list[Pack], cells: set[int], stored: set[str]) -> list[Pack]:
    """Keep the packs that a pilot run of some cells can do: trainings, and measurements of these
    cells whose needs are stored or among what is kept.
    """
    kept = [pack for pack in packs if pack.kind == "train" or pack.cell in cells]
    while True:
        there = stored.union(*(pack.job_keys() for pack in kept))
        able = [pack for pack in kept if there.issuperset(pack.needs)]
        if len(able) == len(kept):
            return kept
        kept = able


def _of_cells(packs: list[Pack], cells: set[int], plan: Plan) -> list[Pack]:
    """Keep the packs of some cells; trainings of other cells that are in one stack with theirs are
    done with them.
    """
    trials = {trial.key for cell in plan.cells if cell.index in cells for trial in cell.trials}
    return [
        pack
        for pack in packs
        if (
            pack.cell in cells
            if pack.kind == "measure"
            else not trials.isdisjoint(trial.key for trial in pack.trials)
        )
    ]


@contextmanager
def _executor(
    sweep: Sweep,
    store: Store,
    where: RunTarget,
    stop: Stop,
    console: Console,
    packs: Sequence[Pack],
    plan: Plan,
    underway: Underway,
) -> Iterator[Executor]:
    """Make the place where packs are done, once the data sets that they read have been tried."""
    if where.serial:
        from phasegrid.run.worker.pack import check_dataset

        tried = [check_dataset(part) for part in _data_files(packs)]
        _refuse_bad_data([problem for problem in tried if problem])
        if sweep.run.timeout_s is not None:
            console.print(
                "note: run.timeout_s needs Ray; with --serial a job that hangs is not ended"
            )
        with crashes.witnessed() as begin:
            yield _serial(sweep, store, where, stop, begin, _name_in(plan), underway)
        return
    assert underway.run is not None
    with _on_ray(sweep, store, where, console, packs, plan, underway.run) as executor:
        yield executor


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
    from phasegrid.run.executors.ray import executor as on_ray

    console.print(
        f"joining Ray at {where.address}" if where.address else "starting Ray on this machine",
        style="dim",
        highlight=False,
    )
    node_folder.drive(run)

    def say(text: str) -> None:
        console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    try:
        on_ray.start_ray(where.address, where.num_cpus, run, where.address_from, say)
        if where.address:
            for warning in on_ray.probe_storage(store.url, store.id):
                console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
        _refuse_bad_data(on_ray.check_datasets(_data_files(packs), run))
        threads = max(1, int(sweep.resources.num_cpus))
        timeout_s = sweep.run.timeout_s
        place = _place(where, sweep, threads, shared_data=run, timeout_s=timeout_s)
        most = where.max_in_flight or sweep.run.max_in_flight
        undecided = sweep.resources.num_gpus is None and where.device in (None, "cuda")
        share_of = _gpu_shares(on_ray.gpu_bytes() if undecided else None, plan)
        usual = median(share_of(pack) for pack in packs)
        executor = on_ray.RayExecutor(store.url, place, sweep.resources, most, share_of, usual)
        try:
            yield executor
        finally:
            executor.close()
    finally:
        on_ray.stop_ray()
        node_folder.forget(run)


def _gpu_shares(gpu_bytes: int | None, plan: Plan) -> Callable[[Pack], float]:
    """Return how much of a GPU each pack gets, by its declared share or estimated memory; all of it
    where the cluster has none to ask.
    """
    if gpu_bytes is None:
        return lambda _pack: 1.0
    works = {trial.key: cell.work for cell in plan.cells for trial in cell.trials}
    return lambda pack: gpu_memory.pack_share(pack, works, gpu_bytes)


def _data_files(packs: Sequence[Pack]) -> list[Part]:
    """Return one data set for each set of files that the trials to train read: those that say where
    to find them.
    """
    parts = [trial.dataset for pack in packs if pack.kind == "train" for trial in pack.trials]
    return list({canonical_json([p.name, p.locators]): p for p in parts if p.locators}.values())


def _refuse_bad_data(problems: Sequence[str]) -> None:
    if problems:
        raise DataError("\n".join(problems))


def _refuse_stacking(sweep: Sweep, where: RunTarget) -> None:
    if sweep.run.reproducible and where.strategy in ("vmap", "fused"):
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
    """Say where and how the packs of a sweep are done, and by which code, of which commit, its rows
    are made.
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
    name_of: Callable[[str], str],
    underway: Underway,
) -> Serial:
    """Do packs here; `begin` is told the names of the jobs of each."""
    from phasegrid.run.worker.malloc import keep_freed_memory
    from phasegrid.run.worker.pack import do

    keep_freed_memory()
    place = _place(where, sweep, where.num_cpus or 1)

    def do_here(pack: Pack) -> list[Outcome]:
        names = [name_of(key) for key in pack.job_keys()]
        begin(names)
        on_epoch = partial(underway.note, pack.key)
        try:
            return do(pack, store, place, lambda: stop.why is not None, on_epoch)
        except DeviceError as error:
            raise DeviceError(f"the GPU was lost in {crashes.few(names)}: {error}") from error

    return Serial(do_here)


@contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second Ctrl-C ends at once.

    Python tells only its main thread of signals: a run in another is not stopped by them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(signum: int, _frame: FrameType | None) -> None:
        if stop.signum is not None:
            raise KeyboardInterrupt
        stop.signum = signum
        stop.why = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _saying_how_to_go_on(scheduler: Scheduler, store: Store) -> Iterator[None]:
    """Add to the error of a storage that fails, or of a cluster that is lost, what is kept and what
    to do.
    """
    try:
        yield
    except (StoreError, ClusterError) as error:
        if isinstance(error, ClusterError):
            with suppress(StoreError):
                _count_published(scheduler, store)
        kept = f"stopped: what is finished is stored; {scheduler.counts.open} jobs are open."
        if isinstance(error, DeviceError):
            again = (
                "A new process can use it: run the same command again, best without --serial, where"
                " a job that does this again is found by name and the others are done."
            )
            raise DeviceError(f"{error}\n{kept} {again}") from error
        if isinstance(error, ClusterError):
            again = "Run the same command again when a cluster is up."
            raise ClusterError(f"{error}\n{kept} {again}") from error
        again = "Run the same command again when the storage is well."
        raise StoreError(f"{error}\n{kept} {again}", error.fault) from error


def _count_published(scheduler: Scheduler, store: Store) -> None:
    """Count what the packs that a stop cut off had published: each result is stored as soon as it
    is there.
    """
    packs = scheduler.cut_off
    stored = stored_keys(store, sorted({j.metric.name for p in packs for j in p.metric_jobs}))
    for pack in packs:
        there = [Outcome(key, "already") for key in pack.job_keys() if key in stored]
        scheduler.finished(pack, there)


def _recorder(store: Store, stop: Stop) -> Callable[[PackResult, int], None]:
    """Return a function that writes one failure row for a pack that was lost."""

    def record(ending: PackResult, attempt: int) -> None:
        if stop.why is not None:
            return  # it died because we are stopping
        if ending.kind == "timeout":
            return  # its process has written that down, with where it stood still
        why = ending.lost or "unknown"
        store.put_failure(failure_of_pack(ending.pack, ending.kind, why, ending.traceback, attempt))

    return record


def _name_in(plan: Plan) -> Callable[[str], str]:
    """Return a function that says what a person calls a job of the plan; the names are made when
    the first is asked for.
    """
    names: dict[str, str] = {}

    def name_of(key: str) -> str:
        if not names:
            names.update(job_names(plan))
        return names.get(key, key)

    return name_of


def figures_folder(sweep: str, output: Path | None) -> Path:
    """Return where a sweep's figures go: `output`, or ``figures/<sweep>`` beside the current
    folder.
    """
    return output or Path("figures") / sweep
