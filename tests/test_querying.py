"""SQL over a store: every table a view, nothing but the store in reach."""

import sys
from pathlib import Path

import pytest
from store_support import COLUMNS, SCHEMAS, bare, full, make_store, put

from phasegrid.errors import StoreError, SweepError
from phasegrid.keys import text_key
from phasegrid.store.sql import query
from phasegrid.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = make_store(tmp_path)
    for table in SCHEMAS:
        put(store, table, full(table, "b" if table == "histories" else "a"))
    return store


def test_every_table_is_a_view(store: Store) -> None:
    counts = {"trials": 2, "histories": 1, "plans": 1, "failures": 1, "sharpness": 1}
    for view, count in counts.items():
        assert query(store, f"select count(*) as n from {view}")["n"].tolist() == [count]


def test_failures_are_asked_for_by_what_became_of_their_jobs(store: Store) -> None:
    store.put_failure({"kind": "infra", "key": text_key("a")})
    store.put_failure({"kind": "app", "key": "0" * 32})
    sql = "select kind from failures where {} order by 1"
    assert "infra" in query(store, sql.format("later_done"))["kind"].tolist()
    assert "app" in query(store, sql.format("later_done is not true"))["kind"].tolist()


def test_arguments_are_asked_for_as_json(store: Store) -> None:
    sql = "select model_args->>'n' as n, avg(train_loss) as loss from trials group by 1 order by 1"
    frame = query(store, sql)
    assert frame["n"].tolist()[0] == "3"
    assert frame["loss"].tolist()[0] == 1.5


def test_tables_are_joined_on_keys(store: Store) -> None:
    sql = "select p.load, t.outcome from plans p join trials t using (key)"
    assert query(store, sql).to_dict("records") == [{"load": 1.5, "outcome": "done"}]


def test_lists_and_times_come_back(store: Store) -> None:
    frame = query(store, "select t, surface, created_at from Sharpness")
    assert list(frame["t"][0]) == [0.5, 2.5]
    assert str(frame["created_at"].dt.tz) == "UTC"


def test_a_metric_of_a_users_file_is_quoted(store: Store) -> None:
    name = "lab/flat.py:FLAT"
    common = {**bare("metrics/sharpness", "z"), "metric": name}
    store.put_metric(name, COLUMNS, common, [{"value": 2.0}])
    assert query(store, f'select value from "{name}"')["value"].tolist() == [2.0]
    with pytest.raises(SweepError, match=r'views: .*"lab/flat.py:FLAT"'):
        query(store, "select * from flat")


def test_a_mistake_in_the_sql_is_told_with_the_views(store: Store) -> None:
    with pytest.raises(SweepError, match="views: sharpness, trials") as caught:
        query(store, "select nonsense from trials")
    assert "nonsense" in str(caught.value)
    with pytest.raises(SweepError, match="syntax error"):
        query(store, "selct 1")


def test_files_and_variables_are_out_of_reach(store: Store, tmp_path: Path) -> None:
    path = store.files.path(f"trials/{text_key('a')[:2]}/{text_key('a')}.parquet")
    target = tmp_path / "out.csv"
    hidden = query(store, "select 1 as one")
    assert len(hidden) == 1
    for sql in (
        f"select * from read_parquet('{path}')",
        f"copy (select 1) to '{target}'",
        "install httpfs",
        "set enable_external_access = true",
        "select * from hidden",
    ):
        with pytest.raises(SweepError, match="asking"):
            query(store, sql)
    assert not target.exists()


def test_a_statement_without_an_answer_changes_nothing(store: Store) -> None:
    before = store.read_table("trials")
    assert len(query(store, "create table mine as select * from trials")) <= 1
    assert store.read_table("trials").equals(before)


def test_without_duckdb_it_says_what_to_install(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(StoreError, match=r"pip install 'phasegrid\[query\]'"):
        query(store, "select 1")
