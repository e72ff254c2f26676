"""Build a module from a stored network."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from torch import nn

from phasegrid.datasets.load import load_dataset
from phasegrid.declare import DatasetFacts, import_function
from phasegrid.errors import StoreError
from phasegrid.jobs import AVERAGED, WEIGHTS, Artifact, Part, Trial
from phasegrid.models.build import build_for
from phasegrid.registry import resolve_dataset
from phasegrid.store.store import Store
from phasegrid.train.recipe import Recipe


def stored_network(store: Store, key: str, name: str = WEIGHTS) -> nn.Module:
    """Build the network of a trial with stored weights, on the CPU, in eval mode.

    `name` is ``weights``, a checkpoint of the training (``weights@epoch-40``), or the ``averaged``
    network of a collector.

    Raises:
        StoreError: if there is no such trial, it left no such weights, or they are damaged.
        SweepError, DataError: if its model or its data set cannot be found.
    """
    (trial,) = stored_trials(store, [key])
    if name.partition("@")[0] != WEIGHTS and name != AVERAGED:
        raise StoreError(
            f"reading {store.url}: {name!r} of trial {key} is not the weights of a network;"
            f" allowed:"
            f" {WEIGHTS}, {WEIGHTS}@epoch-<n>, or {AVERAGED}"
        )
    module = build_for(trial.model, _facts(trial.dataset), seed=0)
    module.load_state_dict(store.read_artifact(Artifact(key, name)))
    return module.eval()


def stored_trials(store: Store, keys: Sequence[str]) -> list[Trial]:
    """Return what is stored of some trials: model, data set without its place, seed, and of the
    recipe the objective alone.

    Raises:
        StoreError: if one of them is not stored.
    """
    columns = [f"{part}{what}" for part in _PARTS for what in ("", "_version", "_args")]
    table = store.read_table("trials", ["key", "seed", *columns], keys)
    rows = {row["key"]: row for row in table.to_pylist()}
    for key in keys:
        if key not in rows:
            raise StoreError(f"reading {store.url}: there is no trial {key!r}")
    return [_trial(rows[key]) for key in keys]


_PARTS = ("model", "dataset", "objective")


def _trial(row: dict[str, Any]) -> Trial:
    model, dataset = _part(row, "model"), _part(row, "dataset")
    chosen = None if row["objective"] is None else _part(row, "objective").spec()
    recipe = {**asdict(Recipe()), "objective": chosen}
    return Trial(row["key"], dataset, model, recipe, row["seed"])


def _part(row: dict[str, Any], part: str) -> Part:
    return Part(row[part], row[f"{part}_version"], json.loads(row[f"{part}_args"]))


def _facts(dataset: Part) -> DatasetFacts:
    """Return the facts of a data set; load it if they are not known before."""
    kind = resolve_dataset(dataset.name)
    usual = kind.args()
    args = {spec.name: getattr(usual, spec.name) for spec in fields(kind.args)}
    found = import_function(kind.facts)({**args, **dataset.args})
    return load_dataset(dataset).facts if found is None else found
