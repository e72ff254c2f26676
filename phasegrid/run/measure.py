"""Measure networks of a store without a sweep, here and now."""

import re
from collections.abc import Mapping, Sequence

import torch

from phasegrid.config.alone import read_alone
from phasegrid.config.places import SWAG
from phasegrid.errors import MetricError, StoreError, SweepError
from phasegrid.jobs import AVERAGED, MOMENTS, WEIGHTS, Artifact
from phasegrid.keys import canonical_json
from phasegrid.packs import Pack
from phasegrid.plan.measurements import Measurements
from phasegrid.registry import declared_objective
from phasegrid.run import code_changes
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.networks import stored_trials
from phasegrid.run.worker.pack import do
from phasegrid.run.worker.trained import objective_name
from phasegrid.store.alone import Alone
from phasegrid.store.artifacts import digests_of
from phasegrid.store.store import Store
from phasegrid.texts import counted

_NETWORK = re.compile(
    rf"([0-9a-f]{{4,32}})(?:@(?:(?:epoch-)?(?P<epoch>\d+)|(?P<place>update-\d+|{AVERAGED}|{SWAG})))?"
)
_NAMED = {AVERAGED: AVERAGED, SWAG: MOMENTS}
"""The artifacts of a collector, as they are asked for."""


def measure_networks(
    store: Store,
    metric: str,
    networks: Sequence[str],
    settings: Sequence[str] = (),
    args: Mapping[str, object] | None = None,
) -> Alone:
    """Measure stored networks, if they are not yet. The key of the measurement is that which
    ``networks`` of a sweep gives it.

    Each network is the key of a trial, or its beginning, with ``@`` and a place along the training:
    ``d41d8c@5`` (or ``@epoch-5``), ``@update-300``, ``@averaged``; without one, its final weights.
    With ``@swag`` networks are drawn from the moments that its collector left.

    Raises:
        SweepError, DataError: if there is a mistake in what is asked, or the data is not there.
        StoreError: if there are no such networks.
        MetricError: if a trial diverged, or the measurement failed.
    """
    found = [_network(store, text) for text in networks]
    trials = stored_trials(store, [one.job for one in found])
    request, trials, code = read_alone(metric, args or {}, settings, trials, found)
    _refuse_twice(store, metric, networks, found)
    code_changes.refuse_changes(code_changes.find_changes(store, code), store)
    code_changes.keep_code(store, code)
    code_changes.keep_columns(store, code)
    jobs = Measurements([request], canonical_json).over(request, found)
    distinct = tuple({trial.key: trial for trial in trials}.values())
    place = PackOptions(threads=torch.get_num_threads())
    for job in jobs:
        pack = Pack(job.key, "measure", 0, distinct, (job,), job.needs)
        (outcome,) = do(pack, store, place)
        if outcome.status == "failed":
            raise MetricError(f"measuring {metric}: {outcome.error}")
    unit = declared_objective(objective_name(trials[0])).unit
    return Alone(request.name, jobs[-1].key, outcome.status == "already", unit)


def _refuse_twice(
    store: Store, metric: str, networks: Sequence[str], found: Sequence[Artifact]
) -> None:
    """Refuse a network that is the same as one before, whatever it is called."""
    seen = set[str]()
    for text, network in zip(networks, found, strict=True):
        columns = ["checkpoint_sha256", "artifacts"]
        (row,) = store.read_table("trials", columns, [network.job]).to_pylist()
        left = {WEIGHTS: row["checkpoint_sha256"], **(digests_of(row["artifacts"]) or {})}
        weights = left.get(network.name) or f"{network.name} of {network.job}"
        if weights in seen:
            raise SweepError(f"measuring {metric}: found the network {text} twice; each once")
        seen.add(weights)


def _network(store: Store, text: str) -> Artifact:
    """Return the weights that a text names."""
    match = _NETWORK.fullmatch(text)
    if match is None:
        raise SweepError(
            f"measuring {text!r}: allowed: the key of a trial or its beginning, from 4 digits, and"
            f" @ with a place along its training: @5, @update-300, @{AVERAGED}, @{SWAG}"
        )
    key = _key(store, match[1])
    place = match["place"] or (match["epoch"] and f"epoch-{int(match['epoch'])}")
    name = WEIGHTS if place is None else _NAMED.get(place, f"{WEIGHTS}@{place}")
    if why := _why_none(store, Artifact(key, name)):
        raise StoreError(f"measuring {text}: {why}")
    return Artifact(key, name)


def _key(store: Store, start: str) -> str:
    """Return the key of the only trial whose key begins so."""
    keys = store.read_table("trials", ["key"]).column("key").to_pylist()
    found = [key for key in keys if key.startswith(start)]
    if len(found) != 1:
        what = f"{counted(len(found), 'trial')} with a key that begins so"
        raise StoreError(f"measuring {start}: {store.url} has {what}; allowed: the key of one")
    return str(found[0])


def _why_none(store: Store, network: Artifact) -> str | None:
    """Say why a stored trial has no such weights; None if it has."""
    columns = ["outcome", "artifacts"]
    (row,) = store.read_table("trials", columns, [network.job]).to_pylist()
    if row["outcome"] == "diverged":
        return "the trial diverged: it has no network to measure"
    if store.has_artifact(network):
        return None
    left = digests_of(row["artifacts"]) or {}
    asked = {name: place for place, name in _NAMED.items()}
    networks = [
        asked.get(one, one) for one in left if one in asked or one.startswith(f"{WEIGHTS}@")
    ]
    missing = asked.get(network.name, network.name)
    return f"the trial has no {missing}; it has {', '.join([WEIGHTS, *networks])}"
