"""What produced a row: host, device, versions, the commit of phasegrid. No user names, paths or environment."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from phasegrid import __version__


def provenance(device: str) -> dict[str, str | bool | None]:
    """Return the columns that every row of a result carries, for work done on `device` in this process.

    `git_commit` and `git_dirty` (tracked files changed) are those of phasegrid's own checkout, None where it is
    installed without one. They are looked up once per process: an edit after that is not seen, nor imported.
    """
    commit, dirty = _checkout(Path(__file__).resolve().parent.parent)
    return {
        "device": device,
        "host": platform.node() or None,
        "phasegrid_version": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "torch_version": _torch_version(),
    }


@cache
def _torch_version() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


@cache
def _checkout(folder: Path) -> tuple[str | None, bool | None]:
    """Return commit and dirtiness of the checkout whose root is `folder`; never those of one further up."""
    if not (folder / ".git").exists():
        return None, None
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return None, None
    return commit, status != ""


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
