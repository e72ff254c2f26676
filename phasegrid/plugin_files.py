"""Find the files of plug-ins and import them.

A file is looked for in the folders of the environment variable `FOLDERS_VARIABLE`, to which
`remember_folder` adds and which child processes inherit, then in the current folder. A file is
imported once a process, and again after an edit if that is asked for.
"""

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from phasegrid.keys import text_key
from phasegrid.user_code import Code, code_of_file

FOLDERS_VARIABLE = "PHASEGRID_PLUGIN_PATH"


@dataclass(frozen=True, slots=True)
class _ImportedFile:
    """A plug-in file as it was imported; an edit changes nothing until it is imported again."""

    module: ModuleType
    code: Code


_FILES: dict[Path, _ImportedFile] = {}
_MODULES: dict[str, str] = {}  # the contents of the code with which a local module was imported


def plugin_file(name: str, folder: Path | None = None) -> Path | None:
    """Return the file that a reference like ``file.py:NAME`` names; None if it names no file, or
    the file is not there.
    """
    source = name.rpartition(":")[0]
    if not is_file(source):
        return None
    folders = [folder] if folder is not None else []
    folders += [
        Path(text) for text in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if text
    ]
    candidates = [place / source for place in [*folders, Path.cwd()]]
    return next((path.resolve() for path in candidates if path.is_file()), None)


def remember_folder(folder: Path) -> None:
    """Put a folder first among those in which this process and its children look for plug-ins."""
    known = [text for text in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if text]
    rest = [text for text in known if text != str(folder)]
    os.environ[FOLDERS_VARIABLE] = os.pathsep.join([str(folder), *rest])


def import_file(path: Path, anew: bool) -> ModuleType:
    """Import a file under a name made of its path and contents; if `anew`, import it again after an
    edit.
    """
    known = _FILES.get(path)
    if known is not None and not anew:
        return known.module
    code = code_of_file(path)
    if known is not None and known.code.contents == code.contents:
        return known.module
    _forget_edited(code)
    name = f"phasegrid_plugin_{path.stem}_{text_key(f'{path} {code.contents}')[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being imported
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _FILES[path] = _ImportedFile(module, code)
    return module


def imported_code(path: Path) -> Code:
    """Return the code of a file as this process imported it."""
    return _FILES[path].code


def _forget_edited(code: Code) -> None:
    """Forget the local modules of a plug-in if one was edited, so that all are imported again."""
    if any(_MODULES.get(name, contents) != contents for name, contents in code.modules.items()):
        for name in code.modules:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
    _MODULES.update(code.modules)


def is_file(source: str) -> bool:
    """Say whether the first part of a reference names a file, and not a module."""
    return source.endswith(".py")
