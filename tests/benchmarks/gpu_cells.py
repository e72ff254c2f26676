"""Full-size cells of Fig. 3 of Yang et al. 2021 beside the published values, in each precision.

    python -m tests.benchmarks gpu --steps cells,precision --minutes 8 --output FILE.jsonl
    python -m tests.benchmarks.gpu_cells FILE.jsonl        # the table of the records of a file

Two steps of ``python -m tests.benchmarks gpu``. `cells` runs the recipe of sweeps/taxonomy/f03.yaml
as it is; `precision` adds the other precisions, and does not train again what `cells` has trained.
Everything goes through the product, in this process and without Ray: sweep, plan, store, grid.
Images are those of ``cifar10_jpeg.npz`` in the folder `PHASEGRID_TEST_DATA`: JPEG costs a little
accuracy. ``--tiny`` takes a few random images, and its numbers mean nothing.
"""

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import phasegrid
from phasegrid.analysis.tables.load import load_grid, open_store
from phasegrid.errors import PhasegridError
from phasegrid.run.published.taxonomy import import_taxonomy
from phasegrid.store.store import Store

Record = Mapping[str, Any]
Values = Mapping[str, Sequence[float]]
"""The numbers of a cell, by quantity: of each seed, or of each pair."""

SWEEP = Path(__file__).resolve().parents[2] / "sweeps/taxonomy/f03.yaml"
PRECISIONS = ("fp32", "tf32", "bf16")
QUANTITIES = {
    "train_loss": "training loss",
    "test_accuracy": "test accuracy (%)",
    "lambda_max": "lambda_max",
    "trace": "trace",
    "cka": "CKA",
    "l2_distance": "distance",
    "mode_connectivity": "mc",
}
FULL_CELLS = ((2, 1024), (8, 128), (4, 1024), (16, 256))
TINY_CELLS = ((2, 16),)
TINY_CHANGES = (
    "seeds=2",
    "train.epochs=2",
    "train.schedule.at_epochs=[1]",
    "metrics=[accuracy, distance, {hessian: {examples: 16}}, {cka: {examples: 16,"
    " mixup_alpha: 16}}, {connectivity: {epochs: 1, points: 5, pairs: first}}]",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step works: files and store that both steps of one script share."""

    folder: Path
    device: str
    tiny: bool

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    @property
    def images(self) -> Path:
        return self.folder / "images.npz"


def cells(device: torch.device, tiny: bool) -> Iterator[Record]:
    """Run each cell as the sweep says, and compare it with the published values."""
    yield from _records(device, tiny, ("fp32",))


def precision(device: torch.device, tiny: bool) -> Iterator[Record]:
    """Run each cell in each precision, and compare them with float32."""
    yield from _records(device, tiny, PRECISIONS)


def _records(device: torch.device, tiny: bool, kinds: Sequence[str]) -> Iterator[Record]:
    given = os.environ.get("PHASEGRID_TEST_DATA")
    if not tiny and given is None:
        yield {"skipped": "PHASEGRID_TEST_DATA does not say where cifar10_jpeg.npz is"}
        return
    place = _place(device, tiny)
    if not place.images.exists():
        _write_images(place.images, None if tiny else Path(str(given)) / "cifar10_jpeg.npz")
    for width, batch in TINY_CELLS if tiny else FULL_CELLS:
        if given is not None:
            found = _published(place, Path(given) / "taxonomy_fig3_part.csv", width, batch)
            yield {"width": width, "batch": batch, "precision": "published", "values": found}
        for kind in kinds:
            yield from _cell(place, width, batch, kind)


def _cell(place: Place, width: int, batch: int, kind: str) -> Iterator[Record]:
    """Train and measure a cell, the curve last, because it takes longest; a record after each."""
    name = f"w{width}-b{batch}-{kind}"
    changes = [
        f"name={name}",
        f"dataset={{name: npz, path: {place.images}}}",
        f"load.values=[{width}]",
        f"temperature.values=[{batch}]",
        f"train.precision={kind}",
        "figures=[]",
        *(TINY_CHANGES if place.tiny else ()),
    ]
    whole = phasegrid.load_sweep(SWEEP, changes)
    several = tuple(metric for metric in whole.metrics if metric.name != "connectivity")
    for what, sweep in (("without mc", replace(whole, metrics=several)), ("all", whole)):
        started = time.perf_counter()
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            result = phasegrid.run(sweep, place.store, serial=True, device=place.device)
        yield {
            "width": width,
            "batch": batch,
            "precision": kind,
            "what": what,
            "seconds": round(time.perf_counter() - started, 1),
            "exit_code": result.exit_code,
            **({"said": said.getvalue()[-800:]} if result.exit_code else {}),
            "values": _values(place.store, name, width, batch),
        }


def _values(store: str, sweep: str, width: int, batch: int) -> Values:
    """Return the numbers of a cell that are stored."""
    try:
        rows = load_grid(open_store(store), sweep).values
    except PhasegridError:
        return {}
    here = rows[(rows["load"] == width) & (rows["temperature"] == batch) & rows["value"].notna()]
    here = here[here["seed_a"] != here["seed_b"]]
    return {
        name: [float(value) for value in here.loc[here["quantity"] == name, "value"]]
        for name in QUANTITIES
    }


def _published(place: Place, file: Path, width: int, batch: int) -> Values:
    """Return the published numbers of a cell, as the product reads them."""
    if not file.exists():
        return {}
    name = f"published-w{width}-b{batch}"
    head, *lines = file.read_text().splitlines()
    chosen = place.folder / f"{name}.csv"
    of_cell = [line for line in lines if line.startswith(f"{width},{batch},")]
    chosen.write_text("\n".join([head, *of_cell]))
    import_taxonomy(chosen, Store.open(place.store, create=True), name)
    return _values(place.store, name, width, batch)


def _place(device: torch.device, tiny: bool) -> Place:
    """Return the place of the script that has started this step."""
    folder = folder_of(os.getppid())
    folder.mkdir(exist_ok=True)
    return Place(folder, device.type, tiny)


def folder_of(script: int) -> Path:
    """Return the folder that the steps of a script share; it deletes the folder at its end."""
    return Path(tempfile.gettempdir()) / f"phasegrid-cells-{script}"


def _write_images(path: Path, jpegs: Path | None) -> None:
    """Decode CIFAR-10 from JPEG, or draw a few images."""
    if jpegs is None:
        rng = np.random.default_rng(0)
        drawn = {"train": 64, "test": 32}
        arrays: dict[str, Any] = {}
        for split, num in drawn.items():
            arrays[f"{split}_images"] = rng.integers(0, 256, (num, 3, 8, 8), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(num) % 10
    else:
        with np.load(jpegs) as file:
            arrays = {name: file[name] for name in file.files if name.endswith("labels")}
            for split in ("train", "test"):
                images = _decoded(file[f"{split}_jpeg"], file[f"{split}_offsets"])
                arrays[f"{split}_images"] = images
    partial = path.with_suffix(".part.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)


def _decoded(data: Any, offsets: Any) -> Any:
    from PIL import Image

    images = np.empty((len(offsets) - 1, 3, 32, 32), dtype=np.uint8)
    for i, (start, end) in enumerate(pairwise(offsets)):
        pixels = np.asarray(Image.open(io.BytesIO(data[start:end].tobytes())).convert("RGB"))
        images[i] = pixels.transpose(2, 0, 1)
    return images


def table(records: Sequence[Record]) -> str:
    """Return the cells of some records as a Markdown table; empty without any.

    A dagger marks a mean that is further from that of fp32 than the standard deviation of fp32's
    seeds (of pairs for CKA and distance), a double dagger the same of the published values.
    """
    latest: dict[tuple[int, int], dict[str, Values]] = {}
    for record in records:
        if record.get("values"):
            cell = latest.setdefault((record["width"], record["batch"]), {})
            cell[record["precision"]] = record["values"]
    if not latest:
        return ""
    lines = [
        f"| width, batch | precision | {' | '.join(QUANTITIES.values())} |",
        f"|---|---|{'---|' * len(QUANTITIES)}",
    ]
    for (width, batch), ways in latest.items():
        for kind in ("published", *PRECISIONS):
            if kind in ways:
                told = [_told(ways, kind, name) for name in QUANTITIES]
                lines.append(f"| {width}, {batch} | {kind} | {' | '.join(told)} |")
    lines += [
        "",
        "Mean ± standard deviation (number of seeds or pairs). †: further from the mean of fp32 than"
        " fp32's standard deviation; ‡: the same of the published values. Images are from JPEG.",
    ]
    return "\n".join(lines) + "\n"


def _told(ways: Mapping[str, Values], kind: str, name: str) -> str:
    numbers = ways[kind].get(name, [])
    if not numbers:
        return "-"
    spread = f" ± {np.std(numbers, ddof=1):.2g}" if len(numbers) > 1 else ""
    marks = "".join(
        mark
        for mark, other in (("†", "fp32"), ("‡", "published"))
        if kind not in (other, "published") and _is_outside(numbers, ways.get(other, {}).get(name))
    )
    return f"{np.mean(numbers):.4g}{spread} ({len(numbers)}){marks}"


def _is_outside(numbers: Sequence[float], others: Sequence[float] | None) -> bool:
    if others is None or len(others) < 2:
        return False
    return bool(abs(np.mean(numbers) - np.mean(others)) > np.std(others, ddof=1))


def write_table(records: Path) -> None:
    """Write the table of a file of records beside it, as ``.md``."""
    text = table([json.loads(line) for line in records.read_text().splitlines()])
    if text:
        records.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    print(table([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]))
