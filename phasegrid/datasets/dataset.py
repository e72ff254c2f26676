"""A data set in memory: tensors, and the facts that metrics need to interpret them."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from phasegrid.declare import DatasetFacts, Form
from phasegrid.tasks.losses import CROSS_ENTROPY, Criterion
from phasegrid.tasks.operations import Operations, operations_of
from phasegrid.tasks.scoring import Scoring
from phasegrid.tasks.text import Text

__all__ = ["TENSORS", "Dataset", "Text"]

TENSORS = (
    "train_inputs",
    "train_labels",
    "test_inputs",
    "test_labels",
    "pixel",
    "padding",
    "aside_inputs",
    "aside_labels",
)
"""The fields of a `Dataset` that are tensors."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Normalised inputs and labels of a training and a test set, all on one device.

    Shapes: `train_inputs` (N, *S) float32, `train_labels` (N,) int64, likewise `test_*`; S is
    `input_shape`. `pixel` is the size of one pixel unit (1/255 of the full range of an image) in
    the normalised inputs, per channel, with shape (C, 1, 1) for images and broadcastable to S for
    others: image noise of u pixel units is ``u * pixel * U[0, 1]``. `padding` is the value of a
    zero pixel after normalisation, with the shape of `pixel`: flip_crop pads with it. `aside_*`,
    like `train_*`, are examples on which no network is trained or scored, except by an objective
    that takes a part of every batch from there; most data sets set none aside.

    This holds for the task ``classification``. Sentence pairs (``translation``) have a `form` (and
    `text`): inputs are (N, 2, L) int64 and labels (N, L) int64, laid out as
    `phasegrid.declare.Tokens` says; `pixel` and `padding` have no meaning. Running text
    (``language``) is laid out as `phasegrid.declare.Windows` says; `words` lists the words of its
    numbers, if they are known. `objective` is the loss by which networks are scored; a metric gets
    the data with the objective of the trial.
    """

    name: str
    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int
    pixel: Tensor
    padding: Tensor
    augment: Literal["none", "flip_crop"] = "none"
    task: str = "classification"
    form: Form | None = None
    text: Text | None = None
    words: tuple[str, ...] = ()
    objective: Criterion = CROSS_ENTROPY
    aside_inputs: Tensor = field(default_factory=lambda: torch.empty(0))
    aside_labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.train_inputs.shape[1:])

    @property
    def facts(self) -> DatasetFacts:
        """What planning needs to know about it; every example counts as one label."""
        return DatasetFacts(
            len(self.train_labels),
            len(self.test_labels),
            self.input_shape,
            self.num_classes,
            self.task,
            self.form,
            num_aside=len(self.aside_labels),
        )

    @property
    def operations(self) -> Operations:
        """The operations on tensors of its task."""
        return operations_of(self.task)

    @property
    def scoring(self) -> Scoring:
        """How networks are scored on it."""
        return Scoring(self.task, self.num_classes, self.objective)

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data set on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})
