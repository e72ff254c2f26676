"""Count the epochs of training behind a network, those of earlier stages included."""

from typing import Any

from phasegrid.errors import StoreError
from phasegrid.jobs import Artifact
from phasegrid.store.store import Store

_COLUMNS = ["key", "epochs_run", "updates_run", "start_job", "start_artifact"]


class TimeBehind:
    """Reads from the rows of trials how long they were trained; each row once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[str, dict[str, Any]] = {}

    def of(self, network: Artifact) -> dict[str, float]:
        """Return the epochs of each training behind a network, by the key of its trial; empty if a
        row of an earlier release does not say.

        Raises:
            StoreError: if one of the trials is not stored.
        """
        row = self._row(network.job)
        epochs = _epochs(network.name.partition("@")[2], row)
        if epochs is None:
            return {}
        if row.get("start_job") is None:
            return {network.job: epochs}
        before = self.of(Artifact(row["start_job"], row["start_artifact"]))
        return {**before, network.job: epochs} if before else {}

    def _row(self, key: str) -> dict[str, Any]:
        if key not in self._rows:
            found = self._store.read_table("trials", _COLUMNS, [key]).to_pylist()
            if not found:
                raise StoreError(f"measuring trial {key}: it is not stored")
            self._rows[key] = found[0]
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
