"""Say which cells of a sweep were trained in which precision. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

PATH = "train.precision"
USUAL = "fp32"
SEVERAL = "several"
ORDER = ("fp32", "tf32", "bf16")


class Axis(NamedTuple):
    """An axis of a figure: the column of its labels, its name, and its labels in their order."""

    column: str
    name: str
    labels: Sequence[str]


def precisions(stored: pd.DataFrame) -> dict[int, str]:
    """Return the precision of each cell with trials that say it; `SEVERAL` if they differ."""
    if "precision" not in stored:
        return {}
    said = stored[stored["outcome"].notna() & stored["precision"].notna()]
    return {
        int(str(cell)): str(one.iloc[0]) if one.nunique() == 1 else SEVERAL
        for cell, one in said.groupby("cell")["precision"]
    }


def in_words(found: Mapping[int, str], cells: pd.DataFrame, axes: Sequence[Axis]) -> str:
    """Describe the precisions of cells in a few words; empty if all are in float32.

    Where one axis decides, its values are named, ``tf32 at width 8 and 16, bf16 at width 32``; else
    cells are counted.
    """
    kinds = sorted(set(found.values()), key=lambda one: (one not in ORDER, *_place(one)))
    if kinds in ([], [USUAL]):
        return ""
    if len(kinds) == 1:
        return kinds[0]
    known = cells.assign(precision=cells["cell"].map(found)).dropna(subset="precision")
    for column, name, labels in axes:
        groups = known.groupby(column)["precision"].agg(["nunique", "first"])
        if (groups["nunique"] == 1).all():
            every = [label for label in labels if label in groups.index]
            at = {kind: groups.index[groups["first"] == kind] for kind in kinds}
            return ", ".join(f"{kind} at {name} {_listed(every, at[kind])}" for kind in kinds)
    counts = known["precision"].value_counts()
    return ", ".join(f"{kind} in {counts[kind]} of {len(known)} cells" for kind in kinds)


def _place(kind: str) -> tuple[int | str]:
    return (ORDER.index(kind),) if kind in ORDER else (kind,)


def _listed(every: Sequence[str], chosen: Collection[str]) -> str:
    """List labels in the order of their axis, three and more neighbours as a range.

    >>> _listed("abcdef", "abcf")
    'a to c and f'
    """
    runs: list[list[str]] = []
    for before, label in zip(["", *every], every, strict=False):
        if label in chosen:
            if not runs or not before or before not in chosen:
                runs.append([])
            runs[-1].append(label)
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else run
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
