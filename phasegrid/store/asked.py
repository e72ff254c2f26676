"""Say in the words of a sweep what its planned measurements measure."""

import json

import pandas as pd

from phasegrid.keys import Json
from phasegrid.store.artifacts import inputs_of, measured_of, places_of
from phasegrid.store.placing import WAYS


def in_words(jobs: pd.DataFrame) -> pd.DataFrame:
    """Add to the rows of planned measurements the request that each is `of`, the places `at` along
    trainings, a single epoch as a number, and `WAYS`, as `Results.metric` has them.
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
    alone = [float(found) if found is not None and found.isdecimal() else None for found in at]
    words = {
        "of": pd.Series(of, index=jobs.index, dtype=object),
        "at": pd.Series(at, index=jobs.index, dtype=object),
        "epoch": pd.Series(alone, index=jobs.index, dtype="float64"),
        **{way: pd.Series(said[way], index=jobs.index, dtype=object) for way in WAYS},
    }
    return jobs.drop(columns="asked").assign(**words)
