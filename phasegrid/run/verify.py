"""Check a store: every file is readable, has the declared schema and matches its name; plans, rows
and weights agree with each other.

Nothing is repaired. Files that are being written are not visible, so a running sweep does no harm;
its unfinished trials are reported as missing.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from phasegrid.errors import StoreError
from phasegrid.keys import KEY_DIGITS
from phasegrid.metrics import METRICS
from phasegrid.run import code_changes
from phasegrid.run.status import planned_jobs
from phasegrid.store import artifacts, checkpoints, meta, submissions
from phasegrid.store import tables as shards
from phasegrid.store.files.base import TEMPORARY, Files, each, is_temporary
from phasegrid.store.files.errors import reported
from phasegrid.store.schemas import TABLES
from phasegrid.store.store import Store

STALE_S = 3600.0  # a temporary file older than this was left by a process that died


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: in which file (or table, or sweep), what it is, and what to do about it."""

    where: str
    what: str

    def __str__(self) -> str:
        """Return one line for people."""
        return f"{self.where}: {self.what}"


def verify(store: Store, sweep: str | None = None, deep: bool = False) -> list[Problem]:
    """Return the problems of a store; an empty list if there are none.

    `sweep` narrows the check of plans, trials, histories and checkpoints to one sweep (measurements
    are all checked). `deep` reads every checkpoint too: its numbers must be finite, and its SHA-256
    must equal that in the trial's row.

    Raises:
        StoreError: if the store cannot be reached, or there is no such sweep.
    """
    with reported(f"verifying {store.url}"):
        files = store.files
        if sweep is not None and sweep not in store.sweeps():
            raise StoreError(f"verifying {store.url}: there is no sweep {sweep!r}")
        problems = [
            problem
            for table in shards.PLANNED
            for problem in _check_table(files, table, None if sweep is None else {sweep})
        ]
        keys = None if sweep is None else _planned(files, sweep)
        for table in ("trials", "histories"):
            problems += _check_table(files, table, keys)
        for table in ("failures", *(f"metrics/{name}" for name in store.metrics())):
            problems += _check_table(files, table, None)
        problems += _check_copies(files, store.metrics())
        problems += _check_weights(files, keys, deep)
        told = {problem.where for problem in problems}
        left = _check_artifacts(files, store.metrics(), deep)
        problems += [problem for problem in left if problem.where not in told]
        problems += _check_code(store)
        problems += _check_snapshots(files)
        for name in store.sweeps() if sweep is None else [sweep]:
            problems += _check_plan(store, name)
            problems += _check_jobs(store, name)
        problems += _check_notes(store)
        problems += _check_temporary(files)
        problems += _check_strays(files)
    return problems


def _check_table(files: Files, table: str, keys: set[str] | None) -> list[Problem]:
    folder = shards.table_folder(table)
    expected = list(shards.listed(files, table).values())
    problems = [
        Problem(files.path(name), f"does not belong in table {table}; move it out of there")
        for name in shards.foreign(files, table)
    ]
    if keys is not None:
        expected = [name for name in expected if _key(name) in keys]
    schemas: set[pa.Schema] = set()
    for found in each(files, expected, lambda name: _check_shard(files, table, name)):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            schemas.add(found)
    try:
        shards.merged_schema(list(schemas), table)
    except StoreError as error:
        problems.append(Problem(files.path(folder), str(error)))
    return problems


def _check_shard(files: Files, table: str, name: str) -> Problem | pa.Schema:
    where = files.path(name)
    try:
        rows = shards.read_shard(files, table, name)
    except StoreError as error:
        return Problem(where, str(error))
    if rows is None:
        return Problem(where, "was listed but no longer exists")
    said = set(rows[shards.naming_column(table)].to_pylist())
    if said != {_key(name)}:
        return Problem(where, f"its rows are about {sorted(map(str, said))}; delete it")
    if table == "trials" and len(rows) != 1:
        return Problem(where, f"{len(rows)} rows found, one is expected; delete it")
    if table == "histories" and len(set(rows["epoch"].to_pylist())) != len(rows):
        return Problem(where, "an epoch occurs twice; delete it and its trial")
    schema: pa.Schema = rows.schema
    return schema


def _check_copies(files: Files, metrics: Sequence[str]) -> Iterator[Problem]:
    tables = [*TABLES, *(f"metrics/{name}" for name in metrics)]
    known = {shards.compacted_name(table): table for table in tables if table not in shards.PLANNED}
    collected = meta.read_collected(files)
    there = files.names(shards.COMPACTED)
    for table in sorted(collected):
        if shards.compacted_name(table).removeprefix(f"{shards.COMPACTED}/") not in there:
            yield Problem(
                files.path(shards.compacted_name(table)),
                "is missing, and its files were deleted after compaction: restore it from a backup",
            )
    for found in there:
        name = f"{shards.COMPACTED}/{found}"
        if name not in known:
            yield Problem(files.path(name), "is not a copy of any table; delete it")
            continue
        try:
            copy = shards.read_shard(files, known[name], name)
        except StoreError as error:
            repair = (
                "its files were deleted after compaction: restore it from a backup"
                if known[name] in collected
                else "a copy: delete it and compact again"
            )
            yield Problem(files.path(name), f"{error} ({repair})")
            continue
        if known[name] == "trials" and copy is not None:
            twice = len(copy) - pc.count_distinct(copy["key"]).as_py()
            if twice:
                yield Problem(files.path(name), f"{twice} trials occur twice; delete it")


def _check_weights(files: Files, keys: set[str] | None, deep: bool) -> list[Problem]:
    """Check that every trial with weights has them, that they are whole, and that they belong to a
    trial.
    """
    columns = ["key", "outcome", "checkpoint_sha256"]
    rows = _read_what_can_be(files, "trials", columns).to_pylist()
    digests = {str(row["key"]): row["checkpoint_sha256"] for row in rows}
    diverged = {str(row["key"]) for row in rows if row["outcome"] == "diverged"}
    wanted = digests.keys() if keys is None else digests.keys() & keys
    listing = files.names("checkpoints")
    matches = {name: checkpoints.NAME.fullmatch(name) for name in listing}
    problems = [
        Problem(files.path(f"checkpoints/{name}"), "is not a checkpoint; move it out of there")
        for name, match in matches.items()
        if match is None
    ]
    there = {match.group(2) for match in matches.values() if match and not match.group(3)}
    problems += [
        Problem(f"trial {key}", f"its checkpoint is missing; {checkpoints.REPAIR}")
        for key in sorted(wanted)
        if digests[key] is not None and key not in there
    ]
    names = [f"checkpoints/{n}" for n, match in matches.items() if match and match[2] in wanted]

    def check(name: str) -> Problem | None:
        key = name.rpartition("/")[2][:KEY_DIGITS]
        digest = digests[key] if name.endswith(f"{key}.safetensors") else None
        return _check_tensors(files, name, digest, key not in diverged, deep, checkpoints.REPAIR)

    return problems + [found for found in each(files, names, check) if found is not None]


def _check_tensors(
    files: Files, name: str, digest: str | None, finite: bool, deep: bool, repair: str
) -> Problem | None:
    """Check that a file of tensors is whole. With `deep`, check also that it holds what was written
    and, with `finite`, that its numbers are finite.
    """
    where, deep_repair = files.path(name), repair.replace("--damaged", "--damaged --deep")
    try:
        checkpoints.read_header(files, name)
    except StoreError as error:
        return Problem(where, f"{error}; {repair}")
    if not deep:
        return None
    data = files.read(name)
    try:
        checkpoints.refuse_damage(data, where)
        bad = checkpoints.non_finite(data, where) if finite else []
    except StoreError as error:
        return Problem(where, f"{error}; {deep_repair}")
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        return Problem(
            where,
            f"is not what was written with its row (SHA-256 differs); {deep_repair}",
        )
    return Problem(where, f"NaN or infinity in {', '.join(bad[:3])}") if bad else None


def _check_artifacts(files: Files, metrics: Sequence[str], deep: bool) -> list[Problem]:
    """Check that the artifacts named by rows exist and are whole, and that there are no others."""
    problems = []
    digests: dict[str, tuple[str, str]] = {}
    repairs: dict[str, str] = {}
    for table in ("trials", *(f"metrics/{metric}" for metric in metrics)):
        what = "trial" if table == "trials" else table.removeprefix("metrics/")
        for artifact, digest in artifacts.named_in(files, table):
            name = artifacts.file_names(artifact)[0]
            digests[name] = digest, f"{what} {artifact.job}"
            repairs[name] = checkpoints.REPAIR if table == "trials" else artifacts.REPAIR
    folders = ("checkpoints", artifacts.FOLDER)
    listing = [f"{folder}/{found}" for folder in folders for found in files.names(folder)]
    for name in listing:
        if (
            name.startswith(artifacts.FOLDER)
            and artifacts.artifact_in(name.partition("/")[2]) is None
        ):
            problems.append(Problem(files.path(name), "is not an artifact; move it out of there"))
    for name in sorted(digests.keys() - set(listing)):
        where = f"{files.path(name)}, which {digests[name][1]} has left"
        problems.append(Problem(where, f"is missing; {repairs[name]}"))

    def check(name: str) -> Problem | None:
        return _check_tensors(files, name, digests[name][0], False, deep, repairs[name])

    there = sorted(digests.keys() & set(listing))
    return problems + [found for found in each(files, there, check) if found is not None]


def _check_snapshots(files: Files) -> Iterator[Problem]:
    for found in files.names("snapshots"):
        name = f"snapshots/{found}"
        if not checkpoints.SNAPSHOT.fullmatch(found):
            continue
        try:
            checkpoints.read_header(files, name)
        except FileNotFoundError:
            continue  # a running sweep has deleted it
        except StoreError as error:
            yield Problem(
                files.path(name),
                f"{error}; its training will start again from the beginning; `phasegrid gc"
                f" --damaged --delete` deletes it",
            )


def _check_plan(store: Store, sweep: str) -> Iterator[Problem]:
    """Check that the trials that a sweep plans are stored, and that no place occurs twice in its
    plan.
    """
    try:
        rows = store.read_plan(sweep).to_pylist()
    except StoreError:
        return  # reported as a damaged file
    places = [(row["cell"], row["seed"], row.get("stage")) for row in rows]
    if len(set(places)) != len(places):
        yield Problem(f"sweep {sweep}", "a seed of a cell is planned twice; run the sweep again")
    planned = {row["key"] for row in rows}
    missing = sorted(planned - _stored_keys(store, "trials"))
    if missing:
        yield Problem(
            f"sweep {sweep}",
            f"{len(missing)} of {len(planned)} planned trials are not stored (first: {missing[0]});"
            f" run the sweep again, or to give it up, `phasegrid delete {sweep}`",
        )


def _check_jobs(store: Store, sweep: str) -> Iterator[Problem]:
    """Check that the measurements that a sweep plans are stored."""
    try:
        planned = planned_jobs(store, sweep)
    except StoreError:
        return  # reported as a damaged file
    for metric, keys in planned.items():
        missing = sorted(keys - _stored_keys(store, f"metrics/{metric}"))
        if missing:
            yield Problem(
                f"sweep {sweep}",
                f"{len(missing)} of {len(keys)} planned jobs of {metric} are not stored (first:"
                f" {missing[0]}); run the sweep again",
            )


def _check_code(store: Store) -> Iterator[Problem]:
    """Check that each name and version of a plug-in stands for one code."""
    parts = ("model", "dataset", "schedule", "objective")
    of_trial = [(part, f"{part}_version", f"{part}_code_digest") for part in parts]
    trials = _read_what_can_be(
        store.files, "trials", [name for names in of_trial for name in names]
    )
    of_code = [(names[0], trials.select(names)) for names in of_trial]
    of_metric = ["metric", "version", "code_digest"]
    for name in sorted(set(store.metrics()) - METRICS.keys()):
        rows = _read_what_can_be(store.files, f"metrics/{name}", of_metric)
        of_code.append(("metric", rows.select(of_metric)))
    for kind, rows in of_code:
        rows = rows.rename_columns(["name", "version", "digest"])
        for which, count in code_changes.mixed_code(store.files, kind, rows):
            yield Problem(
                which,
                f"its rows come from {count} different versions of its code, which figures"
                f" would mix. Run with --accept-changed-code if their numbers are the same;"
                f" otherwise raise `version` and run again",
            )


def _stored_keys(store: Store, table: str) -> set[str]:
    """Return the keys that a table holds, without keys that are only in an unreadable copy."""
    try:
        return store.stored(table)
    except StoreError:
        return set(shards.listed(store.files, table))


def _check_temporary(files: Files) -> Iterator[Problem]:
    for entry in files.entries(TEMPORARY):
        if entry.modified is None or time.time() - entry.modified > STALE_S:
            left = "was left by a process that died; delete it"
            what = left if is_temporary(entry.name) else "does not belong there; move it away"
            yield Problem(files.path(f"{TEMPORARY}/{entry.name}"), what)


def _check_notes(store: Store) -> Iterator[Problem]:
    """Check that the figures and layouts of sweeps and the records of submissions can be read."""
    for name in store.sweeps():
        for read in (store.notes.read_figures, store.notes.read_layout):
            try:
                read(name)
            except StoreError as error:
                yield Problem(f"sweep {name}", str(error))
    for submission in submissions.ids(store):
        try:
            submissions.read(store, submission)
        except StoreError as error:
            yield Problem(submissions.path(store, submission), str(error))


def _check_strays(files: Files) -> Iterator[Problem]:
    """Report links, and folders with a file's name: they are not followed, and a run cannot write
    in their place.
    """
    for folder in (
        *TABLES,
        "metrics",
        shards.COMPACTED,
        "checkpoints",
        artifacts.FOLDER,
        "snapshots",
        TEMPORARY,
    ):
        for name, kind in sorted(files.strays(folder).items()):
            yield Problem(
                files.path(f"{folder}/{name}"), f"is {kind}, which is ignored; move it away"
            )
    for entry in files.folders("metrics"):
        if not (entry.endswith("/") and shards.is_metric_folder(entry[:-1])):
            yield Problem(
                files.path(f"metrics/{entry}"), "is not the folder of a metric; move it away"
            )


def _planned(files: Files, sweep: str) -> set[str]:
    try:
        rows = shards.read(files, "plans", ["key"], [sweep])
    except StoreError:
        return set()  # reported as a damaged file
    return set(rows["key"].to_pylist())


def _read_what_can_be(files: Files, table: str, columns: Sequence[str]) -> pa.Table:
    """Read the undamaged files of a table; damaged ones are reported elsewhere."""
    return shards.read(files, table, columns, None, pass_over=lambda _error: None)


def _key(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(shards.SUFFIX)
