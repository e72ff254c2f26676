"""One trial as a published training script runs it: a fresh process, a DataLoader over PIL images,
torch.optim.

    python tests/benchmarks/plain_loader.py DEVICE WIDTH BATCH_SIZE UPDATES WORKERS

The images are random, of CIFAR-10's shape and number; what they show costs nothing more. Prints as
JSON the seconds from the start of the process to the first update (imports, context, data) and the
seconds of an update. Of phasegrid only the network is used.
"""

import time

STARTED = time.time()

import json  # noqa: E402 - the clock runs while this is imported
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision import transforms  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from phasegrid.models.resnet import make  # noqa: E402

NUM_TRAIN, CLASSES = 50_000, 10
WARM_UP = 5


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Random images, decoded and normalised one by one as torchvision's CIFAR10 is."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (NUM_TRAIN, 32, 32, 3), dtype=np.uint8)
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))]
        )

    def __len__(self) -> int:
        return NUM_TRAIN

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), index % CLASSES


def main(device: str, width: int, batch_size: int, updates: int, workers: int) -> None:
    """Train for some updates after a few that warm up."""
    net = make((3, 32, 32), CLASSES, width=width).to(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4)
    loader = DataLoader(
        Images(),
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=device != "cpu",
    )
    done, start_s, first, running = 0, 0.0, 0.0, 0.0
    while done < WARM_UP + updates:
        for inputs, labels in loader:
            if done == 0:
                start_s = time.time() - STARTED
            if done == WARM_UP:
                first = time.perf_counter()
            optimizer.zero_grad()
            loss = cross_entropy(net(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            running += loss.item()  # as such scripts do, after every update
            done += 1
            if done == WARM_UP + updates:
                break
    seconds = (time.perf_counter() - first) / updates
    print(json.dumps({"start_s": start_s, "update_s": seconds, "loss": running / done}))


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
