"""The code of a plug-in: its file, the local modules that it imports, and a digest of both.

For a plug-in file, modules are *local* if they are in its folder or its project (the nearest folder
above with a ``.git``, a ``pyproject.toml`` or a ``setup.py``) and are not installed. For
``package.module:NAME``, the modules of the same package are local. The standard library and
phasegrid itself are never local. Imports are found by reading the source, so nothing is executed;
modules imported under a computed name are not found.

The digest covers the syntax tree of each source, without comments, layout and docstrings, and file
names relative to the folder that is imported from. It does not depend on the folder, the machine or
the version of Python.
"""

import ast
import hashlib
import json
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TypeAlias

from phasegrid.keys import canonical_json, text_key

USER_COMMIT_FILE = "user_commit.json"
"""The file at the root of a submitted copy of a sweep's files that holds their git commit."""

MAX_MODULES = 64
"""A package with more modules than this counts as a library: only the module that the sweep names
is included in the digest.
"""

_MARKS = (".git", "pyproject.toml", "setup.py", USER_COMMIT_FILE)
_INSTALLED = ("site-packages", "dist-packages")
_STDLIB = Path(sysconfig.get_paths()["stdlib"])
_OURS = Path(__file__).resolve().parent
_UNSAID = ("ctx", "kind", "type_comment", "type_ignores")

IsLocal: TypeAlias = Callable[[str, Path], bool]


@dataclass(frozen=True, slots=True)
class Code:
    """The source files of a plug-in.

    `digest` stands for all of them. `files` maps each name, relative to the folder that it is
    imported from, to the digest of its source; `paths` gives the files on this machine. `modules`
    maps the dotted names of the imported modules, without the plug-in's own file, to a hash of the
    file's bytes. `contents` is a hash of the bytes of all files.
    """

    digest: str
    files: Mapping[str, str]
    paths: Mapping[str, Path]
    modules: Mapping[str, str]
    contents: str


@dataclass(frozen=True, slots=True)
class _Source:
    digest: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]  # level, module, names


def code_of_file(path: Path, also: Iterable[str] = ()) -> Code:
    """Return the code of a plug-in file and the local modules that it imports; `also` names further
    modules that it refers to as text.
    """
    folders = {path.parent, _project(path.parent)}

    def is_local(_name: str, file: Path) -> bool:
        return not folders.isdisjoint(file.parents) and not is_installed(file)

    return _code({path.name: path}, _reached([("", path)], is_local, also))


def code_of_module(name: str, also: Iterable[str] = ()) -> Code | None:
    """Return the code of a module and of the modules of its package that it imports. Return None if
    the module is phasegrid's own or its source is missing.
    """
    top = name.partition(".")[0]

    def is_local(other: str, _file: Path) -> bool:
        return other.partition(".")[0] == top

    found = dict(_on_the_way(name, is_local))
    if name not in found:
        return None
    return _code({}, found | _reached(list(found.items()), is_local, also))


def source_digest(source: bytes) -> str:
    """Return the digest of a Python source without comments, layout and docstrings. If it does not
    parse, return the digest of its bytes.

    >>> source_digest(b"a = 1  # one") == source_digest(b"'Doc.'; a=1")
    True
    >>> source_digest(b"a = 1") == source_digest(b"a = 2")
    False
    """
    return _read(source).digest


def is_installed(file: Path) -> bool:
    """Say whether a file belongs to an installed package."""
    return any(part in file.parts for part in _INSTALLED)


def _code(own: dict[str, Path], modules: dict[str, Path]) -> Code:
    paths = own | {_file_name(name, file): file for name, file in modules.items()}
    data = {name: paths[name].read_bytes() for name in sorted(paths)}
    files = {name: source_digest(source) for name, source in data.items()}
    whole = {name: hashlib.sha256(source).hexdigest() for name, source in data.items()}
    return Code(
        digest=_digest_of(files),
        files=files,
        paths={name: paths[name] for name in data},
        modules={name: whole[_file_name(name, file)] for name, file in modules.items()},
        contents=_digest_of(whole),
    )


def _digest_of(files: Mapping[str, str]) -> str:
    return text_key(canonical_json(files))


def _file_name(name: str, file: Path) -> str:
    folder = name.replace(".", "/")
    return f"{folder}/__init__.py" if file.name == "__init__.py" else f"{folder}.py"


def _project(folder: Path) -> Path:
    """Return the root of the project that contains `folder`; `folder` itself if there is no
    project.
    """
    above = [folder, *folder.parents]
    return next((f for f in above if any((f / mark).exists() for mark in _MARKS)), folder)


def _is_ours(file: Path) -> bool:
    return _OURS in file.parents or _OURS.parent / "analysis" in file.parents


def _reached(
    start: Sequence[tuple[str, Path]], is_local: IsLocal, also: Iterable[str]
) -> dict[str, Path]:
    """Return, by dotted name, the local modules that files import directly or indirectly; without
    the modules of packages that have more than `MAX_MODULES`.
    """
    found = {pair[0]: pair[1] for name in also for pair in _on_the_way(name, is_local)}
    todo = [*start, *found.items()]
    while todo:
        for name, file in _imported_by(*todo.pop(), is_local):
            if name not in found:
                found[name] = file
                todo.append((name, file))
    tops = [name.partition(".")[0] for name in found]
    return {
        name: file
        for name, file in found.items()
        if tops.count(name.partition(".")[0]) <= MAX_MODULES
    }


def _imported_by(name: str, file: Path, is_local: IsLocal) -> Iterator[tuple[str, Path]]:
    """Yield the local modules that a file imports, each after the packages that contain it."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for level, module, names in _read(file.read_bytes()).imports:
        parts = package.split(".") if level else []
        base = ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])])
        if not base:
            continue
        yield from _on_the_way(base, is_local)
        for inner in names:  # an imported name is a module, or something that a module defines
            yield from _on_the_way(f"{base}.{inner}", is_local)


def _on_the_way(name: str, is_local: IsLocal) -> Iterator[tuple[str, Path]]:
    """Yield the local files that importing a module runs: its packages from the top, then the
    module.
    """
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        return
    spec = _top(parts[0])
    for depth in range(1, len(parts) + 1):
        full = ".".join(parts[:depth])
        if depth > 1:
            places = None if spec is None else spec.submodule_search_locations
            spec = None if places is None else PathFinder.find_spec(full, places)
        if spec is None:
            return
        if spec.origin and spec.origin.endswith(".py"):
            file = Path(spec.origin).resolve()
            if _is_ours(file) or not is_local(full, file):
                return
            yield full, file


def _top(name: str) -> ModuleSpec | None:
    """Find a top-level module as a first import would, ignoring what is already imported."""
    found = (finder.find_spec(name, None) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


@lru_cache(maxsize=512)
def _read(source: bytes) -> _Source:
    try:
        tree = ast.parse(source)
        said: list[str] = []
        _say(tree, said)
    except (SyntaxError, ValueError, RecursionError):  # importing the file reports the error
        return _Source(hashlib.sha256(source).hexdigest(), ())
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names if alias.name != "*")
            imports.append((node.level, node.module or "", names))
    return _Source(hashlib.sha256("".join(said).encode()).hexdigest(), tuple(imports))


def _say(node: object, said: list[str], in_text: bool = False) -> None:
    """Write a syntax tree as text that is the same for every version of Python: empty fields, which
    differ between versions, are left out.
    """
    if isinstance(node, ast.AST):
        said.append(f"{type(node).__name__}(")
        for name in sorted(node._fields):
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in _UNSAID:
                said.append(f"{name}=")
                _say(value, said, isinstance(node, ast.JoinedStr))
        said.append(")")
    elif isinstance(node, list):
        said.append("[")
        for item in node:
            if not _is_bare_text(item) and not (in_text and _is_empty_text(item)):
                _say(item, said)
        said.append("]")
    else:
        said.append(f"{type(node).__name__}:{_constant(node)};")


def _is_bare_text(node: object) -> bool:
    """Say whether a statement is a docstring or another unused text."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_empty_text(node: object) -> bool:
    return (
        isinstance(node, ast.Constant) and node.value == ""
    )  # Python 3.12 has empty texts in f-strings


def _constant(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value)  # repr depends on the Unicode version of Python
    if isinstance(value, bytes):
        return value.hex()
    return hex(value) if type(value) is int else repr(value)


def where_raised(error: BaseException) -> str:
    """Return the innermost place in user code on the way to an error, as ``file:line``; empty if
    there is none.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        found = where(frame.f_code.co_filename, line) or found
    return found


def where(file: str, line: int) -> str:
    """Return a place in user code as ``file:line``; empty for a place in other code."""
    path = Path(file)
    if not path.is_absolute() or _is_ours(path) or is_installed(path) or _STDLIB in path.parents:
        return ""
    here = Path.cwd()
    return f"{path.relative_to(here) if here in path.parents else path}:{line}"
