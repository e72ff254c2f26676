"""Change the files of a store at random and look at it in every way: run in a process of its own,
which a crash would end.

``python store_fuzz.py COUNT SEED FOLDER`` prints how many changes were found, made no difference,
or, in files of earlier releases (which hold no checksum), were read.
"""

import json
import random
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save
from store_support import bare, full, leave, make_store, put, rows_without_checksum

from phasegrid.cli import render
from phasegrid.errors import StoreError
from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store.repair import find_damage
from phasegrid.store.store import Store

A, M = text_key("a"), text_key("m")
MOST_BYTES = 16 << 30  # of addresses: an absurd size must not become an allocation
TABLES = ("trials", "histories", "metrics/sharpness", "failures", "plans", "plan_jobs")


def main(count: int, seed: int, folder: Path) -> None:
    """Change one file at a time `count` times."""
    store = _store(folder)
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, limit))
    rng, counts = random.Random(seed), Counter[str]()
    sealed = sorted(p for p in folder.rglob("*") if p.suffix in (".parquet", ".safetensors"))
    assert len(sealed) >= 8
    before = _numbers(store)
    for number in range(count):
        path = rng.choice(sealed)
        data = path.read_bytes()
        of_before = number % 4 == 3
        if of_before:
            _unseal(path)
        path.write_bytes(_changed(rng, path.read_bytes()))
        try:
            counts[_look(store, path, before, of_before)] += 1
        except BaseException:
            sys.stderr.write(f"change {number} of seed {seed}, {path}\n")
            raise
        path.write_bytes(data)
    assert _numbers(store) == before
    print(json.dumps(counts))


def _store(folder: Path) -> Store:
    store = make_store(folder)
    weights = {"w": torch.arange(12.0).reshape(3, 4), "n": torch.tensor(3)}
    row = {**full("trials", "a"), "checkpoint_sha256": None}
    left = leave(store, "a", "epoch-1", weights)
    store.put_trial(row, [{"epoch": 0, "train_loss": 1.5}], weights, left)
    put(store, "metrics/sharpness", full("metrics/sharpness", "m"))
    put(store, "failures", full("failures", "f"))
    jobs = [{"cell": 0, "metric": "sharpness", "key": M, "trials": [A]}]
    store.put_plan("toy", [{**bare("plans", "a"), "facet": "[]"}], jobs)
    return store


def _numbers(store: Store) -> list[Any]:
    """Everything that a store holds, or the errors that say why not."""
    found: list[Any] = []
    for table in TABLES:
        try:
            found.append(store.read_table(table).to_pylist())
        except StoreError as error:
            found.append(error)
    for epoch in (None, 1):
        try:
            weights = store.read_checkpoint(A, epoch)
            found.append({name: tensor.tolist() for name, tensor in sorted(weights.items())})
        except StoreError as error:
            found.append(error)
    return found


def _look(store: Store, path: Path, before: list[Any], of_before: bool) -> str:
    """Look at a store one file of which was changed; anything but an answer or a StoreError ends
    the process.
    """
    now = _numbers(store)
    named = str(path) in "\n".join(map(str, verify(store, deep=True)))
    damage = find_damage(store, deep=True)
    render.status_text(store, None, as_json=True)
    errors = [value for value in now if isinstance(value, StoreError)]
    if of_before:
        return "read" if not errors else "refused"
    assert all(value == old for value, old in zip(now, before, strict=True) if value not in errors)
    if not errors and path.read_bytes():
        return "no difference"
    assert all(str(path) in str(error) for error in errors)
    assert named
    listed = {item.name for item in damage.garbage} | set(damage.kept)
    assert any(path.name in item for item in listed)
    return "found"


def _unseal(path: Path) -> None:
    """Write a file as an earlier release did."""
    if path.suffix == ".parquet":
        pq.write_table(rows_without_checksum(path), path, store_schema=False)
    else:
        path.write_bytes(save(load(path.read_bytes())))


def _changed(rng: random.Random, data: bytes) -> bytes:
    """Flip, set, cut, double, or shuffle a few bytes, in what is read first (headers, footers) as
    often as elsewhere.
    """
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        ends = (
            rng.randrange(min(64, len(changed))),
            len(changed) - 1 - rng.randrange(min(64, len(changed))),
        )
        place = rng.choice([*ends, rng.randrange(len(changed)), rng.randrange(len(changed))])
        length = rng.choice([1, 1, 2, 4, 8, 100])
        kind = rng.randrange(6)
        if kind == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == 2:
            changed[place : place + length] = bytes(len(changed[place : place + length]))
        elif kind == 3 and len(changed) > length + 100:
            del changed[place : place + length]
        elif kind == 4:
            changed[place:place] = changed[place : place + length]
        else:
            changed[place : place + length] = rng.randbytes(len(changed[place : place + length]))
    if rng.random() < 0.05:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
