"""Read the artifacts from which trainings start, and store those that they publish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from phasegrid.errors import StoreError
from phasegrid.jobs import OPTIMIZER, WEIGHTS, Artifact, Start, Trial
from phasegrid.store.store import Store
from phasegrid.train.beginning import Beginning
from phasegrid.train.member import Trained
from phasegrid.train.publishing import UPDATES


@dataclass(frozen=True, slots=True)
class StoredPublisher:
    """Stores the artifacts of trainings (`phasegrid.train.publishing.Publisher`)."""

    store: Store

    def publish(self, trial: str, name: str, tensors: Mapping[str, Tensor]) -> str:
        """Store an artifact, replacing an earlier one of that name; return its SHA-256."""
        return self.store.publish(Artifact(trial, name), tensors)

    def has(self, trial: str, name: str) -> bool:
        """Say whether an artifact is stored."""
        return self.store.has_artifact(Artifact(trial, name))


def void_results(store: Store, trials: Sequence[Trial]) -> dict[str, Trained]:
    """Return the results, by key, of the trials that cannot start because their parent diverged
    before the artifact that they start from. They count as diverged at epoch 0.

    Raises:
        StoreError: if a parent training is not stored.
    """
    parents = {t.start.artifact.job for t in trials if t.start is not None}
    if not parents:
        return {}
    columns = ["key", "outcome", "num_parameters"]
    rows = {row["key"]: row for row in store.read_table("trials", columns, parents).to_pylist()}
    void = {}
    for trial in trials:
        if trial.start is None:
            continue
        artifact = trial.start.artifact
        row = rows.get(artifact.job)
        if row is None:
            raise StoreError(
                f"training {trial.key}: trial {artifact.job}, which it starts from, is not stored"
            )
        if row["outcome"] == "diverged" and (
            artifact.name == WEIGHTS or not store.has_artifact(artifact)
        ):
            void[trial.key] = _void(row["num_parameters"])
    return void


def beginning_of(store: Store, trial: Trial) -> Beginning | None:
    """Read the artifact from which a trial starts; None if it starts from its own initialisation.

    Raises:
        StoreError: if it is not stored, or damaged.
    """
    if trial.start is None:
        return None
    weights = store.read_artifact(trial.start.artifact)
    if trial.start.optimizer == "fresh":
        return Beginning(weights)
    slots = store.read_artifact(_optimizer(trial.start))
    updates = int(slots.pop(UPDATES))
    return Beginning(weights, slots, updates)


def _optimizer(start: Start) -> Artifact:
    _, at, moment = start.artifact.name.partition("@")
    return Artifact(start.artifact.job, f"{OPTIMIZER}{at}{moment}")


def _void(num_parameters: int) -> Trained:
    return Trained(
        weights={},
        published={},
        history=[],
        outcome="diverged",
        diverged_epoch=0,
        diverged_update=0,
        epochs_run=0,
        updates_run=0,
        kept_epoch=0,
        stopped_epoch=None,
        strategy="loop",
        num_parameters=num_parameters,
        seconds=0.0,
    )
