"""Run a sweep on a Ray that believes in GPUs, with workers that compute on the CPU and note where
they were; print what the run said. Arguments: sweep file, store, number of GPUs, folder of notes.

In that folder, the file ``die`` kills the first worker that takes a pack of trainings, and the file
``culprit`` names a trial whose training loses the GPU.
"""

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

import phasegrid
from phasegrid.packs import Outcome, Pack
from phasegrid.run.executors.base import PackOptions

FREE = 3 * 2**28
"""The memory that the stand-in for a GPU has."""


@dataclass
class Memory:
    """Memory of a GPU that is none."""

    def free_bytes(self) -> int:
        return FREE

    def begin(self) -> None:
        pass

    def taken_bytes(self) -> int:
        return 0


def do_and_note(pack: Pack, storage: str, place: PackOptions, failure_id: str) -> Sequence[Outcome]:
    """Do a pack as a worker does, but on the CPU; note it."""
    from phasegrid.run.executors.ray.task import do_pack
    from phasegrid.run.worker import training

    notes = Path(os.environ["NOTES"])
    noted: dict[str, Any] = {
        "kind": pack.kind,
        "keys": pack.job_keys(),
        "gpus": ray.get_gpu_ids(),
        "share": place.gpu_share,
        "pid": os.getpid(),
        "began": time.time(),
        "estimates": len(place.lane_bytes),
    }
    train_pack = getattr(training, "original", training.train_pack)
    training.original = train_pack  # type: ignore[attr-defined]

    def train_and_note(*args: Any, **named: Any) -> Any:
        noted["lanes"] = named["lanes"]
        culprit = notes / "culprit"
        if culprit.exists() and any(t.key == culprit.read_text() for t in args[0]):
            raise RuntimeError("CUDA error: misaligned address")
        return train_pack(*args, **named)

    training.train_pack = train_and_note
    training.memory_of = lambda _device, _share: Memory()
    if pack.kind == "train" and (notes / "die").exists():
        (notes / "die").unlink()
        (notes / "died").write_text(json.dumps(noted))
        os.kill(os.getpid(), signal.SIGKILL)
    outcomes = do_pack(pack, storage, replace(place, device="cpu"), failure_id)
    noted["ended"] = time.time()
    (notes / f"{uuid.uuid4().hex}.json").write_text(json.dumps(noted))
    return outcomes


def main(sweep: str, store: str, gpus: str, notes: str) -> None:
    os.environ["RAY_OVERRIDE_RESOURCES"] = json.dumps({"GPU": int(gpus)})
    os.environ["NOTES"] = notes
    from phasegrid.run.executors.ray import executor

    executor.do_pack = do_and_note  # type: ignore[assignment]
    result = phasegrid.run(sweep, store, num_cpus=4, quiet=True)
    print(json.dumps({"exit_code": result.exit_code, "failed": dict(result.failures)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
