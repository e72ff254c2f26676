"""A real Ray: packs as tasks, lost workers, a store like the serial executor's."""

from pathlib import Path

import pytest

from tests.faults.test_kill_and_resume import assert_same_store, run, write_sweep


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(write_sweep(folder), folder / "store", "--serial", "-q")
    assert done.returncode == 0, done.stderr
    return folder / "store"


def test_ray_and_serial_store_the_same_rows_and_a_second_run_submits_nothing(
    tmp_path: Path, undisturbed: Path
) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    first = run(sweep, storage, "--num-cpus", "2")
    assert first.returncode == 0, first.stderr
    assert_same_store(storage, undisturbed)
    second = run(sweep, storage)
    assert second.returncode == 0, second.stderr
    assert "0 to do" in second.stderr
    assert "starting Ray" not in second.stderr


def test_a_ray_client_address_is_refused_with_the_reason(tmp_path: Path) -> None:
    refused = run(write_sweep(tmp_path), tmp_path / "store", "--address", "ray://127.0.0.1:10001")
    assert refused.returncode == 4
    assert "Ray Client" in refused.stderr
    assert "Traceback" not in refused.stderr
