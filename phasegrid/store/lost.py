"""Find artifacts that a row names and that are gone."""

from collections.abc import Collection

from phasegrid.jobs import WEIGHTS, Artifact
from phasegrid.store import artifacts
from phasegrid.store.files.errors import reported
from phasegrid.store.store import Store

_FOLDERS = ("checkpoints", artifacts.FOLDER)


def lost_artifacts(store: Store, wanted: Collection[Artifact]) -> list[Artifact]:
    """Return those artifacts whose file is gone although the row of their job names it, with one
    listing of each folder. What a job never left (it diverged, or stopped before) is not lost.
    """
    with reported(f"listing what jobs of {store.url} have left"):
        there = {f"{folder}/{name}" for folder in _FOLDERS for name in store.files.names(folder)}
    absent = [a for a in wanted if there.isdisjoint(artifacts.file_names(a))]
    if not absent:
        return []
    named = _named(store, {artifact.job for artifact in absent})
    return [artifact for artifact in absent if artifact in named]


def why_not_left(store: Store, artifact: Artifact) -> str | None:
    """Say that the stored measurement with the key of an artifact never left it, and what it left;
    None if it did, or if there is no such measurement.
    """
    for metric in store.metrics():
        rows = store.read_table(f"metrics/{metric}", ["artifacts"], [artifact.job]).to_pylist()
        left = artifacts.digests_of(rows[0]["artifacts"]) or {} if rows else None
        if left is not None and artifact.name not in left:
            return f"this {metric} left no {artifact.name}; it left: {', '.join(left) or 'nothing'}"
    return None


def _named(store: Store, jobs: set[str]) -> set[Artifact]:
    """Return the artifacts that the rows of these jobs name."""
    columns = ["key", "artifacts", "checkpoint_sha256"]
    trials = store.read_table("trials", columns, jobs).to_pylist()
    named = {Artifact(row["key"], WEIGHTS) for row in trials if row["checkpoint_sha256"]}
    rows = list(trials)
    for metric in store.metrics() if len(trials) < len(jobs) else ():
        rows += store.read_table(f"metrics/{metric}", ["key", "artifacts"], jobs).to_pylist()
    for row in rows:
        named |= {Artifact(row["key"], n) for n in artifacts.digests_of(row["artifacts"]) or ()}
    return named
