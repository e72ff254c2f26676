"""What is shown can be shown anywhere, holds no secret, and is obeyed by no terminal; what is
stored of others' texts neither.
"""

import ast
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from store_support import COLUMNS, bare, make_store
from typer.testing import CliRunner

from phasegrid.cli import output
from phasegrid.cli.main import app
from phasegrid.errors import SweepError
from phasegrid.keys import text_key
from phasegrid.redaction import clean, known_secrets, redact, refuse_secrets, visible
from phasegrid.store.store import Store

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "phasegrid").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")])
TITLE = "\x1b]0;PWNED\x07"
HOSTILE = f"{TITLE}\x1b[2Jroot:x:0:0 [red]r[/red] \r\x9b5m\u202egpj.exe\u2028\ud800"
SEEN = r"\x1b]0;PWNED\x07\x1b[2Jroot:x:0:0 [red]r[/red] \x0d\x9b5m\u202egpj.exe\u2028\ud800"
SECRET = "s3cr3t/pl+us=value"
SWEEP = """\
schema: 1
name: toy
dataset: {name: digits, fraction: 0.2}
model: {name: mlp}
train: {epochs: 2, stop: null}
load: {param: model.width, values: [2]}
temperature: {param: train.batch_size, values: [8]}
seeds: 1
metrics: [accuracy]
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store whose one sweep failed with what would take over a terminal."""
    store = make_store(tmp_path)
    key = text_key("a")
    store.put_plan("toy", [{"cell": 0, "facet": "[]", "seed": 0, "key": key}])
    store.put_failure(
        {"key": key, "kind": "app", "exception": HOSTILE, "traceback": HOSTILE, "attempt": 1}
    )
    return store


def _stdout(encoding: str, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding))
    output.echo(text)
    sys.stdout.flush()
    return stream.getvalue().decode(encoding)


# --- control characters, markup, emoji


def test_control_characters_are_shown_and_lines_and_tabs_are_kept() -> None:
    assert visible(HOSTILE) == SEEN
    assert visible("a\tb\nc ü ψ 位 \U0001f600") == "a\tb\nc ü ψ 位 \U0001f600"


def test_what_others_wrote_is_stored_without_control_characters(store: Store) -> None:
    (row,) = store.read_table("failures").to_pylist()
    assert (row["exception"], row["traceback"]) == (SEEN, SEEN)
    common = {**bare("metrics/sharpness", "m"), "outcome": "na", "reason": HOSTILE}
    store.put_metric("sharpness", COLUMNS, common, [])
    assert store.read_table("metrics/sharpness")["reason"].to_pylist() == [SEEN]
    log = Path(store.write_log("x.txt", HOSTILE))
    assert log.read_text() == SEEN


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("logs", "--cell", "0", "--sweep", "toy"),
        ("query", f"select '{TITLE}' as a, exception from failures"),
        ("query", "--json", f"select '{TITLE}' as a from failures"),
        ("verify",),
        ("list",),
    ],
    ids=lambda command: " ".join(command[:2])[:12],
)
def test_no_command_passes_on_what_a_terminal_obeys(store: Store, command: tuple[str, ...]) -> None:
    Path(store.files.path(f"plans/{TITLE}.parquet")).write_bytes(b"theirs")
    done = CliRunner().invoke(app, [*command, "--storage", store.url])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "\x1b" not in done.output
    assert "\x07" not in done.output


def test_a_console_obeys_nothing_that_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    console = output.talking_console()
    console.print(HOSTILE, soft_wrap=True)
    console.print(f"warning: {HOSTILE}", style="red", soft_wrap=True)
    # rich itself leaves out bells and carriage returns
    left = SEEN.replace(r"\x07", "").replace(r"\x0d", "")
    assert capsys.readouterr().err == f"{left}\nwarning: {left}\n"


def test_a_console_on_a_terminal_keeps_its_own_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = output.talking_console()
    console._force_terminal = True  # type: ignore[attr-defined]
    assert isinstance(console, Console)
    console.print("\x1b[5mplain", soft_wrap=True)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert r"\x1b[5mplain" in shown


def test_what_is_logged_is_clean(caplog: pytest.LogCaptureFixture) -> None:
    output.clean_logs()
    output.clean_logs()
    logging.getLogger("phasegrid").warning("damaged: %s", HOSTILE)
    assert [record.getMessage() for record in caplog.records] == [f"damaged: {SEEN}"]


# --- encodings


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8", "utf-16"])
def test_any_text_can_be_printed_in_any_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "┏━┓ Größe × 3 → ψ 位 \U0001f600 €"
    shown = _stdout(encoding, text, monkeypatch)
    if encoding.startswith("utf"):
        assert shown == f"{text}\n"
    else:
        assert shown.startswith("+-+ Gr" if encoding != "cp437" else "+")
        assert r"\u4f4d" in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_plan_is_printed_where_the_terminal_knows_no_rules(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    command = "from phasegrid.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "plan", "s.yaml", "--storage", "none"],
        cwd=tmp_path, capture_output=True, timeout=120, check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    text = done.stdout.decode(encoding)
    assert text.isascii()
    assert "trials" in text
    assert "----" in text


# --- secrets


def test_values_of_variables_that_look_secret_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "WANDB_API_KEY",
        "HF_TOKEN",
        "DB_PASSWORD",
        "CLIENT_SECRET",
        "PGPASSWORD",
        "my_key",
        "AWS_SECRET_ACCESS_KEY",
    )
    for number, name in enumerate(names):
        monkeypatch.setenv(name, f"{SECRET}-{number}")
        text = redact(f"Error: {SECRET}-{number} was refused")
        assert text == "Error: [token] was refused", name
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert SECRET not in redact(f"https://hub/x/{SECRET}")
    assert redact("https://hub/?q=s3cr3t%2Fpl%2Bus%3Dvalue") == "https://hub/?q=[token]"


def test_no_ordinary_word_is_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    file.write_text("{}")
    ordinary = {
        "SHORT_TOKEN": "digits", "TOKENIZERS_PARALLELISM": "disabled!", "KEYBOARD": "quickstart", "MONKEY": "quickstart",
        "GOOGLE_APPLICATION_CREDENTIALS": str(file), "SSL_KEY_FILE": "quickstart", "RAY_AUTH_MODE": "token",
        "EMPTY_SECRET": "", "PWD": "/home/quickstart", "TOKEN_NAME": "quickstart",
    }  # fmt: skip
    for name, value in ordinary.items():
        monkeypatch.setenv(name, value)
    text = " ".join(ordinary.values())
    assert redact(text) == text


def test_every_line_of_a_secret_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "DEPLOY_KEY", "-----BEGIN KEY-----\nMIIEvQIBADANBg\nshort\n-----END KEY-----\n"
    )
    assert {"MIIEvQIBADANBg"} < set(known_secrets())
    assert redact("found MIIEvQIBADANBg, short") == "found [token], short"


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAABC:abc/def+ghiSECRET@bucket/x",
        "s3://AKIAABC:abcdef+ghiSECRET@bucket/x",
        "s3://AKIAABC:12/34SECRET@bucket/x",
        "s3://SECRET@bucket/x",
        "https://user:SECRET@host/x",
        "gs://bucket/x?access_token=SECRET",
        "s3://bucket/x?a=1&X-Amz-Signature=SECRET",
        "az://box/x?sig=SECRET&sv=1",
    ],
)
def test_credentials_of_a_url_are_refused_and_never_shown(tmp_path: Path, url: str) -> None:
    with pytest.raises(SweepError, match="holds credentials") as error:
        refuse_secrets(url, "the storage")
    assert "SECRET" not in str(error.value)
    (tmp_path / "s.yaml").write_text(SWEEP)
    for command in (
        ["status"],
        ["verify"],
        ["plan", str(tmp_path / "s.yaml")],
        ["query", "select 1"],
    ):
        done = CliRunner().invoke(app, [*command, "--storage", url])
        assert isinstance(done.exception, SweepError)
        assert "SECRET" not in done.output + str(done.exception)
    if "://SECRET@" not in url:  # a user's name alone
        assert "SECRET" not in redact(f"could not reach {url}: refused")


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/me@home/x",
        "/home/me@host:1/x",
        "http://head:8265",
        "memory://a/b",
        "s3://b/x?versionId=3",
    ],
)
def test_an_address_without_credentials_is_taken_and_shown(url: str) -> None:
    refuse_secrets(url, "the storage")
    assert clean(f"at {url}: ok") == f"at {url}: ok"


# --- one way out


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_prints_past_the_one_way_out(path: Path) -> None:
    if path.name == "output.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            where = f"{path.name}:{node.lineno}"
            assert called not in (
                "typer.echo",
                "click.echo",
                "typer.secho",
                "sys.stdout.write",
            ), where
            assert called != "print" or "sys.stderr" in ast.unparse(node), where
            assert called != "Console" or "StringIO" in ast.unparse(node), where


def test_json_stays_json(store: Store) -> None:
    done = CliRunner().invoke(app, ["status", "--json", "--storage", store.url])
    assert json.loads(done.output)[0]["last_failures"] == [f"{text_key('a')}: {SEEN}"]
