"""Read and write the JSON files of ``meta/``: figures, vocabularies, timings, layouts of packs,
GPUs.

meta/layouts/<sweep>/<n>.json     which jobs share a pack; each file adds to the earlier ones and
                                  never changes
meta/figures/<sweep>.json         replaced when the sweep's figures change
meta/columns/<metric>.json        what a user's metric declares about its columns; replaced when
                                  the declaration changes
meta/vocabularies/<key>.json      one per version of a data set of sentences; never changes
meta/cards/<sweep>.json           the GPUs of the sweep's latest run, replaced while it runs
meta/timings/<key>.json           how trainings of one kind run fastest on a device, or what memory
                                  one takes there
meta/collected.json               the tables whose compacted copy is the only copy of some rows
meta/deleted.json                 the deleted sweeps: their results are unwanted, unless another
                                  sweep plans them
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from urllib.parse import unquote

from phasegrid.declare import Column, FigureRequest, Shown
from phasegrid.errors import StoreError
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import Part
from phasegrid.keys import Json, content_key
from phasegrid.store.files.base import Files
from phasegrid.store.files.errors import reported
from phasegrid.store.tables import checked_key, checked_name, metric_table, table_folder

_COLLECTED = "meta/collected.json"
_COLUMNS = "meta/columns"
_DELETED = "meta/deleted.json"


@dataclass(frozen=True, slots=True)
class Notes:
    """The notes in `files` of the store at `url`, as `Store.notes` gives them.

    Each method raises a `StoreError` if reading or writing fails.
    """

    url: str
    files: Files

    def put_figures(self, sweep: str, figures: Sequence[FigureRequest]) -> bool:
        """Write the figures that a sweep asks for; return whether that changed anything."""
        with reported(f"writing the figures of {sweep} to {self.url}"):
            sweep = checked_name(sweep, "sweep")
            name, data = figures_name(sweep), figures_text(figures).encode()
            before = _read_if_any(self.files, name)
            if before == data or (before is None and not figures):
                return False
            self.files.replace(name, lambda file: file.write(data))
            return True

    def read_figures(self, sweep: str) -> list[FigureRequest]:
        """Return the figures that a sweep asks for; empty if none were written.

        Raises:
            StoreError: naming the file, if it is damaged.
        """
        with reported(f"reading the figures of {sweep} of {self.url}"):
            sweep = checked_name(sweep, "sweep")
            name = figures_name(sweep)
            data = _read_if_any(self.files, name)
            try:
                return [] if data is None else parse_figures(data)
            except ValueError as error:
                raise StoreError(
                    f"reading the figures of {sweep}: {self.files.path(name)} is damaged, or was"
                    f" written by a newer phasegrid ({error}); `phasegrid run` writes it again"
                ) from error

    def put_declared(self, metric: str, declared: Shown) -> bool:
        """Write what a metric declares about its columns; return whether that changed anything."""
        with reported(f"writing the columns of {metric} to {self.url}"):
            plain = {"columns": [asdict(column) for column in declared.columns]}
            record = {
                **plain,
                "defaults": dict(declared.defaults),
                "over": declared.over,
                "leaves": list(declared.leaves),
                **({"untypical": dict(declared.untypical)} if declared.untypical else {}),
            }
            text = json.dumps(record, indent=2, ensure_ascii=False)
            name, data = _columns_name(metric), f"{text}\n".encode()
            if _read_if_any(self.files, name) == data:
                return False
            self.files.replace(name, lambda file: file.write(data))
            return True

    def read_declared(self) -> dict[str, Shown]:
        """Return what users' metrics declare about their columns; ignore fields of newer releases.

        Raises:
            StoreError: naming the file, if one is damaged.
        """
        with reported(f"reading what metrics declare in {self.url}"):
            found = {}
            for entry in self.files.names(_COLUMNS):
                metric, name = unquote(entry.removesuffix(".json")), f"{_COLUMNS}/{entry}"
                if _columns_name(metric) != name:
                    continue  # not the store's file: a copy that a synchroniser made, say
                try:
                    found[metric] = _parse_declared(self.files.read(name))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise StoreError(
                        f"reading what metric {metric} declares: {self.files.path(name)} is damaged"
                        f" ({error}); `phasegrid run` writes it again"
                    ) from error
            return found

    def put_vocabulary(self, dataset: Part, record: Json) -> None:
        """Write the vocabulary of one version of a data set, unless it exists."""
        with reported(f"writing the vocabulary of {dataset.name} to {self.url}"):
            name = _vocabulary_name(dataset)
            if not self.files.exists(name):
                self.files.create(name, json.dumps(record, ensure_ascii=False).encode())

    def read_vocabulary(self, dataset: Part) -> Json:
        """Return what `put_vocabulary` wrote.

        Raises:
            StoreError: naming the file, if there is none or it is damaged.
        """
        with reported(f"reading the vocabulary of {dataset.name} of {self.url}"):
            name = _vocabulary_name(dataset)
            data = _read_if_any(self.files, name)
            if data is None:
                raise StoreError(
                    f"reading the vocabulary of {dataset.name}: {self.files.path(name)} does not"
                    " exist; it is stored with the first trial on a data set of sentences"
                )
            try:
                record: Json = json.loads(data)
            except ValueError as error:
                raise StoreError(
                    f"reading the vocabulary of {dataset.name}: {self.files.path(name)} is"
                    f" damaged ({error})"
                ) from error
            return record

    def put_timing(self, key: str, record: Json) -> None:
        """Write a measured timing, unless one exists."""
        with reported(f"writing a timing to {self.url}"):
            self.files.create(_timing_name(key), json.dumps(record).encode())

    def read_timing(self, key: str) -> Json:
        """Return a measured timing; None if it is missing or unreadable, so that it is measured
        again.
        """
        with reported(f"reading a timing of {self.url}"):
            data = _read_if_any(self.files, _timing_name(key))
            try:
                record: Json = None if data is None else json.loads(data)
            except ValueError as error:
                fall_back(f"{_timing_name(key)} cannot be read and is measured again", error)
                return None
            return record

    def put_cards(self, sweep: str, record: Json) -> None:
        """Replace what is known of the GPUs of a sweep's run."""
        with reported(f"writing the GPUs of {sweep} to {self.url}"):
            name, data = cards_name(checked_name(sweep, "sweep")), json.dumps(record).encode()
            self.files.replace(name, lambda file: file.write(data))

    def read_cards(self, sweep: str) -> Json:
        """Return what `put_cards` wrote; None if there is nothing, or nothing readable."""
        with reported(f"reading the GPUs of {sweep} of {self.url}"):
            name = cards_name(checked_name(sweep, "sweep"))
            data = _read_if_any(self.files, name)
            try:
                record: Json = None if data is None else json.loads(data)
            except ValueError as error:
                fall_back(f"{name} cannot be read; the next run of {sweep} replaces it", error)
                return None
            return record

    def put_layout(self, sweep: str, part: int, record: Json) -> bool:
        """Write a part of a sweep's layout of packs, unless it exists; return whether it was
        written.
        """
        with reported(f"writing the layout of {sweep} to {self.url}"):
            sweep = checked_name(sweep, "sweep")
            return self.files.create(_layout_name(sweep, part), json.dumps(record).encode())

    def read_layout(self, sweep: str) -> list[Json]:
        """Return the parts of a sweep's layout of packs, in order.

        Raises:
            StoreError: naming the file, if one is damaged.
        """
        with reported(f"reading the layout of {sweep} of {self.url}"):
            sweep = checked_name(sweep, "sweep")
            parts: list[Json] = []
            while (data := _read_if_any(self.files, _layout_name(sweep, len(parts)))) is not None:
                try:
                    parts.append(json.loads(data))
                except ValueError as error:
                    raise StoreError(
                        f"reading how the jobs of {sweep} were laid out:"
                        f" {self.files.path(_layout_name(sweep, len(parts)))} is damaged ({error});"
                        " delete it: the next run then groups the missing jobs into new packs,"
                        " whose results may differ by rounding"
                    ) from error
            return parts


def figures_text(requests: Sequence[FigureRequest]) -> str:
    """Write figures as a JSON list of ``{"kind": ..., "args": {...}}``."""
    plain = [{"kind": request.kind, "args": dict(request.args)} for request in requests]
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def parse_figures(data: str | bytes) -> list[FigureRequest]:
    """Read what `figures_text` wrote; `phasegrid.config.figures.with_defaults` checks what the
    figures say.

    Raises:
        ValueError: if the text is not such a list; the message says why.
    """
    listed = json.loads(data)
    if not isinstance(listed, list):
        raise ValueError("it is not a list of figures")
    for index, found in enumerate(listed):
        if not isinstance(found, dict) or set(found) != {"kind", "args"}:
            raise ValueError(f"item {index} is not a figure kind with its args")
        if not isinstance(found["args"], dict) or "name" not in found["args"]:
            raise ValueError(f"item {index}: its args are not a mapping with a name")
    return [FigureRequest(str(found["kind"]), found["args"]) for found in listed]


def _parse_declared(data: bytes) -> Shown:
    record = json.loads(data)
    known = {spec.name for spec in fields(Column)}
    columns = []
    for column in record["columns"]:
        given = {name: value for name, value in column.items() if name in known}
        limits = given.get("limits")
        columns.append(Column(**{**given, "limits": limits and tuple(limits)}))
    over, leaves = str(record.get("over", "trial")), tuple(map(str, record.get("leaves", ())))
    untypical = dict(record.get("untypical", {}))
    return Shown(tuple(columns), dict(record["defaults"]), over, leaves, untypical)


def layout_names(files: Files, sweep: str) -> list[str]:
    """Return the files that hold a sweep's layout of packs, in order, damaged ones included."""
    names: list[str] = []
    while files.exists(name := _layout_name(sweep, len(names))):
        names.append(name)
    return names


def rename_layout(files: Files, old: str, new: str) -> None:
    """Copy a sweep's layout of packs to another name, byte for byte; replace the one of a deleted
    sweep.
    """
    for name in layout_names(files, new):
        files.delete(name)
    for part, name in enumerate(layout_names(files, old)):
        files.create(_layout_name(new, part), files.read(name))


def put_collected(files: Files, tables: Collection[str]) -> None:
    """Write the names of the tables whose compacted copy is the only copy of some rows."""
    data = json.dumps(sorted(tables)).encode()
    files.replace(_COLLECTED, lambda file: file.write(data))


def read_collected(files: Files) -> set[str]:
    """Return the tables whose compacted copy is the only copy of some rows.

    Raises:
        StoreError: naming the file, if it is damaged.
    """
    data = _read_if_any(files, _COLLECTED)
    try:
        return set() if data is None else {str(table) for table in json.loads(data)}
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"reading which tables had their files deleted: {files.path(_COLLECTED)} is damaged"
            f" ({error});"
            " replace it by a JSON list of the tables whose files were deleted"
            " after compaction, for"
            ' example ["trials"]'
        ) from error


def _read_if_any(files: Files, name: str) -> bytes | None:
    try:
        return files.read(name)
    except FileNotFoundError:
        return None


def put_deleted(files: Files, sweeps: Collection[str]) -> None:
    """Write the names of the deleted sweeps."""
    data = json.dumps(sorted(sweeps)).encode()
    files.replace(_DELETED, lambda file: file.write(data))


def read_deleted(files: Files) -> set[str]:
    """Return the deleted sweeps; empty if the file is unreadable, so that no result counts as
    unwanted.
    """
    data = _read_if_any(files, _DELETED)
    try:
        return set() if data is None else {str(sweep) for sweep in json.loads(data)}
    except (ValueError, TypeError) as error:
        fall_back(f"{_DELETED} cannot be read; no sweep counts as deleted", error)
        return set()


def figures_name(sweep: str) -> str:
    """Return the file that holds the figures of a sweep."""
    return f"meta/figures/{sweep}.json"


def cards_name(sweep: str) -> str:
    """Return the file that holds what is known of the GPUs of a sweep's run."""
    return f"meta/cards/{sweep}.json"


def _columns_name(metric: str) -> str:
    folder = table_folder(metric_table(metric))
    return f"{_COLUMNS}/{folder.rpartition('/')[2]}.json"


def _vocabulary_name(dataset: Part) -> str:
    return f"meta/vocabularies/{content_key('dataset', dataset.version, dataset.spec())}.json"


def _layout_name(sweep: str, part: int) -> str:
    return f"meta/layouts/{sweep}/{part}.json"


def _timing_name(key: str) -> str:
    return f"meta/timings/{checked_key(key)}.json"
