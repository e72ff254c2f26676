"""A bundle means on the cluster what the sweep means here, and holds nothing else."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import phasegrid
from phasegrid import load_sweep
from phasegrid.errors import SweepError
from phasegrid.submit import bundle as bundling
from phasegrid.submit.bundle import Bundle, make_bundle
from tests.test_remote import BASE, PLUGIN, SWEEP, TOKEN, write_small

REPOSITORY = Path(phasegrid.__file__).parent.parent


def bundle(path: Path, *settings: str, code: Path | None = None) -> Bundle:
    return make_bundle(path, load_sweep(path, settings), settings, code)


def unpack(made: Bundle, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(made.data)) as archive:
        archive.extractall(folder)
    return folder / made.sweep


def planned(sweep: Path, folder: Path, *settings: str) -> object:
    """Plan a sweep in a process of its own, which knows no folder but `folder`."""
    given = [part for setting in settings for part in ("--set", setting)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PHASEGRID_")}
    done = subprocess.run(
        [sys.executable, "-m", "phasegrid", "plan", str(sweep), "--json", *given],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_bundle_holds_the_sweep_its_parents_and_its_plugins_and_plans_the_same(
    tmp_path: Path,
) -> None:
    here = write_small(tmp_path / "here")
    (tmp_path / "here/results.csv").write_text("not asked for")
    made = bundle(here)
    assert made.names == (
        "size.py", "sweep/lab/size.py", "sweep/sweeps/base.yaml", "sweep/sweeps/small.yaml",
        "user_commit.json",
    )  # fmt: skip
    there = unpack(made, tmp_path / "there")
    assert planned(there, tmp_path / "there") == planned(here, tmp_path / "here")
    assert made.summary().startswith("bundle: 5 files, ")


def test_a_plugin_named_by_an_override_goes_along(tmp_path: Path) -> None:
    here = write_small(tmp_path / "here")
    (tmp_path / "here/lab/other.py").write_text(PLUGIN)
    setting = "metrics=[accuracy, '../lab/other.py:SIZE']"
    made = bundle(here, setting)
    assert "sweep/lab/other.py" in made.names
    there = unpack(made, tmp_path / "there")
    assert planned(there, tmp_path / "there", setting) == planned(here, tmp_path / "here", setting)


def test_a_plugin_found_from_the_current_folder_is_found_from_the_sweeps_in_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write_small(tmp_path)
    (tmp_path / "lab").rename(tmp_path / "elsewhere")
    here.write_text(SWEEP.replace("../lab/", "elsewhere/"))
    monkeypatch.chdir(tmp_path)
    made = bundle(here)
    assert "sweep/elsewhere/size.py" in made.names
    assert made.sweep == "sweep/small.yaml"


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_small(tmp_path / "a"), write_small(tmp_path / "b")
    os.utime(second, (0, 0))
    assert bundle(first).data == bundle(second).data


@pytest.mark.parametrize("what", ["extends", "plugin"])
def test_an_absolute_reference_is_refused(tmp_path: Path, what: str) -> None:
    sweep = write_small(tmp_path)
    old, new = {
        "extends": ("base.yaml", str(tmp_path / "sweeps/base.yaml")),
        "plugin": ("../lab/size.py", str(tmp_path / "lab/size.py")),
    }[what]
    sweep.write_text(SWEEP.replace(old, new))
    with pytest.raises(SweepError, match=r"it names /.*write the path relative to the sweep"):
        bundle(sweep)


def test_links_that_would_lead_elsewhere_in_a_bundle_are_refused(tmp_path: Path) -> None:
    write_small(tmp_path)
    (tmp_path / "far/sweeps").mkdir(parents=True)
    (tmp_path / "far/sweeps/middle.yaml").write_text("schema: 1\nextends: ../own.yaml\n")
    (tmp_path / "far/own.yaml").write_text(BASE)
    (tmp_path / "own.yaml").write_text(BASE.replace("seeds: 1", "seeds: 2"))
    (tmp_path / "sweeps/middle.yaml").symlink_to(tmp_path / "far/sweeps/middle.yaml")
    sweep = tmp_path / "sweeps/linked.yaml"
    sweep.write_text(SWEEP.replace("extends: base.yaml", "extends: [../own.yaml, middle.yaml]"))
    with pytest.raises(SweepError, match="by the same relative path"):
        bundle(sweep)


def test_a_large_bundle_is_refused_naming_its_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = write_small(tmp_path)
    monkeypatch.setattr(bundling, "MAX_BYTES", 500)
    with pytest.raises(SweepError, match=r"allowed: 0\.5 kB.*The largest: .*size\.py \(0\.\d kB\)"):
        bundle(sweep)


def test_a_file_that_holds_the_token_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = write_small(tmp_path)
    (tmp_path / "lab/size.py").write_text(PLUGIN + f"KEY = '{TOKEN}'\n")
    (tmp_path / "secret").write_text(TOKEN + "\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "secret"))
    with pytest.raises(SweepError, match=r"size\.py holds the token of a cluster") as caught:
        bundle(sweep)
    assert TOKEN not in str(caught.value)


def test_code_is_the_tracked_files_as_they_are_now(tmp_path: Path) -> None:
    sweep, checkout = write_small(tmp_path / "here"), tmp_path / "checkout"
    checkout.mkdir()
    for name in ("kept.py", "deleted.py", "untracked.py"):
        (checkout / name).write_text("old")
    git = ["git", "-C", str(checkout)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "kept.py", "deleted.py"], check=True)
    (checkout / "kept.py").write_text("edited")
    (checkout / "deleted.py").unlink()
    made = bundle(sweep, code=checkout)
    assert "kept.py" in made.names
    assert not {"deleted.py", "untracked.py"} & set(made.names)
    assert "1 Python files" in made.notes[0]
    assert "untracked.py" in made.notes[0]
    unpack(made, tmp_path / "there")
    assert (tmp_path / "there/kept.py").read_text() == "edited"


@pytest.mark.parametrize("dirty", [False, True], ids=["clean", "edited"])
def test_bundled_code_knows_the_commit_that_it_was_of(tmp_path: Path, dirty: bool) -> None:
    sweep, checkout = write_small(tmp_path / "here"), tmp_path / "checkout"
    (checkout / "phasegrid/store").mkdir(parents=True)
    files = "__init__.py keys.py version.py user_code.py store/__init__.py store/provenance.py"
    for name in files.split():
        shutil.copy(Path(phasegrid.__file__).parent / name, checkout / "phasegrid" / name)
    git = ["git", "-C", str(checkout), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    if dirty:
        with (checkout / "phasegrid/__init__.py").open("a") as file:
            file.write("# edited\n")
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    unpack(bundle(sweep, code=checkout), tmp_path / "there")
    ask = (
        "import json; from phasegrid.store.provenance import provenance;"
        " print(json.dumps(provenance('cpu')))"
    )
    there = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path / "there", env={**os.environ, "PYTHONPATH": "."},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(there.stdout)
    assert (found["git_commit"], found["git_dirty"]) == (commit.stdout.strip(), dirty)


def test_code_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    sweep = write_small(tmp_path / "here")
    with pytest.raises(SweepError, match=r"not a git checkout.*leave out --with-code"):
        bundle(sweep, code=tmp_path)
    (tmp_path / ".git").write_text("nonsense")
    with pytest.raises(SweepError, match="git ls-files failed"):
        bundle(sweep, code=tmp_path)


def test_what_the_cluster_must_have_is_said(tmp_path: Path) -> None:
    sweep = write_small(tmp_path)
    notes = bundle(sweep, "dataset={name: cifar10, root: data}", "model={name: resnet18}").notes
    assert len(notes) == 1
    assert "cifar10: root data is a relative path" in notes[0]
    named = "metrics=[{'phasegrid.metrics.accuracy:ACCURACY': {}}]"
    assert bundle(sweep).notes == ()
    (note,) = bundle(sweep, named).notes
    assert note.startswith("phasegrid.metrics.accuracy:ACCURACY must be importable")
