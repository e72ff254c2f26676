"""Find results that other code stored under the same name and version, and accept or refuse them.

    meta/code/<key>/<digest>.json      the source files of a plug-in with their digests; <key> is
                                       the key of its kind, name and version
    meta/code/<key>/accepted.json      the digests that a user has accepted as equivalent

Rows hold the digest. Rows without one are from a release that did not record it; they are ignored
here.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from phasegrid.config.types import UserCode
from phasegrid.config.validate import default_args
from phasegrid.declare import shown_of
from phasegrid.errors import StoreError, SweepError
from phasegrid.fallbacks import fall_back
from phasegrid.keys import content_key
from phasegrid.registry import declared_metric
from phasegrid.store.files.base import Files
from phasegrid.store.files.errors import reported
from phasegrid.store.store import Store
from phasegrid.texts import counted

_ACCEPTED = "accepted"
_RECORD = re.compile(r"([0-9a-f]{32})\.json")
THREE_WAYS = (
    "One name and version must stand for one code. Do one of these, then run again:\n  - raise"
    " `version` in its declaration, if numbers may change: stored results stay, and new ones are"
    " added\n  - give the file another name, if it defines something else\n  - run with"
    " --accept-changed-code, if no number changes: the store records that you accepted it"
)


@dataclass(frozen=True, slots=True)
class Change:
    """A plug-in whose code differs from the code that made stored rows of the same name and
    version.
    """

    code: UserCode
    digests: frozenset[str]
    num_rows: int
    differ: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line for people."""
        what = "measurement" if self.code.kind == "metric" else "trial"
        which = f"differs: {', '.join(self.differ)}; " if self.differ else ""
        return (
            f"{self.code.shown} has changed since {counted(self.num_rows, f'stored {what}')}"
            f" ({self.code.kind} {self.code.name};"
            f" {which}version still {self.code.version})"
        )


def find_changes(store: Store, code: Sequence[UserCode]) -> list[Change]:
    """Return the plug-ins of a sweep whose code differs from that of stored rows and was not
    accepted.

    Raises:
        StoreError: if the store cannot be read.
    """
    with reported(f"reading the code of {store.url}"):
        made = [one for one in code if one.kind != "figure"]  # which makes no row
        return [change for one in made if (change := _change(store, one)) is not None]


def refuse_changes(changes: Sequence[Change], store: Store) -> None:
    """Refuse to run when one name and version stands for two different codes.

    Raises:
        SweepError: naming each, and the three ways out.
    """
    if changes:
        lines = [f"  {change}" for change in changes]
        raise SweepError(
            "\n".join(
                [f"{store.url} holds results of code that has changed since:", *lines, THREE_WAYS]
            )
        )


def accept_changes(store: Store, changes: Sequence[Change]) -> None:
    """Record that the user accepts the present code as equivalent to that of the stored rows."""
    with reported(f"writing the accepted code of {store.url}"):
        for change in changes:
            one = change.code
            digests = sorted(_accepted(store.files, one) | change.digests | {one.code.digest})
            record = {"kind": one.kind, "name": one.name, "version": one.version}
            _replace(store.files, one, json.dumps({**record, "digests": digests}).encode())


def keep_code(store: Store, code: Sequence[UserCode]) -> None:
    """Record the files of a sweep's plug-ins that the store does not know yet, before the first row
    that names them.
    """
    with reported(f"writing the code of {store.url}"):
        for one in code:
            name = _name(one, one.code.digest)
            if not store.files.exists(name):
                record = {"kind": one.kind, "name": one.name, "version": one.version}
                store.files.create(
                    name, json.dumps({**record, "files": dict(one.code.files)}).encode()
                )


def num_unknown(store: Store, code: UserCode) -> int:
    """Return how many stored rows of a plug-in do not name the code that made them."""
    return len(set(_keys_by_digest(store, code).get(None, ())))


def mixed_code(files: Files, kind: str, rows: pa.Table) -> Iterator[tuple[str, int]]:
    """Name each plug-in of a kind whose `rows` (columns name, version, digest) are of several codes
    that were not accepted, and count the codes.
    """
    known = rows.filter(pc.is_valid(rows["digest"])).group_by(rows.column_names).aggregate([])
    by_identity: dict[tuple[str, int], set[str]] = {}
    for row in known.to_pylist():
        by_identity.setdefault((row["name"], row["version"]), set()).add(row["digest"])
    for (name, version), digests in sorted(by_identity.items()):
        if len(digests) > 1 and not digests <= _accepted_of(files, _folder(kind, name, version)):
            yield f"{kind} {name} version {version}", len(digests)


def _replace(files: Files, one: UserCode, accepted: bytes) -> None:
    files.replace(_name(one, _ACCEPTED), lambda file: file.write(accepted))


def _change(store: Store, one: UserCode) -> Change | None:
    own = one.code.digest
    folder = _folder(one.kind, one.name, one.version)
    names = (_RECORD.fullmatch(name) for name in store.files.names(folder))
    others = {match[1] for match in names if match} - {own}
    if others:
        accepted = _accepted(store.files, one)
        others -= accepted if own in accepted else set()
    if not others:
        return None
    by_digest = _keys_by_digest(store, one)
    digests = frozenset(others & by_digest.keys())
    keys = {key for digest in digests for key in by_digest[digest]}
    if not keys:
        return None
    return Change(one, digests, len(keys), _differing(store.files, one, digests))


def keep_columns(store: Store, code: Sequence[UserCode]) -> bool:
    """Store the column declarations of a sweep's plug-in metrics, so that their numbers can be
    drawn without their code; say whether that changed anything.
    """
    metrics = {one.name: declared_metric(one.name) for one in code if one.kind == "metric"}
    changed = [
        store.notes.put_declared(name, shown_of(metric, default_args(metric.args)))
        for name, metric in metrics.items()
    ]
    return any(changed)


def _differing(files: Files, one: UserCode, digests: frozenset[str]) -> tuple[str, ...]:
    """Name the source files that differ from those of the stored rows."""
    names: set[str] = set()
    for digest in digests:
        name = _name(one, digest)
        try:
            stored: dict[str, str] = json.loads(files.read(name))["files"]
        except FileNotFoundError:  # of a phasegrid that did not keep it
            continue
        except (ValueError, KeyError, TypeError) as error:
            fall_back(f"{name} cannot be read; the changed files cannot be named", error)
            continue
        now = one.code.files
        names |= {n for n in {*stored, *now} if stored.get(n) != now.get(n)}
    return tuple(sorted(names))


def _pass_over(_error: StoreError) -> None:
    """Ignore a damaged row: it cannot name its code, and code that needs the row reports it."""


def _keys_by_digest(store: Store, one: UserCode) -> dict[str | None, list[str]]:
    """Return the keys of the rows of a name and version, grouped by the digest of their code."""
    if one.kind == "metric":
        table = f"metrics/{one.name}"
        rows = store.read_table(table, ["key", "version", "code_digest"], pass_over=_pass_over)
        rows = rows.filter(pc.equal(rows["version"], one.version))
    else:
        digest = f"{one.kind}_code_digest"
        wanted = ["key", one.kind, f"{one.kind}_version", digest]
        rows = store.read_table("trials", wanted, pass_over=_pass_over)
        of_name = pc.equal(rows[one.kind], one.name)
        rows = rows.filter(pc.and_(of_name, pc.equal(rows[f"{one.kind}_version"], one.version)))
    column = "code_digest" if one.kind == "metric" else f"{one.kind}_code_digest"
    found: dict[str | None, list[str]] = {}
    for key, value in zip(rows["key"].to_pylist(), rows[column].to_pylist(), strict=True):
        found.setdefault(value, []).append(key)
    return found


def _accepted(files: Files, one: UserCode) -> set[str]:
    return _accepted_of(files, _folder(one.kind, one.name, one.version))


def _accepted_of(files: Files, folder: str) -> set[str]:
    name = f"{folder}/{_ACCEPTED}.json"
    try:
        return set(json.loads(files.read(name))["digests"])
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        fall_back(f"{name} cannot be read; no changed code counts as accepted", error)
        return set()


def _folder(kind: str, name: str, version: int) -> str:
    return f"meta/code/{content_key('code', 1, [kind, name, version])}"


def _name(one: UserCode, what: str) -> str:
    return f"{_folder(one.kind, one.name, one.version)}/{what}.json"
