"""Laws of measuring with code that is not ours: it cannot change what others measure."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from phasegrid import load_sweep
from phasegrid.declare import Model
from phasegrid.jobs import Part
from phasegrid.models import MODELS, MlpArgs
from phasegrid.models.build import build_model
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.plugin_files import remember_folder
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.worker import loaded_data
from phasegrid.run.worker.pack import do
from phasegrid.run.worker.write_checks import checksums, hand_out, kept_settings, seal
from phasegrid.store.store import Store

SWEEP = """\
schema: 1
name: watched
dataset: {name: npz, path: blobs.npz}
model: {name: mlp, width: 4, depth: 1}
train: {epochs: 1, stop: null, batch_size: 16}
seeds: 2
metrics: ["lab.py:MINE", accuracy]
"""

LAB = """\
from dataclasses import dataclass
import torch
from torch.nn.functional import cross_entropy
from phasegrid.declare import Column, Metric
@dataclass(frozen=True)
class Args:
    pass
def compute(models, data, rng):
    model = models[0]
    number = cross_entropy(model(data.test_inputs), data.test_labels).item()
    first = next(model.parameters())
    {mischief}
    return {{"number": number}}
MINE = Metric("trial", Args, (Column("number", "float64", "", "a loss"),), compute)
"""

WRONG = {  # what it does to what it was given, and what the message says of it
    "writes into weights": ("with torch.no_grad(): first.add_(0.5)", "weights"),
    "writes past torch's counters": ("first.data.mul_(2)", "weights"),
    "writes through a view": ("first.detach()[0].zero_()", "weights"),
    "writes through NumPy": ("first.detach().numpy()[:] = 0", "weights"),
    "replaces a parameter": ("model.linear1.weight = torch.nn.Parameter(torch.ones(4, 5))", "weights"),
    "replaces a layer": ("model.classifier = torch.nn.Identity()", "weights"),
    "writes, and fails": ("first.data.zero_(); raise RuntimeError('of its own')", "of its own"),
    "writes into inputs": ("data.train_inputs.add_(1)", "train_inputs of data set npz"),
    "writes into labels past the counters": ("data.train_labels.data.zero_()", "train_labels of data set npz"),
    "shuffles inputs through NumPy": ("x = data.test_inputs.numpy(); x[:] = x[::-1].copy()", "test_inputs of data set npz"),
}  # fmt: skip

HARMLESS = {
    "leaves train mode on": "model.train()",
    "leaves gradients": "cross_entropy(model(data.test_inputs), data.test_labels).backward()",
    "freezes": "model.requires_grad_(False)",
    "leaves a hook": "model.register_forward_hook(lambda m, a, out: out + 1)",
    "replaces forward": "model.forward = lambda x: torch.zeros(len(x), 3)",
    "sets the process": "torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"), create=True)


NET = """
import math
from torch import nn
from torch.nn.functional import dropout
from phasegrid.declare import Model
class Net(nn.Module):
    def __init__(self, d, k):
        super().__init__()
        self.a, self.b = nn.Linear(d, 8), nn.Linear(8, k)
    def forward(self, x):
        return self.b(dropout(self.a(x.flatten(1)), 0.3))
NET = Model(Args, lambda shape, k: Net(math.prod(shape), k))
"""


def run(
    folder: Path, store: Store, mischief: str, model: str = "mlp, width: 4, depth: 1"
) -> list[Any]:
    """Train two small networks, measure them with a metric that does `mischief`, then with ours;
    return the outcomes.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    inputs = (rng.normal(size=(60, 5)) + labels[:, None]).astype(np.float32)
    np.savez(
        folder / "blobs.npz", train_inputs=inputs[:40], train_labels=labels[:40],
        test_inputs=inputs[40:], test_labels=labels[40:],
    )  # fmt: skip
    (folder / "lab.py").write_text(LAB.format(mischief=mischief) + NET)
    path = folder / "sweep.yaml"
    text = SWEEP.replace("blobs.npz", str(folder / "blobs.npz"))
    path.write_text(text.replace("mlp, width: 4, depth: 1", model))
    remember_folder(folder)
    packs = make_packs(make_plan(load_sweep(path)), (), lambda _cell, _job: 1.0)
    return [outcome for pack in packs for outcome in do(pack, store, PackOptions("cpu"))]


def assert_ours_are_right(store: Store) -> None:
    own = {row["key"]: row["test_loss"] for row in store.read_table("trials").to_pylist()}
    measured = store.read_table("metrics/accuracy").to_pylist()
    assert len(measured) == 2
    for row in measured:
        assert row["test_loss"] == pytest.approx(own[row["trials"][0]], abs=1e-12)


@pytest.mark.parametrize("what", WRONG)
def test_a_metric_that_changes_what_it_was_given_fails_by_name_and_harms_no_other(
    what: str, tmp_path: Path, store: Store
) -> None:
    mischief, message = WRONG[what]
    outcomes = run(tmp_path, store, mischief)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert len(failed) == 2
    for outcome in failed:
        assert message in str(outcome.error)
        if what != "writes, and fails":
            assert "metric 'lab.py:MINE' changed" in str(outcome.error)
            assert "copy.deepcopy(model)" in str(outcome.error)
    assert_ours_are_right(store)


@pytest.mark.parametrize("what", HARMLESS)
def test_what_a_metric_leaves_behind_is_thrown_away(
    what: str, tmp_path: Path, store: Store
) -> None:
    outcomes = run(tmp_path, store, HARMLESS[what])
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()
    assert_ours_are_right(store)


def test_what_a_metric_and_a_network_draw_comes_from_their_job(
    tmp_path: Path, store: Store
) -> None:
    """The network draws in eval mode too: its rows are the same each time, and our metrics refuse
    it by name.
    """
    mischief = "import random; number = number + torch.rand(()).item() + random.random()"
    tables = []
    for state, place in ((1, store), (2, Store.open(str(tmp_path / "other"), create=True))):
        torch.manual_seed(state)
        random.seed(state)
        before = torch.get_rng_state()
        outcomes = run(tmp_path, place, mischief, '"lab.py:NET"')
        assert torch.equal(before, torch.get_rng_state())
        errors = [str(o.error) for o in outcomes if o.status == "failed"]
        assert len(errors) == 2
        assert all("accuracy: the network draws random numbers in eval mode" in e for e in errors)
        mine = place.read_table("metrics/lab.py:MINE").to_pylist()
        trials = place.read_table("trials").to_pylist()
        numbers = {row["key"]: row["number"] for row in mine}
        tables.append((numbers, {row["key"]: row["test_loss"] for row in trials}))
    assert len(tables[0][0]) == 2
    assert tables[0] == tables[1]


def test_a_data_set_that_cannot_be_loaded_as_it_was_is_refused(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its load function returns the same arrays each time, and a metric has written into them."""
    kept: list[Any] = []

    def load(part: Part, _device: torch.device) -> Any:
        from phasegrid.datasets.load import load_dataset

        kept.extend([] if kept else [load_dataset(part)])
        return kept[0]

    monkeypatch.setattr(loaded_data, "load_dataset", load)
    outcomes = run(tmp_path, store, "data.train_inputs.data.add_(1)")
    refused = [
        str(o.error)
        for o in outcomes
        if "loading data set npz again: its contents differ from those first loaded" in str(o.error)
    ]
    assert len(refused) == 3  # the second measurement of that metric, and both of ours


def test_a_checksum_changes_with_every_entry_and_with_their_order() -> None:
    data = loaded_data.dataset_of(Part("digits", 1, {"fraction": 0.05}), torch.device("cpu"))
    before = checksums(data)
    inputs = data.train_inputs
    for change in (lambda: inputs[3, 0, 4].add_(1e-7), lambda: inputs.copy_(inputs.flip(0))):
        saved = inputs.clone()
        change()
        assert checksums(data)["train_inputs"] != before["train_inputs"]
        inputs.copy_(saved)
        assert checksums(data) == before
    loaded_data._DATASETS.clear()


def test_data_that_were_not_looked_at_cost_no_checksum() -> None:
    data = loaded_data.dataset_of(Part("digits", 1, {"fraction": 0.05}), torch.device("cpu"))
    handed = hand_out(data)
    assert handed.num_classes == 10
    assert handed.input_shape == data.input_shape
    assert not handed.looked_at
    assert handed.train_inputs is data.train_inputs
    assert handed.looked_at == {"train_inputs"}


def test_settings_of_the_process_are_restored_after_an_error() -> None:
    def set_and_fail() -> None:
        with kept_settings():
            torch.set_default_dtype(torch.float64)
            torch.set_num_threads(2)
            raise KeyError

    with pytest.raises(KeyError):
        set_and_fail()
    assert torch.get_default_dtype() is torch.float32
    assert torch.get_num_threads() == 1


def test_a_seal_sees_a_tensor_that_is_not_stored() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("table", torch.ones(2), persistent=False)
    was = seal(module, {name: value.clone() for name, value in module.state_dict().items()})
    assert was.is_whole(module)
    module.get_buffer("table").add_(1)
    assert not was.changed(module)
    assert not was.is_whole(module)


def test_a_network_gets_arguments_that_it_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(shape: tuple[int, ...], classes: int, sizes: list[int]) -> nn.Module:
        sizes.append(classes)
        return nn.Linear(shape[0], sizes[-1])

    monkeypatch.setitem(MODELS, "mine", Model(MlpArgs, make))
    part = Part("mine", 1, {"sizes": [4]})
    build_model(part, (3,), 2, seed=0)
    assert part.args == {"sizes": [4]}
