"""Find a model, a data set, a metric, a schedule, an objective or a kind of figure by the name that
a sweep gives it.

A name without a colon is looked up among the built-in ones, then among the entry points
``phasegrid.models``, ``phasegrid.datasets``, ``phasegrid.metrics``, ``phasegrid.schedules``,
``phasegrid.objectives`` and ``phasegrid.figures`` of installed packages. ``path/to/file.py:NAME``
and ``package.module:NAME`` import code, which happens only if the sweep names it.

Keys and tables identify a plug-in by its reference and the version that it declares. The reference
to a file has no folders there (``file.py:NAME``), so a file may move. A worker knows only this
identity; `plugin_files` finds the file.
"""

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias, TypeVar

from phasegrid.declare import (
    DatasetKind,
    FigureKind,
    Metric,
    Model,
    Objective,
    ScheduleKind,
)
from phasegrid.errors import SweepError
from phasegrid.plugin_files import (
    import_file,
    imported_code,
    is_file,
    plugin_file,
)
from phasegrid.texts import suggest
from phasegrid.user_code import Code, code_of_file, code_of_module

Kind: TypeAlias = Literal["model", "dataset", "metric", "schedule", "objective", "figure"]
Declaration: TypeAlias = Model | DatasetKind | Metric | ScheduleKind | Objective | FigureKind

D = TypeVar("D")


_GROUPS: dict[Kind, str] = {
    "model": "phasegrid.models",
    "dataset": "phasegrid.datasets",
    "metric": "phasegrid.metrics",
    "schedule": "phasegrid.schedules",
    "objective": "phasegrid.objectives",
    "figure": "phasegrid.figures",
}
_BUILT_IN: dict[Kind, str] = {
    "model": "phasegrid.models:MODELS",
    "dataset": "phasegrid.datasets:DATASETS",
    "metric": "phasegrid.metrics:METRICS",
    "schedule": "phasegrid.train.schedules:SCHEDULES",
    "objective": "phasegrid.tasks.objectives:OBJECTIVES",
    "figure": "phasegrid.figures:FIGURES",
}
_TYPES: dict[Kind, type] = {
    "model": Model,
    "dataset": DatasetKind,
    "metric": Metric,
    "schedule": ScheduleKind,
    "objective": Objective,
    "figure": FigureKind,
}
_FUNCTIONS = (
    "make",
    "begin",
    "load",
    "facts",
    "fingerprint",
    "vocabulary",
    "compute",
    "compute_many",
    "factor",
    "loss",
    "curvature",
    "reduced",
    "draw",
)


_METRICS: dict[str, Metric] = {}  # by identity; the latest resolved
_NETWORKS: dict[str, Model] = {}  # likewise
_OBJECTIVES: dict[str, Objective] = {}  # likewise
_CODES: dict[tuple[Kind, str, str], Code | None] = {}  # by kind, name and contents of the file


def resolve(kind: Kind, name: str, folder: Path | None = None) -> Declaration:
    """Return the declaration that `name` refers to; a relative file is looked for in `folder`
    first.

    With `folder`, a sweep is being read: a file is imported again if it, or a local module that it
    imports, was edited since. Without `folder`, a job is being done, with the code that this
    process has.

    Raises:
        SweepError: if there is no such declaration, it cannot be imported, or it is of another
            kind.
    """
    if ":" in name:
        found = _import_reference(kind, name, folder)
    elif name in (built_in := _built_in(kind)):
        found = built_in[name]
    else:
        found = _entry_point(kind, name)
    expected = _TYPES[kind]
    if not isinstance(found, Declaration) or not isinstance(found, expected):
        raise SweepError(
            f"{kind} {name!r} is of type {type(found).__name__}; "
            f"allowed: a phasegrid.declare.{expected.__name__}"
        )
    if not (isinstance(found.args, type) and is_dataclass(found.args)):
        raise SweepError(f"{kind} {name!r} declares args that are not a dataclass")
    if isinstance(found, Metric):
        _check_metric(name, found)
        _METRICS[identity(name)] = found
    elif isinstance(found, Model):
        _NETWORKS[identity(name)] = found
    elif isinstance(found, Objective):
        _OBJECTIVES[identity(name)] = found
    if kind == "figure" and "name" not in {spec.name for spec in fields(found.args)}:
        raise SweepError(f"figure {name!r} declares args without a name, the stem of its file")
    return found


def declared_metric(identity: str) -> Metric:
    """Return the metric with this name in keys and tables, as this process last resolved it.

    Raises:
        SweepError: as `resolve`, if this process has not resolved it yet.
    """
    return _METRICS.get(identity) or resolve_metric(identity)


def declared_objective(identity: str) -> Objective:
    """Return the objective of this name; see `declared_metric`."""
    return _OBJECTIVES.get(identity) or resolve_objective(identity)


def declared_model(identity: str) -> Model:
    """Return the model family of this name; see `declared_metric`."""
    return _NETWORKS.get(identity) or resolve_model(identity)


def resolve_model(name: str, folder: Path | None = None) -> Model:
    """Return the model family that `name` refers to; see `resolve`."""
    return _resolved("model", Model, name, folder)


def resolve_dataset(name: str, folder: Path | None = None) -> DatasetKind:
    """Return the data set that `name` refers to; see `resolve`."""
    return _resolved("dataset", DatasetKind, name, folder)


def resolve_metric(name: str, folder: Path | None = None) -> Metric:
    """Return the metric that `name` refers to; see `resolve`."""
    return _resolved("metric", Metric, name, folder)


def resolve_objective(name: str, folder: Path | None = None) -> Objective:
    """Return the objective that `name` refers to; see `resolve`."""
    return _resolved("objective", Objective, name, folder)


def resolve_schedule(name: str, folder: Path | None = None) -> ScheduleKind:
    """Return the schedule that `name` refers to; see `resolve`."""
    return _resolved("schedule", ScheduleKind, name, folder)


def resolve_figure(name: str, folder: Path | None = None) -> FigureKind:
    """Return the kind of figure that `name` refers to; see `resolve`."""
    return _resolved("figure", FigureKind, name, folder)


def _resolved(kind: Kind, of: type[D], name: str, folder: Path | None) -> D:
    found = resolve(kind, name, folder)
    assert isinstance(found, of)
    return found


def code_of(kind: Kind, name: str, folder: Path | None = None) -> Code | None:
    """Return the code of the plug-in that `name` refers to, as this process imported it; None for
    what is built in.

    Raises:
        SweepError: as `resolve`.
    """
    if name in _built_in(kind):
        return None
    declared = resolve(kind, name, folder)
    texts = [getattr(declared, field, None) for field in _FUNCTIONS]
    also = [text.partition(":")[0] for text in texts if isinstance(text, str)]
    file = plugin_file(name, folder)
    if file is not None:
        code = imported_code(file)
        place = (kind, name, f"{file} {code.contents}")
        if place not in _CODES:
            _CODES[place] = code_of_file(file, also) if also else code
        return _CODES[place]
    place = (kind, name, "")
    if place not in _CODES:
        points = [point.value for point in _points(kind) if point.name == name]
        _CODES[place] = code_of_module((points or [name])[0].partition(":")[0].strip(), also)
    return _CODES[place]


def code_digests(names: Iterable[tuple[Kind, str]]) -> dict[tuple[str, str], str]:
    """Return the digest of each plug-in of these kinds and names, as this process imported it.

    Raises:
        SweepError: if one is not there, or cannot be imported.
    """
    found = {(kind, name): code_of(kind, name) for kind, name in names}
    return {place: code.digest for place, code in found.items() if code is not None}


def identity(name: str) -> str:
    """Return the name under which a part is known in keys and tables.

    >>> identity("my_lab/sharpness.py:SHARPNESS"), identity("mlp")
    ('sharpness.py:SHARPNESS', 'mlp')
    >>> identity("my_lab.sharpness:SHARPNESS")
    'my_lab.sharpness:SHARPNESS'
    """
    source, colon, attribute = name.rpartition(":")
    return f"{Path(source).name}{colon}{attribute}" if is_file(source) else name


def known_names(kind: Kind) -> list[str]:
    """Return every name without a colon that a `kind` has, built-in ones first."""
    return list(dict.fromkeys([*_built_in(kind), *(point.name for point in _points(kind))]))


def is_known(kind: Kind, name: str) -> bool:
    """Say whether a `kind` has this name without a colon."""
    return name in _built_in(kind) or any(point.name == name for point in _points(kind))


def _check_metric(name: str, metric: Metric) -> None:
    """Refuse an impossible share of a GPU, and a column that refers to a missing column or
    argument.
    """
    if metric.gpu_share is not None and not 0 < metric.gpu_share <= 1:
        raise SweepError(
            f"metric {name!r}: gpu_share is {metric.gpu_share}; allowed: above 0, at most 1"
        )
    columns = "another column", {column.name for column in metric.columns}
    args = "an argument", {field.name for field in fields(metric.args)}
    allowed = {"stderr": columns, "hidden_by": columns, "asked_by": args}
    for column in metric.columns:
        for field, (kind, names) in allowed.items():
            if (other := getattr(column, field)) and other not in names:
                raise SweepError(
                    f"metric {name!r}, column {column.name!r}: {field} is {other!r}; allowed: the"
                    f" name of {kind}{suggest(other, names)}"
                )


@cache
def _built_in(kind: Kind) -> Mapping[str, Declaration]:
    module, _, name = _BUILT_IN[kind].partition(":")
    found: Mapping[str, Declaration] = getattr(importlib.import_module(module), name)
    return found


def _points(kind: Kind) -> list[EntryPoint]:
    return list(entry_points(group=_GROUPS[kind]))


def _entry_point(kind: Kind, name: str) -> object:
    for point in _points(kind):
        if point.name == name:
            try:
                return point.load()
            except Exception as error:  # a package may raise anything
                raise SweepError(
                    f"{kind} {name!r} ({point.value}) cannot be imported: {_brief(error)}"
                ) from error
    names = known_names(kind)
    raise SweepError(
        f"found {kind} {name!r}; allowed: {', '.join(names)}, file.py:NAME or package.module:NAME"
        f"{suggest(name, names)}"
    )


def _import_reference(kind: Kind, name: str, folder: Path | None) -> object:
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        raise SweepError(f"found {kind} {name!r}; allowed: file.py:NAME or package.module:NAME")
    file = plugin_file(name, folder)
    if file is None and is_file(source):
        raise SweepError(f"{kind} {name!r}: there is no file {source} in {folder or Path.cwd()}")
    try:
        module = _import(source, file, anew=folder is not None)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise SweepError(
            f"{kind} {name!r} cannot be imported: {_brief(error)}{_where_from(error, file)}"
        ) from error
    if not hasattr(module, attribute):
        names = [key for key in vars(module) if not key.startswith("_")]
        raise SweepError(
            f"{kind} {name!r}: {source} has no {attribute!r}{suggest(attribute, names)}"
        )
    found: object = getattr(module, attribute)
    return found


def _import(source: str, file: Path | None, anew: bool) -> ModuleType:
    return importlib.import_module(source) if file is None else import_file(file, anew)


def _where_from(error: BaseException, file: Path | None) -> str:
    """If the missing module lies beside the plug-in file, say how it can be imported."""
    if file is None or not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    beside = file.parent / error.name.partition(".")[0]
    if not (beside.is_dir() or beside.with_suffix(".py").is_file()):
        return ""
    return f"; it is beside {file.name}: put its folder {file.parent} on PYTHONPATH"


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
