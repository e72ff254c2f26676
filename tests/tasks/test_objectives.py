"""Objectives: their values, gradients and curvatures, and what a sweep may say of them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from phasegrid import load_sweep
from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import import_function
from phasegrid.errors import SweepError
from phasegrid.metrics.hessian.compute import compute
from phasegrid.plan.plan import make_plan
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.results import open_results
from phasegrid.store.store import Store
from phasegrid.tasks.batches import Batch
from phasegrid.tasks.losses import Criterion
from phasegrid.tasks.objectives import OBJECTIVES

MEMBERS, LABELS, CLASSES = 2, 5, 4
CASES: list[tuple[str, dict[str, Any]]] = [
    ("cross_entropy", {"label_smoothing": 0.0}),
    ("cross_entropy", {"label_smoothing": 0.3}),
    ("mse", {"reduction": "half_sum"}),
    ("mse", {"reduction": "mean"}),
]


def drawn(num: int = LABELS) -> tuple[Tensor, Batch]:
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(MEMBERS, num, CLASSES, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (MEMBERS, num), generator=rng)
    return logits, Batch(torch.zeros(MEMBERS, num), labels)


def loss_of(name: str, args: Mapping[str, Any]) -> Any:
    return partial(import_function(OBJECTIVES[name].loss), **args)


def by_torch(name: str, args: Mapping[str, Any], z: Tensor, label: Tensor) -> Tensor:
    """Return the loss of one label by torch's own function."""
    if name == "cross_entropy":
        return cross_entropy(z, label, **args)
    half_sum = args["reduction"] == "half_sum"
    loss = mse_loss(z, one_hot(label, CLASSES).to(z), reduction="sum" if half_sum else "mean")
    return 0.5 * loss if half_sum else loss


@pytest.mark.parametrize(("name", "args"), CASES)
def test_the_loss_of_each_label_is_torchs_own(name: str, args: dict[str, Any]) -> None:
    logits, batch = drawn()
    losses = loss_of(name, args)(logits, batch)
    assert losses.shape == (MEMBERS, LABELS)
    for m in range(MEMBERS):
        for b in range(LABELS):
            expected = by_torch(name, args, logits[m, b], batch.labels[m, b])
            torch.testing.assert_close(losses[m, b], expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("name", "args"), CASES)
def test_gradients_are_those_of_differences(name: str, args: dict[str, Any]) -> None:
    logits, batch = drawn()
    loss = loss_of(name, args)
    assert gradcheck(lambda z: loss(z, batch), (logits.requires_grad_(),))


@pytest.mark.parametrize(("name", "args"), [case for case in CASES if 0.3 not in case[1].values()])
def test_the_declared_curvature_is_the_hessian_in_the_logits(
    name: str, args: dict[str, Any]
) -> None:
    logits, batch = drawn()
    curvature = OBJECTIVES[name].curvature
    assert curvature is not None
    args = {k: v for k, v in args.items() if k not in OBJECTIVES[name].training_only}
    sizes, columns = partial(import_function(curvature), **args)(logits[0])
    found = torch.einsum("nk,nkc,nkd->ncd", sizes, columns, columns)
    for n in range(LABELS):
        label = batch.labels[0, n]
        expected = torch.autograd.functional.hessian(
            partial(lambda y, z: by_torch(name, args, z, y), label), logits[0, n]
        )
        torch.testing.assert_close(found[n], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layer", [nn.ReLU, nn.Tanh])
def test_the_hessian_is_that_of_the_objective(layer: type[nn.Module]) -> None:
    rng = torch.Generator().manual_seed(1)
    inputs = torch.randn(12, 3, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (12,), generator=rng)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 5), layer(), nn.Linear(5, CLASSES)).double()
    criterion = Criterion(loss_of("mse", {}), import_function(str(OBJECTIVES["mse"].curvature)))
    unit = torch.zeros(1)
    sets = inputs, labels, inputs, labels
    data = Dataset("random", *sets, CLASSES, unit, unit, objective=criterion)
    row: Any = compute([net], data, torch.Generator().manual_seed(0), examples=12, steps=60)
    names, parameters = zip(*net.named_parameters(), strict=True)

    def mean_loss(*values: Tensor) -> Tensor:
        z = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (inputs,))
        return 0.5 * (z - one_hot(labels, CLASSES)).square().sum() / 12

    blocks = torch.autograd.functional.hessian(mean_loss, tuple(parameters))
    rows = [torch.cat([b.reshape(p.numel(), -1) for b in line], 1)
            for p, line in zip(parameters, blocks, strict=True)]  # fmt: skip
    values = torch.linalg.eigvalsh(torch.cat(rows))
    assert row["loss"] == pytest.approx(mean_loss(*parameters).item(), rel=1e-12)
    assert row["lambda_max"] == pytest.approx(values[-1].item(), rel=1e-6)
    assert row["trace"] == pytest.approx(values.sum().item(), rel=1e-9)
    assert row["trace_stderr"] == 0
    assert (row["trace_method"] == "exact_ggn") == (layer is nn.ReLU)


SWEEP = """\
schema: 1
name: squares
dataset: {name: digits, fraction: 0.2}
model: {name: mlp, depth: 1, width: 8}
train: {objective: mse, lr: 0.02, batch_size: 64, epochs: 12, stop: null, keep: last}
load: {param: model.width, values: [4, 16]}
temperature: {param: train.objective.reduction, values: [half_sum, mean]}
seeds: 2
metrics:
  - accuracy
  - hessian: {examples: 50, steps: 12}
  - connectivity: {epochs: 2, points: 3}
  - slice: {points: 3, examples: 50}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def test_a_sweep_of_squared_losses_is_measured_by_them(tmp_path: Path) -> None:
    assert SWEEP.count("\n") < 25
    store = Store.open(str(tmp_path / "results"), create=True)
    sweep = load_sweep(written(tmp_path, SWEEP))
    assert (
        run_sweep(sweep, store, RunTarget(serial=True), Console(quiet=True), True, None).exit_code
        == 0
    )
    results = open_results(store.url)
    trials = results.trials()
    assert set(trials["objective"]) == {"mse"}
    assert trials["test_accuracy_percent"].max() > 70
    accuracy = results.metric("accuracy").merge(trials, left_on="trial_a", right_on="key")
    assert len(accuracy) == 8
    # Networks are scored by the loss that they were trained with, wherever they are.
    assert accuracy["train_loss_x"].tolist() == pytest.approx(accuracy["train_loss_y"].tolist())
    assert set(results.metric("hessian")["trace_method"]) == {"exact_ggn"}
    curves = results.metric("connectivity").merge(trials, left_on="trial_a", right_on="key")
    assert len(curves) == 4
    for ends, own in zip(curves["train_loss_x"], curves["train_loss_y"], strict=True):
        assert ends[0] == pytest.approx(own, rel=1e-5)


def keys(folder: Path, train: str, axis: str | None = None) -> list[str]:
    temperature = axis or "{param: train.batch_size, values: [32, 64]}"
    text = (
        "schema: 1\nname: few\ndataset: {name: digits}\nmodel: {name: mlp}\n"
        f"train: {train}\ntemperature: {temperature}\nseeds: 1\n"
    )
    plan = make_plan(load_sweep(written(folder, text)))
    return [trial.key for cell in plan.cells for trial in cell.trials]


def test_smoothing_has_one_key_however_it_is_written(tmp_path: Path) -> None:
    plain = keys(tmp_path, "{label_smoothing: 0.1}")
    assert plain == keys(tmp_path, "{objective: {name: cross_entropy, label_smoothing: 0.1}}")
    assert keys(tmp_path, "{}") == keys(tmp_path, "{objective: cross_entropy}")
    assert keys(tmp_path, "{}") == keys(tmp_path, "{objective: null}")
    axis = "{param: train.objective.label_smoothing, values: [0.0, 0.1]}"
    same = "{param: train.label_smoothing, values: [0.0, 0.1]}"
    assert keys(tmp_path, "{}", axis) == keys(tmp_path, "{}", same)
    several = "{param: train.objective, values: [mse, {name: cross_entropy, label_smoothing: 0.1}]}"
    mse, smooth = keys(tmp_path, "{}", several)
    assert smooth == keys(tmp_path, "{}", same)[1]
    assert mse not in keys(tmp_path, "{}", same)


def test_the_key_of_a_trial_without_an_objective_does_not_move(tmp_path: Path) -> None:
    assert keys(tmp_path, "{}") == KNOWN


KNOWN = ["9d493cd0e926cb7607efdb245813fbe6", "380528cfafe2e46cf2c4c0554a77d32e"]
"""As they were before there was a choice."""

TRANSLATION = "{name: 'data.py:DATA'}"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("{objective: hinge}", "found objective 'hinge'; allowed: cross_entropy, mse, poisoned"),
        ("{objective: mze}", "did you mean 'mse'"),
        ("{objective: 3}", "found 3; allowed: a name, or {name: ..., arguments}"),
        ("{objective: {name: mse, label_smoothing: 0.1}}", "found the key 'label_smoothing'; allowed: reduction"),
        ("{objective: {name: mse, reduction: sum}}", "found 'sum'; allowed: 'half_sum' or 'mean'"),
        ("{objective: mse, label_smoothing: 0.1}", "found 0.1 with objective mse; it is cross_entropy's"),
        ("{objective: {name: cross_entropy, label_smoothing: 1.0}}", "found 1.0; allowed: less than 1"),
        ("{objective: {name: cross_entropy, label_smoothing: -0.1}}", "found -0.1; allowed: at least 0"),
        ("{label_smoothing: 0.1, objective: {name: cross_entropy, label_smoothing: 0.1}}", "write one"),
        ("{objective: 'nowhere.py:LOSS'}", "there is no file nowhere.py"),
    ],
)  # fmt: skip
def test_a_mistaken_objective_is_told_with_its_place(
    tmp_path: Path, train: str, message: str
) -> None:
    with pytest.raises(SweepError) as caught:
        keys(tmp_path, train)
    (mistake,) = caught.value.mistakes
    assert mistake.line == 5
    assert message in mistake.message


def test_an_axis_of_another_objectives_argument_is_a_mistake(tmp_path: Path) -> None:
    axis = "{param: train.objective.reduction, values: [mean]}"
    with pytest.raises(SweepError, match=r"train.objective.reduction.*label_smoothing"):
        keys(tmp_path, "{}", axis)


def test_squared_loss_on_sentence_pairs_is_refused_with_the_reason(tmp_path: Path) -> None:
    for name in ("train.de", "train.en", "test.de", "test.en"):
        (tmp_path / name).write_text("a b c .\nb c .\na .\n")
    text = (
        f"schema: 1\nname: few\ndataset: {{name: translation, root: {tmp_path}}}\n"
        "model: {name: transformer, width: 8}\ntrain: {objective: mse, batch_size: 1}\nseeds: 1\n"
    )
    with pytest.raises(SweepError) as caught:
        load_sweep(written(tmp_path, text))
    (mistake,) = caught.value.mistakes
    assert (mistake.path, mistake.line) == ("train.objective", 5)
    assert "mse, which is for images or vectors" in mistake.message
    assert "the data set holds sentence pairs" in mistake.message


PLUGIN = '''
from dataclasses import dataclass
from phasegrid.declare import Objective

@dataclass(frozen=True)
class Args:
    power: float = 2.0

def loss(logits, batch, power):
    """(1 - p of the label) to a power."""
    p = logits.softmax(-1).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    return (1 - p) ** power

LOSS = Objective(Args, loss, version=3)
'''


def test_an_objective_of_ones_own_trains_and_scores(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    text = SWEEP.replace("objective: mse", "objective: {name: 'mine.py:LOSS'}")
    text = text.replace("train.objective.reduction, values: [half_sum, mean]",
                        "train.objective.power, values: [1.0, 2.0]")  # fmt: skip
    text = text.replace("  - connectivity: {epochs: 2, points: 3}\n", "")
    store = Store.open(str(tmp_path / "results"), create=True)
    sweep = load_sweep(written(tmp_path, text))
    assert (
        run_sweep(sweep, store, RunTarget(serial=True), Console(quiet=True), True, None).exit_code
        == 0
    )
    results = open_results(store.url)
    trials = results.trials()
    assert set(trials["objective"]) == {"mine.py:LOSS"}
    assert set(trials["objective_version"]) == {3}
    assert trials["objective_code_digest"].notna().all()
    assert trials["test_loss"].between(0, 1).all()
    # Its curvature is not declared, so its trace is an estimate.
    assert set(results.metric("hessian")["trace_method"]) <= {"hutchinson_deflated"}


def test_a_stage_has_an_objective_of_its_own_or_that_of_the_training_before(
    tmp_path: Path,
) -> None:
    text = (
        "schema: 1\nname: few\ndataset: {name: digits}\nmodel: {name: mlp}\nseeds: 1\n"
        "train: {objective: {name: mse, reduction: mean}, epochs: 2, stop: null}\nstages:\n"
        "  - {name: same, train: {lr: 0.01}}\n"
        "  - {name: other, train: {objective: {name: cross_entropy, label_smoothing: 0.2}}}\n"
        "temperature: {param: stages.same.objective.reduction, values: [mean, half_sum]}\n"
    )
    trials = {
        t.key: t for c in make_plan(load_sweep(written(tmp_path, text))).cells for t in c.trials
    }
    found = [
        (t.recipe["objective"] and t.recipe["objective"]["args"], t.recipe["label_smoothing"])  # type: ignore[index,call-overload]
        for t in trials.values()
    ]
    assert ({"reduction": "mean"}, 0.0) in found
    assert ({"reduction": "half_sum"}, 0.0) in found
    assert (None, 0.2) in found


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_what_reduces_losses_agrees_with_the_loss_of_each_label(reduction: str) -> None:
    rng = torch.Generator().manual_seed(5)
    logits = torch.randn(1, LABELS, CLASSES, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (1, LABELS), generator=rng)
    declared = {name: o.reduced for name, o in OBJECTIVES.items() if o.reduced is not None}
    assert "cross_entropy" in declared
    for name, reference in declared.items():
        args = {"label_smoothing": 0.2} if name == "cross_entropy" else {}
        each = loss_of(name, args)(logits, Batch(logits, labels))
        found = import_function(reference)(logits[0], labels[0], reduction, **args)
        torch.testing.assert_close(found, getattr(each, reduction)(), rtol=1e-12, atol=0)
