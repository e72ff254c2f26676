"""Name the file of every artifact, and read and write what a row says about artifacts.

    checkpoints/ab/<trial>.safetensors              the final weights of a trial
    checkpoints/ab/<trial>@epoch-40.safetensors     a checkpoint along it (also @update-900)
    artifacts/ab/<job>.<name>.safetensors           of a measurement: a curve, directions;
                                                    of a trial: optimizer, optimizer@epoch-40

Earlier releases wrote ``<trial>.epoch-40.safetensors``, which is still read. The row of a job names
its artifacts with their SHA-256; that of an earlier release does not say (null).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from phasegrid.errors import StoreError
from phasegrid.jobs import AVERAGED, MOMENTS, WEIGHTS, Artifact
from phasegrid.keys import Json, canonical_json
from phasegrid.store import checkpoints
from phasegrid.store.files.base import Files
from phasegrid.store.tables import checked_key, read

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
FOLDER = "artifacts"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_AT = re.compile(rf"{WEIGHTS}@((?:epoch|update)-(?:0|[1-9][0-9]*))")
_NAMED_AT = {AVERAGED: AVERAGED, MOMENTS: "swag"}
_NAME_AT = re.compile(rf"{NAME.pattern}(@(epoch|update)-(0|[1-9][0-9]*))?")
_FILE = re.compile(rf"([0-9a-f]{{2}})/(\1[0-9a-f]{{30}})\.({_NAME_AT.pattern})\.safetensors")
REPAIR = "`phasegrid gc --damaged --delete` and `phasegrid run` measure it again"


def file_names(artifact: Artifact) -> list[str]:
    """Return the files that may hold an artifact; the first is the one that new releases write.

    Raises:
        StoreError: if its job is not a key, or its name is not the name of an artifact.
    """
    key, name = checked_key(artifact.job), artifact.name
    folder = f"checkpoints/{key[:2]}"
    if name == WEIGHTS:
        return [f"{folder}/{key}.safetensors"]
    if place := _AT.fullmatch(name):
        earlier = [f"{folder}/{key}.{place[1]}.safetensors"] if "epoch" in name else []
        return [f"{folder}/{key}@{place[1]}.safetensors", *earlier]
    if _NAME_AT.fullmatch(name):
        return [f"{FOLDER}/{key[:2]}/{key}.{name}.safetensors"]
    raise StoreError(
        f"{name!r} is not the name of an artifact: {WEIGHTS}, {WEIGHTS}@epoch-<n>,"
        f" {WEIGHTS}@update-<n>, or a name of a-z, 0-9 and _, with or without such a moment, are"
        " expected"
    )


def at_epoch(key: str, epoch: int | None) -> Artifact:
    """Return the final weights of a trial, or its checkpoint after `epoch`."""
    return Artifact(key, WEIGHTS if epoch is None else f"{WEIGHTS}@epoch-{epoch:d}")


def checkpoint_name(key: str, epoch: int | None) -> str:
    """Return the file that new releases write for `at_epoch`."""
    return file_names(at_epoch(key, epoch))[0]


def artifact_in(found: str) -> Artifact | None:
    """Return the artifact that a file holds, from its name within the folder of artifacts; None if
    the file does not belong to the store.
    """
    match = _FILE.fullmatch(found)
    return Artifact(match[2], match[3]) if match else None


def digests_text(digests: Mapping[str, str]) -> str:
    """Return the JSON text by which a measurement's row names its artifacts: SHA-256 by name."""
    return canonical_json(digests)


def digests_of(text: object) -> dict[str, str] | None:
    """Return the SHA-256 of the artifacts that a row names; None where it does not say."""
    if not isinstance(text, str):
        return None
    found: dict[str, str] = json.loads(text)
    return found


def inputs_of(text: object) -> list[Artifact]:
    """Return the artifacts that a measurement read, from its row; none if it read only final
    weights.
    """
    pairs: list[list[str]] = json.loads(text) if isinstance(text, str) else []
    return [Artifact(job, name) for job, name in pairs]


def measured_of(
    inputs: Sequence[Artifact],
    read: Mapping[str, Sequence[Artifact]],
    requests: Mapping[str, object],
) -> list[Artifact]:
    """Return what a measurement with these `inputs` is about: in place of what a measurement that
    no request names has left, that one's inputs. `read` are the inputs of all planned measurements,
    `requests` the names of their requests.
    """
    found: list[Artifact] = []
    for one in inputs:
        unnamed = one.job in read and not isinstance(requests[one.job], str)
        found += measured_of(read[one.job], read, requests) if unnamed else [one]
    return found


def places_of(inputs: Sequence[Artifact]) -> list[str]:
    """Return, as text, where along a trial the inputs are from: ``40`` for an epoch, else
    ``update-900``, ``averaged``, or ``swag`` where networks were drawn; no final weights and
    nothing that a measurement left.
    """
    places = []
    for artifact in inputs:
        match = _AT.fullmatch(artifact.name)
        if artifact.name in _NAMED_AT:
            places.append(_NAMED_AT[artifact.name])
        elif match:
            places.append(match[1].removeprefix("epoch-"))
    return places


def read_tensors(files: Files, artifact: Artifact) -> "dict[str, Tensor]":
    """Return an artifact as CPU tensors.

    Raises:
        StoreError: if it is not stored, or damaged.
    """
    name, data = first_found(files, artifact, files.read)
    try:
        return checkpoints.decode(data, files.path(name))
    except StoreError as error:
        deep = repair_of(artifact).replace("--damaged", "--damaged --deep")
        raise StoreError(f"{error}; {deep}", damaged=True) from error


def read_facts(files: Files, artifact: Artifact) -> tuple[str, Json]:
    """Return the metric that made an artifact, and the metric's arguments.

    Raises:
        StoreError: if it is not stored, or damaged, or no measurement made it.
    """
    name, header = first_found(files, artifact, partial(checkpoints.read_header, files))
    facts = checkpoints.facts_in(header, files.path(name))
    if not isinstance(facts, Mapping):
        raise StoreError(f"reading {files.path(name)}: it does not name the job that left it")
    return str(facts["metric"]), json.loads(str(facts["args"]))


def named_in(files: Files, table: str) -> Iterator[tuple[Artifact, str]]:
    """Yield the artifacts that the rows of a table (``trials``, ``metrics/<name>``) name, with
    their SHA-256; skip rows that are unreadable or name none.
    """
    columns = ["key", "artifacts"]
    rows = read(files, table, columns, None, pass_over=lambda _error: None)
    if not set(columns) <= set(rows.column_names):
        return
    for row in rows.group_by(columns).aggregate([]).to_pylist():
        for name, digest in (digests_of(row["artifacts"]) or {}).items():
            yield Artifact(row["key"], name), digest


def repair_of(artifact: Artifact) -> str:
    """Return what to do where an artifact is missing or damaged."""
    return checkpoints.REPAIR if artifact.name.partition("@")[0] == WEIGHTS else REPAIR


def first_found(files: Files, artifact: Artifact, read: Callable[[str], T]) -> tuple[str, T]:
    """Return the file that holds an artifact, and the result of `read` on that file.

    Raises:
        StoreError: if there is none.
    """
    names = file_names(artifact)
    for name in names:
        try:
            return name, read(name)
        except FileNotFoundError:
            continue
    what = "checkpoint" if names[0].startswith("checkpoints/") else f"{artifact.name} of"
    raise StoreError(
        f"reading {what} {artifact.job}: {files.path(names[0])} does not exist;"
        f" {repair_of(artifact)}"
    )
