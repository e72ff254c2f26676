"""Sentence pairs through the whole path: files, sweep, plan, training, metrics, store, results."""

from pathlib import Path

import pytest
from rich.console import Console

from phasegrid import load_sweep
from phasegrid.errors import StoreError
from phasegrid.jobs import Part
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.results import Results, open_results
from phasegrid.store.store import Store

SWEEP = """\
schema: 1
name: tiny-translation
dataset: {name: translation, root: ROOT, source: de, target: en, pairs: 40, min_frequency: 1}
model: {name: transformer, depth: 1, heads: 2}
train: {optimizer: adam, lr: 0.01, weight_decay: 0.0, label_smoothing: 0.1, batch_size: 10, updates: 24, keep: last,
        test_every: 2, stop: null, schedule: {name: constant, warmup_updates: 4}}
load: {param: model.width, values: [8, 16]}
temperature: {param: train.batch_size, values: [10, 20]}
seeds: 2
metrics:
  - accuracy
  - distance
  - hessian: {examples: 10, steps: 8, trace_probes: 2}
  - cka: {examples: 30}
  - connectivity: {epochs: 2, points: 3}
"""

NUMBERS = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht"]
ENGLISH = ["one", "two", "three", "four", "five", "six", "seven", "eight"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("translation")
    for split, count in (("train", 60), ("test", 12)):
        pairs = [[(7 * i + j * (i + 1)) % 8 for j in range(1 + i % 5)] for i in range(count)]
        for words, language in ((NUMBERS, "de"), (ENGLISH, "en")):
            lines = [" ".join(words[k] for k in pair) + "\n" for pair in pairs]
            (folder / f"{split}.{language}").write_text("".join(lines), encoding="utf-8")
    path = folder / "sweep.yaml"
    path.write_text(SWEEP.replace("ROOT", str(folder)), encoding="utf-8")
    store = Store.open(str(folder / "results"), create=True)
    result = run_sweep(
        load_sweep(path), store, RunTarget(serial=True), Console(quiet=True), True, None
    )
    assert result.exit_code == 0
    return open_results(store.url)


def test_every_trial_says_what_it_scored_and_how_long_it_trained(results: Results) -> None:
    trials = results.trials()
    assert len(trials) == 8
    assert set(trials["task"]) == {"translation"}
    assert set(trials["updates_run"]) == {24}
    assert set(trials["num_classes"]) == {len(ENGLISH) + 4}
    assert trials["test_loss"].notna().all()


def test_the_best_of_the_run_is_stored_beside_the_final_numbers(results: Results) -> None:
    trials, histories = results.trials(), results.histories()
    for row in trials.to_dict("records"):
        tested = histories[(histories["key"] == row["key"]) & histories["test_loss"].notna()]
        assert row["best_test_loss"] == tested["test_loss"].min()
        assert row["best_test_accuracy_percent"] == tested["test_accuracy_percent"].max()
        assert row["best_test_loss_epoch"] in set(tested["epoch"])
        assert row["test_loss"] == tested["test_loss"].iloc[-1]  # keep: last


@pytest.mark.parametrize(
    ("metric", "column", "count"),
    [
        ("accuracy", "test_loss", 8),
        ("distance", "l2_distance", 4),
        ("hessian", "trace", 8),
        ("cka", "cka", 4),
        ("connectivity", "mode_connectivity_loss", 4),
    ],
)
def test_every_metric_is_measured(results: Results, metric: str, column: str, count: int) -> None:
    rows = results.metric(metric, sweep="tiny-translation")
    assert len(rows) == count
    assert rows[column].notna().all()


def test_the_vocabulary_is_stored_with_the_version_of_the_data_set(results: Results) -> None:
    key = str(results.trials()["key"].iloc[0])
    record = results.vocabulary(key)
    assert isinstance(record, dict)
    assert sorted(record["target_words"][4:]) == sorted(ENGLISH)
    assert sorted(record["source_words"][4:]) == sorted(NUMBERS)
    assert record["tokenizer"]


def test_asking_for_a_vocabulary_that_is_not_there_says_so(results: Results) -> None:
    with pytest.raises(StoreError, match="there is no trial"):
        results.vocabulary("0" * 32)
    with pytest.raises(StoreError, match=r"vocabularies/.* does not exist"):
        results.store.notes.read_vocabulary(Part("digits", 1, {}))


def test_a_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    store, part = Store.open(str(tmp_path / "store"), create=True), Part("translation", 1, {})
    store.notes.put_vocabulary(part, {"words": []})
    (file,) = (tmp_path / "store" / "meta" / "vocabularies").iterdir()
    file.write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="is damaged"):
        store.notes.read_vocabulary(part)
