"""``phasegrid run``: from a sweep file to stored results and figures, and an exit code.

Exit codes: 0 everything planned is stored; 1 some jobs failed; 3 stopped before the end; 130 and
143 after Ctrl-C and SIGTERM. Usage and sweep errors (2) and storage or cluster errors (4) are
raised and turned into codes by the command line.
"""

import uuid
from collections.abc import Callable, Collection
from pathlib import Path

from rich.console import Console

from phasegrid.config.load import Sweep
from phasegrid.errors import StoreError
from phasegrid.fallbacks import collected, fall_back
from phasegrid.packs import Pack
from phasegrid.plan import cost, pack_layout
from phasegrid.plan.contents import Plan, plan_hash
from phasegrid.plan.packing import PACK_SIZE, CostOf, make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.plan.rows import job_rows, plan_rows
from phasegrid.plan.shaping import shaping_for
from phasegrid.run import code_changes
from phasegrid.run.executors.base import Executor, PackResult
from phasegrid.run.going_on import count_published, saying_how_to_go_on
from phasegrid.run.loop import run_packs
from phasegrid.run.lost_inputs import lost_inputs, lost_text
from phasegrid.run.pilot import of_cells, telling_cells, within
from phasegrid.run.places import RunTarget, cards_watched, executor_for, refuse_stacking
from phasegrid.run.progress_bar import Watch
from phasegrid.run.result import RunResult, conclude, store_fallbacks, tell, tell_fallbacks
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.signals import stopped_by_signals
from phasegrid.run.status import learn_costs, name_in, stored_jobs, tally
from phasegrid.run.stopping import Stop
from phasegrid.run.underway import Underway
from phasegrid.store.failures import failure_of_pack
from phasegrid.store.store import Store
from phasegrid.texts import counted


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
    """Do the missing jobs of a sweep, until all are done or `stop` asks to stop.

    Raises:
        SweepError: if the store holds results of other code under the name and version of a plug-in
            and the user does not accept it, or if `where` stacks networks although their numbers
            must not depend on others.
    """
    stop = stop or Stop()
    with collected() as fallbacks:
        refuse_stacking(sweep, where)
        _settle_code(sweep, store, accept_changed_code, console)
        plan = make_plan(sweep)
        has_new_figures = _keep_plan(store, sweep, plan)
        stored = stored_jobs(store, plan)
        cost_of = _cost_of(store, plan, stored)
        packs = make_packs(plan, stored, cost_of, sweep.run.pack_size or PACK_SIZE)
        _announce(sweep, plan, stored, len(packs), console)
        if lost := lost_inputs(plan, store, stored):
            console.print(lost_text(lost, store.url), markup=False, highlight=False, soft_wrap=True)
        if not packs:
            kept = store_fallbacks(fallbacks, store)
            result = RunResult(sweep.name, store.url, 0, fallbacks=kept, is_news=has_new_figures)
            for line in tell_fallbacks(result):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            return result
        scheduler = _do_packs(
            packs, limit, sweep, store, where, console, quiet, stop, plan, stored, cost_of
        )
        is_pilot = limit is not None
        result = conclude(scheduler, plan, store, stop, is_pilot, has_new_figures, fallbacks)
        tell(result, scheduler, plan, console)
        return result


def _do_packs(
    packs: list[Pack],
    limit: int | None,
    sweep: Sweep,
    store: Store,
    where: RunTarget,
    console: Console,
    quiet: bool,
    stop: Stop,
    plan: Plan,
    stored: set[str],
    cost_of: CostOf,
) -> Scheduler:
    """Do packs, or only those of `limit` cells (a pilot); return the scheduler at the end."""
    pilot = None if limit is None else telling_cells(packs, limit, plan, stored)
    if pilot is not None:
        packs = [pack for pack in packs if pack.cell in pilot]
    underway = Underway(uuid.uuid4().hex)
    with (
        executor_for(sweep, store, where, stop, console, packs, plan, underway) as executor,
        stopped_by_signals(stop),
        cards_watched(where, store, sweep, console, underway.run, stop) as cards,
        Watch(console, quiet, name_in(plan), underway=underway, cards=cards) as watch,
    ):
        if executor.gpu is not None:
            cost_of = cost.predictor(learn_costs(store, plan, executor.gpu))
            packs = make_packs(plan, stored, cost_of)
        if pack_layout.is_wanted(packs):
            shapes = _kept_layout(store, plan, cost_of, executor, sweep.run.pack_size, stored)
            packs = pack_layout.shaped(packs, shapes, plan, stored, cost_of, sweep.run.pack_size)
        if pilot is not None:
            packs = within(of_cells(packs, pilot, plan), pilot, stored)
        scheduler = Scheduler(packs, stored, sweep.run.retries)
        with saying_how_to_go_on(scheduler, store):
            run_packs(scheduler, executor, watch, stop, sweep.run, _recorder(store, stop))
    if scheduler.cut_off:
        with saying_how_to_go_on(scheduler, store):
            count_published(scheduler, store)
    return scheduler


def _settle_code(sweep: Sweep, store: Store, accept: bool, console: Console) -> None:
    """Refuse plug-ins whose code differs from the code of stored rows, or accept them permanently;
    store the code of this sweep's plug-ins.
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
    """Store the plan and the figures of a sweep; say whether this changes figures without any new
    result.
    """
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
    new_figures = store.notes.put_figures(sweep.name, sweep.figures)
    return new_columns or new_figures or set(before) != {of_jobs}


def _announce(sweep: Sweep, plan: Plan, stored: set[str], num_packs: int, console: Console) -> None:
    counts = tally(plan, stored)
    planned, have = sum(t.planned for t in counts), sum(t.stored for t in counts)
    console.print(sweep.name, style="bold", end="", markup=False, highlight=False)
    console.print(
        f": {counted(len(plan.cells), 'cell')} x {counted(len(sweep.seeds), 'seed')},"
        f" {counted(planned, 'job')}; "
        f"{have} stored, {planned - have} to do in {counted(num_packs, 'pack')}",
        highlight=False,
        soft_wrap=True,
    )


def _cost_of(store: Store, plan: Plan, stored: set[str]) -> CostOf:
    corrections = learn_costs(store, plan) if stored else cost.Corrections()
    return cost.predictor(corrections)


def _kept_layout(
    store: Store,
    plan: Plan,
    cost_of: CostOf,
    executor: Executor,
    pack_size: int | None,
    stored: Collection[str] = (),
) -> list[pack_layout.Shape]:
    """Return the layout of a plan's jobs: the stored layout, and a layout of new jobs for the
    workers of `executor`, which is now stored.

    If several drivers lay out jobs at once, the first layout that is stored holds for all.
    """
    shape = shaping_for(executor.gpu)
    while True:
        parts = store.notes.read_layout(plan.sweep)
        known = pack_layout.from_records(parts)
        workers = executor.parallel
        new = pack_layout.lay_out(plan, known, cost_of, workers, pack_size, shape, stored)
        if not new:
            return known
        store.notes.put_layout(plan.sweep, len(parts), pack_layout.as_record(new))


def _recorder(store: Store, stop: Stop) -> Callable[[PackResult, int], None]:
    """Return a function that writes one failure row for a pack that was lost."""

    def record(ending: PackResult, attempt: int) -> None:
        if stop.why is not None:
            return  # it died because the run is stopping
        if ending.kind == "timeout":
            return  # its process has stored the failure, with the place where it hung
        why = ending.lost or "unknown"
        store.put_failure(failure_of_pack(ending.pack, ending.kind, why, ending.traceback, attempt))

    return record


def figures_folder(sweep: str, output: Path | None) -> Path:
    """Return where a sweep's figures go: `output`, or ``figures/<sweep>`` beside the current
    folder.
    """
    return output or Path("figures") / sweep
