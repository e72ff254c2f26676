"""Delete and rename the sweeps of a store. Results stay; `gc` deletes results that no sweep uses.

A sweep consists of its plan, its planned measurements, its layout of packs, and its figures. The
plan is written last and deleted last. So a sweep is whole, or, after a crash, the deletion or
renaming can be repeated.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from phasegrid.declare import FigureRequest
from phasegrid.errors import StoreError, SweepError
from phasegrid.store import meta, submissions, tables
from phasegrid.store.files.errors import reported
from phasegrid.store.store import Store

_TABLES = ("plan_jobs", "plans")  # in the order of deletion


@dataclass(frozen=True, slots=True)
class SweepUse:
    """What a deletion of a sweep affects: its files, the number of results that no other sweep
    uses, and the sweeps whose figures name it.
    """

    sweep: str
    files: tuple[str, ...]
    num_trials: int
    num_measurements: int
    named_by: tuple[str, ...]


def find_use(store: Store, sweep: str) -> SweepUse:
    """Return what a deletion of a sweep affects. A damaged plan can be deleted too; its results are
    unknown.

    Raises:
        SweepError: if there is no such sweep, or its submission says that a run of it is under way.
        StoreError: if the store cannot be read.
    """
    _refuse_unknown(store, sweep)
    _refuse_running(store, sweep)
    with reported(f"reading the plans of {store.url}"):
        trials = _only_of(store, "plans", sweep) & store.stored("trials")
        jobs = _only_of(store, "plan_jobs", sweep)
        measured = {key for m in store.metrics() for key in jobs & store.stored(f"metrics/{m}")}
        layout = meta.layout_names(store.files, sweep)
        notes = (meta.figures_name(sweep), meta.cards_name(sweep))
        names = (*notes, *(tables.shard_name(t, sweep) for t in _TABLES))
        there = (*layout, *(name for name in names if store.files.exists(name)))
    return SweepUse(sweep, there, len(trials), len(measured), tuple(_named_by(store, sweep)))


def delete_sweep(store: Store, use: SweepUse) -> None:
    """Delete the plan of a sweep and its other files; its results stay.

    Raises:
        StoreError: if a file cannot be deleted.
    """
    with reported(f"deleting sweep {use.sweep} of {store.url}"):
        # Recorded before the deletion: without it, a store without plans has no unwanted results.
        meta.put_deleted(store.files, meta.read_deleted(store.files) | {use.sweep})
        for name in use.files:
            store.files.delete(name)


def check_rename(store: Store, old: str, new: str) -> SweepUse:
    """Check that a sweep can be renamed; return what names it.

    Raises:
        SweepError: if there is no sweep `old`, there is one `new` already, or a run of it is under
        way.
        StoreError: for a name that no sweep can have, or when reading fails.
    """
    tables.checked_name(new, "sweep")
    use = find_use(store, old)
    if new in store.sweeps():
        raise SweepError(
            f"renaming sweep {old}: {store.url} has a sweep {new!r}; choose another name, or delete"
            " that one first"
        )
    return use


def rename_sweep(store: Store, old: str, new: str) -> SweepUse:
    """Give a sweep of a store another name, in its plan, its figures, those of other sweeps, and
    its submissions.

    Raises:
        SweepError, StoreError: as `check_rename`, or when writing fails.
    """
    use = check_rename(store, old, new)
    rows = store.read_plan(old).to_pylist()
    jobs = store.read_table("plan_jobs", keys=[old]).to_pylist()
    store.notes.put_figures(new, store.notes.read_figures(old))
    with reported(f"renaming sweep {old} of {store.url}"):
        meta.rename_layout(store.files, old, new)
    store.put_plan(new, rows, jobs)
    for sweep in use.named_by:
        of_sweep = new if sweep == old else sweep
        figures = [_naming(request, old, new) for request in store.notes.read_figures(of_sweep)]
        store.notes.put_figures(of_sweep, figures)
    for record in submissions.read_all(store, old):
        submissions.replace_record(store, replace(record, sweep=new))
    with reported(f"renaming sweep {old} of {store.url}"):
        for name in use.files:
            store.files.delete(name)
    return use


def _only_of(store: Store, table: str, sweep: str) -> set[str]:
    """Return the keys that no other sweep plans; the keys of damaged plans are unknown."""
    rows = store.read_table(table, ["sweep", "key"], pass_over=_pass_over).to_pylist()
    others = {row["key"] for row in rows if row["sweep"] != sweep}
    return {row["key"] for row in rows if row["sweep"] == sweep} - others


def _pass_over(_error: StoreError) -> None:
    """Skip a damaged plan: it may be the one that the user deletes."""


def _refuse_unknown(store: Store, sweep: str) -> None:
    names = store.sweeps()
    if sweep not in names:
        raise SweepError(
            f"{store.url} has no sweep {sweep!r}; sweeps: {', '.join(names) or 'none'}"
        )


def _refuse_running(store: Store, sweep: str) -> None:
    now = datetime.now(UTC)
    for record in submissions.read_all(store, sweep):
        state, says = submissions.state_of(record, now, None)
        if state == "running":
            raise SweepError(
                f"sweep {sweep} is run as {record.id} ({says}): stop it first, `phasegrid stop"
                f" {record.id}`"
            )


def _named_by(store: Store, sweep: str) -> list[str]:
    """Return the sweeps that have a figure that compares with this one."""
    found = []
    for name in store.sweeps():
        try:
            figures = store.notes.read_figures(name)
        except StoreError as error:
            if error.fault is not None:
                raise
            continue  # damaged; `verify` names it
        if any(request.args.get("against") == sweep for request in figures):
            found.append(name)
    return found


def _naming(request: FigureRequest, old: str, new: str) -> FigureRequest:
    if request.args.get("against") != old:
        return request
    return FigureRequest(request.kind, {**request.args, "against": new})
