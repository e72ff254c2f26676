"""Check that this machine is fit for a sweep: versions, GPU, disk, memory, threads, limits.

A check ends as ``ok``, ``note`` (works, but worth knowing), ``bad`` (a run here would fail) or
``skipped``.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from phasegrid.run.cards.card import NodeCards, card_text
from phasegrid.run.cards.findings import findings_of
from phasegrid.run.cards.nvml import read_in_time

State = Literal["ok", "note", "bad", "skipped"]

GIB = 2**30
MIN_FREE_DISK = 5 * GIB  # ResNet18 checkpoints are 45 MB each; spilled objects and logs come on top
MIN_FREE_MEMORY = 2 * GIB  # one worker with torch and a small image set
MIN_SHARED_MEMORY = 256 * 2**20  # twice the object store that a run starts Ray with
MAX_DISK_USED = 0.95  # beyond this Ray refuses to write objects (RAY_local_fs_capacity_threshold)
MIN_OPEN_FILES = 4096  # Ray holds several for every worker; its cluster templates ask for 65536
MAX_TEMP_PATH = 107 - len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")
_MAIN = ("torch", "torchvision", "ray", "pyarrow", "pandas", "numpy", "pydantic", "safetensors")
_EXTRAS = {"query": "duckdb", "text": "sacrebleu", "s3": "s3fs", "gcs": "gcsfs"}
_NEEDED_BY = {"query": "phasegrid query", "text": "metric bleu", "s3": "s3://", "gcs": "gs://"}


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; `repair` says what to do if it is not ``ok``. `place` decides the
    exit code.
    """

    name: str
    state: State
    found: str
    repair: str = ""
    place: Literal["machine", "storage", "cluster"] = "machine"


def check_machine() -> Iterator[Check]:
    """Check versions, GPU, disk, memory, the folder of temporary files, threads, open files and
    extras.
    """
    yield from _versions(requires_or_none())
    yield _gpu()
    yield from card_checks(read_in_time())
    yield from _convolutions()
    temporary = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    yield check_disk("free disk for temporary files", temporary, "set RAY_TMPDIR to a larger disk")
    yield _temporary(temporary)
    yield _memory(available_memory())
    yield from _shared_memory(Path("/dev/shm"))
    yield _threads(os.environ.get("OMP_NUM_THREADS"), os.cpu_count() or 1)
    yield _open_files()
    for extra, package in _EXTRAS.items():
        yield _extra(extra, package)


def requires_or_none() -> list[str] | None:
    """Return the requirements of the installed phasegrid; None if it runs without being
    installed.
    """
    try:
        return requires("phasegrid") or []
    except PackageNotFoundError:
        return None


def _versions(requirements: list[str] | None) -> Iterator[Check]:
    yield Check("python", "ok", platform.python_version())
    if requirements is None:
        repair = "pip install -e . in the checkout, and bounds of versions are checked too"
        yield Check(
            "packages", "note", "phasegrid runs from a checkout and is not installed", repair
        )
        return
    bounds = {r.name: r for r in map(Requirement, requirements) if r.marker is None}
    for name in _MAIN:
        yield _version(name, bounds.get(name))


def _version(name: str, bound: Requirement | None) -> Check:
    wanted = str(bound.specifier) if bound else ""
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "bad", "not installed", f"pip install '{name}{wanted}'")
    if bound and not bound.specifier.contains(found, prereleases=True):
        repair = f"pip install '{name}{wanted}'"
        return Check(name, "bad", f"{found}, but {wanted} is needed", repair)
    return Check(name, "ok", found)


def _gpu() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("gpu", "bad", f"torch cannot be imported: {error}", "install torch again")
    if not torch.cuda.is_available():
        has_driver = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
        if has_driver:
            repair = (
                "install a torch built for CUDA, matching the driver; unset CUDA_VISIBLE_DEVICES"
            )
            return Check("gpu", "note", "this machine has a GPU that torch does not see", repair)
        return Check("gpu", "ok", "none: work is done on the CPU")
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    found = ", ".join(f"{p.name} ({p.total_memory / GIB:.0f} GiB)" for p in names)
    return Check("gpu", "ok", found)


def card_checks(node: NodeCards | None, host: str | None = None) -> Iterator[Check]:
    """Say how the GPUs of a machine are, each on its own; nothing if NVML does not tell."""
    findings = [] if node is None else findings_of([node])
    for card in () if node is None else node.cards:
        name = f"gpu {card.index}" + (f" of {host}" if host else "")
        _, _, found = card_text(card, None).partition(": ")
        wrong = [finding.text for finding in findings if finding.index == card.index]
        state: State = "bad" if card.lost is not None else "note" if wrong else "ok"
        yield Check(name, state, f"{found}, {card.name or 'name unknown'}", "; ".join(wrong))


def _convolutions() -> Iterator[Check]:
    """Name a CPU on which some convolutions of torch end the process
    (`phasegrid.models.image_layouts`).
    """
    try:
        import torch
    except ImportError:
        return  # reported already
    kind = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() not in ("x86_64", "amd64") or kind.startswith("AVX512"):
        yield Check("convolutions on the CPU", "ok", f"{kind}: all kinds work")
        return
    found = (
        f"{kind}, no AVX-512: here torch's 1x1 convolutions with a stride and 2 to 7 input channels"
        " write past their buffers, and end the process, if images lie channels last"
    )
    repair = (
        "nothing: phasegrid keeps images contiguous for networks that have them, and numbers are"
        " right; a network whose own code lays images out so would die"
    )
    yield Check("convolutions on the CPU", "note", found, repair)


def check_disk(name: str, folder: Path, repair: str) -> Check:
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return Check(name, "bad", f"{folder}: {error}", repair)
    found = f"{usage.free / GIB:.1f} GiB in {folder} ({usage.used / usage.total:.0%} used)"
    if usage.free < MIN_FREE_DISK or usage.used > MAX_DISK_USED * usage.total:
        return Check(name, "note", found, f"{repair}, or free some: phasegrid gc")
    return Check(name, "ok", found)


def _temporary(folder: Path) -> Check:
    name = "folder for temporary files"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            name, "bad", f"{folder}: {error}", "set TMPDIR to a folder that can be written"
        )
    if len(str(folder / "ray")) > MAX_TEMP_PATH:
        repair = f"set RAY_TMPDIR to a shorter path (at most {MAX_TEMP_PATH - 4} characters)"
        return Check(name, "bad", f"{folder} is too long for Ray's sockets", repair)
    return Check(name, "ok", str(folder))


def available_memory(
    proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the bytes of memory that a new process can have, by the kernel and by the container;
    None if unknown.
    """
    found = []
    try:
        lines = proc.read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        pass
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def _memory(available: int | None) -> Check:
    if available is None:
        return Check("free memory", "skipped", "this system does not say")
    found = f"{available / GIB:.1f} GiB"
    if available < MIN_FREE_MEMORY:
        return Check(
            "free memory", "note", found, "ask for fewer workers (--num-cpus) or end other programs"
        )
    return Check("free memory", "ok", found)


def _shared_memory(folder: Path) -> Iterator[Check]:
    if folder.is_dir():
        free = shutil.disk_usage(folder).free
        found = f"{free / GIB:.2f} GiB in {folder}"
        repair = (
            "give the container more: docker run --shm-size=2g, or a memory volume in Kubernetes"
        )
        state: State = "ok" if free >= MIN_SHARED_MEMORY else "note"
        yield Check("shared memory", state, found, "" if state == "ok" else repair)


def _threads(setting: str | None, num_cores: int) -> Check:
    found = f"OMP_NUM_THREADS {setting or 'not set'}, {num_cores} cores"
    if setting and setting.isdecimal() and int(setting) > 1:
        repair = (
            "unset it or set it to 1: every core has its own worker, whose threads would stand in"
            " each other's way"
        )
        return Check("threads", "note", found, repair)
    return Check("threads", "ok", found)


def _open_files() -> Check:
    try:
        import resource
    except ImportError:
        return Check("open files", "skipped", "this system has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        most = "65536" if hard == resource.RLIM_INFINITY else str(min(hard, 65536))
        return Check("open files", "note", f"{soft} at most", f"ulimit -n {most}")
    return Check("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else str(soft))


def _extra(extra: str, package: str) -> Check:
    name = f"extra {extra}"
    if find_spec(package) is None:
        repair = f"pip install 'phasegrid[{extra}]', if you want {_NEEDED_BY[extra]}"
        return Check(name, "note", f"{package} is not installed", repair)
    return Check(name, "ok", f"{package} {version(package)}")
