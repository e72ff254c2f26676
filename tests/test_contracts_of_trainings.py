"""An objective or a schedule of the user's that breaks its contract is told so before anything runs:
in our words, with the line of the code and of the sweep.
"""

from pathlib import Path

import pytest

from phasegrid import load_sweep, plugin_files
from phasegrid.config.load import Sweep
from phasegrid.errors import SweepError

LAB = """\
import math
from dataclasses import dataclass
import torch
from torch.nn.functional import one_hot
from phasegrid.declare import Objective, ScheduleKind

@dataclass(frozen=True)
class Args:
    power: float = 2.0

def loss(logits, batch, power=2.0):  # loss
    p = logits.softmax(-1).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    return (1 - p) ** power / power

def squared(logits, batch, power=2.0):
    return 0.5 * (logits - one_hot(batch.labels, logits.shape[-1])).square().sum(-1)

def total(logits, labels, reduction, power=2.0):
    losses = loss(logits[None], Labels(labels[None]), power)
    return losses.sum() if reduction == "sum" else losses.mean()

class Labels:
    def __init__(self, labels):
        self.labels = labels

def unit(logits, power=2.0):
    c = logits.shape[1]
    return logits.new_ones(len(logits), c), torch.eye(c).to(logits).expand(len(logits), c, c)

def raises(logits, batch, power):
    return logits.view(-1, 7)  # raises

def writes(logits, batch, power):
    return logits.mul_(1.0).sum(-1)

def marked(losses, batch):
    return losses * (1 + batch.extra["aside"]) if "aside" in batch.extra else losses

def of(how):
    return Objective(Args, lambda logits, batch, power: how(logits, loss(logits, batch, power)))  # of

SOUND = Objective(Args, loss, predicts="probabilities", reduced=total, training_only=("power",))
SQUARED = Objective(Args, squared, curvature=unit)
ASIDE = Objective(Args, lambda logits, batch, power: marked(loss(logits, batch), batch), aside="power")
RAISES = Objective(Args, raises)
WRITES = Objective(Args, writes)
MEAN = of(lambda z, l: l.mean())
FLOAT = of(lambda z, l: 0.5)
WHOLE = of(lambda z, l: l.round().long())
NAN = of(lambda z, l: l.log() * -1 - 1 / (l - l))
DETACHED = of(lambda z, l: l.detach())
STEEP = of(lambda z, l: (l - l.detach()).abs().sqrt() + l)
NORMED = of(lambda z, l: l / l.sum(1, keepdim=True))
NO_SOFTMAX = Objective(Args, squared, predicts="probabilities")
REDUCED = Objective(Args, loss, reduced=lambda z, y, reduction, power: total(z, y, "mean", power))
CURVED = Objective(Args, squared, curvature=lambda z, power: (2 * unit(z)[0], unit(z)[1]))
NO_DEFAULT = Objective(Args, lambda logits, batch, power: loss(logits, batch, power), training_only=("power",))
MISSPELT = Objective(Args, loss, aside="powr")
TASK = Objective(Args, loss, tasks=("clasification",))

def scheduled(how):
    return ScheduleKind(Args, how)

def ends(moment, args):
    return 1 / (moment.total - 1 - moment.update)  # ends

asked = []

def forgets(moment, args):
    asked.append(moment)
    return 1 / len(asked)

FALLING = scheduled(lambda moment, args: 1 - moment.done / moment.length)
SOMETIMES = scheduled(lambda moment, args: float(moment.update % 2))
ENDS = scheduled(ends)
NOTHING = scheduled(lambda moment, args: None)
BELOW = scheduled(lambda moment, args: 0.5 - moment.epoch)
NEVER = scheduled(lambda moment, args: 0)
FORGETS = scheduled(forgets)
POWER = scheduled(lambda moment, args: args.power)
"""
SWEEP = """\
schema: 1
name: contract
dataset: {name: digits, fraction: 0.1, aside: 0.5}
model: {name: mlp}
train: {batch_size: 8, epochs: 3, stop: null, keep: last, USER}
seeds: 1
"""


def line(mark: str) -> str:
    """Return the place of the plug-in's line that ends in a mark, as messages write it."""
    number = 1 + next(i for i, each in enumerate(LAB.splitlines()) if each.endswith(mark))
    return f"(lab.py:{number})"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(plugin_files.FOLDERS_VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.py").write_text(LAB)
    return tmp_path


def load(folder: Path, used: str, more: str = "") -> Sweep:
    (folder / "s.yaml").write_text(SWEEP.replace("USER", used) + more)
    return load_sweep(folder / "s.yaml")


def mistake(folder: Path, used: str, more: str = "") -> str:
    with pytest.raises(SweepError) as caught:
        load(folder, used, more)
    (found,) = caught.value.mistakes
    return str(found).removeprefix(f"{folder / 's.yaml'}:")


OF = line("# of")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RAISES", f"its loss fails in training: RuntimeError: shape '[-1, 7]' is invalid for input of size 40 {line('# raises')}"),
        ("WRITES", "its loss fails in training: RuntimeError: a leaf Variable that requires grad is being used in an in-place operation."),
        ("MEAN", f"its loss maps outputs (M, B, C), here (2, 2, 10), to the shape (); allowed: a floating-point tensor (M, B), here (2, 2) {OF}"),
        ("FLOAT", f"its loss returns a float; allowed: a floating-point tensor (M, B), here (2, 2) {OF}"),
        ("WHOLE", f"its loss returns int64; allowed: a floating-point tensor (M, B), here (2, 2) {OF}"),
        ("NAN", f"its loss gives NaN or infinities in training {OF}"),
        ("DETACHED", f"its loss cannot be differentiated in the outputs {OF}"),
        ("STEEP", f"the gradient of its loss is NaN or infinite {OF}"),
        ("NORMED", "allowed: a loss of each label by itself"),
        ("NO_SOFTMAX", 'it declares predicts="probabilities", but its loss is no function of the softmax'),
        ("REDUCED", "its reduced function gives"),
        ("CURVED", "its curvature is not the Hessian of its loss in the outputs"),
        ("NO_DEFAULT", "its loss fails in scoring: TypeError"),
        ("MISSPELT", "objective 'lab.py:MISSPELT' declares aside 'powr'; allowed: power; did you mean 'power'?"),
        ("TASK", "objective 'lab.py:TASK' declares tasks 'clasification'; allowed: classification, translation, language"),
    ],
)  # fmt: skip
def test_an_objective_that_breaks_its_contract_is_refused(
    folder: Path, name: str, message: str
) -> None:
    found = mistake(folder, f'objective: "lab.py:{name}"')
    assert found.startswith("5:70: train.objective")
    assert f"objective 'lab.py:{name}'" in found
    assert message in found


@pytest.mark.parametrize("name", ["SOUND", "SQUARED", "{name: ASIDE, power: 0.5}"])
def test_a_sound_objective_is_let_through(folder: Path, name: str) -> None:
    quoted = name.replace("ASIDE", '"lab.py:ASIDE"') if "{" in name else f'"lab.py:{name}"'
    tried = load(folder, f"objective: {quoted}").tried
    assert tried.notes == ()
    (line,) = tried.lines
    assert line.endswith("computed and differentiated for made-up outputs of 2 examples")


def test_an_objective_is_tried_with_the_arguments_of_every_cell(folder: Path) -> None:
    axis = "load: {param: train.objective.power, values: [1, 2, 0]}\n"
    found = mistake(folder, 'objective: "lab.py:SOUND"', axis)
    assert found.startswith("5:70: train.objective.name: objective 'lab.py:SOUND': its loss gives")
    assert found.endswith("(in the cell load 0.0)")


def test_a_name_on_an_axis_is_blamed_there(folder: Path) -> None:
    axis = 'load: {param: train.objective, values: [mse, "lab.py:SOUND", "lab.py:MEAN"]}\n'
    assert mistake(folder, "lr: 0.1", axis).startswith("7:62: train.objective.name: objective")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ENDS", f"its factor fails at update 26 of 27 (counted from 0, epoch 2): ZeroDivisionError: division by zero {line('# ends')}"),
        ("NOTHING", "its factor fails at update 0 of 27 (counted from 0, epoch 0): TypeError"),
        ("BELOW", "its factor is -0.5 at update 9 of 27 (counted from 0, epoch 1); allowed: a finite number from 0 (lab.py:"),
        ("NEVER", "its factor is 0 at every update, so nothing is trained"),
        ("FORGETS", "when asked again; allowed: one factor for a moment"),
    ],
)  # fmt: skip
def test_a_schedule_that_breaks_its_contract_is_refused(
    folder: Path, name: str, message: str
) -> None:
    found = mistake(folder, f'schedule: "lab.py:{name}"')
    assert found.startswith(f"5:69: train.schedule.name: schedule 'lab.py:{name}': ")
    assert message in found


@pytest.mark.parametrize("name", ["FALLING", "SOMETIMES"])
def test_a_sound_schedule_is_let_through(folder: Path, name: str) -> None:
    tried = load(folder, f'schedule: "lab.py:{name}"').tried
    assert tried.notes == ()
    (line,) = tried.lines
    assert (
        line == f"schedule 'lab.py:{name}': asked for its factors from the first update to the last"
    )


def test_the_schedule_of_a_stage_is_blamed_in_the_stage(folder: Path) -> None:
    stage = 'stages:\n  - {name: on, train: {schedule: "lab.py:ENDS"}}\n'
    found = mistake(folder, "lr: 0.1", stage)
    assert found.startswith("8:34: stages.on.schedule.name: schedule 'lab.py:ENDS': ")
