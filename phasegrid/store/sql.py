"""Ask a store in SQL, through DuckDB (an extra: ``pip install 'phasegrid[query]'``).

Views: ``trials``, ``histories``, ``plans``, ``plan_jobs``, ``failures`` (with the column
``later_done``: whether the job has a result by now), and one for each metric, by its name. The
connection is in memory. Once the views exist, it cannot reach files, the network or the variables
of this process.
"""

import re
from typing import Any

import pandas as pd

from phasegrid.errors import StoreError, SweepError
from phasegrid.store.failures import read_failures
from phasegrid.store.schemas import TABLES
from phasegrid.store.store import Store


def query(store: Store, sql: str) -> pd.DataFrame:
    """Return the answer to one SQL statement.

    Arguments are JSON text: ``select model_args->>'width' as width, avg(test_accuracy_percent) from
    trials group by 1``. Only tables whose name occurs in the statement are read.

    Raises:
        StoreError: if DuckDB is not installed, or a table cannot be read.
        SweepError: if DuckDB refuses the statement; the message is DuckDB's, with the names of the
        views.
    """
    try:
        import duckdb
    except ImportError as error:
        raise StoreError(
            "querying needs DuckDB, which is not installed: pip install 'phasegrid[query]'"
        ) from error
    tables = {m: f"metrics/{m}" for m in store.metrics()} | {name: name for name in TABLES}
    connection = duckdb.connect(":memory:")
    try:
        for view, table in tables.items():
            if re.search(re.escape(view), sql, re.IGNORECASE):
                rows: Any = read_failures(store) if table == "failures" else store.read_table(table)
                connection.register(view, rows)
        for setting in (
            "TimeZone = 'UTC'",
            "python_enable_replacements = false",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        answer = connection.sql(sql)
        if answer is None:  # a statement that returns no table
            return pd.DataFrame()
        answered: Any = answer.to_arrow_table()
        frame: pd.DataFrame = answered.to_pandas()
        return frame
    except duckdb.Error as error:
        views = ", ".join(name if name.isidentifier() else f'"{name}"' for name in tables)
        raise SweepError(f"asking {store.url}: {error}\nviews: {views}") from error
    finally:
        connection.close()
