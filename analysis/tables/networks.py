"""Name the networks that a measurement has, by what tells them apart."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from phasegrid.jobs import AVERAGED, MOMENTS, WEIGHTS


@dataclass(frozen=True, slots=True)
class Named:
    """A network: its `name`, the key of its `training`, and its place among the networks of this
    training in time.
    """

    name: str
    training: str
    time: float


def named_networks(
    row: Mapping[Any, Any], stages: Mapping[str, str], cells: Mapping[int, str]
) -> list[Named]:
    """Return the networks of a row of `Results.metric`, in their order, named by those of cell,
    stage, seed and place that differ: ``seed 1, epoch 5``. `stages` are those of trials by key,
    `cells` the names of cells by number.

    Of a curve along a training the row does not say which checkpoints it joins; the result is then
    empty.

    >>> read = '[["a", "weights@epoch-2"], ["a", "weights"]]'
    >>> row = {"trials": ["a"], "seeds": [3], "cells": [0], "inputs": read}
    >>> [one.name for one in named_networks(row, {}, {})]
    ['epoch 2', 'end']
    """
    seeds = dict(zip(row["trials"], row["seeds"], strict=True))
    text = row.get("inputs")
    read = json.loads(text) if isinstance(text, str) else [[key, WEIGHTS] for key in seeds]
    if not all(job in seeds for job, _ in read):
        read = [[key, WEIGHTS] for key in seeds] if len(seeds) > 1 else []
    of_trial = dict(zip(row["trials"], row["cells"], strict=True))
    parts = [
        (cells.get(of_trial[job], ""), stages.get(job, ""), f"seed {seeds[job]}", _place(name)[0])
        for job, name in read
    ]
    differ = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    names = [", ".join(filter(None, compress(own, differ))) for own in parts]
    return [Named(own, job, _place(name)[1]) for own, (job, name) in zip(names, read, strict=True)]


def _place(name: str) -> tuple[str, float]:
    """Return where along a training an artifact is from, in words and in the order of time."""
    if name in (AVERAGED, MOMENTS):
        return "averaged" if name == AVERAGED else "SWAG", float("inf")
    at = name.partition("@")[2]
    unit, _, number = at.partition("-")
    return (f"{unit} {number}", float(number)) if number else ("end", float("inf"))


def courses(networks: Sequence[Named]) -> list[list[int]]:
    """Return the places of the networks of each training that has several, in the order of time."""
    found: dict[str, list[int]] = {}
    for place, network in enumerate(networks):
        found.setdefault(network.training, []).append(place)
    several = [places for places in found.values() if len(places) > 1]
    return [sorted(places, key=lambda place: networks[place].time) for places in several]
