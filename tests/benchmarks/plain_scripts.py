"""A cell of sweeps/quickstart.yaml the way a folder of scripts does it, on plain torch; run as a
fresh process for each part.

    python tests/benchmarks/plain_scripts.py trial WIDTH BATCH_SIZE SEED FOLDER
    python tests/benchmarks/plain_scripts.py cell WIDTH BATCH_SIZE SEEDS FOLDER

``trial`` trains one seed (torch.optim, batches by indexing a shuffled order, the best training loss
kept), scores it, and measures its Hessian with PyHessian (eigenvalues, trace, density). ``cell``
measures what is between the seeds: distances; CKA, both models run again for each ordered pair; a
curve of twin layers for each pair of neighbours in a ring; a simplex with one connector, its volume
by a float32 Cayley-Menger determinant under autograd. Nothing of phasegrid is used. Results are
printed as JSON.
"""

import contextlib
import io
import json
import math
import sys
import unittest.mock
import warnings
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.metric_oracles_curves import (
    CurveTwin,
    cayley_menger_squared_volume,
    curve_coefficients,
    loss_at,
)

EPOCHS, LR, MOMENTUM, WEIGHT_DECAY = 30, 0.05, 0.9, 5e-4
CURVE_EPOCHS, CURVE_LR, CURVE_BATCH = 50, 0.01, 128
SIMPLEX_EPOCHS, SIMPLEX_LR, SIMPLEX_SAMPLES, VOLUME_LAMBDA = 10, 0.01, 5, 1e-3
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def load() -> Data:
    """Load the digits as 1,297 training and 500 test images."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = torch.tensor(bunch.images / 16).float(), torch.tensor(bunch.target)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    images = (images - images.mean()) / images.std()
    train, test = order[:1297], order[1297:]
    return images[train], labels[train], images[test], labels[test]


def network(width: int) -> nn.Module:
    """Make the perceptron of the sweep."""
    hidden = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))


def trial(width: int, batch_size: int, seed: int, folder: Path) -> dict[str, float]:
    """Train, score and measure one seed; its weights go to a file."""
    torch.default_generator.manual_seed(seed)
    inputs, labels, test_inputs, test_labels = load()
    net = network(width)
    optimizer = torch.optim.SGD(net.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    best, kept = math.inf, net.state_dict()
    for _ in range(EPOCHS):
        running = torch.zeros(())
        for index in torch.randperm(len(inputs)).split(batch_size):
            optimizer.zero_grad()
            loss = cross_entropy(net(inputs[index]), labels[index])
            loss.backward()
            optimizer.step()
            running += loss.detach() * len(index)
        if float(running) < best:
            best = float(running)
            kept = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(kept)
    torch.save(kept, folder / f"{width}-{batch_size}-{seed}.pt")
    return {
        **score(net.eval(), inputs, labels, "train"),
        **score(net, test_inputs, test_labels, "test"),
        **hessian(net, inputs[:200], labels[:200]),
    }


def score(net: nn.Module, inputs: Tensor, labels: Tensor, name: str) -> dict[str, float]:
    """Return loss, accuracy and expected calibration error (15 bins)."""
    with torch.no_grad():
        logits = net(inputs)
        confidence, guess = logits.softmax(1).max(1)
        right = (guess == labels).float()
        bins = (confidence * 15).long().clamp(max=14)
        gaps = [
            float((right[bins == b] - confidence[bins == b]).sum().abs()) for b in bins.unique()
        ]
        loss = float(cross_entropy(logits, labels))
    return {
        f"{name}_loss": loss,
        f"{name}_accuracy": float(right.mean()),
        f"{name}_ece": sum(gaps) / len(labels),
    }


def hessian(net: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the top eigenvalue and the trace; the density is found and let go."""
    import pyhessian

    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        assert eigenvectors
        values, vectors = torch.linalg.eigh(matrix)  # removed from torch; PyHessian calls it
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    warnings.simplefilter("ignore")
    peer = pyhessian.hessian(net, nn.CrossEntropyLoss(), data=(inputs, labels), cuda=False)
    values, _ = peer.eigenvalues()
    draws = peer.trace()
    with unittest.mock.patch.object(torch, "eig", eig, create=True):
        peer.density()
    return {"lambda_max": float(values[0]), "trace": sum(draws) / len(draws)}


def cell(width: int, batch_size: int, seeds: int, folder: Path) -> dict[str, list[float]]:
    """Measure what is between the seeds of a cell."""
    inputs, labels, test_inputs, test_labels = load()
    nets = [network(width).eval() for _ in range(seeds)]
    for seed, net in enumerate(nets):
        net.load_state_dict(torch.load(folder / f"{width}-{batch_size}-{seed}.pt"))
    vectors = [nn.utils.parameters_to_vector(net.parameters()).detach() for net in nets]
    ring = [(i, (i + 1) % seeds) for i in range(seeds)]
    data = inputs, labels, test_inputs, test_labels
    return {
        "distance": [float((a - b).norm()) for a, b in permutations(vectors, 2)],
        "cka": [cka(a, b, inputs) for a, b in permutations(nets, 2)],
        "connectivity": [curve(width, vectors[a], vectors[b], data) for a, b in ring],
        "simplex": simplex(nets[0], vectors, data),
    }


def cka(first: nn.Module, second: nn.Module, inputs: Tensor) -> float:
    """Return linear CKA of the softmax outputs on 640 mixup images, both models run."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(inputs), generator=generator)[:640]
    partner = torch.randperm(len(inputs), generator=generator)[:640]
    share = torch.tensor(np.random.default_rng(0).beta(16, 16, 640)).float().view(-1, 1, 1)
    mixed = share * inputs[chosen] + (1 - share) * inputs[partner]
    grams = []
    for net in (first, second):
        with torch.no_grad():
            outputs = torch.cat([net(batch).softmax(1) for batch in mixed.split(128)])
        centring = torch.eye(640) - 1 / 640
        grams.append(centring @ (outputs @ outputs.t()) @ centring)
    K, L = grams
    return float((K * L).sum() / (K.norm() * L.norm()))


def curve(width: int, start: Tensor, end: Tensor, data: Data) -> float:
    """Train a quadratic Bezier curve of twin layers; return the error at its worst point less that
    of the ends.
    """
    inputs, labels, test_inputs, test_labels = data
    net = CurveTwin(network(width), torch.stack([start, (start + end) / 2, end])).train()
    optimizer = torch.optim.SGD(net.bends(), CURVE_LR, MOMENTUM)
    for epoch in range(1, CURVE_EPOCHS + 1):
        done = epoch / CURVE_EPOCHS
        factor = 1.0 if done <= 0.5 else max(0.01, 1.0 - 0.99 * (done - 0.5) / 0.4)
        optimizer.param_groups[0]["lr"] = CURVE_LR * factor
        for index in torch.randperm(len(inputs)).split(CURVE_BATCH):
            t = float(torch.rand(()))
            outputs = net(inputs[index], curve_coefficients("bezier", 1, t))
            loss = cross_entropy(outputs, labels[index]) + WEIGHT_DECAY * net.l2()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    errors = []
    with torch.no_grad():
        for t in (0.0, 0.25, 0.5, 0.75, 1.0):
            at_t = curve_coefficients("bezier", 1, t)
            guesses = [net(images, at_t).argmax(1) for images in (inputs, test_inputs)]
            errors.append([float((g != y).float().mean()) for g, y in zip(guesses, (labels, test_labels), strict=True)])  # fmt: skip
    return max(train for train, _ in errors) - (errors[0][0] + errors[-1][0]) / 2


def simplex(net: nn.Module, modes: list[Tensor], data: Data) -> list[float]:
    """Train one connector of all modes; return the expected loss on the complex at ten points."""
    inputs, labels, test_inputs, test_labels = data
    theta = torch.stack(modes).mean(0).requires_grad_()
    optimizer = torch.optim.SGD([theta], SIMPLEX_LR, MOMENTUM)
    for epoch in range(SIMPLEX_EPOCHS):
        factor = (1 + math.cos(math.pi * epoch / SIMPLEX_EPOCHS)) / 2
        optimizer.param_groups[0]["lr"] = SIMPLEX_LR * factor
        for index in torch.randperm(len(inputs)).split(CURVE_BATCH):
            losses = []
            for _ in range(SIMPLEX_SAMPLES):
                share, mode = float(torch.rand(())), int(torch.randint(len(modes), ()))
                point = share * modes[mode] + (1 - share) * theta
                losses.append(loss_at(net, point, inputs[index], labels[index]))
            volume = sum(cayley_menger_squared_volume([mode, theta]).sqrt() for mode in modes)
            loss = sum(losses) / SIMPLEX_SAMPLES - VOLUME_LAMBDA * volume.log()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = []
    with torch.no_grad():
        for i in range(10):
            point = (i + 0.5) / 10 * modes[i % len(modes)] + (1 - (i + 0.5) / 10) * theta
            found.append(float(loss_at(net, point, inputs, labels)))
            loss_at(net, point, test_inputs, test_labels)
    return found


def main() -> None:
    """Do one part and print what it gave."""
    what, width, batch_size, number, folder = sys.argv[1:]
    torch.set_num_threads(1)
    part = {"trial": trial, "cell": cell}[what]
    with contextlib.redirect_stdout(io.StringIO()):  # PyHessian prints
        found = part(int(width), int(batch_size), int(number), Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
