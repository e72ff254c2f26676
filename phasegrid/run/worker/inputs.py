"""Load the inputs of measurements (rows, data and weights of trained models), each once, and store
results.
"""

import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, overload

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import Metric, import_function
from phasegrid.errors import MetricError, StoreError
from phasegrid.jobs import MOMENTS, WEIGHTS, Artifact, MetricJob, Trial
from phasegrid.keys import Json, canonical_json, stream_seed
from phasegrid.metrics import METRICS
from phasegrid.metrics.measured import Measured, Source
from phasegrid.models.build import build_for
from phasegrid.models.network_state import outputs_of
from phasegrid.models.weights import has_batch_norm
from phasegrid.packs import Outcome
from phasegrid.plan.rows import metric_fields
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.worker.loaded_data import Loaded, data_key_of, held, restore
from phasegrid.run.worker.time_behind import TimeBehind
from phasegrid.run.worker.write_checks import (
    Seal,
    checksums,
    hand_out,
    kept_settings,
    seal,
)
from phasegrid.seeding import nothing_drawn, seed_draws
from phasegrid.store.artifacts import digests_of
from phasegrid.store.provenance import provenance
from phasegrid.store.store import Store
from phasegrid.train.autotune import gpu_name
from phasegrid.train.compat import recipe_of
from phasegrid.train.moments import moment_of, updates_per_epoch
from phasegrid.train.objectives import criterion_of
from phasegrid.train.precision import precision_now

Compute = Callable[["Models", Dataset], object]


class Models(Sequence[nn.Module]):
    """Networks that are read from the store when first used."""

    def __init__(self, inputs: "JobInputs", networks: Sequence[Artifact]) -> None:
        self._inputs, self._networks = inputs, networks

    def __len__(self) -> int:
        return len(self._networks)

    @overload
    def __getitem__(self, index: int) -> nn.Module: ...
    @overload
    def __getitem__(self, index: slice) -> list[nn.Module]: ...
    def __getitem__(self, index: int | slice) -> nn.Module | list[nn.Module]:
        if isinstance(index, slice):
            return [self._inputs.model(network) for network in self._networks[index]]
        return self._inputs.model(self._networks[index])


class JobInputs:
    """The trials of a pack, loaded once: rows, data, models. Whatever a metric changes is discarded
    and loaded again.
    """

    def __init__(
        self,
        store: Store,
        device: torch.device,
        trials: Mapping[str, Trial],
        place: PackOptions,
    ) -> None:
        self.store, self.device, self.trials = store, device, trials
        self.place = place
        self._models: dict[Artifact, tuple[nn.Module, Seal]] = {}
        self._data_keys: dict[int, str] = {}  # by id(); `trials` keep the data sets alive
        self._looked_at: set[Artifact] = set()
        self._endings: dict[str, _Ending] = {}
        self._time_behind = TimeBehind(store, lambda key: len(self.data(key).train_labels))

    def why_void(self, job: MetricJob) -> str | None:
        """Say why a measurement does not apply; None if it does.

        Raises:
            StoreError: if one of its trials is not stored, or an artifact that it reads is lost.
        """
        for key in job.trials:
            if self._ending(key).outcome == "diverged":
                return f"trial {key} diverged"
        for network in job.networks:
            if why := self._ending(network.job).why_without(network):
                return why
        for source in job.sources:
            if not self.store.has_artifact(source):
                return self._why_not_left(source)
        return None

    def _ending(self, key: str) -> "_Ending":
        """Return how a trial ended."""
        if key not in self._endings:
            wanted = [name for name in self.trials if name not in self._endings]
            columns = ["key", "outcome", "epochs_run", "artifacts"]
            rows = self.store.read_table("trials", columns, wanted).to_pylist()
            for row in rows:
                left = digests_of(row["artifacts"])
                self._endings[row["key"]] = _Ending(row["outcome"], row["epochs_run"], left)
        if key not in self._endings:
            raise StoreError(f"measuring trial {key}: it is not stored")
        return self._endings[key]

    def _why_not_left(self, artifact: Artifact) -> str:
        """Say which measurement left no such artifact, according to its row."""
        for metric in self.store.metrics():
            table = self.store.read_table(f"metrics/{metric}", ["artifacts"], [artifact.job])
            digests = digests_of(table["artifacts"][0].as_py()) if len(table) else None
            if digests is not None and artifact.name not in digests:
                return f"{metric} {artifact.job} left no {artifact.name}"
        self.store.read_artifact(artifact)  # raises an error that says what to do
        raise AssertionError(f"{artifact} appeared meanwhile")

    def data(self, key: str) -> Dataset:
        return self._loaded_data(key).dataset

    def _loaded_data(self, key: str) -> "Loaded":
        part = self.trials[key].dataset
        if id(part) not in self._data_keys:
            self._data_keys[id(part)] = data_key_of(part)
        data_key = self._data_keys[id(part)]
        return held(part, data_key, self.device, self.place.shared_data)

    def data_and_objective(self, job: MetricJob) -> tuple[int, str]:
        """Return a value; two measurements with the same data and scoring have equal values."""
        trial = self.trials[job.trials[0]]
        return id(trial.dataset), canonical_json(trial.recipe.get("objective"))

    def model(self, network: Artifact) -> nn.Module:
        if network not in self._models:
            self._models[network] = self._load(network)
        self._looked_at.add(network)
        return self._models[network][0]

    def _load(self, network: Artifact) -> tuple[nn.Module, Seal]:
        weights = self._tensors(network)
        trial = self.trials[network.job]
        module = load_module(trial, weights, self.data(trial.key), self.device)
        return module, seal(module, weights)

    def _tensors(self, artifact: Artifact) -> dict[str, torch.Tensor]:
        read = self.store.read_artifact(artifact)
        return {name: value.to(self.device) for name, value in read.items()}

    def sources(self, job: MetricJob) -> list[Source]:
        """Return what a job reads that is no weights."""
        found = []
        for artifact in job.sources:
            of_trial = artifact.name == MOMENTS
            metric, args = ("", {}) if of_trial else self.store.artifact_facts(artifact)
            assert isinstance(args, Mapping)
            passes = self._time_behind.of(artifact)
            found.append(Source(self._tensors(artifact), artifact.name, metric, args, passes))
        return found

    def _moment(self, network: Artifact) -> tuple[float, float]:
        """Return the epochs done and the learning rate when a training left a network."""
        trial, ending = self.trials[network.job], self._ending(network.job)
        batch_norm = has_batch_norm(self.model(network))
        per_epoch = updates_per_epoch(trial.recipe, self.data(network.job).facts, batch_norm)
        if per_epoch is None:
            raise MetricError("batches filled with tokens: the updates of an epoch are not known")
        return moment_of(recipe_of(trial), network.name, per_epoch, ending.epochs)

    def measure(self, metric: Metric, job: MetricJob) -> Outcome:
        started = time.perf_counter()
        compute = import_function(metric.compute)
        left: dict[str, object] = {}
        if metric.reads:
            left["sources"] = self.sources(job)
        if metric.moments:
            left["moments"] = [self._moment(network) for network in job.networks]
        rows = self.watched(
            job,
            job.networks,
            lambda models, data: compute(
                models, data, generator_of(job.key), **left, **arguments_of(job, metric)
            ),
        )
        return self.publish(metric, job, rows, time.perf_counter() - started)

    def watched(self, job: MetricJob, networks: Sequence[Artifact], compute: Compute) -> object:
        """Run the metric of `job` on some networks and the data of the first one, and check that it
        changed neither.

        Global random generators are seeded with the key of `job`; built-in metrics do not use them.

        Raises:
            MetricError: if a plug-in metric changed them (the changes are discarded), or a built-in
            metric meets a network that draws in eval mode.
        """
        name = job.metric.name
        foreign = name not in METRICS
        loaded = self._loaded_data(networks[0].job)
        data = scored_as(loaded.dataset, self.trials[networks[0].job])
        handed = hand_out(data) if foreign else data
        if foreign and loaded.sums is None:
            loaded.sums = checksums(loaded.dataset)
        self._looked_at.clear()
        faults: list[str] = []
        try:
            seed_draws(stream_seed(job.key, "draws"), self.device)
            with kept_settings(), nullcontext() if foreign else nothing_drawn(name, self.device):
                result = compute(Models(self, networks), handed)
        finally:
            faults += restore(loaded, getattr(handed, "looked_at", ()))
            for network in sorted(self._looked_at, key=lambda one: (one.job, one.name)):
                faults += self._restore_model(network)
        if faults and foreign:
            more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
            raise MetricError(
                f"metric {name!r} changed {faults[0]}{more}, which other measurements use too;"
                " the result of this metric is not stored. Let it work on copies:"
                " copy.deepcopy(model),"
                " data.train_inputs.clone()"
            )
        return result

    def _restore_model(self, network: Artifact) -> list[str]:
        """Discard a network that differs from its state when loaded; return which of its stored
        values a metric has changed.
        """
        module, was = self._models[network]
        changed = was.changed(module)
        if not changed and was.is_whole(module):
            return []
        del self._models[network]
        if changed:
            alone, was = self._load(network)
            with torch.no_grad():  # some networks write into their own values when they run
                outputs_of(alone, self.data(network.job).train_inputs[:2])
            itself = set(was.changed(alone))
            changed = [name for name in changed if name not in itself]
        if not changed:
            return []
        return [f"the weights ({', '.join(changed)}) of the network of trial {network.job}"]

    def publish(self, metric: Metric, job: MetricJob, found: object, seconds: float) -> Outcome:
        measured = found if isinstance(found, Measured) else Measured(found, {})
        undeclared = sorted(measured.artifacts.keys() - set(metric.leaves))
        if undeclared:
            declared = ", ".join(metric.leaves) or "none"
            raise MetricError(
                f"metric {job.metric.name!r} returned the artifact {undeclared[0]!r}, which it"
                f" does not declare; declared in leaves: {declared}"
            )
        rows = measured.rows if isinstance(measured.rows, list) else [measured.rows]
        self._put(metric, job, "done", None, seconds, rows, measured.artifacts)
        return Outcome(job.key, "done", seconds)

    def _precision_of(self, job: MetricJob) -> Json:
        """Return the precision in which a job is measured: its argument, or what is allowed now."""
        return job.metric.args.get("precision") or precision_now(self.device)

    def publish_void(self, metric: Metric, job: MetricJob, why: str) -> Outcome:
        self._put(metric, job, "not_applicable", why, 0.0, [{}])
        return Outcome(job.key, "not_applicable")

    def _put(
        self,
        metric: Metric,
        job: MetricJob,
        outcome: str,
        reason: str | None,
        seconds: float,
        rows: list[Any],
        left: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    ) -> None:
        common = {
            **metric_fields(job, metric, {key: self.trials[key].seed for key in job.trials}),
            "outcome": outcome,
            "reason": reason,
            "code_digest": self.place.code.get(("metric", job.metric.name)),
            "measured_in": self._precision_of(job) if outcome == "done" else None,
            **provenance(self.device.type, self.place.user, gpu_name(self.device)),
            "reproducible": self.place.reproducible,
            "created_at": datetime.now(UTC),
            "seconds": seconds,
        }
        self.store.put_metric(job.metric.name, metric.columns, common, rows, left)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a trial ended: its outcome, its number of epochs and, by name, the artifacts that it left
    beside its final weights; None where the row of an earlier release does not say.
    """

    outcome: str
    epochs: int | None
    left: Collection[str] | None

    def why_without(self, network: Artifact) -> str | None:
        """Say why the trial never left some weights of its network; None if it did."""
        after = network.name.partition("@epoch-")[2]
        if after and self.epochs is not None and self.epochs < int(after):
            return f"trial {network.job} stopped after epoch {self.epochs}, before epoch {after}"
        if network.name == WEIGHTS or self.left is None or network.name in self.left:
            return None
        return f"trial {network.job} left no {network.name}; it ended after epoch {self.epochs}"


def scored_as(data: Dataset, trial: Trial) -> Dataset:
    """Return the data with the objective by which the networks of a trial are scored."""
    if trial.recipe.get("objective") is None:
        return data
    return replace(data, objective=criterion_of(recipe_of(trial)))


def load_module(
    trial: Trial, weights: Mapping[str, torch.Tensor], data: Dataset, device: torch.device
) -> nn.Module:
    model = build_for(trial.model, data, seed=0)
    model.load_state_dict(dict(weights))
    return model.to(device).eval()


def generator_of(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(key, "metric"))


def arguments_of(job: MetricJob, metric: Metric) -> dict[str, Any]:
    """Return the arguments of a metric in the types of its dataclass: JSON lists become tuples."""
    defaults = metric.args()
    args = {spec.name: getattr(defaults, spec.name) for spec in fields(metric.args)}
    told = {**job.metric.args, **job.metric.locators}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in told.items()}
    return copy.deepcopy({**args, **given})
