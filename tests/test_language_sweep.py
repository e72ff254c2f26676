"""``sweeps/connectivity/t03-tiny.yaml``: read on every run, and (slow) done for real."""

from pathlib import Path

import pytest
from rich.console import Console

from phasegrid import load_sweep
from phasegrid.config.load import Sweep
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.results import open_results
from phasegrid.store.store import Store

FILE = Path(__file__).resolve().parent.parent / "sweeps" / "connectivity" / "t03-tiny.yaml"


def sweep(shared_data: Path) -> Sweep:
    return load_sweep(FILE, [f"dataset.root={shared_data / 'ptb'}"])


def test_it_reads_the_penn_treebank_in_fewer_than_25_lines(shared_data: Path) -> None:
    (point,) = sweep(shared_data).points
    assert point.facts is not None
    assert (point.facts.num_train, point.facts.num_test) == (737, 4121)
    assert point.facts.num_classes == 1000
    assert len(FILE.read_text().splitlines()) < 25


@pytest.mark.slow
def test_the_segment_is_far_above_its_ends_and_the_bezier_curve_close(
    shared_data: Path, tmp_path: Path
) -> None:
    store = Store.open(str(tmp_path / "results"), create=True)
    target = RunTarget(serial=True)
    assert (
        run_sweep(sweep(shared_data), store, target, Console(quiet=True), True, None).exit_code == 0
    )
    rows = open_results(store.url).metric("connectivity")
    perplexities = {row["num_bends"]: row["train_perplexity"] for row in rows.to_dict("records")}
    ends = max(perplexities[0][0], perplexities[0][-1])
    assert ends < 60
    assert max(perplexities[0]) > 3 * ends
    assert max(perplexities[1]) < 1.3 * ends
