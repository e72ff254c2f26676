"""Read and write a store: everything that a sweep leaves in a folder or an object store.

    plans/<sweep>.parquet             the grid (replaced when the sweep changes)
    plan_jobs/<sweep>.parquet         the measurements that the sweep plans
    trials/ab/<key>.parquet           one row per finished trial, written last
    histories/ab/<key>.parquet        one row per epoch
    metrics/<name>/ab/<key>.parquet   the rows of one measurement
    failures/<id>.parquet             one row per failed attempt
    tables/<name>.parquet             compacted copies; they can be rebuilt, unless `gc --shards`
                                      deleted the files
    checkpoints/ab/<key>.safetensors  final weights, and <key>@epoch-<n>.safetensors
    artifacts/ab/<key>.<name>.safetensors   what a measurement leaves for others (`artifacts`)
    meta/                             what else is known (see `meta`), the code of plug-ins (see
                                      `code_changes`)
    meta/submissions/<id>.json        runs on a cluster, and how they went (see `submissions`)
    meta/store.json                   what this store is
    snapshots/ logs/ _tmp/            where trainings resume from, logs, unfinished writes

The worker writes one immutable file per finished job, named by the job's key, in one step. There is
no database, and there are no locks. The work that remains is derived: planned keys minus
`Store.stored`. Only this module, `marker`, `tables`, `meta`, `artifacts`, `checkpoints` and
`submissions` make paths of the store.
"""

import hashlib
import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from phasegrid.declare import Column
from phasegrid.errors import StoreError
from phasegrid.jobs import Artifact
from phasegrid.keys import Json
from phasegrid.redaction import clean, refuse_secrets
from phasegrid.store import artifacts, checkpoints, row_files, schemas
from phasegrid.store import tables as shards
from phasegrid.store.committing import commit
from phasegrid.store.files.base import TEMPORARY, Files
from phasegrid.store.files.errors import reported
from phasegrid.store.files.opening import open_files
from phasegrid.store.files.probing import can_read_what_it_writes
from phasegrid.store.files.retry import PatientFiles
from phasegrid.store.marker import FOLDERS, MARKER, make_marker, read_marker
from phasegrid.store.meta import Notes
from phasegrid.store.records import to_table

if TYPE_CHECKING:
    from torch import Tensor

_RAISED = ("exception", "traceback", "reason")  # columns with texts that others wrote


@dataclass(frozen=True, slots=True)
class Store:
    """An open store. It can be pickled and opened again on another machine that sees the same
    `url`.

    `id` was drawn when the store was made: two machines that see different ids do not share their
    storage.
    """

    url: str
    files: Files
    id: str

    @staticmethod
    def open(url: str, create: bool = False) -> "Store":
        """Open the store at a folder's path or an fsspec URL; with `create`, make it if it does not
        exist, and check that it can be written.

        Raises:
            StoreError: if there is no store, it cannot be reached or written, it has a newer
            format, or `create` is given a folder with other content.
            SweepError: if the URL holds credentials.
        """
        refuse_secrets(url, "the storage")
        files = PatientFiles(open_files(url))
        with reported(f"opening store {url}"):
            marker = read_marker(files, url)
            if marker is None and not create:
                raise StoreError(
                    f"opening store {url}: no phasegrid store there ({files.path(MARKER)} does not"
                    " exist); check the path, or make one with `phasegrid run`",
                    fault="fails",
                )
            marker = make_marker(files, url) if marker is None else marker
        store = Store(url, files, str(marker.get("id")))
        if create:
            store.probe()
        return store

    @staticmethod
    def find(url: str) -> "Store | None":
        """Open the store at a path or URL; None only if no part of a store is there.

        Raises:
            StoreError, SweepError: as `open`, and if there are tables without the file that marks a
            store.
        """
        refuse_secrets(url, "the storage")
        files = PatientFiles(open_files(url))
        with reported(f"opening store {url}"):
            if read_marker(files, url) is not None:
                return Store.open(url)
            parts = FOLDERS.intersection(files.folders("")) - {f"{TEMPORARY}/"}
        if parts:
            raise StoreError(
                f"opening store {url}: {', '.join(sorted(parts))} is there, but"
                f" {files.path(MARKER)} is missing: restore it from a backup, or let"
                " `phasegrid run` write a new one"
            )
        return None

    @property
    def notes(self) -> Notes:
        """What the store knows beside its tables: figures, vocabularies, timings, layouts."""
        return Notes(self.url, self.files)

    def probe(self) -> None:
        """Raise a `StoreError` if a file of a few MiB cannot be written, read back and deleted."""
        with reported(f"writing to store {self.url}"):
            if not can_read_what_it_writes(self.files):
                raise StoreError(
                    f"writing to store {self.url}: reading back gave other bytes than were written"
                )

    def stored(self, table: str) -> set[str]:
        """Return the keys that table ``trials`` or ``metrics/<name>`` holds, from one listing and
        the compacted copy.
        """
        with reported(f"listing table {table} of {self.url}"):
            keys = set(shards.listed(self.files, table))
            column = shards.naming_column(table)
            copy = shards.read_shard(self.files, table, shards.compacted_name(table), [column])
        return keys if copy is None else keys.union(copy[column].to_pylist())

    def has(self, table: str, key: str) -> bool:
        """Say whether a table has a file of `key`, with one look-up; the compacted copy is not
        read.
        """
        with reported(f"looking up {key} in table {table} of {self.url}"):
            return self.files.exists(shards.shard_name(table, key))

    def put_trial(
        self,
        record: Mapping[str, object],
        history: Sequence[Mapping[str, object]],
        weights: Mapping[str, "Tensor"],
        published: Mapping[str, str] | None = None,
    ) -> bool:
        """Store a finished trial: its weights, its history, and last the row that makes it visible.

        `record` has the columns of `schemas.TRIALS`, `history` those of `schemas.HISTORIES`; `key`,
        `checkpoint_sha256` and, if absent, `created_at` are filled in. A diverged trial may have no
        `weights`. `published` holds the SHA-256 of each artifact that the training has stored (see
        `publish`), by name. If the trial is stored already, nothing changes and the call returns
        False. Files of an attempt that died before the last step are replaced.

        Raises:
            StoreError: for an unknown column, a wrong type, or when writing fails.
        """
        key = shards.checked_key(str(record.get("key")))
        where = f"trial {key}"
        data = checkpoints.encode(weights) if weights else None
        digest = None if data is None else hashlib.sha256(data).hexdigest()
        full = {"created_at": datetime.now(UTC), **record, "checkpoint_sha256": digest}
        full["artifacts"] = artifacts.digests_text(published or {})
        row = to_table("trials", schemas.TRIALS, [full], where)
        epochs = [{**epoch, "key": key} for epoch in history]
        if epochs:
            table = to_table("histories", schemas.HISTORIES, epochs, f"history of {where}")
        with reported(f"writing {where} to {self.url}"):
            parts = {artifacts.checkpoint_name(key, None): data} if data is not None else {}
            if epochs:
                parts[shards.shard_name("histories", key)] = row_files.encode(table)
            row_name = shards.shard_name("trials", key)
            return commit(self.files, parts, row_name, row_files.encode(row))

    def publish(self, artifact: Artifact, tensors: Mapping[str, "Tensor"]) -> str:
        """Store an artifact of a running training and return its SHA-256. It replaces that of an
        earlier attempt, unless the trial is stored already.

        Raises:
            StoreError: when writing fails.
        """
        data = checkpoints.encode(tensors)
        row = shards.shard_name("trials", artifact.job)
        with reported(f"writing {artifact.name} of trial {artifact.job} to {self.url}"):
            self.files.replace(
                artifacts.file_names(artifact)[0], lambda file: file.write(data), unless=row
            )
        return hashlib.sha256(data).hexdigest()

    def put_metric(
        self,
        name: str,
        columns: Sequence[Column],
        common: Mapping[str, object],
        rows: Sequence[Mapping[str, object]],
        left: "Mapping[str, Mapping[str, Tensor]] | None" = None,
    ) -> bool:
        """Store one measurement: first the artifacts in `left`, by name, then every row of `rows`
        with the columns of `common` (key, trials, outcome, provenance).

        A measurement that is not applicable has no rows, and is stored as one row with null in the
        measured columns. If the measurement is stored already, nothing changes and the call returns
        False; but rows of an earlier release name no artifacts, and are replaced if there are some
        now. Files of an attempt that died before the last step are replaced.

        Raises:
            StoreError: for an unknown column, a wrong type, a NaN, no rows although the outcome is
            done, or when writing fails.
        """
        key = shards.checked_key(str(common.get("key")))
        where = f"metric {name} {key}"
        if not rows and common.get("outcome") == "done":
            raise StoreError(f"writing {where}: its status is done, but it has no rows")
        if common.get("metric", name) != name:
            raise StoreError(f"writing {where}: its record says metric {common['metric']!r}")
        facts: Json = {"metric": name, "args": str(common.get("args"))}
        parts = {n: checkpoints.encode(tensors, facts) for n, tensors in (left or {}).items()}
        digests = {n: hashlib.sha256(data).hexdigest() for n, data in parts.items()}
        full = {"created_at": datetime.now(UTC), "metric": name, **_cleaned(common)}
        full["artifacts"] = artifacts.digests_text(digests)
        table = f"metrics/{name}"
        typed = to_table(
            table,
            schemas.metric_schema(name, columns),
            [full | dict(row) for row in rows or ({},)],
            where,
        )
        row_name, data = shards.shard_name(table, key), row_files.encode(typed)
        with reported(f"writing {where} to {self.url}"):
            if not parts:
                return self.files.create(row_name, data)
            files = {artifacts.file_names(Artifact(key, n))[0]: d for n, d in parts.items()}
            if self.tells_of_artifacts(table, key) is False:
                self.files.delete(row_name)
            return commit(self.files, files, row_name, data)

    def tells_of_artifacts(self, table: str, key: str) -> bool | None:
        """Say whether the rows of a measurement name its artifacts (those of earlier releases do
        not); None if there are no rows.
        """
        name = shards.shard_name(table, key)
        with reported(f"reading {key} in table {table} of {self.url}"):
            rows = shards.read_shard(self.files, table, name, ["artifacts"])
        if rows is None:
            return None
        return "artifacts" in rows.column_names and rows["artifacts"].null_count == 0

    def put_failure(self, record: Mapping[str, object]) -> str:
        """Store one failed attempt and return its `id`. If absent, `id` and `created_at` are filled
        in. Secrets are left out.

        Raises:
            StoreError: for an unknown column, a wrong type, or when writing fails.
        """
        full = {"id": uuid.uuid4().hex, "created_at": datetime.now(UTC), **_cleaned(record)}
        table = to_table("failures", schemas.FAILURES, [full], "a failure")
        with reported(f"writing a failure to {self.url}"):
            self.files.create(
                shards.shard_name("failures", str(full["id"])), row_files.encode(table)
            )
        return str(full["id"])

    def put_plan(
        self,
        sweep: str,
        rows: Sequence[Mapping[str, object]],
        jobs: Sequence[Mapping[str, object]] = (),
    ) -> None:
        """Store the grid and the planned measurements of a sweep; replace those of the same name.

        Raises:
            StoreError: for an unknown column, a wrong type, or when writing fails.
        """
        name = shards.shard_name("plans", sweep)
        full = [{**row, "sweep": sweep} for row in rows]
        table = to_table("plans", schemas.PLANS, full, f"the plan of {sweep}")
        with reported(f"writing the plan of {sweep} to {self.url}"):
            self._put_jobs(sweep, jobs)
            self._replace(name, row_files.encode(table))

    def read_table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        keys: Collection[str] | None = None,
        pass_over: shards.PassOver | None = None,
    ) -> pa.Table:
        """Read a table (``trials``, ``histories``, ``plans``, ``plan_jobs``, ``failures``,
        ``metrics/<metric>``), also while a sweep runs.

        `columns` and `keys` (sweeps of ``plans`` and ``plan_jobs``, ids of ``failures``) narrow it.
        A table that does not exist yet is empty. The rows of one key keep their order; keys may
        come in any order. Damaged files are left out if `pass_over` is given, which is called for
        each.

        Raises:
            StoreError: naming the file, if one is damaged or has wrong types.
        """
        with reported(f"reading table {name} of {self.url}"):
            return shards.read(self.files, name, columns, keys, pass_over)

    def sweeps(self) -> list[str]:
        """List the sweeps that have a plan here."""
        with reported(f"listing plans of {self.url}"):
            return sorted(shards.listed(self.files, "plans"))

    def metrics(self) -> list[str]:
        """List the metrics that were measured here."""
        with reported(f"listing metrics of {self.url}"):
            return sorted(shards.metric_names(self.files))

    def read_plan(self, sweep: str) -> pa.Table:
        """Read the grid of one sweep; empty if there is no such sweep."""
        return self.read_table("plans", keys=[sweep])

    def read_checkpoint(self, key: str, epoch: int | None = None) -> dict[str, "Tensor"]:
        """Return the final weights of a trial, or those after `epoch`, as CPU tensors.

        Raises:
            StoreError: if they are not stored or damaged.
        """
        return self.read_artifact(artifacts.at_epoch(key, epoch))

    def read_artifact(self, artifact: Artifact) -> dict[str, "Tensor"]:
        """Return an artifact as CPU tensors: a trial's weights, a measurement's curve.

        Raises:
            StoreError: if that is not stored, or damaged.
        """
        with reported(f"reading {artifact.name} of {artifact.job} of {self.url}"):
            return artifacts.read_tensors(self.files, artifact)

    def has_artifact(self, artifact: Artifact) -> bool:
        """Say whether an artifact is stored, with one look-up."""
        with reported(f"looking up {artifact.name} of {artifact.job} in {self.url}"):
            return any(self.files.exists(name) for name in artifacts.file_names(artifact))

    def artifact_facts(self, artifact: Artifact) -> tuple[str, Json]:
        """Return the metric that made an artifact, and the metric's arguments.

        Raises:
            StoreError: if it is not stored, or damaged, or no measurement made it.
        """
        with reported(f"reading {artifact.name} of {artifact.job} of {self.url}"):
            return artifacts.read_facts(self.files, artifact)

    def checkpoint_path(self, key: str, epoch: int | None = None) -> str:
        """Return where a checkpoint is, or would be."""
        return self.files.path(artifacts.checkpoint_name(key, epoch))

    def snapshots(self) -> checkpoints.StoredSnapshots:
        """Return the snapshots of running trainings, from which they resume after a crash."""
        return checkpoints.StoredSnapshots(self.files, self._note_damage)

    def log_path(self, name: str) -> str:
        """Return where log `name` (``name`` or ``folder/name``) is, or would be."""
        return self.files.path(_log_name(name))

    def write_log(self, name: str, text: str) -> str:
        """Write a log, in place of an earlier one of that name; return its path."""
        with reported(f"writing log {name} to {self.url}"):
            self._replace(_log_name(name), clean(text).encode())
        return self.log_path(name)

    def _note_damage(self, key: str, what: str) -> None:
        """Report harmless damage to a trial's files, in the log and in the table of failures."""
        logging.getLogger("phasegrid").warning("%s", what)
        self.put_failure({"key": key, "kind": "infra", "exception": what})

    def _put_jobs(self, sweep: str, jobs: Sequence[Mapping[str, object]]) -> None:
        name = shards.shard_name("plan_jobs", sweep)
        if not jobs:
            self.files.delete(name)
            return
        full = [{**row, "sweep": sweep} for row in jobs]
        where = f"the planned measurements of {sweep}"
        table = to_table("plan_jobs", schemas.PLAN_JOBS, full, where)
        self._replace(name, row_files.encode(table))

    def _replace(self, name: str, data: bytes) -> None:
        self.files.replace(name, lambda file: file.write(data))


def _cleaned(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record without secrets or control characters in the texts that others wrote."""
    raised = {name: clean(text) for name in _RAISED if isinstance(text := record.get(name), str)}
    return {**record, **raised}


def _log_name(name: str) -> str:
    return "/".join(["logs", *(shards.checked_name(part, "log") for part in name.split("/"))])
