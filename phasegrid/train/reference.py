"""Train one network in the plainest way, as the reference for tests of every faster way.

One trial, one network, one update after another, each by `phasegrid.train.formulas`. A pack of
trials (`phasegrid.train.loop`) trains many at once, stops and resumes, and gives the same numbers
to rounding; start here to learn what they are. Only a pack trains on sentence pairs, in other
precisions than float32, and ends a training that diverges.
"""

import torch

from phasegrid.datasets.augmenting import apply_flip_crop, draw_flip_crop
from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Trial
from phasegrid.keys import stream_seed
from phasegrid.models.build import build_begun
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import Weights, cpu_state, has_batch_norm
from phasegrid.tasks.batches import epoch_bounds
from phasegrid.tasks.scoring import Scoring
from phasegrid.train.compat import recipe_of
from phasegrid.train.formulas import Memory, descend, differentiate, loss_of
from phasegrid.train.member import EpochRecord
from phasegrid.train.objectives import criterion_of
from phasegrid.train.schedules import Moment, factor_of
from phasegrid.train.stopping import judge


def train_alone(trial: Trial, data: Dataset) -> tuple[Weights, list[EpochRecord]]:
    """Train a trial; return the state that its recipe keeps, and every epoch's numbers."""
    recipe, seed = recipe_of(trial), trial.seed
    init, order, augment = (stream_seed(seed, name) for name in ("init", "order", "augment"))
    net = build_begun(trial.model, data, seed=init).train()
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
