"""Every command of the page on Slurm exists, with its options and its files."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from phasegrid.cli.main import app
from phasegrid.config.load import load_sweep

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = (CHECKOUT / "docs/slurm.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for line in re.findall(r"^\$ (.*)$", PAGE, flags=re.MULTILINE)]
OURS = [words for words in COMMANDS if words[0] == "phasegrid"]
JOBS = [words for words in COMMANDS if words[0] == "sbatch"]


def parse(name: str, words: list[str]) -> dict[str, object]:
    command = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined]
    assert command is not None, name
    with command.make_context(name, words) as context:
        return dict(context.params)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_each_of_our_commands_exists_with_its_options(words: list[str]) -> None:
    given = parse(words[1], words[2:])
    file = given["sweep"] if words[1] in ("validate", "fetch", "plan") else None
    assert file is None or (CHECKOUT / str(file)).is_file()


@pytest.mark.parametrize("words", JOBS, ids=" ".join)
def test_each_job_is_a_script_and_a_run_that_exist(words: list[str]) -> None:
    script = next(index for index, word in enumerate(words) if word.endswith(".sbatch"))
    assert all(word.startswith("--") for word in words[1:script])
    assert (CHECKOUT / words[script]).is_file()
    sweep, storage, *options = words[script + 1 :]
    assert (CHECKOUT / sweep).is_file()
    parse("run", [sweep, "--storage", storage, "--no-plot", *options])


def test_the_walk_goes_from_data_to_figures_of_one_sweep() -> None:
    steps = [words[1] if words[0] == "phasegrid" else words[0] for words in COMMANDS]
    wanted = ["validate", "fetch", "sbatch", "status", "verify", "plot"]
    assert [step for step in dict.fromkeys(steps) if step in wanted] == wanted
    sweep = load_sweep(CHECKOUT / "sweeps/taxonomy/f02.yaml")
    named = {words[2] for words in OURS if words[1] in ("verify", "plot")}
    assert named == {sweep.name}
