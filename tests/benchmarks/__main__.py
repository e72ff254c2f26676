"""Run the benchmarks: ``python -m tests.benchmarks [--list] [NAME ...]``. One ratio a line,
hardware and versions first.
"""

import argparse
import importlib
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks.alone import run_alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="benchmarks to run (default: all)")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument("--minutes", type=float, default=6.0, help="of gpu: minutes in all")
    parser.add_argument("--device", default="cuda", help="of gpu: cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="of gpu: sizes for a test on a CPU")
    parser.add_argument("--output", help="of gpu: a file to append the records to")
    parser.add_argument("--steps", help="of gpu: only these steps, NAME,NAME")
    options = parser.parse_args()
    known = {
        path.stem.removeprefix("bench_"): path.stem
        for path in sorted(Path(__file__).parent.glob("bench_*.py"))
    }
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    modules = {
        name: importlib.import_module(f"tests.benchmarks.{known[name]}")
        for name in options.names or known
    }
    if options.list:
        for name, module in modules.items():
            print(f"{name:14} {(module.__doc__ or '').strip().splitlines()[0]}")
        return
    packages = ("torch", "ray", "pyarrow", "numpy")
    print(
        f"# {platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python"
        f" {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in packages)
    )
    of_gpu = {key: vars(options)[key] for key in ("minutes", "device", "tiny", "output", "steps")}
    for name in modules:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            alone.submit(run_alone, name, of_gpu if name == "gpu" else {}).result()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a machine with a GPU need not have Ray
        return "absent"


if __name__ == "__main__":
    main()
