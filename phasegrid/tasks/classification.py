"""One label for each array: images, or vectors.

Letters: N examples of shape S, C classes, M members, B examples of a batch, m examples of a probe.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.declare import Form
from phasegrid.tasks.batches import Cut, EpochOrder, Lengths, draw_order, draw_orders
from phasegrid.tasks.operations import Chunk, Examples, Mix, Operations, evaluation_batch


def array_mistakes(data: Examples) -> list[str]:
    """Return what is wrong with types, shapes, labels and finiteness of inputs (N, *S) float32 and
    labels (N,) int64.
    """
    mistakes = []
    if data.form is not None:
        mistakes.append(f"form is {data.form}, but images and vectors have none")
    mistakes += _split_mistakes("train", data.train_inputs, data.train_labels, data.num_classes)
    mistakes += _split_mistakes("test", data.test_inputs, data.test_labels, data.num_classes)
    if len(data.aside_labels):
        aside = data.aside_inputs, data.aside_labels
        mistakes += _split_mistakes("aside", *aside, data.num_classes)
        if aside[0].shape[1:] != data.train_inputs.shape[1:]:
            mistakes.append(
                f"one training input has the shape {tuple(data.train_inputs.shape[1:])}, one"
                " that is"
                f" set aside {tuple(aside[0].shape[1:])}"
            )
    shape, tested = (tuple(x.shape[1:]) for x in (data.train_inputs, data.test_inputs))
    if tested != shape:
        mistakes.append(f"one training input has the shape {shape}, one test input {tested}")
    return mistakes


def _split_mistakes(split: str, inputs: Tensor, labels: Tensor, num_classes: int) -> list[str]:
    mistakes = []
    if inputs.dtype != torch.float32:
        mistakes.append(f"{split}_inputs are {inputs.dtype}; they must be float32")
    if labels.dtype != torch.int64 or labels.dim() != 1:
        return [
            *mistakes,
            f"{split}_labels are {labels.dtype} {tuple(labels.shape)}, not int64 (N,)",
        ]
    if len(inputs) != len(labels) or len(labels) == 0:
        return [*mistakes, f"{split} has {len(inputs)} inputs and {len(labels)} labels"]
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= num_classes:
        mistakes.append(
            f"{split}_labels run from {smallest} to {largest}; with {num_classes} classes allowed: "
            f"0 to {num_classes - 1}"
        )
    if not _all_finite(inputs):
        finite = torch.isfinite(inputs).flatten(1).all(dim=1)
        mistakes.append(
            f"{split}_inputs hold NaN or infinities, or what float32 cannot hold (beyond 3.4e38),"
            f" in {int((~finite).sum())} of {len(finite)} examples, first in example"
            f" {int((~finite).int().argmax())} of those kept"
        )
    return mistakes


def _all_finite(inputs: Tensor) -> bool:
    """Say whether all numbers are finite, without a copy: a sum is not, if one of them is not. The
    sum of finite numbers may be too large; then the smallest and the largest tell. What is repeated
    without memory of its own is looked at once.
    """
    inputs = inputs[tuple(slice(0, 1 if step == 0 else None) for step in inputs.stride())]
    if inputs.numel() == 0 or bool(torch.isfinite(inputs.sum())):
        return True
    return all(bool(torch.isfinite(end)) for end in inputs.flatten(1).aminmax())


def _made_up(
    input_shape: tuple[int, ...], num_classes: int, _form: Form | None, num: int
) -> list[tuple[Tensor, Tensor]]:
    """Return noise and, as a second kind, zeros: a network may take numbers of one kind only."""
    shape, labels = (num, *input_shape), torch.arange(num) % num_classes
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return [(noise, labels), (torch.zeros(shape), labels)]


def _output_shape(inputs: Tensor, num_classes: int) -> tuple[str, tuple[int, ...]]:
    return "(B, classes)", (len(inputs), num_classes)


def _draw_epoch(
    num: int, _lengths: Lengths | None, cut: Cut, orders: Sequence[torch.Generator]
) -> EpochOrder:
    assert cut.bounds is not None
    sizes = [batch.stop - batch.start for batch in cut.bounds]
    return EpochOrder(draw_orders(num, orders), cut.bounds, sizes)


def _cut(
    inputs: Tensor, _num_classes: int, _itemsize: int, batch_size: int | None = None
) -> list[Chunk]:
    size, num = batch_size or evaluation_batch(inputs), len(inputs)
    return [slice(start, min(num, start + size)) for start in range(0, num, size)]


@dataclass(frozen=True, slots=True)
class _Arrays:
    """The examples of a probe, (m, *S), already mixed."""

    inputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def chunks(self, itemsize: int, batch_size: int | None) -> list[Chunk]:
        return _cut(self.inputs, 0, itemsize, batch_size)

    def run(self, module: nn.Module, chunk: Chunk) -> Tensor:
        outputs: Tensor = module(self.inputs[chunk].clone())
        return outputs

    def rows(self, _name: str, output: Tensor, _chunk: Chunk) -> Tensor:
        return output.flatten(1).clone()


def _probe(
    inputs: Tensor, _labels: Tensor, _num_classes: int, _seed: int, mix: Mix | None
) -> _Arrays:
    if mix is None:
        return _Arrays(inputs)
    c = mix.shares.to(inputs)
    c = c.view(len(c), *[1] * (inputs.dim() - 1))
    return _Arrays(c * inputs + (1 - c) * mix.partners)


OPERATIONS = Operations(
    mistakes=array_mistakes,
    made_up=_made_up,
    output_shape=_output_shape,
    lengths=lambda _inputs, _labels: None,
    order=draw_order,
    draw_epoch=_draw_epoch,
    trim=lambda inputs, labels: (inputs, labels),
    cut=_cut,
    by_length=lambda _inputs: None,
    scored=lambda logits, labels: (logits, labels),
    num_scored=lambda labels: labels.numel(),
    flat=lambda logits, labels: (logits, labels, None),
    probe=_probe,
)
