"""Put published results into a store, so that they are analysed and drawn like our own.

The results are a long-form CSV of the raw numbers behind Fig. 3 of Yang et al. 2021 (ResNet18 of
several widths on CIFAR-10 at several batch sizes, with a learning-rate drop): columns width,
batch_size, metric, seed_a, seed_b, value. Arguments record where their way of measuring differs
from ours: CKA with one mixup coefficient per batch over 768 inputs, each ordered pair on inputs of
its own; curves whose bend starts from a random network; Hutchinson's estimate of the trace. There
are no weights.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from phasegrid.datasets import DATASETS, FIXED_FACTS
from phasegrid.declare import make_part
from phasegrid.jobs import MetricJob, Part, Trial
from phasegrid.keys import Json, content_key
from phasegrid.metrics import METRICS
from phasegrid.metrics.accuracy import AccuracyArgs
from phasegrid.metrics.cka import CkaArgs
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.farthest import farthest_from_ends
from phasegrid.metrics.distance import DistanceArgs
from phasegrid.metrics.hessian import HessianArgs
from phasegrid.models import MODELS
from phasegrid.plan.contents import Cell, Plan
from phasegrid.plan.rows import metric_fields, plan_rows
from phasegrid.run.published.csv import CURVE_POINTS, Numbers, Place, read_places
from phasegrid.store.schemas import trial_columns
from phasegrid.texts import counted
from phasegrid.train.recipe import Recipe, Schedule, hashed_recipe

if TYPE_CHECKING:
    from phasegrid.store.store import Store

KIND = "import"
"""The kind in the keys of imported jobs; with it they never equal keys of our own jobs."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import put into the store."""

    sweep: str
    num_cells: int
    num_trials: int
    num_measurements: int

    def __str__(self) -> str:
        return (
            f"sweep {self.sweep}: {counted(self.num_cells, 'cell')}, "
            f"{counted(self.num_trials, 'trial')}, "
            f"{self.num_measurements} measurements imported"
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """One imported metric job with its rows."""

    job: MetricJob
    rows: list[dict[str, Json]]


@dataclass(frozen=True, slots=True)
class Published:
    """The content of the CSV: a plan, the records of trials, and measurements."""

    plan: Plan
    trials: list[dict[str, object]]
    measurements: list[Measurement]


def import_taxonomy(
    csv_path: str | Path, store: "Store", sweep: str = "taxonomy-fig3"
) -> ImportReport:
    """Put the published results of a CSV into a store as one sweep. Rows that are already stored
    stay as they are.

    Raises:
        DataError: if the file is missing or malformed; the message names the line, and nothing is
            written.
        StoreError: if the store cannot be written.
    """
    from phasegrid.plan.contents import plan_hash

    published = read_published(csv_path, sweep)
    seeds = {str(record["key"]): int(str(record["seed"])) for record in published.trials}
    origin: dict[str, Json] = dict.fromkeys(
        ("device", "phasegrid_version", "git_commit", "git_dirty", "torch_version")
    )
    now = {"created_at": datetime.now(UTC), "host": "published", "seconds": None}
    for record in published.trials:
        store.put_trial({**record, **origin, **now}, [], {})
    for measurement in published.measurements:
        job = measurement.job
        metric = METRICS[job.metric.name]
        common = {
            **metric_fields(job, metric, seeds),
            "outcome": "done",
            "reason": None,
            **origin,
            **now,
        }
        store.put_metric(job.metric.name, metric.columns, common, measurement.rows)
    store.put_plan(sweep, plan_rows(published.plan, plan_hash(published.plan)))
    return ImportReport(
        sweep, len(published.plan.cells), len(published.trials), len(published.measurements)
    )


def read_published(csv_path: str | Path, sweep: str = "taxonomy-fig3") -> Published:
    """Read the CSV into a plan, trial records and measurements. A NaN becomes null, or its row is
    left out.

    Mode connectivity is computed anew from the curve: (e(0)+e(1))/2 - e(t*), t* where
    |(e(0)+e(1))/2 - e(t)| is largest (Yang et al. 2021, eq. 4), of the training error, the test
    error and the training loss.

    Raises:
        DataError: if the file is missing or malformed; the message names the line.
    """
    places = read_places(Path(csv_path))
    cells, trials, measurements = [], [], []
    for index, place in enumerate(sorted(places)):
        numbers = places[place]
        own = [
            _trial(place, seed)
            for seed in sorted({a for _, a, b in numbers if a is not None and b is None})
        ]
        found = list(_measurements(own, numbers))
        cells.append(Cell(index, (), place[0], place[1], tuple(own), tuple(m.job for m in found)))
        trials += [_trial_record(trial, place, numbers) for trial in own]
        measurements += found
    plan = Plan(sweep, "model.width", "train.batch_size", tuple(cells))
    return Published(plan, trials, measurements)


def _trial(place: Place, seed: int) -> Trial:
    """Return the trial of Fig. 3: lr 0.1, dropped tenfold at epoch 75 of 100 (published code; the
    paper gives no numbers).
    """
    width, batch_size = place
    data, model = DATASETS["cifar10"], MODELS["resnet18"]
    recipe = _json(
        Recipe(
            lr=0.1,
            batch_size=batch_size,
            epochs=100,
            drop_last=True,
            schedule=Schedule("step", at_epochs=(75,), factor=0.1),
            stop=None,
        )
    )
    dataset = make_part("cifar10", data.version, data.args, _json(data.args()))
    network = Part("resnet18", model.version, {"width": width})
    spec = {
        "dataset": dataset.spec(),
        "model": network.spec(),
        "recipe": hashed_recipe(recipe),
        "seed": seed,
    }
    return Trial(content_key(KIND, 1, spec), dataset, network, recipe, seed)


def _trial_record(trial: Trial, place: Place, numbers: Numbers) -> dict[str, object]:
    def number(name: str) -> float | None:
        return _known(numbers, name, trial.seed)

    return {
        **trial_columns(trial),
        "outcome": "done",
        "diverged_epoch": None,
        "diverged_update": None,
        "epochs_run": 100,
        "kept_epoch": None,
        "stopped_epoch": None,
        "num_parameters": num_parameters(place[0]),
        "train_loss": number("train_nll"),
        "train_accuracy_percent": number("train_accuracy"),
        "test_loss": number("test_nll"),
        "test_accuracy_percent": number("test_accuracy"),
        "pack_size": None,
        "strategy": None,
    }


def num_parameters(width: int) -> int:
    """Return the number of trainable parameters of the published ResNet18 of width k: 2724 k^2 +
    257 k + 10.

    >>> num_parameters(64)
    11173962
    """
    return 2724 * width**2 + 257 * width + 10


def _measurements(trials: Sequence[Trial], numbers: Numbers) -> Iterator[Measurement]:
    by_seed = {trial.seed: trial for trial in trials}
    for trial in trials:
        yield from _of_trial(trial, numbers)
    pairs = sorted({(a, b) for _, a, b in numbers if a is not None and b is not None and a != b})
    for a, b in pairs:
        if a in by_seed and b in by_seed:
            yield from _of_pair((by_seed[a], by_seed[b]), numbers)


def _of_trial(trial: Trial, numbers: Numbers) -> Iterator[Measurement]:
    def number(name: str) -> float | None:
        return _known(numbers, name, trial.seed)

    parameters = trial.model.args["width"]
    assert isinstance(parameters, int)
    facts = FIXED_FACTS["cifar10"]
    tested = number("test_nll") is not None
    yield _measurement(
        "accuracy",
        AccuracyArgs(),
        (trial,),
        {
            "train_loss": number("train_nll"),
            "train_accuracy_percent": number("train_accuracy"),
            "test_loss": number("test_nll"),
            "test_accuracy_percent": number("test_accuracy"),
            "num_train": facts.num_train,
            "num_test": facts.num_test if tested else None,
        },
    )
    if number("hessian_trace") is not None:
        yield _measurement(
            "hessian",
            HessianArgs(trace="hutchinson", trace_probes=100),
            (trial,),
            {
                "lambda_max": number("hessian_top_eigenvalue"),
                "trace": number("hessian_trace"),
                "trace_method": "hutchinson",
                "num_examples": 200,
                "num_parameters": num_parameters(parameters),
                "batch_norm": "as_saved",
            },
        )


def _of_pair(pair: tuple[Trial, Trial], numbers: Numbers) -> Iterator[Measurement]:
    a, b = pair[0].seed, pair[1].seed
    distance = _known(numbers, "l2_distance", a, b)
    if distance is not None:
        width = pair[0].model.args["width"]
        assert isinstance(width, int)
        row: dict[str, Json] = {"l2_distance": distance, "num_parameters": num_parameters(width)}
        yield _measurement("distance", DistanceArgs(), pair, row)
    layers = [layer for layer in ("softmax", "logits") if (f"cka_{layer}", a, b) in numbers]
    if layers:
        rows: list[dict[str, Json]] = [
            {
                "layer": layer,
                "cka": _known(numbers, f"cka_{layer}", a, b),
                "num_examples": 768,
                "num_features": FIXED_FACTS["cifar10"].num_classes,
            }
            for layer in layers
        ]
        args = CkaArgs(examples=768, mixup="per_batch", layers=("softmax", "logits"))
        yield _measurement("cka", args, pair, *rows)
    if ("curve_train_error@0", a, b) in numbers:
        yield _measurement(
            "connectivity", ConnectivityArgs(init="random"), pair, _curve(pair, numbers, distance)
        )


def _curve(pair: tuple[Trial, Trial], numbers: Numbers, distance: float | None) -> dict[str, Json]:
    a, b = pair[0].seed, pair[1].seed

    def along(name: str) -> list[float]:
        return [numbers.get((f"curve_{name}@{t:g}", a, b), math.nan) for t in CURVE_POINTS]

    train, test, loss = along("train_error"), along("test_error"), along("train_nll")
    length = sum(along("dl"))
    ends = [_known(numbers, "train_accuracy", seed) for seed in (a, b)]
    residuals = [
        abs(error - (100 - accuracy))
        for error, accuracy in zip((train[0], train[-1]), ends, strict=True)
        if accuracy is not None
    ]
    connectivity, where = _farthest(train)
    return {
        "mode_connectivity": connectivity,
        "t_star": where,
        "mode_connectivity_loss": _farthest(loss)[0],
        "mode_connectivity_test": _farthest(test)[0],
        "t": list(CURVE_POINTS),
        "train_loss": _finite_list(loss),
        "train_error_percent": _finite_list(train),
        "test_loss": _finite_list(along("test_nll")),
        "test_error_percent": _finite_list(test),
        "length": _finite(length),
        "length_ratio": _finite(length / distance) if distance else None,
        "end_residual_percent": max(residuals, default=None),
        "num_bends": 1,
    }


def _farthest(values: list[float]) -> tuple[float | None, float | None]:
    """Return mc and t* of a published curve; null where a point has no number."""
    if _finite_list(values) is None:
        return None, None
    gap, index = farthest_from_ends(values)
    return gap, CURVE_POINTS[index]


def _measurement(
    name: str, args: object, trials: Iterable[Trial], *rows: dict[str, Json]
) -> Measurement:
    metric = METRICS[name]
    part = Part(name, metric.version, _json(args))
    keys = tuple(trial.key for trial in trials)
    key = content_key(KIND, 1, {"metric": part.spec(), "trials": list(keys)})
    blank: dict[str, Json] = dict.fromkeys(column.name for column in metric.columns)
    return Measurement(MetricJob(key, part, keys), [{**blank, **row} for row in rows])


def _json(args: object) -> dict[str, Json]:
    """Return a dataclass as JSON values: tuples as lists."""
    plain: dict[str, Json] = {}
    for name, value in asdict(args).items():  # type: ignore[call-overload]
        plain[name] = list(value) if isinstance(value, tuple) else value
        if isinstance(value, dict):
            plain[name] = {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()}
    return plain


def _known(numbers: Numbers, name: str, a: int, b: int | None = None) -> float | None:
    return _finite(numbers.get((name, a, b), math.nan))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finite_list(values: list[float]) -> list[float] | None:
    return values if all(math.isfinite(value) for value in values) else None
