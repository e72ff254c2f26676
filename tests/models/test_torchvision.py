"""Networks of torchvision, and trainings that begin from the weights in a file."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model
from torchvision.models.vision_transformer import interpolate_embeddings

from phasegrid import load_sweep
from phasegrid import open as open_results
from phasegrid.datasets.load import load_dataset
from phasegrid.declare import DatasetFacts, make_part
from phasegrid.errors import DataError, SweepError
from phasegrid.jobs import Artifact, Part
from phasegrid.models import MODELS, Arch, TorchvisionArgs
from phasegrid.models.build import build_begun, build_for
from phasegrid.models.counting import count_work
from phasegrid.models.pretrained import fingerprint
from phasegrid.models.torchvision_nets import NETS, VITS, make
from phasegrid.plan.plan import make_plan
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.seeding import seeded_draws
from phasegrid.store.store import Store

SMALLEST = "mobilenet_v3_small"
FACTS = DatasetFacts(24, 12, (3, 32, 32), 1000)


def part(**args: Any) -> Part:
    resolved = asdict(TorchvisionArgs(**args))
    return make_part("torchvision", 1, TorchvisionArgs, {**resolved, **fingerprint(resolved)})


def on_meta(arch: str, classes: int = 1000) -> nn.Module:
    with torch.device("meta"):
        return make((3, 224, 224), classes, arch=arch).eval()


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("arch", "classes", "parameters"),
    [
        ("resnet50", 1000, 25_557_032),  # ImageNet, Garipov et al. 2018
        ("mobilenet_v2", 200, 2_480_072),  # Xu et al. 2024
        ("resnext101_32x8d", 1000, 88_791_336),  # the same
        ("resnext101_64x4d", 1000, 83_455_272),
        ("vit_b_16", 100, 85_875_556),  # Benton et al. 2021, appendix B.3
        ("vit_l_32", 1000, 306_535_400),  # torchvision's table
    ],
)
def test_networks_of_torchvision_have_the_published_numbers_of_parameters(
    arch: str, classes: int, parameters: int
) -> None:
    counts = count_work(part(arch=arch), DatasetFacts(10, 10, (3, 224, 224), classes))
    assert counts is not None
    assert counts.num_parameters == num_parameters(on_meta(arch, classes)) == parameters


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "vgg11", SMALLEST, "efficientnet_b0"])
def test_the_table_counts_what_the_built_network_does(arch: str) -> None:
    for size, classes in (((224, 224), 1000), ((64, 96), 7)):
        module = on_meta(arch, classes)
        with FlopCounterMode(display=False) as counter:
            logits = module(torch.empty(1, 3, *size, device="meta"))
        assert logits.shape == (1, classes)
        counts = count_work(part(arch=arch), DatasetFacts(10, 10, (3, *size), classes))
        assert counts is not None
        assert counts[:2] == (num_parameters(module), counter.get_total_flops())


def test_a_sweep_can_name_each_network_of_the_table() -> None:
    assert get_args(Arch) == (*NETS, *VITS)
    assert len(NETS) > 20


def test_a_network_that_scales_its_images_is_counted_and_begun_as_the_one_within(
    tmp_path: Path,
) -> None:
    """Weights of images of another size: position embeddings are those of torchvision's own
    interpolation; small images are scaled as torch does.
    """
    path = tmp_path / "vit.pth"
    with seeded_draws(0):
        given = get_model("vit_b_32", num_classes=1000, image_size=64)
    torch.save(given.state_dict(), path)
    wide = part(arch="vit_b_32", weights=str(path), resize=96)
    counts = count_work(wide, FACTS)
    begun = build_begun(wide, FACTS, seed=3).eval()
    assert counts is not None
    assert counts.num_parameters == num_parameters(begun)
    alone = get_model("vit_b_32", num_classes=1000, image_size=96).eval()
    alone.load_state_dict(interpolate_embeddings(96, 32, given.state_dict()))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scaled = interpolate(images, (96, 96), mode="bilinear")
    torch.testing.assert_close(begun(images), alone(scaled))


def test_images_that_patches_do_not_cut_are_refused() -> None:
    for shape, resize in (((3, 40, 40), None), ((3, 32, 64), None), ((3, 32, 32), 40)):
        with pytest.raises(DataError, match=r"found patches of 16x16 pixels for images of .* squa"):
            count_work(part(arch="vit_b_16", resize=resize), DatasetFacts(10, 10, shape, 10))
    assert count_work(part(arch="vit_b_16"), DatasetFacts(10, 10, (3, 32, 32), 10)) is not None


def test_images_without_three_channels_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(1, 32, 32\); torchvision takes images \(3 chan"):
        count_work(part(), DatasetFacts(10, 10, (1, 32, 32), 10))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the weights of a network for 1,000 classes."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(make((3, 32, 32), 1000, arch=SMALLEST).state_dict(), path)
    return path


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_training_begins_with_the_network_of_the_file(
    trained: Path, tmp_path: Path, form: str
) -> None:
    given, path = torch.load(trained, weights_only=True), trained
    if form == "safetensors":
        path = tmp_path / "net.safetensors"
        save_file(given, path)
    begun = build_begun(part(arch=SMALLEST, weights=str(path)), FACTS, seed=3).state_dict()
    assert begun.keys() == given.keys()
    assert all(torch.equal(value, given[name]) for name, value in begun.items())


def test_for_other_classes_only_the_last_layer_begins_anew(trained: Path) -> None:
    mine, facts = part(arch=SMALLEST, weights=str(trained)), DatasetFacts(9, 9, (3, 32, 32), 7)
    given, begun = torch.load(trained, weights_only=True), build_begun(mine, facts, 3).state_dict()
    fresh = build_for(mine, facts, 3).state_dict()
    for name, value in begun.items():
        of = fresh if name.startswith("classifier.3.") else given
        assert torch.equal(value, of[name]), name
    assert begun["classifier.3.weight"].shape == (7, 1024)


def test_counters_that_old_files_lack_are_those_of_a_new_network(
    trained: Path, tmp_path: Path
) -> None:
    given = torch.load(trained, weights_only=True)
    old = {n: value for n, value in given.items() if not n.endswith("num_batches_tracked")}
    assert len(old) < len(given)
    torch.save(old, tmp_path / "old.pth")
    begun = build_begun(part(arch=SMALLEST, weights=str(tmp_path / "old.pth")), FACTS, 0)
    assert torch.equal(begun.state_dict()["features.0.0.weight"], given["features.0.0.weight"])


def test_a_file_is_known_by_its_contents_not_by_its_place(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.pth").write_bytes(trained.read_bytes())
    first, copied = (part(weights=str(path)) for path in (trained, tmp_path / "copy.pth"))
    assert first.spec() == copied.spec() != part().spec()
    assert first.args["sha256"] == hashlib.sha256(trained.read_bytes()).hexdigest()


def test_published_weights_are_known_by_the_digest_in_their_name() -> None:
    assert part(weights="IMAGENET1K_V1").args["sha256"] == "0676ba61"
    assert part(weights="DEFAULT").spec() == part(weights="IMAGENET1K_V2").spec()


def test_wrong_weights_are_refused_with_what_to_do(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    with pytest.raises(DataError, match=r"cannot read .*net.pth \(No such file.*IMAGENET1K_V1"):
        part(weights=str(path))
    with pytest.raises(
        DataError, match=r"torchvision knows IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT; write"
    ):
        part(weights="IMAGENET1K_V9")
    with pytest.raises(DataError, match="found sha256 without weights; write both"):
        part(sha256="ab")
    with pytest.raises(DataError, match=r"has the SHA-256 [0-9a-f]{64}, but model.sha256 is ab"):
        part(weights=str(trained), sha256="ab")
    for written, message in (
        ({"epoch": 3}, r"holds a dict that is no state dict; allowed: tensors by name"),
        (nn.Linear(1, 1), r"cannot be read as tensors alone \([^.]{1,80}\); write it by"),
        (nn.Linear(1, 1).state_dict(), r"lacks features.0.0.weight.*and 2\d\d more; allowed: the"),
        ({**torch.load(trained), "more": torch.ones(1)}, r"the file has also more; allowed"),
        (
            {**torch.load(trained), "features.0.0.weight": torch.ones(1)},
            r"features.0.0.weight is \(1,\), not \(16, 3, 3, 3\); allowed",
        ),
    ):
        torch.save(written, path)
        with pytest.raises(DataError, match=message):
            build_begun(part(arch=SMALLEST, weights=str(path)), FACTS, 0)
    mine = part(arch=SMALLEST, weights=str(path))
    path.write_bytes(b"other")
    with pytest.raises(DataError, match=r"net.pth has the SHA-256 .* the file has changed"):
        build_begun(mine, FACTS, 0)
    lost = Part("torchvision", 1, mine.args, {})
    with pytest.raises(DataError, match="no file is named"):
        build_begun(lost, FACTS, 0)


def test_published_weights_come_from_the_cache_of_torch_and_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    mine = part(weights="IMAGENET1K_V1")

    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(DataError, match=r"downloading them to .*resnet50-0676ba61.pth failed"):
        build_begun(mine, FACTS, 0)
    (tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth").write_bytes(b"half of it")
    with pytest.raises(DataError, match=r"0676ba61.pth has the SHA-256 .* model.sha256 is 0676ba6"):
        build_begun(mine, FACTS, 0)


SWEEP = """\
schema: 1
name: begun
dataset: {name: npz, path: images.npz}
model: {name: torchvision, arch: mobilenet_v3_small, weights: net.pth}
train: {lr: 0.01, batch_size: 12, epochs: 2, stop: null, keep: last, checkpoints: {epochs: [0]}}
seeds: 1
metrics:
  - accuracy: {over: trajectory, at: [0]}
"""


def test_a_pretrained_network_is_measured_at_epoch_0_and_trained_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    arrays = {
        f"{s}_images": rng.integers(0, 256, (24, 32, 32, 3), np.uint8) for s in ("train", "test")
    }
    labels = {f"{s}_labels": np.arange(24) % 3 for s in ("train", "test")}
    np.savez("images.npz", **arrays, **labels)
    Path("net.pth").write_bytes(trained.read_bytes())
    Path("begun.yaml").write_text(SWEEP)
    sweep, store = load_sweep(Path("begun.yaml")), Store.open("store", create=True)
    done = run_sweep(
        sweep, store, RunTarget(serial=True, device="cpu"), Console(quiet=True), True, None
    )
    assert done.exit_code == 0
    (trial,) = make_plan(sweep).cells[0].trials
    first = store.read_artifact(Artifact(trial.key, "weights@epoch-0"))
    given = torch.load(trained, weights_only=True)
    assert torch.equal(first["features.0.0.weight"], given["features.0.0.weight"])
    Path("net.pth").unlink()  # what is stored needs the file no more
    network = store.read_artifact(Artifact(trial.key))
    build_for(Part("torchvision", 1, trial.model.args), FACTS, 0)
    assert not torch.equal(network["features.0.0.weight"], given["features.0.0.weight"])
    assert network["classifier.3.weight"].shape == (3, 1024)
    with pytest.raises(
        SweepError, match=r"begun.yaml:4:\d+: model.weights: .*cannot read .*net.pth"
    ):
        load_sweep(Path("begun.yaml"))


def test_a_network_of_a_file_is_measured_without_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images in the folder of a split as those of ImageNet; the same ones for both splits."""
    monkeypatch.chdir(tmp_path)
    for number in range(9):
        folder = Path("images/val") / f"n0{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    with seeded_draws(2):
        given = make((3, 32, 32), 3, arch=SMALLEST).eval()
    torch.save(given.state_dict(), "net.pth")
    data = "image_folder, root: images, layout: imagenet, train: val, resize: 36, size: 32"
    text = SWEEP.replace("npz, path: images.npz", data).replace("12, epochs: 2", "9, epochs: 0")
    Path("begun.yaml").write_text(text)
    sweep, store = load_sweep(Path("begun.yaml")), Store.open("store", create=True)
    target = RunTarget(serial=True, device="cpu")
    assert run_sweep(sweep, store, target, Console(quiet=True), True, None).exit_code == 0
    (trial,) = make_plan(sweep).cells[0].trials
    found = store.read_artifact(Artifact(trial.key))
    assert all(torch.equal(found[name], value) for name, value in given.state_dict().items())
    (row,) = open_results("store").trials().to_dict("records")
    images = load_dataset(trial.dataset)
    with torch.no_grad():
        expected = cross_entropy(given(images.test_inputs), images.test_labels)
    assert row["test_loss"] == pytest.approx(float(expected), rel=1e-5)  # float32


def test_every_family_with_a_fingerprint_has_a_beginning() -> None:
    assert [n for n, m in MODELS.items() if m.fingerprint] == ["torchvision"]
    assert all((m.fingerprint is None) == (m.begin is None) for m in MODELS.values())
