"""What measuring needs of trained models: their rows, data and weights, loaded once, and the way a measurement is stored."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, overload

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.loading import load_dataset
from phasegrid.declare import Metric, import_function
from phasegrid.errors import StoreError
from phasegrid.jobs import MetricJob, Outcome, Part, Trial, content_key, stream_seed
from phasegrid.models.building import build_model
from phasegrid.provenance import provenance
from phasegrid.records import metric_fields
from phasegrid.sharing import shared
from phasegrid.store import Store


class Models(Sequence[nn.Module]):
    """The models of some trials, each read from the store when it is first looked at."""

    def __init__(self, bench: "Bench", keys: Sequence[str]) -> None:
        self._bench, self._keys = bench, keys

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> nn.Module: ...
    @overload
    def __getitem__(self, index: slice) -> list[nn.Module]: ...
    def __getitem__(self, index: int | slice) -> nn.Module | list[nn.Module]:
        if isinstance(index, slice):
            return [self._bench.model(key) for key in self._keys[index]]
        return self._bench.model(self._keys[index])


class Bench:
    """The trials of a pack, loaded once: rows, data, models."""

    def __init__(
        self,
        store: Store,
        device: torch.device,
        trials: Mapping[str, Trial],
        shared_data: str | None = None,
    ) -> None:
        self.store, self.device, self.trials = store, device, trials
        self.shared_data = shared_data
        self._models: dict[str, nn.Module] = {}
        self._outcomes: dict[str, str] = {}

    def diverged(self, key: str) -> bool:
        if key not in self._outcomes:
            wanted = [name for name in self.trials if name not in self._outcomes]
            rows = self.store.read_table("trials", ["key", "outcome"], wanted).to_pylist()
            self._outcomes.update({row["key"]: row["outcome"] for row in rows})
        if key not in self._outcomes:
            raise StoreError(f"measuring trial {key}: it is not stored")
        return self._outcomes[key] == "diverged"

    def data(self, key: str) -> Dataset:
        return dataset_of(self.trials[key].dataset, self.device, self.shared_data)

    def model(self, key: str) -> nn.Module:
        if key not in self._models:
            weights = self.store.read_checkpoint(key)
            self._models[key] = load_module(self.trials[key], weights, self.data(key), self.device)
        return self._models[key]

    def measure(self, metric: Metric, job: MetricJob) -> Outcome:
        started = time.perf_counter()
        rows = import_function(metric.compute)(
            Models(self, job.trials),
            self.data(job.trials[0]),
            generator_of(job.key),
            **arguments_of(job, metric),
        )
        return self.publish(metric, job, rows, time.perf_counter() - started)

    def publish(self, metric: Metric, job: MetricJob, rows: object, seconds: float) -> Outcome:
        several = rows if isinstance(rows, list) else [rows]
        self._put(metric, job, "done", None, seconds, several)
        return Outcome(job.key, "done", seconds)

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
    ) -> None:
        common = {
            **metric_fields(job, metric, {key: self.trials[key].seed for key in job.trials}),
            "outcome": outcome,
            "reason": reason,
            **provenance(self.device.type),
            "created_at": datetime.now(UTC),
            "seconds": seconds,
        }
        self.store.put_metric(job.metric.name, metric.columns, common, rows)


_DATASETS: dict[tuple[str, str], Dataset] = {}
_MAX_DATASETS = 4


def dataset_of(part: Part, device: torch.device, shared_data: str | None = None) -> Dataset:
    """Load a data set once a process, or, with `shared_data`, once a node; the few most recent are kept on the device."""
    key = content_key("dataset", 1, [part.spec(), part.locators])
    name = (key, str(device))
    if name not in _DATASETS:
        while len(_DATASETS) >= _MAX_DATASETS:
            del _DATASETS[next(iter(_DATASETS))]
        _DATASETS[name] = _load(part, key, shared_data).to(device)
    return _DATASETS[name]


def _load(part: Part, key: str, shared_data: str | None) -> Dataset:
    if shared_data is None:
        return load_dataset(part)
    return shared(shared_data, key, lambda: load_dataset(part))


def load_module(
    trial: Trial, weights: Mapping[str, torch.Tensor], data: Dataset, device: torch.device
) -> nn.Module:
    model = build_model(trial.model, data.input_shape, data.num_classes, seed=0, tokens=data.tokens)
    model.load_state_dict(dict(weights))
    return model.to(device).eval()


def generator_of(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(key, "metric"))


def arguments_of(job: MetricJob, metric: Metric) -> dict[str, Any]:
    """Return the arguments of a metric as its dataclass types them (JSON lists become tuples)."""
    defaults = metric.args()
    args = {spec.name: getattr(defaults, spec.name) for spec in fields(metric.args)}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in job.metric.args.items()}
    return {**args, **given}
