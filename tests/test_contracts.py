"""A plug-in that breaks its contract is told so before anything runs: in our words, with the line
of the code and of the sweep.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from phasegrid import load_sweep, plugin_files
from phasegrid.cli.main import app
from phasegrid.config.load import Sweep
from phasegrid.errors import SweepError
from phasegrid.run.worker.contract_trials import trying

LAB = """\
import math, time
from dataclasses import dataclass
import torch
from torch import nn
from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import Column, DatasetFacts, DatasetKind, Metric, Model, locator

@dataclass(frozen=True)
class Args:
    size: int = 3

class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.layer, self.how = nn.Linear(5, 3), forward
    def forward(self, x):  # Net.forward
        return self.how(self.layer, x)

def of(forward):
    return Model(Args, lambda shape, k, size: Net(forward))

def made(make):
    return Model(Args, lambda shape, k, size: make())  # made

class Empty(Net):
    def __init__(self):
        super().__init__(lambda f, x: f(x) * self.scale)
        self.scale = nn.Parameter(torch.empty(3))

def raises(f, x):
    return f(x.reshape(-1, 7))  # raises

def slow(f, x):
    while True:
        time.sleep(0.01)

TUPLE = of(lambda f, x: (f(x), None))
DICT = of(lambda f, x: {"logits": f(x)})
SQUEEZE = of(lambda f, x: f(x).squeeze())
FLAT = of(lambda f, x: f(x).mean(0))
HALF = of(lambda f, x: f(x).half())
NAN = of(lambda f, x: f(x) / 0 * 0)
DETACHED = of(lambda f, x: f(x).detach())
RAISES = of(raises)
SLOW = of(slow)
DOUBLE = made(lambda: nn.Linear(5, 3).double())
ONE = made(lambda: nn.Linear(5, 1))
LAZY = made(lambda: nn.LazyLinear(3))
EMPTY = made(Empty)
FROZEN = made(lambda: nn.Linear(5, 3).requires_grad_(False))
NUMBER = made(lambda: 3)
BREAKS = made(lambda: 1 / 0)  # breaks

SOUND = made(lambda: nn.Linear(5, 3))
NORMED = made(lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)))
DROPPED = made(lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout()))
WORDS = of(lambda f, x: f.weight.sum() + torch.eye(5, 3)[x.long()].sum(1))
WHITE = of(lambda f, x: f(x / x.std()))

COLUMNS = (Column("value", "float64", "", "a number"), Column("count", "int64", "", "a count"))

def metric(compute, over="trial", columns=COLUMNS):
    return Metric(over, Args, columns, compute)

def misspelt(models, data, rng, size):
    return {"value": sise}  # misspelt

def few(models, data, rng, size):
    raise ValueError("too few")

def sleeps(models, data, rng, size):
    while True:
        time.sleep(0.01)

def two(models, data, rng, size):
    return [{"value": 1.0, "count": len(models)}, {"value": math.nan, "count": 2}]

COUNT = Column("count", "int64", "", "a count", role="axis")
GOOD = metric(two, columns=(COLUMNS[0], COUNT))
ROWS = metric(two)
BRIGHT = metric(two, columns=(Column("value", "float64", "", "", colours="bright"), COUNT))
PAIR = metric(lambda m, d, r, size: {"value": float((m[0](d.train_inputs) - m[1](d.test_inputs)).sum()), "count": len(m)}, "pair")
CELL = metric(lambda m, d, r, size: {"value": 0.0, "count": len(m)}, "cell")
MISSPELT = metric(misspelt)
NONE = metric(lambda m, d, r, size: None)
NO_ROWS = metric(lambda m, d, r, size: [])
UNKNOWN = metric(lambda m, d, r, size: {"valeu": 1.0})
TEXT = metric(lambda m, d, r, size: {"value": "1"})
FEW = metric(few)
PART = metric(lambda m, d, r, size: {"value": 1.0})
SLEEPS = metric(sleeps)
TWICE = metric(lambda m, d, r, size: {}, columns=(Column("key", "string", "", "taken"),))

def draw(n=16, k=3):
    x, zero = torch.randn(n + 8, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(1)
    y = torch.arange(n + 8) % k
    return Dataset("lab", x[:n], y[:n], x[n:], y[n:], 3, zero, zero)

def data(load, facts):
    return DatasetKind(Args, load, facts)

def short(size):
    return draw()[0]  # short

def say(args):
    return args["side"]  # say

FACTS = DatasetFacts(16, 8, (5,), 3)
DATA = data(lambda size: draw(), lambda args: FACTS)
UNKNOWN_FACTS = data(lambda size: draw(), lambda args: None)
ODD = data(lambda size: draw(17), lambda args: DatasetFacts(17, 8, (5,), 3))
SHORT = data(short, lambda args: FACTS)
OTHER = data(lambda size: draw(12), lambda args: FACTS)
LABELS = data(lambda size: draw(k=4), lambda args: FACTS)
SAYS = data(lambda size: draw(), say)
DICT_FACTS = data(lambda size: draw(), lambda args: {"num_train": 16})
NO_FACTS = data(lambda size: draw(), lambda args: DatasetFacts(0, 8, (5,), 3))
AWAY = data(lambda size: open("/nowhere/at/all"), lambda args: FACTS)

@dataclass(frozen=True)
class Files:
    root: str = locator("/nowhere")

REMOTE = DatasetKind(Files, lambda root: open(root), lambda args: FACTS)
"""
SWEEP = """\
schema: 1
name: contract
dataset: {name: "lab.py:DATA"}
model: {}
train: {batch_size: 8, epochs: 1, stop: null}
load: {param: model.name, values: [NETS]}
seeds: 4
"""


def lines(mark: str) -> int:
    """Return the line of the plug-in that ends in a mark."""
    return 1 + next(i for i, line in enumerate(LAB.splitlines()) if line.endswith(mark))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(plugin_files.FOLDERS_VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.py").write_text(LAB)
    return tmp_path


def load(
    folder: Path, *nets: str, data: str = "lab.py:DATA", metrics: str = "[]", train: str = ""
) -> Sweep:
    names = ", ".join(f'"lab.py:{net}"' for net in nets or ("SOUND",))
    text = (
        SWEEP.replace("NETS", names)
        .replace("lab.py:DATA", data)
        .replace("batch_size: 8", train or "batch_size: 8")
    )
    (folder / "s.yaml").write_text(text + f"metrics: {metrics}\n")
    return load_sweep(folder / "s.yaml")


def fault(folder: Path, *nets: str, data: str = "lab.py:DATA", metrics: str = "[]") -> str:
    with pytest.raises(SweepError) as caught:
        load(folder, *nets, data=data, metrics=metrics)
    (mistake,) = caught.value.mistakes
    return str(mistake)


FORWARD = f"(lab.py:{lines('# Net.forward')})"
MADE = f"(lab.py:{lines('# made')})"
ALLOWED = "; allowed: a float32 tensor (B, classes), here "


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("TUPLE", f"forward returns a tuple{ALLOWED}(2, 3) {FORWARD}"),
        ("DICT", f"forward returns a dict{ALLOWED}(2, 3) {FORWARD}"),
        ("SQUEEZE", f"forward maps a batch of 1 example to the shape (3,){ALLOWED}(1, 3) {FORWARD}"),
        ("FLAT", f"forward maps a batch of 2 examples to the shape (3,){ALLOWED}(2, 3) {FORWARD}"),
        ("HALF", f"forward returns float16{ALLOWED}(2, 3) {FORWARD}"),
        ("NAN", f"the untrained network maps a batch of 2 examples to NaN or infinities in eval mode {FORWARD}"),
        ("DETACHED", f"its outputs do not depend on a parameter that can be trained {FORWARD}"),
        ("RAISES", "its forward pass fails on a batch of 2 examples in eval mode: RuntimeError: shape '[-1, 7]' is invalid for input of size 10 "
         f"(lab.py:{lines('# raises')})"),
        ("DOUBLE", f"parameter weight is float64; allowed: float32 {MADE}"),
        ("ONE", f"forward maps a batch of 2 examples to the shape (2, 1){ALLOWED}(2, 3) {MADE}"),
        ("LAZY", f"parameter weight has no shape before the first forward pass; allowed: parameters made with their shape {MADE}"),
        ("EMPTY", f"parameter scale holds NaN or infinities, or is never initialised; allowed: finite numbers {MADE}"),
        ("FROZEN", f"no parameter of the network can be trained {MADE}"),
        ("NUMBER", f"building model lab.py:NUMBER: its make function returned int; it must return a torch.nn.Module {MADE}"),
        ("BREAKS", f"its make function fails: ZeroDivisionError: division by zero (lab.py:{lines('# breaks')})"),
    ],
)  # fmt: skip
def test_a_network_that_breaks_its_contract_is_refused(
    folder: Path, net: str, message: str
) -> None:
    found = fault(folder, net)
    assert found == f"{folder / 's.yaml'}:6:36: model.name: model 'lab.py:{net}': {message}"


@pytest.mark.parametrize("net", ["SOUND", "NORMED", "DROPPED", "WORDS", "WHITE"])
def test_a_sound_network_is_let_through(folder: Path, net: str) -> None:
    tried = load(folder, net).tried
    assert tried.notes == ()
    assert tried.lines == (
        "dataset 'lab.py:DATA': loaded",
        (
            f"model 'lab.py:{net}': built, run forward and backward on 2 made-up examples of shape"
            " (5,)"
        ),
    )


def test_a_batch_of_one_is_tried_where_it_must_work(folder: Path) -> None:
    """BatchNorm cannot take one example: it joins the batch before, but not where every batch is
    one.
    """
    assert load(folder, "NORMED", data="lab.py:ODD").tried.notes == ()
    with pytest.raises(SweepError, match="fails on a batch of 1 example in train mode: ValueError"):
        load(folder, "NORMED", train="batch_size: 1")
    assert load(folder, "SOUND", train="batch_size: 1").tried.notes == ()


def test_every_fault_is_told_at_once_each_at_its_place(folder: Path) -> None:
    with pytest.raises(SweepError) as caught:
        load(
            folder,
            "TUPLE",
            "SOUND",
            "ONE",
            metrics='["lab.py:NONE", {"lab.py:TEXT": {}}, accuracy]',
        )
    places = [(m.line, m.column, m.path) for m in caught.value.mistakes]
    assert [place[0] for place in places] == [6, 6, 8, 8]
    assert [place[2] for place in places] == ["model.name", "model.name", "metrics", "metrics"]
    assert len({place[1] for place in places[:2]}) == 2


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("MISSPELT", f"measuring fails: NameError: name 'sise' is not defined (lab.py:{lines('# misspelt')})"),
        ("NONE", "it returns a NoneType; allowed: a row (a mapping from columns to values), or a list of rows"),
        ("NO_ROWS", "it returns an empty list; allowed: a row"),
        ("UNKNOWN", "table metrics/lab.py:UNKNOWN has no column 'valeu'; did you mean 'value'?"),
        ("TEXT", "column 'value' is double: found '1' of type str"),
        ("TWICE", "declares column 'key' twice"),
        ("BRIGHT", "column 'value': colours is 'bright'; allowed: a colour map of matplotlib, as viridis"),
    ],
)  # fmt: skip
def test_a_metric_that_breaks_its_contract_is_refused(
    folder: Path, metric: str, message: str
) -> None:
    found = fault(folder, metrics=f'["lab.py:{metric}"]')
    assert found.startswith(f"{folder / 's.yaml'}:8:11: metrics: metric 'lab.py:{metric}': ")
    assert message in found
    assert "(lab.py:" in found


@pytest.mark.parametrize(
    ("metric", "note"),
    [
        ("FEW", "on 2 made-up examples and untrained networks it raises: ValueError: too few (lab.py:"),
        ("PART", "returned no count, which it declares"),
        ("ROWS", "returned 2 rows, but no column tells them apart, so figures and tables leave them out"),
    ],
)  # fmt: skip
def test_what_may_be_sound_is_noted_and_let_through(folder: Path, metric: str, note: str) -> None:
    (found,) = load(folder, metrics=f'["lab.py:{metric}"]').tried.notes
    assert found.startswith(f"metric 'lab.py:{metric}': ")
    assert note in found


def test_sound_metrics_are_tried_on_as_many_networks_as_they_are_over(folder: Path) -> None:
    lines = load(folder, metrics='["lab.py:GOOD", "lab.py:PAIR", "lab.py:CELL"]').tried.lines[2:]
    assert lines == (
        "metric 'lab.py:GOOD': measured 1 untrained network on 2 made-up examples",
        "metric 'lab.py:PAIR': measured 2 untrained networks on 2 made-up examples",
        "metric 'lab.py:CELL': measured 3 untrained networks on 2 made-up examples",
    )


def test_what_takes_long_is_noted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "LIMIT_S", 1.0)  # no sound one here takes a tenth of it
    handler = signal.getsignal(signal.SIGALRM)
    for notes in (load(folder, "SLOW").tried.notes, load(folder, metrics='["lab.py:SLEEPS"]').tried.notes):  # fmt: skip
        assert [note.partition(": ")[2] for note in notes] == [
            "takes longer than 1 s on 2 examples; the check was stopped"
        ]
    assert signal.getsignal(signal.SIGALRM) == handler


def test_trying_leaves_the_random_state_as_it_was(folder: Path) -> None:
    state = torch.get_rng_state()
    assert load(folder, "DROPPED").tried.lines
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("SHORT", f"TypeError: 'Dataset' object is not subscriptable (lab.py:{lines('# short')})"),
        ("OTHER", "its facts say num_train 16, what is loaded has 12"),
        ("LABELS", "train_labels run from 0 to 3; with 3 classes allowed: 0 to 2"),
        ("SAYS", f"data set 'lab.py:SAYS': KeyError: 'side' (lab.py:{lines('# say')})"),
        ("DICT_FACTS", "its facts are of type dict; allowed: a phasegrid.declare.DatasetFacts"),
        ("NO_FACTS", "allowed: counts and sizes above 0"),
    ],
)  # fmt: skip
def test_a_data_set_that_breaks_its_contract_is_refused(
    folder: Path, data: str, message: str
) -> None:
    assert message in fault(folder, data=f"lab.py:{data}")


def test_data_that_is_elsewhere_is_no_fault(folder: Path) -> None:
    tried = load(folder, data="lab.py:AWAY", metrics='["lab.py:GOOD"]').tried
    assert "No such file" in tried.notes[0]
    assert [line[:5] for line in tried.lines] == ["model", "metri"]
    tried = load(folder, data="lab.py:REMOTE").tried  # files are a run's affair
    assert tried.notes == ()
    assert [line[:5] for line in tried.lines] == ["model"]


def test_what_a_data_set_does_not_say_is_found_by_loading_it(folder: Path) -> None:
    assert fault(folder, "ONE", data="lab.py:UNKNOWN_FACTS").endswith(f"(2, 3) {MADE}")
    assert len(load(folder, data="lab.py:UNKNOWN_FACTS").tried.lines) == 2


def test_validate_says_what_was_tried_and_run_starts_nothing(folder: Path) -> None:
    load(folder, metrics='["lab.py:FEW"]')
    said = CliRunner().invoke(app, ["validate", "s.yaml"]).output
    assert "tried model 'lab.py:SOUND': built, run forward and backward" in said
    assert "note: metric 'lab.py:FEW': on 2 made-up examples" in said
    fault(folder, "ONE")
    result = CliRunner().invoke(app, ["run", "s.yaml", "--serial", "--storage", "store"])
    assert isinstance(result.exception, SweepError)
    assert not (folder / "store").exists()


def test_a_sweep_without_plugins_is_read_without_torch(tmp_path: Path) -> None:
    text = SWEEP.replace("NETS", "mlp, mlp").replace("lab.py:DATA", "digits").replace(", mlp", "")
    (tmp_path / "s.yaml").write_text(text + "metrics: [accuracy]\n")
    code = (
        "import sys; from phasegrid import load_sweep; load_sweep(sys.argv[1]); print('torch' in"
        " sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s.yaml")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "False"
