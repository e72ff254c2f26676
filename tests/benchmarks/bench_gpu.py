"""What a GPU does in a few minutes: correctness, updates, peers, metrics, determinism, kernels.

    python -m tests.benchmarks gpu [--minutes 6] [--device cuda] [--tiny] [--output FILE]
        [--steps NAME,NAME]

One script without Ray for a card that is lent for minutes. Its steps (`tests.benchmarks.gpu_steps`)
run in the order of their importance, each in a process of its own with a limit of its own, so that
a step that breaks the card's context, or hangs, costs no other. Every record is printed, and
appended to the output, as it comes; the table of the cells of Fig. 3 (`tests.benchmarks.gpu_cells`)
lies beside it. They need minutes of their own: ``--steps cells,precision --minutes 8``.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.benchmarks.gpu_cells import folder_of, write_table
from tests.benchmarks.gpu_steps import STEPS


def main(
    minutes: float = 6.0,
    device: str = "cuda",
    tiny: bool = False,
    output: str | None = None,
    steps: str | None = None,
) -> Iterator[str]:
    """Yield a line for every record and for every step that did not end."""
    wanted = list(STEPS) if steps is None else steps.split(",")
    if unknown := [name for name in wanted if name not in STEPS]:
        yield f"gpu: no step {unknown[0]!r}; allowed: {', '.join(STEPS)}"
        return
    if device == "cuda" and not torch.cuda.is_available():
        yield "gpu: not run: torch sees no GPU here"
        return
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    head = {"step": "head", "device": card, "torch": torch.__version__, "tiny": tiny}
    if device == "cuda":
        head |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    ends = time.monotonic() + 60 * minutes
    yield _kept(json.dumps(head), output)
    try:
        for name in wanted:
            _, limit_s = STEPS[name]
            left_s = ends - time.monotonic()
            if left_s < 5:
                yield _kept(json.dumps({"step": name, "skipped": "no time left"}), output)
                continue
            for line in _lines_of(name, device, tiny, min(limit_s, left_s)):
                yield _kept(line, output)
            if output is not None:
                write_table(Path(output))
    finally:
        shutil.rmtree(folder_of(os.getpid()), ignore_errors=True)


def _lines_of(name: str, device: str, tiny: bool, limit_s: float) -> Iterator[str]:
    """Run a step in a process of its own; yield its records, and how it ended if not well."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu_steps", name, device]
    started = time.monotonic()
    with subprocess.Popen(
        [*command, "--tiny"] if tiny else command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as step:
        killer = threading.Timer(limit_s, step.kill)
        killer.start()
        errors: list[str] = []
        assert step.stdout is not None
        assert step.stderr is not None
        reader = threading.Thread(target=lambda: errors.extend(step.stderr or ()))
        reader.start()
        try:
            for line in step.stdout:
                if line.startswith("{"):
                    yield line.strip()
            code = step.wait()
            reader.join()
        finally:
            killer.cancel()
            step.kill()
    seconds = round(time.monotonic() - started, 1)
    if seconds >= limit_s:
        yield json.dumps({"step": name, "ended": f"after its {limit_s:.3g} s"})
    elif code:
        yield json.dumps({"step": name, "failed": code, "error": "".join(errors)[-1500:]})
    else:
        yield json.dumps({"step": name, "seconds": seconds})


def _kept(line: str, output: str | None) -> str:
    if output is not None:
        with Path(output).open("a") as file:
            file.write(line + "\n")
    return line
