"""Put everything that a submitted run needs from this machine into one small zip: the sweep, the
sweeps that it extends, its plug-in files with the local modules that they import, and their commit.

phasegrid itself and the data must be on the cluster. With `with_code`, the bundle also holds the
tracked files of phasegrid's own checkout and the name of its commit, and the cluster imports those.
Files keep their places relative to each other, below ``sweep/``, so that every relative reference
means the same there. Only references are followed, so no data, results or secrets enter the bundle.
"""

import io
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from phasegrid.config.load import Sweep, user_files
from phasegrid.config.yaml import Node, read_file, read_text
from phasegrid.errors import SweepError
from phasegrid.jobs import Part
from phasegrid.plugin_files import plugin_file
from phasegrid.redaction import known_secrets
from phasegrid.store.provenance import COMMIT_FILE, commit_record, user_commit_record
from phasegrid.texts import counted
from phasegrid.user_code import USER_COMMIT_FILE

MAX_BYTES = 100_000_000  # a bundle is for code and settings; Ray keeps it in the memory of the head
FOLDER = "sweep"
_PLUGIN = re.compile(r"(?P<file>.+\.py):\w+")
_NUM_NAMED = 10
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # equal files give an equal zip, which Ray then stores once


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle: the path of the sweep in it, the bytes of the zip, its files, and notes for the
    user.
    """

    sweep: str
    data: bytes
    names: tuple[str, ...]
    num_bytes: int
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return how many files the bundle has, and their bytes with and without compression."""
        size, zipped = _megabytes(self.num_bytes), _megabytes(len(self.data))
        files = counted(len(self.names), "file")
        return f"bundle: {files}, {size} ({zipped} zipped)"


def make_bundle(
    path: Path, sweep: Sweep, overrides: Sequence[str] = (), code: Path | None = None
) -> Bundle:
    """Bundle a sweep file that was loaded as `sweep`; with `code`, also the tracked files of that
    git checkout.

    Raises:
        SweepError: if a reference is absolute, two files would get one place, a file holds the
            token of a cluster, `code` is no git checkout, or the files are larger than `MAX_BYTES`
            together (naming the largest).
    """
    sources = _Sources()
    own = Path(os.path.abspath(path))
    _add_sweep(own.resolve(), own, sources)
    _add_plugins(own, overrides, sources)
    root = Path(os.path.commonpath([file.parent for file in sources.files]))
    files = {f"{FOLDER}/{_relative(file, root)}": real for file, real in sources.files.items()}
    for (
        real
    ) in sources.plugins:  # workers look here; their copy of the bundle may be in another folder
        files.setdefault(real.name, real)
    _add_modules(sweep, files)
    made = {USER_COMMIT_FILE: user_commit_record(user_files(sweep))}
    notes = list(_notes(sweep))
    if code is not None:
        files |= {name: code / name for name in tracked_files(code)}
        made[COMMIT_FILE] = commit_record(code)
        notes += _untracked_notes(code)
    num_bytes = _check_size(path, files) + sum(len(data) for data in made.values())
    return Bundle(
        sweep=f"{FOLDER}/{_relative(own, root)}",
        data=_zip(_contents(path, files) | made),
        names=tuple(sorted({*files, *made})),
        num_bytes=num_bytes,
        notes=tuple(notes),
    )


def tracked_files(checkout: Path) -> list[str]:
    """List the files that git tracks in a checkout and that exist, in their present state,
    committed or not.

    Raises:
        SweepError: if `checkout` is not the root of a git checkout.
    """
    if not (checkout / ".git").exists():
        raise SweepError(
            f"bundling the code of {checkout}: it is not a git checkout (phasegrid is installed as"
            " a package); leave out --with-code and install phasegrid on the cluster"
        )
    return [name for name in _ls_files(checkout) if (checkout / name).is_file()]


@dataclass(slots=True)
class _Sources:
    """The real files, by the place that a sweep's references give them, which may be the place of a
    link.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    plugins: list[Path] = field(default_factory=list)
    references: list[str] = field(default_factory=list)

    def add(self, place: Path, real: Path) -> None:
        other = self.files.setdefault(place, real)
        if other != real:
            raise SweepError(
                f"bundling {place}: references lead to {other} and to {real} by the same"
                f" relative path, through links; a bundle has no links: use one file"
            )


def _add_sweep(real: Path, place: Path, sources: _Sources) -> None:
    """Add a sweep file and those that it extends; the file was read before, so it has no
    mistakes.
    """
    if place in sources.files and sources.files[place] == real:
        return
    sources.add(place, real)
    root, _ = read_file(real, str(real))
    sources.references += [text for text in _texts(root) if _PLUGIN.fullmatch(text)]
    extends = (root.mapping or {}).get("extends")
    if extends is None:
        return
    for node in extends.items if extends.items is not None else [extends]:
        text = str(node.value)
        _refuse_absolute(place, text)
        _add_sweep((real.parent / text).resolve(), _join(place.parent, text), sources)


def _add_plugins(own: Path, overrides: Sequence[str], sources: _Sources) -> None:
    """Add the plug-in files that the sweep files and overrides name, found from the sweep's
    folder.
    """
    for override in overrides:
        value, _ = read_text(
            override.partition("=")[2] or "null", "--set", with_lines=False, above=""
        )
        sources.references += [text for text in _texts(value) if _PLUGIN.fullmatch(text)]
    for reference in dict.fromkeys(sources.references):
        real = plugin_file(reference, own.parent)
        if real is None:
            continue  # a text that only looks like a reference: the sweep was loaded
        source = reference.rpartition(":")[0]
        _refuse_absolute(own, source)
        sources.add(_join(own.parent, source), real)
        if real not in sources.plugins:
            sources.plugins.append(real)


def _add_modules(sweep: Sweep, files: dict[str, Path]) -> None:
    """Add the local modules that plug-in files import, at the root of the bundle, from which a run
    imports.
    """
    for one in sweep.code:
        if not _PLUGIN.fullmatch(one.name):
            continue  # a package, which must be installed there
        for name, real in one.code.paths.items():
            if files.setdefault(name, real) != real:
                raise SweepError(
                    f"bundling {one.shown}: {files[name]} and {real} are both imported as {name};"
                    " rename one"
                )


def _texts(node: Node) -> Iterator[str]:
    if node.mapping is not None:
        for key, inner in node.mapping.items():
            yield key
            yield from _texts(inner)
    elif node.items is not None:
        for inner in node.items:
            yield from _texts(inner)
    elif isinstance(node.value, str):
        yield node.value


def _refuse_absolute(place: Path, text: str) -> None:
    if os.path.isabs(text):
        raise SweepError(
            f"bundling {place}: it names {text}, which does not exist on the cluster; write the"
            f" path relative to the sweep's folder"
        )


def _join(folder: Path, text: str) -> Path:
    return Path(os.path.normpath(folder / text))


def _relative(file: Path, root: Path) -> str:
    return str(PurePosixPath(file.relative_to(root)))


def _check_size(path: Path, files: Mapping[str, Path]) -> int:
    sizes = {name: real.stat().st_size for name, real in files.items()}
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:_NUM_NAMED]
        named = ", ".join(f"{name} ({_megabytes(sizes[name])})" for name in largest)
        raise SweepError(
            f"bundling {path}: {len(files)} files have {_megabytes(total)}, allowed:"
            f" {_megabytes(MAX_BYTES)}; put data in a place that every node can read. The"
            f" largest: {named}"
        )
    return total


def _contents(path: Path, files: Mapping[str, Path]) -> dict[str, bytes]:
    """Read the files; refuse a file that holds the token of a cluster."""
    tokens = [token.encode() for token in known_secrets()]
    contents: dict[str, bytes] = {}
    for name, real in files.items():
        contents[name] = real.read_bytes()
        if any(token in contents[name] for token in tokens):
            raise SweepError(
                f"bundling {path}: {real} holds the token of a cluster, which every user of the"
                " cluster could read there; take it out of the file"
            )
    return contents


def _zip(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(contents.items()):
            info = zipfile.ZipInfo(name, _FIRST_DAY)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return buffer.getvalue()


def _notes(sweep: Sweep) -> Iterator[str]:
    """Return notes on what the cluster must have because the bundle does not: relative data
    folders, modules of packages.
    """
    parts: dict[int, Part] = {id(p.dataset): p.dataset for p in sweep.points}
    roots = {
        f"{part.name}: {name} {value}"
        for part in parts.values()
        for name, value in part.locators.items()
        if isinstance(value, str) and value and "://" not in value and not os.path.isabs(value)
    }
    for text in sorted(roots):
        yield (
            f"data set {text} is a relative path, looked up in the bundle on the cluster; data are"
            " not bundled: give an absolute path that every node has"
        )
    parts |= {id(p.model): p.model for p in sweep.points}
    names = {part.name for part in parts.values()} | {m.part.name for m in sweep.metrics}
    for name in sorted(names):
        if ":" in name and not _PLUGIN.fullmatch(name):
            yield f"{name} must be importable on the cluster: install its package there"


def _untracked_notes(checkout: Path) -> Iterator[str]:
    names = _ls_files(checkout, "--others", "--exclude-standard", "--", "*.py")
    if names:
        yield (
            f"{len(names)} Python files of {checkout} are not tracked and so not in the bundle: "
            f"{', '.join(names[:_NUM_NAMED])}; run git add for those that are needed"
        )


def _ls_files(checkout: Path, *arguments: str) -> list[str]:
    command = ["git", "-C", str(checkout), "ls-files", "-z", *arguments]
    try:
        listed = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SweepError(
            f"bundling the code of {checkout}: git ls-files failed ({error})"
        ) from error
    return [name for name in listed.stdout.decode().split("\0") if name]


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"
