"""What is installed is what is in the checkout, and takes no name that is its user's."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
USED = """\
import pathlib, sys
import analysis
import phasegrid
from phasegrid.analysis.report.report import Drawn
from tests_of_ours import SMALL

assert analysis.MINE == "the user's own", analysis
installed = pathlib.Path(sys.argv[1]).resolve()
assert pathlib.Path(phasegrid.__file__).resolve().is_relative_to(installed), phasegrid.__file__
result = phasegrid.run(SMALL, "store", serial=True, quiet=True)
drawn = phasegrid.plot(result, output="figures", formats=["png"])
assert result.ok and isinstance(drawn, Drawn) and drawn.files[0].is_file()
assert sys.modules["analysis"] is analysis
print("drawn:", ", ".join(drawn.figures))
"""
SMALL = """\
SMALL = {
    "schema": 1, "name": "small", "dataset": {"name": "digits", "fraction": 0.1},
    "model": {"name": "mlp", "depth": 1}, "train": {"batch_size": 32, "epochs": 1, "stop": None},
    "load": {"param": "model.width", "values": [2, 4]},
    "temperature": {"param": "train.lr", "values": [0.01, 0.1]}, "seeds": 1, "metrics": ["accuracy"],
}
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**own, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout, built offline with what is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("phasegrid", "analysis"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, source / name, symlinks=True, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source / name)
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q")
    run(sys.executable, *build, "-w", folder, source, cwd=folder)
    (found,) = folder.glob("phasegrid-*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_no_other_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"phasegrid"}
    modules = {
        str(path.relative_to(CHECKOUT))
        for folder in ("phasegrid", "phasegrid/analysis")
        for path in (CHECKOUT / folder).rglob("*.py")
    }
    assert len(modules) > 200
    assert modules <= names
    assert any(name.startswith("phasegrid/analysis/draw/") for name in names)


@pytest.mark.slow
def test_a_folder_of_the_users_called_analysis_breaks_nothing(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin/python"
    place = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
    )
    installed = Path(place.strip())
    install = ("-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", installed)
    run(sys.executable, *install, wheel, cwd=tmp_path)
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (installed / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    work = tmp_path / "work"
    (work / "analysis").mkdir(parents=True)
    (work / "analysis/__init__.py").write_text('MINE = "the user\'s own"\n')
    (work / "tests_of_ours.py").write_text(SMALL)
    (work / "use.py").write_text(USED)
    said = run(python, "use.py", installed, cwd=work)
    assert "drawn: diagram" in said
    version = run(python, "-m", "phasegrid", "--version", cwd=work)
    assert version.startswith("phasegrid ")
