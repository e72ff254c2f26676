"""Count the passes through the training data behind a network, or behind what a measurement left.

A pass goes forward and backward through the whole training set once: an epoch of a training is one.
"""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from phasegrid.declare import later_defaults
from phasegrid.errors import StoreError
from phasegrid.jobs import Artifact
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

    def of(self, artifact: Artifact) -> Passes:
        """Return the passes behind a network or behind what a measurement left, by job; empty if a
        row of an earlier release does not say, or what an earlier measurement left is gone.

        Raises:
            StoreError: if one of the jobs behind it is not stored.
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
        try:
            metric, args = self._store.artifact_facts(artifact)
        except StoreError:  # nothing is measured from it: what was measured from it is stored
            return {}
        columns = ["trials", "inputs"]
        rows = self._store.read_table(f"metrics/{metric}", columns, [artifact.job]).to_pylist()
        if not rows:
            raise StoreError(f"measuring {artifact.name} of {artifact.job}: it is not stored")
        read = inputs_of(rows[0]["inputs"]) or [Artifact(key) for key in rows[0]["trials"]]
        behind = [self.of(one) for one in read]
        if not all(behind):
            return {}
        declared = resolve_metric(metric)
        assert isinstance(args, Mapping)
        own = 0.0
        if declared.passes is not None:
            num_train = self._num_train(rows[0]["trials"][0])
            own = declared.passes({**later_defaults(declared.args), **args}, num_train)
        return joined(reduce(joined, behind), {artifact.job: own} if own else {})

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
