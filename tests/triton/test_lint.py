"""The linter over the corpus: every broken repository by its one rule, nothing in good ones, and what --fix does."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.tiny import write_export
from tests.triton import handmade
from tests.triton.lint_corpus import BROKEN, GOOD, TARGET
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError, UsageError
from tldeploy.recipe import Deploy
from tldeploy.triton import config
from tldeploy.triton.lint.check import lint
from tldeploy.triton.lint.layout import read_layout
from tldeploy.triton.lint.mending import mend
from tldeploy.triton.lint.models import Target
from tldeploy.triton.lint.reading import read_config
from tldeploy.triton.lint.rules import RULES, Finding
from tldeploy.triton.repository import publish


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_found_in_a_good_repository(name: str, tmp_path: Path) -> None:
    GOOD[name](tmp_path)
    assert lint(tmp_path, TARGET).findings == ()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_repository_is_found_by_its_rule_and_no_other(name: str, tmp_path: Path) -> None:
    rule, write = BROKEN[name]
    write(tmp_path)
    before = content(tmp_path)
    findings = lint(tmp_path, TARGET).findings
    assert {finding.rule for finding in findings} == {rule}
    assert all(finding.found and finding.fix and finding.model for finding in findings)
    assert content(tmp_path) == before


def test_the_corpus_has_every_rule() -> None:
    assert {rule for rule, _ in BROKEN.values()} == RULES.keys()


def only(place: Path, name: str) -> Finding:
    BROKEN[name][1](place)
    (finding,) = lint(place, TARGET).findings
    return finding


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("name-of-another", 1),
        ("version-that-is-gone", 24),
        ("brace-missing", 10),
        ("brace-at-the-end", 19),
        ("brace-too-many", 24),
        ("misspelt-field", 3),
        ("misspelt-inner-field", 7),
        ("made-up-field", 24),
        ("misspelt-type", 7),
        ("field-twice", 24),
        ("two-schedulers", 24),
        ("no-text-format", 3),
        ("int-for-float", 7),
        ("rank", 8),
        ("labels-short", 16),
        ("preferred-too-large", 20),
        ("gpu", 22),
        ("graph-level-2", 24),
    ],
)
def test_a_finding_has_its_line(name: str, line: int, tmp_path: Path) -> None:
    assert only(tmp_path, name).line == line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("int-for-float", "configuration expects datatype TYPE_INT32 for input 'pixels', model provides TYPE_FP32"),
        ("input-misnamed", "unexpected inference input 'pixel', allowed inputs are: pixels"),
        (
            "rank",
            "the model expects 2 dimensions (shape [-1,4]) but the model configuration specifies 3 dimensions (an "
            "initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete "
            "shape [-1,1,4])",
        ),
        ("fixed-batch", "the first dimension must be -1; but shape expected by the model is [1,4]"),
        ("input-left-out", "configuration expects 1 inputs, model provides 2"),
        ("lost-weights", "External data path does not exist"),
        ("half-a-file", "Protobuf parsing failed"),
    ],
)
def test_what_is_found_is_said_as_the_native_backend_says_it(name: str, words: str, tmp_path: Path) -> None:
    assert words in only(tmp_path, name).found


def test_both_values_stand_side_by_side(tmp_path: Path) -> None:
    found = only(tmp_path, "int-for-float")
    assert found.values == {"config.pbtxt": "TYPE_INT32", "1/model.onnx": "TYPE_FP32"}
    assert found.fix == "data_type: TYPE_FP32"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("misspelt-field", "max_batch_size"),
        ("misspelt-inner-field", "data_type"),
        ("misspelt-type", "TYPE_FP32"),
        ("onnxruntme", "onnxruntime"),
        ("step-gone", "classifier"),
        ("key-misspelt", "pixels"),
    ],
)
def test_the_nearest_right_name_is_offered(name: str, nearest: str, tmp_path: Path) -> None:
    assert nearest in only(tmp_path, name).fix


def test_all_mistakes_of_one_text_are_named(tmp_path: Path) -> None:
    text = handmade.put("max_batch_size", "max_batchsize") + 'author: "me"\nresponsecache { enable: true }\n'
    handmade.classifier(tmp_path, handmade.put("dims: [ 3 ]", "dims: [ 2 ]", text))
    found = [(finding.rule, finding.line) for finding in lint(tmp_path, TARGET).findings]
    assert found == [
        ("unknown-field", 3),
        ("dims", 15),
        ("label-count", 16),
        ("unknown-field", 24),
        ("unknown-field", 25),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_text_has_findings_exactly_when_the_parser_refuses_it(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(60):
        text = draw.choice([handmade.CONFIG, handmade.CROP, handmade.ENSEMBLE])
        for _ in range(draw.randint(1, 4)):
            text = mutated(text, draw)
        try:
            text_format.Parse(text, ModelConfig())
            refused = False
        except text_format.ParseError:
            refused = True
        reading = read_config(text, "m", "m/config.pbtxt")
        assert bool(reading.findings) == refused, text
        assert reading.config is not None or refused, text


def mutated(text: str, draw: random.Random) -> str:
    """With some characters or a field taken out, put in, or said twice."""
    at = draw.randrange(len(text))
    kind = draw.randrange(4)
    if kind == 0:
        return text[:at] + text[at + draw.randint(1, 6) :]
    if kind == 1:
        return text[:at] + draw.choice("{}[]<>:,\"'#\\ \n\0é-1x") + text[at:]
    if kind == 2:
        again = draw.randrange(len(text))
        return text[:at] + text[again : again + draw.randint(1, 40)] + text[at:]
    field = draw.choice(["max_batch_size", "dims", "level: 2", "sequence_batching{}", "foo: 1", "TYPE_FP99"])
    return f"{text[:at]} {field} {text[at:]}"


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_to_a_model_file_ends_the_linter(seed: int, tmp_path: Path) -> None:
    file, draw = handmade.classifier(tmp_path) / "1" / "model.onnx", random.Random(seed)
    whole = file.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(bytes(damaged))
        assert lint(tmp_path, TARGET).models == ("classifier",)


def test_findings_of_several_models_name_theirs(tmp_path: Path) -> None:
    handmade.ensemble(tmp_path)
    (tmp_path / "crop" / "1" / "model.py").unlink()
    (tmp_path / "classifier" / "labels.txt").unlink()
    found = {(finding.model, finding.rule, finding.place) for finding in lint(tmp_path, TARGET).findings}
    assert found == {
        ("crop", "model-file-missing", "crop/1/model.py"),
        ("classifier", "label-file-missing", "classifier/config.pbtxt:16"),
    }


def test_what_tldeploy_publishes_has_no_findings(tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    for settings in (Deploy(), Deploy(max_batch_size=7, queue_delay_us=250, instances=2)):
        publish(tiny_export, repository, "tiny", settings)
        found = lint(repository, Target(cores=2))
        assert found.findings == ()
        assert set(found.models) == {"tiny", "tiny.graph", "tiny.tokenize"}


@pytest.mark.parametrize("gone", ["tiny.tokenize", "tiny.graph/config.pbtxt"])
def test_what_is_gone_of_a_published_model_is_published_again(gone: str, tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    publish(tiny_export, repository, "tiny", Deploy())
    (repository / gone).rename(tmp_path / "gone")
    (found,) = lint(repository, TARGET).findings
    rule = "config-missing" if gone.endswith("pbtxt") else "ensemble-model-missing"
    assert (found.rule, found.fix) == (rule, "publish the model again with `tldeploy deploy --force`")


def test_a_step_is_not_offered_for_another_of_the_same_ensemble(tmp_path: Path) -> None:
    handmade.ensemble(tmp_path)
    (tmp_path / "crop").rename(tmp_path / "classifiers")
    path = tmp_path / "whole" / "config.pbtxt"
    path.write_text(path.read_text().replace('"crop"', '"classifie"'))
    found = [each.fix for each in lint(tmp_path, TARGET).findings if each.rule == "ensemble-model-missing"]
    assert found == ['model_name: "classifiers"']


@pytest.mark.parametrize("name", [".git", "README.md"])
def test_a_folder_without_models_is_said_to_be_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no model is in it"):
        lint(tmp_path)
    (tmp_path / name).mkdir() if name == ".git" else (tmp_path / name).touch()
    with pytest.raises(ArtifactError, match="no model is in it"):
        lint(tmp_path)


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        lint(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="it is a model, not a repository"):
        lint(handmade.classifier(tmp_path))


def test_places_are_found_in_every_way_of_writing() -> None:
    text = "a: 1\nb {\n  c: 'x' # }\n}\nb: < c: [1,\n2] >\nd [ { c: 3 },\n  { c: 4 } ]\n"
    layout = read_layout(text)
    assert layout.unbalanced is None
    found = [layout.line(*path) for path in (("a",), ("b", "c"), ("b", 1, "c"), ("b", 1, "c", 1), ("d", 1, "c"))]
    assert found == [1, 3, 5, 6, 8]
    assert layout.line("d", 1, "unknown") == 8
    assert layout.line("unknown") is None
    spot = layout.spot("b", "c")
    assert spot is not None
    assert (text[spot.start : spot.end], text[spot.value : spot.end]) == ("c: 'x'", "'x'")


FIXED = {
    "name-of-another": 'name: "classifier"',
    "misspelt-field": "max_batch_size: 16",
    "misspelt-inner-field": "data_type: TYPE_FP32",
    "batch-size-forgotten": "max_batch_size: 8",
    "batch-size-zero": "max_batch_size: 8",
    "graph-level-2": "optimization { graph {  } }",
    "graph-level-99": "optimization { graph {  } }",
}


@pytest.mark.parametrize("name", FIXED)
def test_what_is_safe_is_fixed_and_all_else_stays_as_written(name: str, tmp_path: Path) -> None:
    BROKEN[name][1](tmp_path)
    path = tmp_path / "classifier" / "config.pbtxt"
    path.write_text("# ours\r\n" + path.read_text(), newline="")
    before = content(tmp_path)
    fixed = mend(tmp_path, TARGET)
    assert fixed.findings == ()
    assert len(fixed.fixed) == 1
    assert BROKEN[name][0] in fixed.fixed[0]
    after = content(tmp_path)
    assert FIXED[name].encode() in after.pop(path)
    assert path.read_bytes().startswith(b"# ours\r\n")
    assert after == {place: text for place, text in before.items() if place != path}


@pytest.mark.parametrize("name", sorted(BROKEN.keys() - FIXED.keys() - {"misspelt-type"}))
def test_what_is_not_safe_is_left(name: str, tmp_path: Path) -> None:
    BROKEN[name][1](tmp_path)
    before = content(tmp_path)
    assert mend(tmp_path, TARGET).fixed == ()
    assert content(tmp_path) == before


def test_several_fixes_are_made_one_after_the_other(tmp_path: Path) -> None:
    text = (
        handmade.put('name: "classifier"', 'name: "x"') + "optimization { graph { level: 2 } }\ninstance_groups { }\n"
    )
    handmade.classifier(tmp_path, handmade.put("instance_group [ { count: 2 kind: KIND_CPU } ]\n", "", text))
    fixed = mend(tmp_path, TARGET)
    assert fixed.findings == ()
    assert len(fixed.fixed) == 3


def test_what_tldeploy_published_is_not_mended(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    publish(write_export(tmp_path / "onnx"), repository, "tiny", Deploy())
    path = repository / "tiny.graph" / "config.pbtxt"
    changed = config.read(path)
    changed.optimization.graph.level = 2
    path.write_text(config.to_text(changed))
    before = content(repository)
    found = mend(repository)
    ((rule, fix, edit),) = [(finding.rule, finding.fix, finding.edit) for finding in found.findings]
    assert (rule, fix, edit) == ("graph-level", "publish the model again with `tldeploy deploy --force`", None)
    assert found.fixed == ()
    assert content(repository) == before


def test_the_verb_exits_with_8_for_errors_and_0_for_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BROKEN["int-for-float"][1](tmp_path / "errors")
    assert execute(["lint", str(tmp_path / "errors"), "--cores", "8", "--json"]) == 8
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["errors"], answer["warnings"], answer["findings"][0]["rule"]) == (1, 0, "datatype")
    BROKEN["graph-level-2"][1](tmp_path / "warnings")
    assert execute(["lint", str(tmp_path / "warnings"), "--cores", "8"]) == 0
    shown = capsys.readouterr().out
    assert "warning  classifier/config.pbtxt:24  graph-level\n" in shown
    assert "1 model: 0 errors, 1 warning\n" in shown
    assert execute(["lint", str(tmp_path / "warnings"), "--cores", "8", "--fix"]) == 0
    assert "fixed: classifier/config.pbtxt" in capsys.readouterr().out


def test_gpus_are_counted_from_0_to_those_that_the_server_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handmade.classifier(tmp_path, handmade.put("KIND_CPU", "KIND_GPU gpus: [ 0, 3 ]"), handmade.graph())
    assert execute(["lint", str(tmp_path), "--gpus", "1", "--cores", "8"]) == 8
    shown = capsys.readouterr().out
    assert "gpu-number" in shown
    assert "asks for GPU 3, which Triton refuses" in shown
    assert execute(["lint", str(tmp_path), "--gpus", "4", "--cores", "8"]) == 0


def test_the_server_that_it_is_meant_for_can_be_told(tmp_path: Path) -> None:
    handmade.classifier(tmp_path, handmade.put("KIND_CPU", "KIND_GPU"), handmade.graph(opset=23))
    assert execute(["lint", str(tmp_path), "--opset", "23", "--gpus", "1", "--cores", "8"]) == 0
    assert execute(["lint", str(tmp_path), "--gpus", "1", "--cores", "8"]) == 8
