"""Say in the words of a sweep what its planned measurements measure."""

import json
from collections.abc import Hashable, Mapping, Sequence

import pandas as pd

from phasegrid.jobs import Artifact
from phasegrid.keys import Json
from phasegrid.store.artifacts import inputs_of, measured_of, places_of
from phasegrid.store.placing import WAYS


def in_words(jobs: pd.DataFrame) -> pd.DataFrame:
    """Add to the rows of planned measurements the request that each is `of`, the places `at` along
    trainings, a single epoch as a number, and `WAYS`, as `Results.metric` has them. What reads
    another request has the places of that one, where nothing else tells its jobs apart.
    """
    keys, asking, texts = (jobs[name].tolist() for name in ("key", "request", "inputs"))
    requests = dict(zip(keys, asking, strict=True))
    named = zip(keys, asking, strict=True)
    requests |= {key: name for key, name in named if isinstance(name, str)}
    read = {key: inputs_of(text) for key, text in zip(keys, texts, strict=True)}
    inputs = [measured_of(read[key], read, requests) if read[key] else [] for key in keys]
    of = [next((requests.get(a.job) for a in read), None) for read in inputs]
    places = [places_of(read) if read else [] for read in inputs]
    at = ["+".join(dict.fromkeys(found)) if found else None for found in places]
    said: dict[str, list[Json]] = {way: [None] * len(jobs) for way in WAYS}
    for index, text in enumerate(jobs["asked"].tolist()):
        if not isinstance(text, str):  # a sweep rarely says it
            continue
        asked = json.loads(text)
        at[index] = None if "networks" in asked else asked.get("at", at[index])
        of[index] = asked.get("of", of[index])
        for way in WAYS:
            said[way][index] = asked.get(way)
    _tell_places_apart(jobs, read, of, at)
    alone = [float(found) if found is not None and found.isdecimal() else None for found in at]
    words = {
        "of": pd.Series(of, index=jobs.index, dtype=object),
        "at": pd.Series(at, index=jobs.index, dtype=object),
        "epoch": pd.Series(alone, index=jobs.index, dtype="float64"),
        **{way: pd.Series(said[way], index=jobs.index, dtype=object) for way in WAYS},
    }
    return jobs.drop(columns="asked").assign(**words)


def _tell_places_apart(
    jobs: pd.DataFrame,
    read: Mapping[str, Sequence[Artifact]],
    of: Sequence[Json],
    at: list[str | None],
) -> None:
    """Give several jobs of one request over the same trials, each ``of`` one job of another, the
    places behind what they read.
    """
    alike: dict[Hashable, list[int]] = {}
    columns = (jobs[name].tolist() for name in ("metric", "args", "cell", "trials"))
    for index, (metric, args, cell, trials) in enumerate(zip(*columns, strict=True)):
        if of[index] is not None and at[index] is None:
            own = None if pd.isna(cell) else cell
            alike.setdefault((metric, args, own, of[index], tuple(trials)), []).append(index)
    keys = jobs["key"].tolist()
    for several in alike.values():
        for index in several if len(several) > 1 else ():
            places = dict.fromkeys(places_of(_behind(read[keys[index]], read)))
            at[index] = "+".join(places) or None


def _behind(inputs: Sequence[Artifact], read: Mapping[str, Sequence[Artifact]]) -> list[Artifact]:
    """Return the networks behind some inputs, through all that was measured on the way."""
    found: list[Artifact] = []
    for one in inputs:
        found += _behind(read[one.job], read) if one.job in read else [one]
    return found
