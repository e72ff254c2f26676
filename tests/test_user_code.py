"""The digest of a plug-in stands for what its code does: not for its layout, its folder or its
machine.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phasegrid import registry
from phasegrid.user_code import (
    MAX_MODULES,
    USER_COMMIT_FILE,
    code_of_file,
    code_of_module,
    source_digest,
)

NET = b'''\
"""A network."""
from dataclasses import dataclass

@dataclass(frozen=True)
class Args:
    """Arguments."""
    width: int = 8

def make(shape, k, width):
    return [f"{width!r:>{k}}{''}", -1.5e3, b"\\x00", 1j, ...]
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"""A network."""\n', b""),
        (b'    """Arguments."""\n', b"    # of which there are few\n    'Other words.'\n"),
        (b"width: int = 8", b"width:  int  =  (\n        8\n    )"),
        (b'b"\\x00"', b"b'\\x00'"),
        (b"-1.5e3", b"-1500.0"),
    ],
)
def test_comments_layout_and_docstrings_do_not_count(old: bytes, new: bytes) -> None:
    assert old in NET
    assert source_digest(NET.replace(old, new)) == source_digest(NET)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"= 8", b"= 9"),
        (b"1j", b"2j"),
        (b"(shape, k, width)", b"(shape, k, width=1)"),
        (b"frozen=True", b"frozen=False"),
        (b"-1.5e3", b"+1.5e3"),
        (b"[f", b"[1, f"),
        (b"import dataclass", b"import dataclass as dataclass"),
    ],
)
def test_whatever_else_changes_counts(old: bytes, new: bytes) -> None:
    assert old in NET
    assert source_digest(NET.replace(old, new)) != source_digest(NET)


def test_a_digest_is_the_same_in_every_python() -> None:
    # of Python 3.11, 3.12 and 3.13, whose own dumps of these trees differ
    assert source_digest(NET) == GOLDEN


GOLDEN = "46f21f64d00f9b4893eda75757e6d2ce4cb09a38cdfc45706df1522f7df44197"


def test_what_is_no_python_has_the_digest_of_its_bytes() -> None:
    assert source_digest(b"def") != source_digest(b"def ")
    assert source_digest(b"(" * 100_000) == source_digest(b"(" * 100_000)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a plug-in that imports beside it, of its project, and from outside."""
    root, out = tmp_path / "project", tmp_path / "elsewhere"
    files = {
        root / "pyproject.toml": "",
        root / "lab" / "net.py": (
            "import blocks_of_lab\nfrom common_of_lab import inner\nimport json\nimport"
            " outside_of_lab\n"
        ),
        root / "lab" / "blocks_of_lab.py": "SIZE = 1\n",
        root / "common_of_lab" / "__init__.py": "",
        root / "common_of_lab" / "inner.py": "def f():\n    from . import deeper\n",
        root / "common_of_lab" / "deeper.py": "X = 1\n",
        root / "common_of_lab" / "unused.py": "X = 1\n",
        root / "venv" / "site-packages" / "installed_of_lab.py": "X = 1\n",
        out / "outside_of_lab.py": "X = 1\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in (root, root / "lab", root / "venv" / "site-packages", out):
        monkeypatch.syspath_prepend(folder)
    return root


def test_local_modules_are_followed_and_no_others(project: Path) -> None:
    code = code_of_file(project / "lab" / "net.py")
    assert list(code.files) == [
        "blocks_of_lab.py", "common_of_lab/__init__.py", "common_of_lab/deeper.py", "common_of_lab/inner.py", "net.py",
    ]  # fmt: skip
    assert set(code.modules) == {
        "blocks_of_lab", "common_of_lab", "common_of_lab.deeper", "common_of_lab.inner",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["lab/blocks_of_lab.py", "common_of_lab/deeper.py", "lab/net.py"])
def test_an_edit_of_a_local_module_is_an_edit_of_the_plugin(project: Path, name: str) -> None:
    before = code_of_file(project / "lab" / "net.py")
    with (project / name).open("a") as file:
        file.write("# a comment\n")
    commented = code_of_file(project / "lab" / "net.py")
    with (project / name).open("a") as file:
        file.write("Y = 2\n")
    after = code_of_file(project / "lab" / "net.py")
    assert commented.digest == before.digest
    assert commented.contents != before.contents
    assert after.digest != before.digest


@pytest.mark.parametrize("name", ["common_of_lab/unused.py", "venv/site-packages/installed_of_lab.py"])  # fmt: skip
def test_an_edit_elsewhere_is_none(project: Path, name: str) -> None:
    (project / "lab" / "blocks_of_lab.py").write_text("import installed_of_lab\n")
    before = code_of_file(project / "lab" / "net.py")
    (project / name).write_text("Y = 2\n")
    assert code_of_file(project / "lab" / "net.py") == before


def test_without_a_project_only_the_folder_is_local(project: Path) -> None:
    (project / "pyproject.toml").unlink()
    assert list(code_of_file(project / "lab" / "net.py").files) == ["blocks_of_lab.py", "net.py"]
    (project / USER_COMMIT_FILE).write_text("{}")  # the root of a bundle
    assert len(code_of_file(project / "lab" / "net.py").files) == 5


def test_a_module_of_a_package_counts_with_what_it_imports_of_the_package(project: Path) -> None:
    code = code_of_module("common_of_lab.inner")
    assert code is not None
    assert list(code.files) == [
        "common_of_lab/__init__.py", "common_of_lab/deeper.py", "common_of_lab/inner.py",
    ]  # fmt: skip
    assert project in code.paths["common_of_lab/inner.py"].parents
    installed = code_of_module("installed_of_lab")
    assert installed is not None
    assert list(installed.files) == ["installed_of_lab.py"]


def test_of_a_large_package_only_the_module_counts(project: Path) -> None:
    inner = project / "common_of_lab" / "inner.py"
    names = [f"part_{i}" for i in range(MAX_MODULES)]
    for name in names:
        (inner.parent / f"{name}.py").write_text("")
    inner.write_text(f"from . import {', '.join(names)}\n")
    code = code_of_module("common_of_lab.inner")
    assert code is not None
    assert list(code.files) == ["common_of_lab/__init__.py", "common_of_lab/inner.py"]
    assert list(code_of_file(project / "lab" / "net.py").files) == ["blocks_of_lab.py", "net.py"]


def test_phasegrids_own_code_is_no_ones_plugin() -> None:
    assert code_of_module("phasegrid.metrics.hessian") is None
    assert registry.code_of("metric", "phasegrid.metrics.cka:CKA") is None
    assert registry.code_of("model", "mlp") is None


def test_functions_that_a_declaration_names_as_text_are_its_code(project: Path) -> None:
    net = project / "lab" / "net.py"
    net.write_text(
        "from dataclasses import dataclass\nfrom phasegrid.declare import Model\n"
        "@dataclass(frozen=True)\nclass Args:\n    width: int = 1\n"
        "NET = Model(Args, 'common_of_lab.inner:f')\n"
    )
    code = registry.code_of("model", "lab/net.py:NET", project)
    assert code is not None
    assert "common_of_lab/inner.py" in code.files
    assert "common_of_lab/deeper.py" in code.files
    assert registry.code_of("model", "lab/net.py:NET", project) == code


def test_an_edited_local_module_is_imported_again_with_its_plugin(project: Path) -> None:
    net = project / "lab" / "net.py"
    net.write_text(
        "from dataclasses import dataclass\nfrom phasegrid.declare import Model\nfrom blocks_of_lab"
        " import SIZE\n@dataclass(frozen=True)\nclass Args:\n    width: int = 1\nNET = Model(Args,"
        " 'common_of_lab.inner:f', version=SIZE)\n"
    )
    assert registry.resolve_model("lab/net.py:NET", project).version == 1
    (project / "lab" / "blocks_of_lab.py").write_text("SIZE = 22\n")
    assert registry.resolve_model(f"{net}:NET").version == 1  # a job keeps the code it began with
    assert registry.resolve_model("lab/net.py:NET", project).version == 22


def test_a_module_beside_a_plugin_that_cannot_be_imported_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text("import beside_alone\n")
    (tmp_path / "beside_alone.py").write_text("")
    with pytest.raises(registry.SweepError, match=r"put its folder .* on PYTHONPATH"):
        registry.resolve_model("alone.py:NET", tmp_path)
    (tmp_path / "beside_alone.py").unlink()
    with pytest.raises(registry.SweepError, match=r"No module named 'beside_alone'$"):
        registry.resolve_model("alone.py:NET", tmp_path)


def test_finding_code_runs_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import pack_of_lab.inner\n")
    (tmp_path / "pack_of_lab").mkdir()
    (tmp_path / "pack_of_lab" / "__init__.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "pack_of_lab" / "inner.py").write_text("raise SystemExit(8)\n")
    code = (
        "import sys; from pathlib import Path; from phasegrid.user_code import code_of_file; "
        "print(len(code_of_file(Path('net.py').resolve()).files), 'torch' in sys.modules)"
    )
    root = Path(registry.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{root}:."},
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == ("3 False", 0), done.stderr
