"""Commands that look after a store and the place where sweeps run: ``compact``, ``gc``, ``doctor``
and others. `cli` adds them to the command line.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phasegrid.cli.options import AsJson, Home, open_store, say
from phasegrid.cli.output import echo
from phasegrid.texts import bytes_text, counted

if TYPE_CHECKING:
    from phasegrid.cli.machine_checks import Check
    from phasegrid.store.gc import Garbage, GarbageReport

_MOST_NAMES = 5  # of a kind, without --json
_KINDS = {
    "unfinished": "unfinished writes of processes that died",
    "snapshots": "snapshots of trials that are stored",
    "remains": "weights, histories and artifacts of attempts that died before their last step",
    "copied": "files whose rows a compacted table holds",
    "orphans": "results that no stored plan names",
    "damaged": "damaged files, and what belongs to them: the next run does these jobs again",
}


def compact(storage: Home = "results") -> None:
    """Copy the many small files of each table into one, so that reading is fast; deletes
    nothing.
    """
    from phasegrid.store.compact import compact as copy_tables

    for line in copy_tables(open_store(storage)).lines():
        echo(line)


def gc(
    storage: Home = "results",
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what is listed; without it nothing is deleted.")
    ] = False,
    keep_days: Annotated[
        float, typer.Option(min=1, help="Leave alone files that changed within this many days.")
    ] = 1.0,
    shards: Annotated[
        bool,
        typer.Option(
            "--shards",
            help="Also files whose rows a compacted table holds: it is then their only copy.",
        ),
    ] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Also trials and measurements that no plan names.")
    ] = False,
    damaged: Annotated[
        bool,
        typer.Option(
            "--damaged", help="Only damaged files, so that `phasegrid run` does their jobs again."
        ),
    ] = False,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="With --damaged: also checkpoints that are not what their trial wrote."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what the store no longer needs, and with --delete delete it. Never what a running sweep
    may be writing.
    """
    from phasegrid.store.gc import delete_garbage, find_garbage
    from phasegrid.store.repair import find_damage

    if deep and not damaged:
        raise typer.BadParameter("it goes with --damaged", param_hint="--deep")
    store = open_store(storage)
    found = find_damage(store, deep) if damaged else find_garbage(store, keep_days, shards, orphans)
    if delete:
        delete_garbage(store, found.garbage)
    echo(_garbage_json(found, delete) if as_json else _garbage_text(found, delete))


Sweep = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep of the store.")]


def delete(
    sweep: Sweep,
    storage: Home = "results",
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete it; without it nothing is deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what goes with a sweep, and with --yes delete its plan. Its results stay: `gc --orphans`
    lists those of no sweep.
    """
    from phasegrid.store.sweeps import delete_sweep, find_use

    store = open_store(storage)
    use = find_use(store, sweep)
    if yes:
        delete_sweep(store, use)
    if as_json:
        echo(json.dumps({"deleted": yes, **asdict(use)}, indent=2))
        return
    for name in use.files:
        echo(f"  {name}")
    echo(
        f"no other sweep uses {use.num_trials} of its trials and {use.num_measurements} of its"
        " measurements: they stay, and `phasegrid gc --orphans` lists them once the sweep is gone"
    )
    for other in use.named_by:
        echo(f"note: a figure of sweep {other} is against {sweep}, and cannot be drawn without it")
    done = "deleted" if yes else "nothing was deleted; run again with --yes to delete it"
    echo(f"sweep {sweep}: {done}")


def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Name of a sweep of the store.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name that it gets.")],
    storage: Home = "results",
    dry_run: Annotated[
        bool, typer.Option("-n", "--dry-run", help="Only say what would be renamed.")
    ] = False,
) -> None:
    """Give a sweep of the store another name. No result changes; change `name:` in its sweep file
    too.
    """
    from phasegrid.store.sweeps import check_rename, rename_sweep

    store = open_store(storage)
    use = (check_rename if dry_run else rename_sweep)(store, old, new)
    for name in use.files:
        echo(f"  {name}")
    for other in use.named_by:
        echo(f"  the figures of sweep {other} that are against {old}")
    echo(f"sweep {old}: {'nothing was renamed (--dry-run)' if dry_run else f'renamed to {new}'}")
    say(f"change name: {old} in its sweep file, or its next run creates sweep {old} again")


def doctor(
    storage: Annotated[
        str | None, typer.Option(help="Folder or URL of a store, to be tried as well.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A cluster, to be tried as well: http://head:8265, host:6379 or auto."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A folder of data: also check what is prepared there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, a store and a cluster, and say how to repair what is wrong. Exit 4 if
    storage or cluster fails.
    """
    from phasegrid.cli.doctor import examine, exit_code

    checks = examine(storage, address, data)
    echo(json.dumps([asdict(c) for c in checks], indent=2) if as_json else _text(checks))
    raise typer.Exit(exit_code(checks))


def _garbage_json(found: "GarbageReport", deleted: bool) -> str:
    record = {
        "deleted": deleted,
        "garbage": [asdict(item) for item in found.garbage],
        "kept": list(found.kept),
    }
    return json.dumps(record, indent=2)


def _garbage_text(found: "GarbageReport", deleted: bool) -> str:
    kinds: dict[str, list[Garbage]] = defaultdict(list)
    for item in found.garbage:
        kinds[item.kind].append(item)
    lines = []
    for kind, items in kinds.items():
        lines.append(f"{_KINDS[kind]}: {_amount(items)}")
        lines += [f"  {_name(item)}" for item in items[:_MOST_NAMES]]
        if len(items) > _MOST_NAMES:
            lines.append(f"  and {len(items) - _MOST_NAMES} more (--json names all)")
    lines += [f"left alone: {note}" for note in found.kept]
    if not found.garbage:
        return "\n".join([*lines, "nothing to collect"])
    end = "deleted" if deleted else "nothing was deleted; run again with --delete to delete it"
    return "\n".join([*lines, f"{_amount(found.garbage)}: {end}"])


def _amount(items: Sequence["Garbage"]) -> str:
    files = sum(not item.keys for item in items)
    rows = sum(len(item.keys) for item in items)
    size = sum(item.num_bytes for item in items)
    text = f"{counted(files, 'file')}, {bytes_text(size)}"
    return text + (f", and the rows of {rows} keys in compacted tables" if rows else "")


def _name(item: "Garbage") -> str:
    return f"{item.name} (the rows of {len(item.keys)} keys)" if item.keys else item.name


def _text(checks: Sequence["Check"]) -> str:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<7} {check.name:<{width}}  {check.found}")
        if check.repair:
            lines.append(f"{'':<{8 + width}}  -> {check.repair}")
    counts = {state: sum(c.state == state for c in checks) for state in ("bad", "note")}
    return "\n".join([*lines, f"{counts['bad']} bad, {counts['note']} to note"])
