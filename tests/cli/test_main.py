"""The command line as a person meets it: real processes, real exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_project import RECIPE
from tldeploy.cli import app, execute
from tldeploy.cli.deploy import milliseconds
from tldeploy.triton.server import Server

HEAVY = {"torch", "transformers", "numpy", "onnx", "onnxruntime", "pydantic", "rich", "yaml", "tritonclient"}


def tldeploy(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tldeploy", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=120)


def test_help_imports_nothing_heavy() -> None:
    script = "import sys, tldeploy.cli\ntldeploy.cli.execute(['--help'])\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not loaded & {
        "torch",
        "transformers",
        "numpy",
        "onnx",
        "onnxruntime",
        "pydantic",
        "rich",
        "yaml",
        "tritonclient",
    }


@pytest.mark.parametrize("verb", sorted(app.commands))
def test_every_verb_teaches_by_example_and_takes_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"  tldeploy {verb} " in shown
    assert "--json" in shown


def test_help_lists_the_exit_code_of_every_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {code}  " in shown for code in (*range(10), 130))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tunr", "models/x"], "tune"),
        (["tune", "models/x", "--forse"], "--force"),
        (["tune"], "Missing argument 'RECIPE'"),
        (["predict", "model", "text", "--protocol", "htp"], "http"),
        (["bench", "models/x", "--fail-on", "p99+1%"], "--fail-on is there and --against is missing"),
        (["bench", "models/x", "--against", "report.json", "--fail-on", "p99-1%"], "should be p99+1%"),
        (["predict", "model", "text", "--top", "0"], "0"),
        (["predict", "model", "-"], "standard input is empty"),
        (["predict", "model", "text", "--serve", "repo", "--url", "host:1"], "both --serve and --url"),
        (["deploy", "models/x", "--tune", "--p99", "20"], "'20' is not a duration above 0 with its unit, such as 20ms"),
        (["deploy", "models/x", "--tune", "--p99", "0ms"], "'0ms' is not a duration above 0"),
        (["deploy", "models/x", "--tune", "--p99", "20 minutes"], "such as 20ms or 0.5s"),
        (["deploy", "models/x", "--p99", "20ms", "--tune-minutes", "1"], "--p99, --tune-minutes without --tune"),
        (["deploy", "models/x", "--tune", "--p99", "20ms", "--min-latency"], "both --p99 and --min-latency"),
        (["deploy", "models/x", "--tune", "--tune-minutes", "0"], "--tune-minutes"),
        (["rollback", "model", "abc"], "'abc' is not a whole number"),
        (["predict", "model", "-5 stars"], "a text that begins with - goes behind --"),
    ],
)
def test_wrong_usage_is_one_clear_message(arguments: list[str], said: str) -> None:
    done = tldeploy(*arguments)
    assert done.returncode == 2
    message = done.stderr.decode()
    assert message.startswith("error: cannot ")
    assert said in message
    assert "fix: " in message
    assert "Traceback" not in message


def test_how_to_give_a_dash_is_said_where_it_helps_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["predict", "model"]) == execute(["tune", "models/x", "--forse"]) == 2
    assert "goes behind" not in capsys.readouterr().err


@pytest.mark.parametrize(("given", "expected"), [("20ms", 20), ("0.5s", 500), (" 2s ", 2000), ("1.5ms", 1.5)])
def test_a_duration_is_read_with_its_unit(given: str, expected: float) -> None:
    assert milliseconds(None, None, given) == expected


def test_three_mistakes_of_a_recipe_are_all_named(tmp_path: Path) -> None:
    wrong = (
        RECIPE.replace("epochs: 2", "epoch: 2")
        .replace("test: 0.3", "test: 3")
        .replace("max_length: 32", "max_length: 2")
    )
    (tmp_path / "recipe.yaml").write_text(wrong)
    done = tldeploy("run", tmp_path)
    assert done.returncode == 3
    message = done.stderr.decode()
    assert "3 mistakes" in message
    assert "did you mean `epochs`?" in message
    assert "Traceback" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["run", "nowhere"], 3, "RecipeError"),
        (["export", "models"], 3, "RecipeError"),
        (["serve", "nowhere"], 5, "ArtifactError"),
        (["init", "--data", "nowhere.csv", "--backbone", "bert"], 4, "DataError"),
        (["predict", "model", "text", "--url", "127.0.0.1:9"], 7, "ServerError"),
        (["predict", "model", "text", "--url", "127.0.0.1:9", "--protocol", "grpc"], 7, "ServerError"),
        (["nothing"], 2, "UsageError"),
    ],
)
def test_an_error_is_the_last_line_as_json(
    arguments: list[str], code: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = tldeploy(*arguments, "--json")
    assert done.returncode == code
    error = json.loads(done.stdout.splitlines()[-1])
    assert (error["error"], error["exit_code"]) == (kind, code)
    assert error["fix"]
    assert list(tmp_path.iterdir()) == []


def test_a_stage_without_its_parent_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    done = tldeploy("export", tmp_path)
    assert done.returncode == 5
    assert b"run `tldeploy tune` again" in done.stderr


def test_long_texts_are_shown_cut_and_empty_ones_are_said(
    tiny_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    long, asked = "good " * 100, ["predict", "tiny", "--url", f"http://{tiny_server.http_url}"]
    assert execute([*asked, long, " "]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[::2] == [f"{long[:200]}…", " "]
    assert shown.err == "empty: 1 of 2 texts; what is shown of them is the model's answer to no words at all\n"
    assert execute([*asked, long, "--json"]) == 0
    answered = json.loads(capsys.readouterr().out)
    assert [each["row"] for each in answered["predictions"]] == [long]


def test_lines_that_are_not_utf8_are_unusable_data(tiny_server: Server) -> None:
    done = tldeploy("predict", "tiny", "-", "--url", tiny_server.http_url, stdin=b"good\nbad \xff\n")
    assert done.returncode == 4
    assert b"text 1 is not UTF-8 (byte 4)" in done.stderr


def test_cuda_is_not_spoken_of_before_a_server_speaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["serve", str(tmp_path / "nowhere")]) == 5
    assert "CUDA" not in capsys.readouterr().err


def test_the_version_is_printed() -> None:
    assert tldeploy("--version").stdout.strip() == b"0.1.0"


def test_doctor_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = {check["name"]: check for check in answer["checks"]}
    assert answer["healthy"]
    assert set(found) >= {"python", "packages", "onnxruntime", "cpu", "gpu", "disk", "memory", "triton"}
    assert found["packages"]["status"] == "ok"
