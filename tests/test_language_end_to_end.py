"""Running text through the whole path: files, sweep, plan, training, metrics, store, results."""

from pathlib import Path

import pytest
from rich.console import Console

from phasegrid import load_sweep
from phasegrid.errors import SweepError
from phasegrid.plan.cost import guess_cost
from phasegrid.plan.gpu_memory import pack_bytes
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.results import Results, open_results
from phasegrid.store.store import Store

SWEEP = """\
schema: 1
name: tiny-language
dataset: {name: language, root: ROOT, train: train.txt, test: test.txt, steps: 4}
model: {name: lstm, depth: 1, dropout: 0.1}
train: {lr: 1.0, momentum: 0.0, weight_decay: 0.0, batch_size: 5, epochs: 3, clip_norm: 5.0, keep: last, stop: null,
        schedule: {name: step, at_epochs: [2], factor: 0.5}}
load: {param: model.width, values: [4, 6]}
temperature: {param: train.batch_size, values: [5, 10]}
seeds: 2
metrics:
  - perplexity
  - accuracy
  - distance
  - hessian: {examples: 10, steps: 6, trace_probes: 2}
  - cka: {examples: 30}
  - connectivity: {epochs: 2, points: 3, batch_size: 5}
  - connectivity: {bends: 0, points: 3}
  - slice: {points: 3, dimensions: 1, examples: 10}
"""
WORDS = ["one", "two", "three", "four", "five", "six"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    for split, count in (("train", 60), ("test", 12)):
        lines = [" ".join(WORDS[(i + j) % 6] for j in range(2 + i % 4)) for i in range(count)]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sweep = folder / "sweep.yaml"
    sweep.write_text(SWEEP.replace("ROOT", str(folder)), encoding="utf-8")
    return sweep


@pytest.fixture(scope="module")
def results(path: Path) -> Results:
    store = Store.open(str(path.parent / "results"), create=True)
    result = run_sweep(
        load_sweep(path), store, RunTarget(serial=True), Console(quiet=True), True, None
    )
    assert result.exit_code == 0
    return open_results(store.url)


def test_every_trial_is_a_language_model_of_the_vocabulary(results: Results) -> None:
    trials = results.trials()
    assert len(trials) == 8
    assert set(trials["task"]) == {"language"}
    assert set(trials["num_classes"]) == {len(WORDS) + 2}
    assert set(trials["clip_norm"]) == {5.0}
    assert set(trials["strategy"]) == {"loop"}


def test_the_vocabulary_is_stored_with_the_version_of_the_data_set(results: Results) -> None:
    record = results.vocabulary(str(results.trials()["key"].iloc[0]))
    assert isinstance(record, dict)
    assert record["words"][:2] == ["<unk>", "<eos>"]
    assert set(record["words"][2:]) == set(WORDS)


@pytest.mark.parametrize(
    ("metric", "column", "count"),
    [
        ("perplexity", "test_perplexity", 8),
        ("accuracy", "test_loss", 8),
        ("distance", "l2_distance", 4),
        ("hessian", "lambda_max", 8),
        ("cka", "cka", 4),
        ("connectivity", "train_perplexity", 8),
        ("slice", "centre_loss", 8),
    ],
)
def test_every_metric_measures_running_text(
    results: Results, metric: str, column: str, count: int
) -> None:
    rows = results.metric(metric)
    assert len(rows) == count
    assert rows[column].notna().all()


def test_models_that_have_learnt_are_less_perplexed_than_the_vocabulary(results: Results) -> None:
    rows = results.metric("perplexity")
    assert (rows["train_perplexity"] < len(WORDS) + 2).all()


def test_jobs_are_planned_at_a_cost_and_a_memory(path: Path) -> None:
    plan = make_plan(load_sweep(path))
    works = {trial.key: cell.work for cell in plan.cells for trial in cell.trials}
    for cell in plan.cells:
        assert cell.work is not None
        assert cell.work.labels_per_example == 4.0
        for job in (*cell.trials, *cell.metric_jobs):
            assert 0 < guess_cost(cell, job).seconds < 10
    small, large = (next(c for c in plan.cells if c.load == w).work for w in (4.0, 6.0))
    assert small is not None
    assert large is not None
    assert small.num_parameters < large.num_parameters
    packs = make_packs(plan, set(), lambda _cell, _job: 1.0)
    assert packs
    assert all(pack_bytes(pack, works) for pack in packs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model={name: mlp}", "model mlp takes images or vectors, but .* windows of running text"),
        ("dataset={name: digits}", "model lstm takes windows of running text, but .* images or"),
        ("train.batch_size=1000", "found 1000, more than the .* training examples"),
        ("train.batch_unit=tokens", "found tokens, but the data set has no sentence pairs"),
        ("train.clip_norm=0", "train.clip_norm: .*found 0"),
        ("model.tied=true", "tied: true; allowed"),
        ("dataset.train=none.txt", "cannot read .*none.txt"),
        ("dataset.steps=1000", "has .* words, ends of lines counted; a window of dataset.steps"),
    ],
)
def test_what_does_not_fit_is_a_mistake_of_the_sweep(path: Path, change: str, message: str) -> None:
    changes = [change, "temperature=null"] + ["model.embedding=3"] * ("tied" in change)
    with pytest.raises(SweepError, match=rf"(?s){message}"):
        load_sweep(path, changes)
