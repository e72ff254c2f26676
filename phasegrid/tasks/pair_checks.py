"""Check the types, shapes, ids and padding of sentence pairs (`phasegrid.declare.Tokens`)."""

import torch
from torch import Tensor

from phasegrid.declare import Tokens
from phasegrid.tasks.operations import Examples
from phasegrid.tasks.tokens import END, IGNORE, PADDING


def pair_mistakes(dataset: Examples) -> list[str]:
    """Return everything that is wrong with sentence pairs."""
    mistakes, tokens = [], dataset.form
    if not isinstance(tokens, Tokens):
        return [f"form is {tokens}; sentence pairs need a phasegrid.declare.Tokens"]
    if dataset.num_classes != tokens.target_vocabulary:
        mistakes.append(
            f"num_classes is {dataset.num_classes}, but form.target_vocabulary"
            f" {tokens.target_vocabulary}"
        )
    for split, inputs, labels in (
        ("train", dataset.train_inputs, dataset.train_labels),
        ("test", dataset.test_inputs, dataset.test_labels),
    ):
        mistakes += _type_mistakes(split, inputs, labels, tokens) or _content_mistakes(
            split, inputs, labels, tokens
        )
    return mistakes


def _type_mistakes(split: str, inputs: Tensor, labels: Tensor, tokens: Tokens) -> list[str]:
    mistakes = []
    if inputs.dtype != torch.int64 or tuple(inputs.shape[1:]) != (2, tokens.length):
        mistakes.append(
            f"{split}_inputs are {inputs.dtype} {tuple(inputs.shape)}, not int64 (N, 2,"
            f" {tokens.length})"
        )
    if labels.dtype != torch.int64 or tuple(labels.shape[1:]) != (tokens.length,):
        mistakes.append(
            f"{split}_labels are {labels.dtype} {tuple(labels.shape)}, not int64 (N,"
            f" {tokens.length})"
        )
    if len(inputs) != len(labels) or len(labels) == 0:
        mistakes.append(f"{split} has {len(inputs)} inputs and {len(labels)} labels")
    return mistakes


def _content_mistakes(split: str, inputs: Tensor, labels: Tensor, tokens: Tokens) -> list[str]:
    source, given = inputs[:, 0], inputs[:, 1]
    scored = labels != IGNORE
    mistakes = [
        f"{split} {what} run from {int(ids.min())} to {int(ids.max())}; allowed: 0 to {size - 1}"
        for what, ids, size in (
            ("source tokens", source, tokens.source_vocabulary),
            ("decoder inputs", given, tokens.target_vocabulary),
            ("labels", labels.where(scored, END), tokens.target_vocabulary),
        )
        if int(ids.min()) < 0 or int(ids.max()) >= size
    ]
    claims = {
        "have a token after padding": _has_gap(source) | _has_gap(given),
        "have no source token": (source == PADDING).all(dim=1),
        "have no label that is scored": ~scored.any(dim=1),
        f"do not have {IGNORE} as label exactly where the decoder input is padded": (
            (scored != (given != PADDING)).any(dim=1)
        ),
    }
    return mistakes + [
        f"{int(bad.sum())} {split} pairs {claim}, first pair {int(bad.int().argmax())}"
        for claim, bad in claims.items()
        if bool(bad.any())
    ]


def _has_gap(ids: Tensor) -> Tensor:
    """Say for each sentence (N, L) whether a token follows padding."""
    there = ids != PADDING
    return (there[:, 1:] & ~there[:, :-1]).any(dim=1)
