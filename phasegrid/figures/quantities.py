"""The names of quantities, the numbers that figures draw, as metrics and trials declare them."""

from collections.abc import Collection, Iterator, Sequence

from phasegrid.declare import UNIT_OF_LOSS, Column

TRIALS = "trials"
"""The table of a trial's own row."""


def _accuracy(column: str, label: str) -> Column:
    name = column.removesuffix("_percent")
    return Column(column, "float64", "%", label, label=label, better="higher", quantity=name)


def _loss(column: str, label: str) -> Column:
    return Column(column, "float64", UNIT_OF_LOSS, label, label=label, better="lower", scale="log")


TRIAL_COLUMNS = (
    _accuracy("test_accuracy_percent", "test accuracy"),
    _loss("train_loss", "training loss"),
    _accuracy("train_accuracy_percent", "training accuracy"),
    _loss("test_loss", "test loss"),
    # Over the run: what the best moment to stop would have given ("optimal early stopping", Yang et
    # al. 2021, D.4).
    _accuracy("best_test_accuracy_percent", "best test accuracy of the run"),
    _loss("best_test_loss", "best test loss of the run"),
)
"""What a trial's own row shows."""


def is_quantity(column: Column) -> bool:
    """Say whether figures and tables can show a column as a quantity: numbers, and those counts
    that have a label.
    """
    number = column.type == "float64" or (column.type == "int64" and column.label != "")
    return column.role in ("value", "asked") and number


def prefix_of(table: str, built_in: Collection[str]) -> str:
    """Return what the names of a table's quantities begin with: nothing for what is built in, else
    ``metric.``, so that no two metrics share a name.
    """
    return "" if table in built_in else f"{table}."


def names_of(table: str, columns: Sequence[Column], built_in: Collection[str]) -> Iterator[str]:
    """Yield the names of the quantities of a table."""
    for column in columns:
        if is_quantity(column):
            yield f"{prefix_of(table, built_in)}{column.quantity or column.name}"
