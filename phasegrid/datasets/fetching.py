"""Have the data sets of a sweep in their places before it runs: fetched, checked and prepared."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from phasegrid.datasets import Options
from phasegrid.datasets.load import load_dataset
from phasegrid.datasets.prepared import Kept, kept_entries
from phasegrid.errors import DataError
from phasegrid.fallbacks import collected
from phasegrid.jobs import Part
from phasegrid.keys import Json, canonical_json
from phasegrid.registry import resolve_dataset


@dataclass(frozen=True, slots=True)
class Fetched:
    """A data set that is ready, or the `error` why it is not. `files` are empty where its loader
    keeps no arrays of them; `seconds` is how long loading took.
    """

    name: str
    place: str | None
    num_train: int = 0
    num_test: int = 0
    seconds: float = 0.0
    files: tuple[str, ...] = ()
    file_bytes: int = 0
    kept_bytes: int = 0
    notes: tuple[str, ...] = ()
    error: str | None = None


def fetch_all(parts: Iterable[Part], download: bool) -> Iterator[Fetched]:
    """Load each data set once: `download` what a loader can fetch, check the files, keep what was
    parsed. Choices that are made after reading (fraction, noise) need no file of their own.
    """
    wanted: dict[str, Part] = {}
    for part in parts:
        source = _whole(part)
        wanted.setdefault(canonical_json([source.spec(), {**source.locators}]), source)
    for part in wanted.values():
        locators = dict(part.locators)
        if "download" in locators:
            locators["download"] = download
        yield _fetch(replace(part, locators=locators))


def _whole(part: Part) -> Part:
    """Return the data set with the usual `Options`: all of its examples, unchanged."""
    kind = resolve_dataset(part.name)
    if not issubclass(kind.args, Options):
        return part
    usual = kind.args()
    names = {spec.name for spec in fields(Options)}
    args: Mapping[str, Json] = {
        name: getattr(usual, name) if name in names else value for name, value in part.args.items()
    }
    return replace(part, args=args)


def _fetch(part: Part) -> Fetched:
    started = time.perf_counter()
    folder, file = _place(part)
    place = None if folder is None else str(file or folder)
    try:
        with collected() as fallbacks:
            dataset = load_dataset(part)
    except DataError as error:
        return Fetched(part.name, place, error=str(error))
    kept = _kept(part, folder, file)
    files = {path: size for entry in kept for path, size in entry.sources.items()}
    return Fetched(
        part.name,
        place,
        len(dataset.train_labels),
        len(dataset.test_labels),
        time.perf_counter() - started,
        tuple(map(str, files)),
        sum(files.values()),
        sum(entry.array_bytes for entry in kept),
        tuple(map(str, fallbacks.values())),
    )


def _place(part: Part) -> tuple[Path | None, Path | None]:
    """Return the folder of a data set, and its file if it is one file."""
    root, path = part.locators.get("root"), part.locators.get("path")
    if isinstance(path, str) and path:
        return Path(path).parent, Path(path)
    return (Path(root) if isinstance(root, str) else None), None


def _kept(part: Part, folder: Path | None, file: Path | None) -> list[Kept]:
    """Return what is kept of a data set; a folder may hold others of its name, of other files."""
    if folder is None:
        return []
    entries = [e for e in kept_entries(folder, part.name) if file is None or file in e.sources]
    named = {folder / value for value in part.args.values() if isinstance(value, str)}
    return [entry for entry in entries if named.issuperset(entry.sources)] or entries
