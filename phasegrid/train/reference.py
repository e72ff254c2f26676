"""Train one network in the plainest way, as the reference for tests of every faster way.

One trial, one network, one update after another, each formula as in its paper. A pack of trials
(`phasegrid.train.loop`) trains many at once, stops and resumes, and gives the same numbers to
rounding; start here to learn what they are. Sentence pairs, other precisions than float32 and
divergence are left to it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.augmenting import apply_flip_crop, draw_flip_crop
from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Trial
from phasegrid.keys import stream_seed
from phasegrid.models.build import build_model
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import Weights, cpu_state, has_batch_norm
from phasegrid.tasks.batches import Batch, epoch_bounds
from phasegrid.tasks.scoring import Scoring
from phasegrid.train.compat import recipe_of
from phasegrid.train.member import EpochRecord
from phasegrid.train.objectives import criterion_of, training_loss
from phasegrid.train.recipe import Recipe
from phasegrid.train.schedules import Moment, factor_of
from phasegrid.train.sharpness import ETA
from phasegrid.train.stopping import judge

Memory = dict[str, Tensor]
"""What an optimizer remembers of one parameter, by the symbol of its formula."""


def train_alone(trial: Trial, data: Dataset) -> tuple[Weights, list[EpochRecord]]:
    """Train a trial; return the state that its recipe keeps, and every epoch's numbers."""
    recipe, seed = recipe_of(trial), trial.seed
    init, order, augment = (stream_seed(seed, name) for name in ("init", "order", "augment"))
    net = build_model(trial.model, data.input_shape, data.num_classes, seed=init).train()
    orders, crops = torch.Generator().manual_seed(order), torch.Generator().manual_seed(augment)
    num, scoring = len(data.train_inputs), Scoring(objective=criterion_of(recipe))
    bounds = epoch_bounds(num, recipe.batch_size, recipe.drop_last, has_batch_norm(net))
    total = recipe.updates or recipe.epochs * len(bounds)
    factor, update = factor_of(recipe.schedule), 0
    memories: list[Memory] = [{} for _ in net.parameters()]
    kept, history = cpu_state(net), list[EpochRecord]()
    while update < total:
        permutation = torch.randperm(num, generator=orders)
        inputs, labels = data.train_inputs[permutation], data.train_labels[permutation]
        if data.augment == "flip_crop":
            padding = data.padding.expand(num, *data.padding.shape)
            inputs = apply_flip_crop(inputs, draw_flip_crop(num, crops), padding)
        loss, right, seen, lr = 0.0, 0, 0, 0.0
        for part in bounds[: total - update]:
            lr = recipe.lr * factor(Moment(update, total, len(history), len(bounds)))
            logits, gradient = differentiate(net, inputs[part], labels[part], recipe)
            update += 1
            for w, g, memory in zip(net.parameters(), gradient, memories, strict=True):
                descend(w.data, g, memory, recipe, lr, update)
            loss += float(loss_of(logits, labels[part], recipe).sum())
            right += int((logits.argmax(dim=1) == labels[part]).sum())
            seen += len(logits)
        test = evaluate(net, data.test_inputs, data.test_labels, scoring)
        numbers = (loss / seen, 100 * right / seen, test.loss, test.accuracy_percent)
        history.append(EpochRecord(len(history) + 1, lr, *numbers, seconds=0.0))
        verdict = judge(
            recipe,
            [record.train_loss for record in history],
            [record.test_accuracy_percent or 0.0 for record in history],
            [record.test_loss or 0.0 for record in history],
            held_before=False,
        )
        if verdict.keep:
            kept = cpu_state(net)
        if verdict.stop:
            break
    return kept, history


def loss_of(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Return the loss of each label (B,)."""
    return training_loss(recipe)(logits[None], Batch(logits[None], labels[None]))[0]


def differentiate(
    net: nn.Module, inputs: Tensor, labels: Tensor, recipe: Recipe
) -> tuple[Tensor, Sequence[Tensor]]:
    """Return the logits of a batch, in float64, and the gradient of its mean loss.

    With SAM that is the gradient at w + e, e = rho T^2 g / |T g| (`phasegrid.train.sharpness`).
    """
    weights = list(net.parameters())
    logits: Tensor = net(inputs)
    loss = loss_of(logits, labels, recipe).mean()
    gradient = torch.autograd.grad(loss, weights)
    if recipe.sam is not None:
        kept = [(tensor, tensor.detach().clone()) for tensor in [*weights, *net.buffers()]]
        T = [w.abs() + ETA if recipe.sam.adaptive else torch.ones_like(w) for w in weights]
        Tg = [t * g for t, g in zip(T, gradient, strict=True)]
        norm = torch.cat([each.flatten() for each in Tg]).norm()
        for w, t, each in zip(weights, T, Tg, strict=True):
            w.data += recipe.sam.rho * t * each / norm
        loss = loss_of(net(inputs), labels, recipe).mean()
        gradient = torch.autograd.grad(loss, weights)
        for tensor, before in kept:
            tensor.data.copy_(before)
    return logits.detach().double(), gradient


def descend(w: Tensor, g: Tensor, memory: Memory, recipe: Recipe, lr: float, n: int) -> None:
    """Make update n, counted from 1, of one parameter; `phasegrid.train.optimizers` names the
    papers.
    """
    zero = torch.zeros_like(w)
    if recipe.optimizer == "adamw":
        w *= 1 - lr * recipe.weight_decay
    else:
        g = g + recipe.weight_decay * w
    if recipe.optimizer == "sgd":
        b = memory["b"] = recipe.momentum * memory.get("b", zero) + g
        step = g + recipe.momentum * b if recipe.nesterov else b
    elif recipe.optimizer == "rmsprop":
        alpha = recipe.rmsprop.alpha
        v = memory["v"] = alpha * memory.get("v", zero) + (1 - alpha) * g**2
        m = memory["m"] = alpha * memory.get("m", zero) + (1 - alpha) * g
        v = v - m**2 if recipe.rmsprop.centered else v
        scaled = g / (v.sqrt() + recipe.rmsprop.eps)
        step = memory["b"] = recipe.rmsprop.momentum * memory.get("b", zero) + scaled
    else:
        beta1, beta2 = recipe.betas
        m = memory["m"] = beta1 * memory.get("m", zero) + (1 - beta1) * g
        v = memory["v"] = beta2 * memory.get("v", zero) + (1 - beta2) * g**2
        step = m / (1 - beta1**n) / ((v / (1 - beta2**n)).sqrt() + recipe.adam_eps)
    w -= lr * step
