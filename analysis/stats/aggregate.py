"""Aggregate seeds to cells: mean, standard error, n, and what is missing, diverged or collapsed.

A cell's number is the mean over its trials or over its off-diagonal pairs of trials; logarithms are
taken of the mean. Diverged trials are counted but not averaged. Collapsed trials (trained, but only
as good as chance) are averaged, as in the paper, and flagged.
"""

import re
import textwrap
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from phasegrid.analysis.tables.grid import Floats, SweepTables, by_pair, by_seed, in_nats
from phasegrid.analysis.tables.quantities import Quantity
from phasegrid.texts import counted

COLLAPSED_LOSS = 0.95
"""From this share of ln(classes), the loss of a guess, on, a training loss means that nothing was
learned.
"""
COLLAPSED_ACCURACY = 1.5
"""Up to this multiple of 100/classes, the accuracy of a guess in percent, nothing was learned."""
ROUNDING = 2.0**-23
"""The rounding error of a sum of terms of size 1 in float32, in which products with the Hessian are
computed.
"""

WITHOUT_NUMBER = (
    "missing",
    "failed",
    "diverged",
    "not applicable",
    "undefined",
    "negative",
    "zero",
)
"""The statuses of a cell without a number to draw."""

PLACE_COLUMNS = ["cell", "facet", "load", "load_label", "temperature", "temperature_label"]


def aggregate(grid: SweepTables, names: Iterable[str] | None = None) -> pd.DataFrame:
    """Return one row per quantity and planned cell, in the order of `names` (default: all
    that are shown unasked).

    Columns: quantity, the cell's place, ``value`` (null without a number), ``stderr``, ``n``
    averaged seeds (for a measurement of a whole cell: its seeds) and ``n_pairs`` averaged pairs,
    ``n_planned``, ``n_diverged`` and ``n_collapsed`` trials, ``not_trained`` (see `not_trained`),
    ``n_failed`` and ``n_blocked`` jobs with the first line of an ``error``, ``status``: ``done``,
    or why there is no number: ``missing`` (not measured), ``failed`` (a job raised, or was blocked
    by one that did), ``diverged`` (every trial), ``not applicable`` (to what diverged in the cell),
    ``undefined`` (measured, but 0/0 or not finite); for logarithms, ``negative`` or ``zero`` if the
    mean has none.

    The standard error is that of the delete-one-seed jackknife: for trials s/sqrt(n); for pairs it
    takes into account that they share seeds (Efron and Stein 1981). For logarithms it follows by
    the delta method. It is null for one seed or one pair.
    """
    chosen = _present(grid) if names is None else list(names)
    collapsed = collapsed_seeds(grid).sum(axis=1)
    common = {"n_collapsed": collapsed, "not_trained": not_trained(grid, collapsed)}
    if not chosen:  # for example if every training diverged: all columns, without rows
        return _one(grid, grid.quantity("train_loss"), common).iloc[:0]
    return pd.concat(
        [_one(grid, grid.quantity(name), common) for name in chosen], ignore_index=True
    )


def measured(grid: SweepTables) -> list[str]:
    """Return the names of the quantities that have a number and are shown unasked, in declared
    order, with variants after their base.
    """
    return _in_order(grid, set(grid.values.loc[grid.values["value"].notna(), "quantity"]))


def _present(grid: SweepTables) -> list[str]:
    """Return the quantities shown unasked that have a number or a failure, in declared order."""
    return _in_order(grid, {*measured(grid), *grid.failures["quantity"]})


def _in_order(grid: SweepTables, found: Collection[str]) -> list[str]:
    present = [name for name in found if not grid.quantity(name).asked]
    order = {name: place for place, name in enumerate(grid.quantities)}
    return sorted(
        present, key=lambda name: (order.get(name.partition("[")[0], len(order)), by_number(name))
    )


def counts_in_words(table: pd.DataFrame) -> str:
    """Return one line on the numbers of trials behind the cells of a table.

    >>> counts = {"n": [5, 4, 0], "n_pairs": 0, "n_diverged": [0, 1, 0], "n_collapsed": 0}
    >>> counts_in_words(pd.DataFrame({**counts, "status": ["done", "done", "missing"]}))
    'n = 4–5 seeds; 1 cell missing; 1 trial diverged'
    """
    done = table[table["status"] == "done"]
    parts = [f"n = {_span(done['n'], 'seed')}"] if len(done) else ["no cell measured"]
    if (done["n_pairs"] > 0).any():
        parts[0] += f", {_span(done['n_pairs'], 'pair')}"
    for status in WITHOUT_NUMBER:
        count = int((table["status"] == status).sum())
        if count:
            parts.append(f"{counted(count, 'cell')} {status}")
    for column, what in (("n_diverged", "diverged"), ("n_collapsed", "collapsed")):
        count = int(table[column].sum())
        if count:
            parts.append(f"{counted(count, 'trial')} {what}")
    if "error" in table and table["error"].notna().any():
        parts.append(_failures_in_words(table))
    return "; ".join(parts)


def _failures_in_words(table: pd.DataFrame) -> str:
    failed, blocked = int(table["n_failed"].sum()), int(table["n_blocked"].sum())
    counts = [f"{counted(failed, 'job')} failed"] if failed else []
    counts += [f"{blocked} blocked"] if blocked else []
    error = textwrap.shorten(table["error"].dropna().iloc[0], 80, placeholder="...")
    return f"{', '.join(counts)}: {error}"


def collapsed_seeds(grid: SweepTables) -> npt.NDArray[np.bool_]:
    """Say which trials (C, S) learned nothing: training loss >= 0.95 ln(classes), training accuracy
    <= 1.5 * 100/classes.

    A missing accuracy counts as one that agrees. If the number of classes C is not known, a trial
    counts if, for some C >= 2, it has both the loss and the accuracy of a guess among C classes:
    |loss - ln(100/accuracy)| <= 0.05 ln(100/accuracy) at accuracy <= 52%. (The loss of a network
    that has learned something is much larger than ln(100/accuracy), because some of its errors are
    confident.) If the loss is not in nats, the accuracy alone decides, if it and C are known.
    """
    classes = grid.cells["num_classes"].to_numpy(dtype=float)[:, None]
    loss = by_seed(grid.values, "train_loss", grid.cells)
    accuracy = by_seed(grid.values, "train_accuracy", grid.cells)
    at_chance = ~(accuracy > COLLAPSED_ACCURACY * 100 / classes)
    guess = -np.log(np.clip(accuracy, 1e-9, None) / 100)
    guessing = (accuracy <= 52) & (np.abs(loss - guess) <= (1 - COLLAPSED_LOSS) * guess)
    known = (loss >= COLLAPSED_LOSS * np.log(classes)) & at_chance
    by_loss = np.where(np.isnan(classes), guessing, known)
    by_accuracy = accuracy <= COLLAPSED_ACCURACY * 100 / classes
    return np.asarray(np.where(in_nats(grid)[:, None], by_loss, by_accuracy), dtype=bool)


def not_trained(grid: SweepTables, n_collapsed: npt.NDArray[np.int_]) -> npt.NDArray[np.bool_]:
    """Say in which cells (C,) half or more of the trials that did not diverge learned nothing."""
    return np.asarray((n_collapsed > 0) & (2 * n_collapsed >= grid.cells["n_done"].to_numpy()))


def vanishing(grid: SweepTables, what: Quantity) -> Floats:
    """Return the size (C,) up to which the mean of a quantity counts as zero: the rounding error of
    the quantity that hides it, otherwise 0.

    The trace of a saturated network can be 1e-20 although it sums eigenvalues of 1e7, which cancel.
    """
    if what.hidden_by is None:
        return np.zeros(len(grid.cells))
    beside, _ = jackknife(by_seed(grid.values, what.hidden_by, grid.cells))
    return np.asarray(ROUNDING * np.abs(np.nan_to_num(beside)))


def jackknife(array: Floats) -> tuple[Floats, Floats]:
    """Return mean and jackknife standard error over seeds of (C, S) trials or (C, S, S) pairs,
    ignoring NaN.

    se^2 = (n-1)/n sum_i (m_i - mean(m_i))^2, m_i the mean without seed i, over the n seeds with a
    number. NaN if fewer than two m_i exist.
    """
    without = leave_one_out(array)
    usable = ~np.isnan(without)
    n = usable.sum(axis=1)
    known = np.where(usable, without, 0.0)
    centre = known.sum(axis=1) / np.maximum(n, 1)
    squares = np.where(usable, (known - centre[:, None]) ** 2, 0.0).sum(axis=1)
    stderr = np.where(n >= 2, np.sqrt((n - 1) / np.maximum(n, 1) * squares), np.nan)
    total, count = _sum_and_count(array)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean, stderr


def leave_one_out(array: Floats) -> Floats:
    """Return the means (C, S) of (C, S) trials or (C, S, S) pairs without each seed in turn,
    ignoring NaN; NaN if the seed has no number, or if there are no numbers without it.
    """
    there = ~np.isnan(array)
    filled = np.where(there, array, 0.0)
    total, count = _sum_and_count(array)
    if array.ndim == 2:
        with_seed, count_with = filled, there.astype(int)
    else:
        with_seed = filled.sum(axis=1) + filled.sum(axis=2)
        count_with = there.sum(axis=1) + there.sum(axis=2)
    left = count[:, None] - count_with
    usable = (count_with > 0) & (left > 0)
    return np.where(usable, (total[:, None] - with_seed) / np.maximum(left, 1), np.nan)


def _sum_and_count(array: Floats) -> tuple[Floats, npt.NDArray[np.int_]]:
    there = ~np.isnan(array)
    axes = tuple(range(1, array.ndim))
    return np.where(there, array, 0.0).sum(axis=axes), there.sum(axis=axes)


def _one(
    grid: SweepTables, what: Quantity, common: Mapping[str, npt.NDArray[np.generic]]
) -> pd.DataFrame:
    table = grid.cells[[*PLACE_COLUMNS, "n_planned", "n_diverged"]].reset_index(drop=True)
    table.insert(0, "quantity", what.name)
    table = table.assign(**common)
    rows = grid.values[grid.values["quantity"] == what.name]
    if rows["seed_a"].isna().all():
        mean, stderr, n, pairs = _whole_cells(grid, rows)
    else:
        reader = by_seed if rows["seed_b"].isna().all() else by_pair
        array = reader(grid.values, what.name, grid.cells)
        mean, stderr = jackknife(array)
        n, pairs = _counts(array)
    failures = grid.failures[grid.failures["quantity"] == what.name].set_index("cell")
    failures = failures.reindex(grid.cells["cell"])
    status = np.where(~np.isnan(mean), "done", _why_none(grid, rows, failures["error"].notna()))
    if what.transform == "log_mean":
        floor = vanishing(grid, what)
        status = np.where(
            mean < -floor, "negative", np.where(np.abs(mean) <= floor, "zero", status)
        )
        mean, stderr = _logarithm(np.where(mean > floor, mean, np.nan), stderr)
    table["value"], table["stderr"], table["n"], table["n_pairs"] = mean, stderr, n, pairs
    table["status"] = status
    for column in ("n_failed", "n_blocked"):
        table[column] = failures[column].fillna(0).to_numpy(dtype=int)
    table["error"] = failures["error"].astype(object).where(failures["error"].notna(), None).array
    return table


def by_number(name: str) -> list[tuple[float, str]]:
    """Return a key that sorts the numbers within names by size: alpha=4 before alpha=16."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(float(piece), "") if i % 2 else (-1.0, piece) for i, piece in enumerate(pieces)]


def _logarithm(mean: Floats, stderr: Floats) -> tuple[Floats, Floats]:
    positive = mean > 0
    safe = np.where(positive, mean, 1.0)
    return (
        np.where(positive, np.log(safe), np.nan),
        np.where(positive, stderr / safe, np.nan),
    )


def _counts(array: Floats) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """Count seeds with a number and, for pairs, pairs whatever their order."""
    there = ~np.isnan(array)
    if array.ndim == 2:
        return there.sum(axis=1), np.zeros(len(array), dtype=int)
    either = there | there.transpose(0, 2, 1)
    return either.any(axis=2).sum(axis=1), np.triu(either, 1).sum(axis=(1, 2))


def _whole_cells(
    grid: SweepTables, rows: pd.DataFrame
) -> tuple[Floats, Floats, npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    rows = rows.set_index("cell").reindex(grid.cells["cell"])
    value = rows["value"].to_numpy(dtype=float)
    n = np.where(np.isnan(value), 0, rows["num_trials"].to_numpy(dtype=float)).astype(int)
    return value, rows["stderr"].to_numpy(dtype=float), n, np.zeros(len(n), dtype=int)


def _why_none(
    grid: SweepTables, rows: pd.DataFrame, failed: "pd.Series[bool]"
) -> npt.NDArray[np.str_]:
    """Return the status (C,) of cells without a number: that every trial diverged, what the rows of
    the quantity say, or that a job `failed`.
    """
    outcomes = rows.groupby("cell")["outcome"].agg(set).reindex(grid.cells["cell"])
    found = [known if isinstance(known, set) else set() for known in outcomes]
    undefined = np.array(["done" in known for known in found])
    inapplicable = np.array(["not_applicable" in known for known in found])
    status = np.where(inapplicable, "not applicable", "missing")
    status = np.where(undefined, "undefined", np.where(failed, "failed", status))
    return np.where(_all_diverged(grid), "diverged", status)


def _all_diverged(grid: SweepTables) -> npt.NDArray[np.bool_]:
    diverged, done = grid.cells["n_diverged"].to_numpy(), grid.cells["n_done"].to_numpy()
    return np.asarray((diverged > 0) & (done == 0))


def _span(counts: "pd.Series[int]", noun: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    text = str(low) if low == high else f"{low}–{high}"
    return f"{text} {noun}{'s' * (high != 1)}"
