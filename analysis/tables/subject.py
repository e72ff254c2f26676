"""Say for the heads of figures which networks a sweep trains on which data. Pure."""

import json
from collections.abc import Collection, Iterable
from dataclasses import MISSING, Field, fields

import pandas as pd

from phasegrid.datasets import DATASETS

NAMED = 3
"""Up to this many names are listed; more are counted."""
IDENTITY = frozenset({"sha256"})
"""Arguments that identify a file; a title leaves them out."""


def subject(trials: pd.DataFrame, axes: Collection[str | None]) -> str:
    """Describe the stored trials of a sweep in a few words: ``resnet18 on digits (fraction 0.1)``;
    empty without trials.

    `trials` has the columns model, dataset and dataset_args. An argument is named if all trials
    share its value and this differs from the declared default, except for `axes` (paths such as
    ``dataset.fraction``), which the figure shows anyway, and places of files.
    """
    if trials.empty:
        return ""
    models = _listed(trials["model"], "models")
    names = _listed(trials["dataset"], "data sets")
    shared = _shared_args(trials, {str(axis) for axis in axes})
    return f"{models} on {names}{f' ({shared})' if shared else ''}"


def _listed(names: Iterable[object], what: str) -> str:
    found = sorted({str(name).rpartition(":")[2] for name in names})
    return " and ".join(found) if len(found) <= NAMED else f"{len(found)} {what}"


def _shared_args(trials: pd.DataFrame, axes: Collection[str]) -> str:
    kinds = set(trials["dataset"])
    declared = _defaults(str(next(iter(kinds)))) if len(kinds) == 1 else None
    if declared is None:
        return ""
    texts = [json.loads(text) for text in trials["dataset_args"].unique()]
    first = texts[0]
    words = [
        f"{name.replace('_', ' ')} {_short(first[name])}"
        for name, default in declared.items()
        if f"dataset.{name}" not in axes
        and name in first
        and all(args.get(name) == first[name] for args in texts)
        and first[name] != default
    ]
    return ", ".join(words)


def _defaults(dataset: str) -> dict[str, object] | None:
    """Return the declared default of every argument that describes the data; None for a data set
    that is not built in.
    """
    kind = DATASETS.get(dataset)
    if kind is None:
        return None
    return {spec.name: spec.default for spec in fields(kind.args) if _says_something(spec)}


def _says_something(spec: Field[object]) -> bool:
    is_place = bool(spec.metadata.get("locator"))
    return spec.default is not MISSING and not is_place and spec.name not in IDENTITY


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
