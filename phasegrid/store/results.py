"""Read what a store holds as tidy pandas DataFrames. Ray is not needed; torch is needed only for
`Results.weights` and `Results.model`.

Arguments, which the store keeps as JSON text, are spread into columns beside the text:
``dataset.label_noise``, ``model.width``, ``arg.examples`` (of a metric), ``facet.<path>``. A
missing value follows pandas: NaN in columns of numbers (a column of whole numbers with a missing
value becomes float), None elsewhere.
"""

import html
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from phasegrid.declare import FigureRequest, Shown
from phasegrid.errors import StoreError
from phasegrid.jobs import WEIGHTS, Artifact, Part
from phasegrid.keys import Json
from phasegrid.store.alone import Measure
from phasegrid.store.asked import in_words
from phasegrid.store.failures import is_fallback, read_failures
from phasegrid.store.lost import why_not_left
from phasegrid.store.placing import (
    WAYS,
    in_cells,
    newest,
    ordered,
    placed,
    stages_of,
    with_first_seeds,
    with_own_cells,
    with_trials,
)
from phasegrid.store.store import Store
from phasegrid.texts import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

Variants: TypeAlias = Callable[
    [str, pd.DataFrame, pd.DataFrame, Mapping[str, Shown]], "pd.Series[str]"
]
"""Names the ways of measuring of a metric's rows in a sweep, from the rows, the plan and what
users' metrics declare.
"""


def open_results(
    path: str,
    build: "Callable[[Store, str, str], nn.Module] | None" = None,
    variants: Variants | None = None,
    measuring: Measure | None = None,
) -> "Results":
    """Open a store (a folder, ``s3://...`` or any fsspec URL) for reading; `build` makes networks
    from specs, `variants` names ways of measuring, and `measuring` measures networks.

    Raises:
        StoreError: if there is no store at `path`.
    """
    return Results(Store.open(str(path)), build or _no_networks, variants, measuring)


def _no_networks(store: Store, key: str, _name: str) -> "nn.Module":
    raise StoreError(f"reading trial {key} of {store.url}: open it with phasegrid.open(...)")


@dataclass(frozen=True, slots=True)
class Results:
    """The tables of one store. Every call reads the current files, also while a sweep runs.

    `build` makes the networks that `model` returns; the store itself cannot build networks.
    `variants` names ways of measuring; without it `metric` has no column ``variant``.
    """

    store: Store
    build: "Callable[[Store, str, str], nn.Module]" = field(default=_no_networks, repr=False)
    variants: Variants | None = field(default=None, repr=False)
    measuring: Measure | None = field(default=None, repr=False)

    def sweeps(self) -> list[str]:
        """List the sweeps that have a stored plan."""
        return self.store.sweeps()

    def metrics(self) -> list[str]:
        """List the metrics that were measured."""
        return self.store.metrics()

    def trials(self) -> pd.DataFrame:
        """Return one row per trial: what was trained and how, outcome, final numbers, provenance;
        and, if a sweep of the store has stages, the `stage` that the trial is (None: of none;
        ``a/b`` where sweeps call it differently).
        """
        frame = self._trials(None)
        stages = stages_of(_frame(self.store.read_table("plans", columns=["key", "stage"])))
        return frame.assign(stage=frame["key"].map(stages)) if stages else frame

    def _trials(self, keys: Collection[str] | None) -> pd.DataFrame:
        frame = _frame(self.store.read_table("trials", keys=keys))
        return _spread(_spread(frame, "dataset_args", "dataset."), "model_args", "model.")

    def histories(self, sweep: str | None = None) -> pd.DataFrame:
        """Return one row per trial and epoch, for the trials of one sweep or for all trials."""
        keys = None if sweep is None else set(self.plan(sweep)["key"])
        frame = _frame(self.store.read_table("histories", keys=keys))
        return frame.sort_values(["key", "epoch"], ignore_index=True)

    def plan(self, sweep: str) -> pd.DataFrame:
        """Return the grid of a sweep: one row per planned trial, with load, temperature, facet and
        seed.

        Raises:
            StoreError: if there is no such sweep.
        """
        if sweep not in self.sweeps():
            known = ", ".join(self.sweeps()) or "none"
            raise StoreError(
                f"reading {self.store.url}: there is no sweep {sweep!r}; sweeps: {known}"
            )
        frame = _frame(self.store.read_plan(sweep))
        texts = frame["facet"].unique()
        facets = {text: dict(json.loads(text)) if text else {} for text in texts}
        return _with_columns(frame, frame["facet"].map(lambda text: facets[text]), "facet.")

    def cells(self, sweep: str) -> pd.DataFrame:
        """Return the grid of a sweep with the stored columns of each trial; `stored` is False for a
        trial that is not stored yet.
        """
        plan = self.plan(sweep)
        trials = self._trials(set(plan["key"])).drop(columns=["schema_version", "seed"])
        joined = plan.merge(trials, on="key", how="left", validate="many_to_one")
        return joined.assign(stored=joined["outcome"].notna())

    def metric(self, name: str, sweep: str | None = None) -> pd.DataFrame:
        """Return the rows of a metric; with `sweep`, only the rows of that sweep's planned
        measurements, each with its cell, load, temperature and facet, in order of load,
        temperature and seeds.

        A sweep plans the measurements that its file asked for when it last ran. Measurements of the
        same cells with other arguments, another version of the metric or other trials are left out.
        If two cells plan a measurement, its rows appear in both. If the store has no planned
        measurements (published results, stores of earlier releases), the result is every row whose
        trials all lie in one cell, of the highest version of the metric there. `num_trials` counts
        the trials of a row. A measurement across cells (`across` is True) has the cell that all its
        trials share; if there is none, its `cell`, load and temperature are missing. `seeds` and
        `cells` are those of its `trials`, in their order. `variant` is the way of measuring as
        names of quantities have it (``mixup_alpha=4``; empty for the plain one, None across cells).
        If the sweep has stages, `stage` is that of the trials. `of` is the id of the request whose
        artifacts were measured; `at` names the measured checkpoints (epochs ``5``, ``0+5``;
        ``update-300``, ``averaged``; ``lowest_rate`` where one measurement has all of these), and
        `epoch` is a single epoch as a number. `runs` is the number of trials, or of measurements of
        another request, that each measurement of a cell has, where the sweep says it (``all`` of
        these); `seed_a` is then the first of their seeds.
        `networks` are the measured networks where the sweep names them: ``0@5+1`` are that of seed
        0 after epoch 5 and the final one of seed 1. `request` is the id of the request. `varied`
        are the arguments that an axis of the sweep gives, ``connectors+volume_lambda``; no name
        says their values, which are those of the cell.

        Raises:
            StoreError: if there is no such metric or sweep.
        """
        if name not in self.metrics():
            known = ", ".join(self.metrics()) or "none"
            raise StoreError(
                f"reading {self.store.url}: there is no metric {name!r}; metrics: {known}"
            )
        if sweep is None:
            return self._rows(name, None)
        plan = self.plan(sweep)
        jobs = self.jobs(sweep)
        if jobs.empty:
            rows = newest(in_cells(self._rows(name, None), plan)).assign(across=False)
            return self._named(name, placed(rows, plan), plan)
        columns = ["cell", "across", "key", "request", "of", "at", "epoch", "varied", *WAYS]
        jobs = with_own_cells(jobs[jobs["metric"] == name], plan)
        wanted = jobs[columns].drop_duplicates()
        rows = self._rows(name, wanted["key"].tolist())
        if rows.empty:  # a metric's columns are read from its files
            rows = self._rows(name, None).iloc[:0]
        rows = with_first_seeds(rows.merge(wanted, on="key"), plan)
        return self._named(name, placed(rows, plan), plan)

    def _named(self, metric: str, rows: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
        """Add to the rows of a metric in a sweep their trials, their stage and their variant."""
        rows = with_trials(rows, plan)
        stages = stages_of(plan)
        if stages:
            rows = rows.assign(stage=rows["trial_a"].map(stages))
        if self.variants is not None:
            rows = rows.assign(variant=self.variants(metric, rows, plan, self.declared()))
        return ordered(rows)

    def _rows(self, metric: str, keys: list[str] | None) -> pd.DataFrame:
        frame = _frame(self.store.read_table(f"metrics/{metric}", keys=keys))
        return _spread(frame, "args", "arg.").assign(num_trials=frame["trials"].map(len))

    def declared(self) -> dict[str, Shown]:
        """Return what users' metrics declare about their columns and arguments, by name.

        Raises:
            StoreError: if their stored form is damaged.
        """
        return self.store.notes.read_declared()

    def jobs(self, sweep: str) -> pd.DataFrame:
        """Return one row per planned measurement of a sweep: cell, metric, key, the measured
        trials, the arguments as JSON text, and `of`, `at`, `epoch`, `varied`, `runs` and `networks`
        as in `metric`. It is empty if the store has no planned measurements (published results).
        """
        return in_words(_frame(self.store.read_table("plan_jobs", keys=[sweep])))

    def figures(self, sweep: str) -> list[FigureRequest]:
        """Return the figures that a sweep asks for, without those that every sweep gets.

        Raises:
            StoreError: if their stored form is damaged.
        """
        return self.store.notes.read_figures(sweep)

    def vocabulary(self, trial: str) -> Json:
        """Return the vocabulary of a trial's data set: the tokeniser and both lists of words, in id
        order.

        Raises:
            StoreError: if the trial is not stored, or its data set has no words.
        """
        columns = ["key", "dataset", "dataset_version", "dataset_args"]
        rows = self.store.read_table("trials", columns, [trial]).to_pylist()
        if not rows:
            raise StoreError(f"reading {self.store.url}: there is no trial {trial!r}")
        row = rows[0]
        args = json.loads(row["dataset_args"])
        return self.store.notes.read_vocabulary(Part(row["dataset"], row["dataset_version"], args))

    def failures(self) -> pd.DataFrame:
        """Return one row per failed attempt, oldest first; `later_done` says whether its job has a
        result by now (None: the row names no job).
        """
        table = read_failures(self.store)
        frame = _frame(table.filter(pc.invert(is_fallback(table))))
        return frame.sort_values("created_at", ignore_index=True)

    def fallbacks(self) -> pd.DataFrame:
        """Return one row per fallback (work done in another way because the first way failed),
        oldest first; ``key`` is the first job of the pack (None: the driver of a run did it).
        """
        table = read_failures(self.store)
        frame = _frame(table.filter(is_fallback(table)))
        return frame.sort_values("created_at", ignore_index=True)

    def weights(self, key: str, name: str = WEIGHTS) -> "dict[str, Tensor]":
        """Return an artifact of a job, as CPU tensors by their names.

        With the key of a trial, `name` is its final weights, or a checkpoint that the recipe kept
        (``weights@epoch-40``). With the key of a measurement, it is an artifact of its metric: the
        ``curve`` of a mode connectivity.

        Raises:
            StoreError: if that is not stored, or the job leaves no such artifact.
        """
        artifact = Artifact(key, name)
        if not self.store.has_artifact(artifact) and (why := why_not_left(self.store, artifact)):
            raise StoreError(f"reading {name} of {key} of {self.store.url}: {why}")
        return self.store.read_artifact(artifact)

    def model(self, key: str, name: str = WEIGHTS) -> "nn.Module":
        """Return the network of a trial, on the CPU in eval mode, with its final weights or with a
        checkpoint of that `name` (``weights@epoch-40``).

        Raises:
            StoreError: if there is no such trial, or it has no such weights.
        """
        return self.build(self.store, key, name)

    def measure(
        self, metric: str, networks: Sequence[str], settings: Sequence[str] = (), **args: object
    ) -> pd.DataFrame:
        """Measure stored networks by a metric, here and now, and return the rows of this
        measurement; if it is stored already, nothing is measured (``attrs["was_stored"]`` says
        it, ``attrs["unit_of_loss"]`` the unit of losses).

        A network is the key of a trial, or its beginning, with ``@5``, ``@update-300``,
        ``@averaged`` or ``@swag`` for one along its training. The arguments of the metric are given
        by name, or as ``settings``, ``epochs=20``; so is where the data is, where that is not the
        default: ``dataset.path=FILE``. The measurement has the key that a sweep would give it.

            results.measure("connectivity", [a, b], epochs=20)

        Raises:
            SweepError, DataError: if there is a mistake in what is asked, or no such data.
            StoreError: if there are no such networks. MetricError: if it fails.
        """
        if self.measuring is None:
            raise StoreError(f"measuring in {self.store.url}: open it with phasegrid.open(...)")
        done = self.measuring(self.store, metric, networks, settings, args)
        rows = self._rows(done.metric, [done.key])
        rows.attrs |= {"was_stored": done.was_stored, "unit_of_loss": done.unit_of_loss}
        return rows

    def counts(self) -> pd.DataFrame:
        """Return for each sweep how many cells and trials it plans, and how many are stored, done
        and diverged. A trial that cells share counts once.
        """
        plans = self.store.read_table("plans", columns=["sweep", "cell", "key"]).to_pandas()
        trials = self.store.read_table("trials", columns=["key", "outcome"]).to_pandas()
        cells = plans.groupby("sweep")["cell"].nunique()
        own = plans.drop_duplicates(["sweep", "key"])
        joined = own.merge(trials, on="key", how="left").assign(
            cells=own["sweep"].map(cells).values
        )
        rows = joined.assign(
            stored=joined["outcome"].notna(),
            done=joined["outcome"] == "done",
            diverged=joined["outcome"] == "diverged",
        ).groupby("sweep", as_index=False)
        counts: pd.DataFrame = rows.agg(
            cells=("cells", "first"),
            planned=("key", "size"),
            stored=("stored", "sum"),
            done=("done", "sum"),
            diverged=("diverged", "sum"),
        )
        return counts

    def __repr__(self) -> str:
        """Return the counts of every sweep and the metrics, as text."""
        counts = self.counts()
        lines = [f"phasegrid results at {self.store.url}"]
        lines += [
            f"  {row['sweep']}: {row['stored']} of {row['planned']} trials in "
            + counted(row["cells"], "cell")
            + (f", {row['diverged']} diverged" if row["diverged"] else "")
            for row in counts.to_dict("records")
        ]
        lines += [] if len(counts) else ["  no sweeps"]
        return "\n".join([*lines, f"  metrics: {', '.join(self.metrics()) or 'none'}"])

    def _repr_html_(self) -> str:
        """Return the same for a notebook."""
        url, metrics = html.escape(self.store.url), html.escape(", ".join(self.metrics()) or "none")
        table: str = self.counts().to_html(index=False)
        return (
            f"<p><b>phasegrid results</b> at <code>{url}</code></p>{table}<p>metrics: {metrics}</p>"
        )


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _spread(frame: pd.DataFrame, column: str, prefix: str) -> pd.DataFrame:
    """Spread a column of JSON objects into columns; a nested object becomes columns with dotted
    names, a list becomes a tuple.
    """
    texts = [text for text in frame[column].unique() if isinstance(text, str)]
    leaves: dict[str, dict[str, Any]] = {text: _leaves(json.loads(text)) for text in texts}
    return _with_columns(
        frame,
        frame[column].map(lambda text: leaves[text] if isinstance(text, str) else {}),
        prefix,
    )


def _with_columns(frame: pd.DataFrame, spread: "pd.Series[Any]", prefix: str) -> pd.DataFrame:
    names = list(dict.fromkeys(name for leaves in spread for name in leaves))
    new = {
        prefix + name: pd.Series(
            [leaves.get(name) for leaves in spread], index=frame.index
        ).infer_objects()
        for name in names
    }
    return pd.concat([frame, pd.DataFrame(new, index=frame.index)], axis=1)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            leaves |= _leaves(inner, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = tuple(inner) if isinstance(inner, list) else inner
    return leaves
