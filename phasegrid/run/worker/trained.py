"""Store a finished training: its weights, its history and its row."""

import math
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import torch

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import import_function
from phasegrid.jobs import Trial
from phasegrid.keys import stream_seed
from phasegrid.models.evaluation import evaluate
from phasegrid.packs import Outcome
from phasegrid.registry import declared_objective, resolve_dataset
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.worker.inputs import load_module, scored_as
from phasegrid.seeding import repeatable
from phasegrid.store.provenance import provenance
from phasegrid.store.schemas import trial_columns
from phasegrid.store.store import Store
from phasegrid.train.autotune import gpu_name
from phasegrid.train.compat import recipe_of
from phasegrid.train.member import EpochRecord, Trained, best_of_run
from phasegrid.train.recipe import CROSS_ENTROPY_NAME

_kind = cache(resolve_dataset)  # looking for an entry point reads every installed package


def publish_trial(
    store: Store,
    trial: Trial,
    result: Trained,
    data: Dataset,
    device: torch.device,
    size: int,
    place: PackOptions,
) -> Outcome:
    """Store a finished training of a pack of `size` trials: its weights, history and row."""
    numbers = _final_numbers(trial, result, data, device)
    if numbers is None and result.outcome == "done":
        result = replace(result, outcome="diverged", diverged_epoch=result.kept_epoch)
    record = _result_columns(result) | {
        **trial_columns(trial),
        "task": data.task,
        "num_classes": data.num_classes,
        **(numbers or {}),
        **_best_of_run(trial, result),
        "dataset_code_digest": place.code.get(("dataset", trial.dataset.name)),
        "model_code_digest": place.code.get(("model", trial.model.name)),
        "objective_unit": declared_objective(objective_name(trial)).unit,
        "objective_code_digest": place.code.get(("objective", objective_name(trial))),
        "schedule_code_digest": place.code.get(("schedule", recipe_of(trial).schedule.name)),
        **provenance(device.type, place.user, gpu_name(device)),
        "created_at": datetime.now(UTC),
        "pack_size": size,
        "reproducible": place.reproducible,
    }
    history = [{"key": trial.key, **_as_row(epoch)} for epoch in result.history]
    vocabulary = _kind(trial.dataset.name).vocabulary
    if vocabulary is not None:
        store.notes.put_vocabulary(trial.dataset, import_function(vocabulary)(data))
    store.put_trial(record, history, result.weights, result.published)
    return Outcome(
        trial.key, "diverged" if result.outcome == "diverged" else "done", result.seconds
    )


def objective_name(trial: Trial) -> str:
    """Return the name of the objective that a trial trains on."""
    chosen = recipe_of(trial).objective
    return CROSS_ENTROPY_NAME if chosen is None else str(chosen["name"])


def _final_numbers(
    trial: Trial, result: Trained, data: Dataset, device: torch.device
) -> dict[str, Any] | None:
    """Return loss and accuracy of the kept weights in eval mode; None if the training diverged, or
    if outputs overflow in eval mode, where BatchNorm does not divide by the spread of the batch.
    """
    if result.outcome == "diverged":
        return None
    model = load_module(trial, result.weights, data, device)
    scoring = scored_as(data, trial).scoring
    seed = stream_seed(trial.stream, "evaluation")
    train, test = (
        repeatable(seed, device, partial(evaluate, model, inputs, labels, scoring))
        for inputs, labels in (
            (data.train_inputs, data.train_labels),
            (data.test_inputs, data.test_labels),
        )
    )
    if not (math.isfinite(train.loss) and math.isfinite(test.loss)):
        return None
    return {
        "train_loss": train.loss,
        "train_accuracy_percent": train.accuracy_percent,
        "test_loss": test.loss,
        "test_accuracy_percent": test.accuracy_percent,
    }


def _result_columns(result: Trained) -> dict[str, Any]:
    return {
        "outcome": result.outcome,
        "diverged_epoch": result.diverged_epoch,
        "diverged_update": result.diverged_update,
        "epochs_run": result.epochs_run,
        "kept_epoch": result.kept_epoch,
        "stopped_epoch": result.stopped_epoch,
        "updates_run": result.updates_run,
        "num_parameters": result.num_parameters,
        "density": result.density,
        "seconds": result.seconds,
        "strategy": result.strategy,
    }


def _best_of_run(trial: Trial, result: Trained) -> dict[str, Any]:
    """Return the columns of optimal early stopping; no columns if the test set was not watched."""
    best = best_of_run(recipe_of(trial), result.history)
    if best is None:
        return {}
    return {f"best_{spec.name}": getattr(best, spec.name) for spec in fields(best)}


def _as_row(record: EpochRecord) -> dict[str, Any]:
    return {spec.name: getattr(record, spec.name) for spec in fields(record)}
