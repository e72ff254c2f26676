"""The columns of `simplex` and `espro`. No torch here."""

from dataclasses import replace

from phasegrid.declare import UNIT_OF_LOSS, Column

PLACED = {"vertex": "each vertex", "sample": "each evaluated point"}


def _expected(mean: Column) -> tuple[Column, Column]:
    """Return the column of a mean over the complex, and that of its standard error."""
    name, unit = f"{mean.name}_stderr", "points" if mean.unit == "%" else mean.unit
    error = Column(name, "float64", unit, "its standard error over sampled points", role="detail")
    return replace(mean, stderr=name), error


COLUMNS = (
    Column(
        "log_volume",
        "float64",
        "",
        "log of the volume of the complex, the sum over its simplexes; with several dimensions,"
        " the mean over these, by their numbers of simplexes",
        label="ln simplex volume",
        colours="magma_r",
    ),
    Column("log_volumes", "list<float64>", "", "log-volume of each simplex"),
    Column(
        "log_code_volume",
        "float64",
        "",
        "log of what the published code calls volume: the square of that of the first simplex",
        role="asked",
        label="ln published volume",
    ),
    Column("dimension", "int64", "", "highest dimension of a simplex", label="simplex dimension"),
    Column("num_modes", "int64", "", "trials joined"),
    Column("num_connectors", "int64", "", "connecting points"),
    *_expected(
        Column(
            "expected_train_loss",
            "float64",
            UNIT_OF_LOSS,
            "mean loss over the complex, training set",
            label="simplex training loss",
            better="lower",
            scale="log",
        )
    ),
    *_expected(
        Column(
            "expected_train_accuracy_percent",
            "float64",
            "%",
            "mean training accuracy over the complex",
            role="detail",
        )
    ),
    *_expected(
        Column(
            "expected_test_loss",
            "float64",
            UNIT_OF_LOSS,
            "mean loss over the complex, test set",
            label="simplex test loss",
            better="lower",
            scale="log",
        )
    ),
    *_expected(
        Column(
            "expected_test_accuracy_percent",
            "float64",
            "%",
            "mean test accuracy over the complex",
            label="simplex test accuracy",
            better="higher",
        )
    ),
    Column(
        "connector_losses",
        "list<float64>",
        UNIT_OF_LOSS,
        "data term of the last epoch, per connector",
    ),
    Column("volume_lambdas", "list<float64>", "", "lambda_j used for each connector"),
    Column("num_samples", "int64", "", "points of the complex evaluated"),
    Column("vertex_name", "list<string>", "", "names of the vertices: modes, then connectors"),
    Column("simplexes", "list<list<float64>>", "", "places of the vertices of each simplex"),
    Column(
        "explained_percent",
        "list<float64>",
        "%",
        "share of the squared distances of the vertices from their mean that each of the principal"
        " axes holds, up to three; null where a connector diverged, as what follows",
    ),
    *(
        Column(f"{kind}_{axis}", "list<float64>", "", f"place of {whose} on principal axis {n}")
        for kind, whose in PLACED.items()
        for n, axis in enumerate("xyz", start=1)
    ),
    *(
        Column(
            f"{kind}_{part}_loss",
            "list<float64>",
            UNIT_OF_LOSS,
            f"{called} loss of {whose}",
            label=f"{called} loss",
        )
        for kind, whose in {**PLACED, "simplex": "the evaluated points in each simplex"}.items()
        for part, called in (("train", "training"), ("test", "test"))
    ),
    Column(
        "lowest_train_accuracy_percent",
        "float64",
        "%",
        "lowest training accuracy of a sampled point",
        label="lowest training accuracy in the simplex",
        better="higher",
        role="asked",
    ),
    Column("diverged", "bool", "", "whether a connector, or the loss of a point, is not finite"),
    Column(
        "low_loss_dimension",
        "float64",
        "",
        "dimension until which every connector keeps its height and every sampled point its"
        " accuracy (every_connector, collapse, least_accuracy_percent); null unless asked for",
        label="simplex dimension of low loss",
        asked_by="every_connector",
    ),
    Column(
        "first_connectors",
        "list<float64>",
        "",
        "numbers of connectors, 1, 2, ...",
        label="connectors",
    ),
    Column(
        "first_log_volume",
        "list<float64>",
        "",
        "log_volume with the first 1, 2, ...",
        label="ln simplex volume",
    ),
    Column(
        "first_log_code_volume",
        "list<float64>",
        "",
        "log_code_volume with the first 1, 2, ...",
        label="ln published volume",
    ),
    Column(
        "first_log_height",
        "list<float64>",
        "",
        "log of the mean height of each connector over the vertices before it",
        label="ln height of the connector",
    ),
    Column(
        "first_expected_train_loss",
        "list<float64>",
        UNIT_OF_LOSS,
        "expected_train_loss with the first 1, 2, ... connectors; null unless asked for",
        label="simplex training loss",
    ),
    Column(
        "first_expected_train_loss_stderr", "list<float64>", UNIT_OF_LOSS, "its standard errors"
    ),
    Column(
        "first_expected_test_loss",
        "list<float64>",
        UNIT_OF_LOSS,
        "the same, test set",
        label="simplex test loss",
    ),
    Column("first_expected_test_loss_stderr", "list<float64>", UNIT_OF_LOSS, "its standard errors"),
    Column(
        "first_lowest_train_accuracy_percent",
        "list<float64>",
        "%",
        "lowest_train_accuracy_percent with the first 1, 2, ... connectors",
        label="lowest training accuracy in the simplex",
    ),
)
"""The columns of `simplex` and of `espro`."""
