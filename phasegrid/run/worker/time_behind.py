"""Count the passes through the training data behind a network, or behind what a measurement left.

A pass goes forward and backward through the whole training set once: an epoch of a training is one.
"""

import json
from collections.abc import Callable
from functools import reduce
from typing import Any

from phasegrid.declare import later_defaults
from phasegrid.jobs import Artifact
from phasegrid.metrics import METRICS
from phasegrid.metrics.measured import Passes, joined
from phasegrid.registry import resolve_metric
from phasegrid.store.artifacts import inputs_of
from phasegrid.store.store import Store

_COLUMNS = ["key", "epochs_run", "updates_run", "start_job", "start_artifact"]


class TimeBehind:
    """Reads from the rows of trials how long they were trained, and from what measurements left how
    long they trained; each row once. `num_train` returns the number of training examples of a
    trial.
    """

    def __init__(self, store: Store, num_train: Callable[[str], int]) -> None:
        self._store, self._num_train = store, num_train
        self._rows: dict[str, dict[str, Any] | None] = {}
        self._measurements: dict[str, tuple[str, dict[str, Any]] | None] = {}

    def of(self, artifact: Artifact) -> Passes:
        """Return the passes behind a network or behind what a measurement left, by job; empty if
        a row of an earlier release does not say, or a row behind it is gone. (What the rows name
        need not be there.)
        """
        row = self._row(artifact.job)
        if row is None:
            return self._of_measurement(artifact)
        epochs = _epochs(artifact.name.partition("@")[2], row)
        if epochs is None:
            return {}
        if row.get("start_job") is None:
            return {artifact.job: epochs}
        before = self.of(Artifact(row["start_job"], row["start_artifact"]))
        return {**before, artifact.job: epochs} if before else {}

    def _of_measurement(self, artifact: Artifact) -> Passes:
        found = self._measurement(artifact)
        if found is None:
            return {}
        metric, row = found
        read = inputs_of(row["inputs"]) or [Artifact(key) for key in row["trials"]]
        behind = [self.of(one) for one in read]
        if not all(behind):
            return {}
        declared, own = resolve_metric(metric), 0.0
        if declared.passes is not None:
            args = {**later_defaults(declared.args), **json.loads(row["args"])}
            own = declared.passes(args, self._num_train(row["trials"][0]))
        return joined(reduce(joined, behind), {artifact.job: own} if own else {})

    def _measurement(self, artifact: Artifact) -> tuple[str, dict[str, Any]] | None:
        """Return the metric that left an artifact, and its row; None if that is gone."""
        if artifact.job not in self._measurements:
            self._measurements[artifact.job] = self._find(artifact)
        return self._measurements[artifact.job]

    def _find(self, artifact: Artifact) -> tuple[str, dict[str, Any]] | None:
        for metric in self._store.metrics():
            if metric in METRICS and artifact.name not in METRICS[metric].leaves:
                continue
            table, columns = f"metrics/{metric}", ["args", "trials", "inputs"]
            for row in self._store.read_table(table, columns, [artifact.job]).to_pylist():
                return metric, row
        return None

    def _row(self, key: str) -> dict[str, Any] | None:
        """Return the row of a trial; None if the key is none of a trial."""
        if key not in self._rows:
            found = self._store.read_table("trials", _COLUMNS, [key]).to_pylist()
            self._rows[key] = found[0] if found else None
        return self._rows[key]


def _epochs(place: str, row: dict[str, Any]) -> float | None:
    """Return the epochs of a training up to a place along it; to its end if there is none."""
    unit, _, number = place.partition("-")
    run = None if row["epochs_run"] is None else float(row["epochs_run"])
    if unit == "epoch":
        return float(number)
    if unit != "update" or run is None:
        return run
    return run * int(number) / row["updates_run"] if row["updates_run"] else None
