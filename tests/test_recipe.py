from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_project import RECIPE
from tldeploy.errors import RecipeError
from tldeploy.recipe import Bin, Recipe

MODELS = Path(__file__).parent.parent / "models"


def parse(text: str) -> Recipe:
    return Recipe.parse(text, Path("models/tiny/recipe.yaml"))


def mistakes(text: str) -> str:
    with pytest.raises(RecipeError) as raised:
        parse(text)
    assert raised.value.exit_code == 3
    return str(raised.value)


@pytest.mark.parametrize("recipe", sorted(MODELS.glob("*/recipe.yaml")), ids=lambda path: path.parent.name)
def test_every_recipe_of_the_project_is_valid_and_named_as_its_folder(recipe: Path) -> None:
    assert Recipe.load(recipe).name == recipe.parent.name


def test_paths_are_relative_to_the_recipe() -> None:
    assert parse(RECIPE).path("reviews.csv") == Path("models/tiny/reviews.csv")


def test_every_mistake_is_named_with_its_line_and_the_nearest_spelling() -> None:
    text = (
        RECIPE.replace("epochs: 2", "epoch: 2")
        .replace("test: 0.3", "test: 1.3")
        .replace("task: text-classification", "task: text-clasification")
    )
    found = mistakes(text)
    assert "3 mistakes" in found
    kinds = "text-classification, image-classification"
    assert f"line 2: task: found 'text-clasification', expected one of {kinds}; did you mean" in found
    assert "line 7: data.test: found 1.3, expected a share between 0 and 1, or a file" in found
    assert "line 13: tune.epoch: unknown setting, found 2; did you mean `epochs`?" in found
    assert found.index("line 2:") < found.index("line 7:") < found.index("line 13:")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("name: my model", "letters, digits, - and _ only"),
        ("name: ../../etc", "letters, digits, - and _ only"),
        ("export: {variants: [fused]}", "expected fp32 among them"),
        ("export: {variants: [fp32, fp32]}", "expected each value once"),
        ("tune: {methods: [fine-tuning], keep: feature-extraction}", "is not among methods"),
        ("bench: {seconds: 0}", "greater than 0"),
        ("bench: {rates: [10], scenarios: []}", "expected `server` among the scenarios"),
        ("bench: {scenarios: [servers]}", "did you mean `server`"),
        ("tune: {device: gpu}", "did you mean `cuda`?"),
        ("tune: {device: 'cuda:1'}", "did you mean `cuda`?"),
        ("export: {target: NVIDIA}", "did you mean `cuda`?"),
        ("tune: {seed: -1}", "greater than or equal to 0"),
        ("tune: {seed: 5000000000}", "less than 4294967296"),
        ("bench: &x {engines: [*x]}", "a part of it holds itself"),
        ("deploy: {instances: two}", "found 'two', expected a whole number"),
        ("deploy: {warmup: perhaps}", "found 'perhaps', expected yes or no"),
        ("deploy: {device: gpu}", "found 'gpu', expected one of cpu, cuda, tensorrt"),
        ("deploy: {cuda: {}}", "deploy.cuda: expected `device: cuda` or `device: tensorrt` beside it"),
        ("deploy: {device: cuda, tensorrt: {}}", "deploy.tensorrt: expected `device: tensorrt` beside it"),
        ("deploy: {device: cuda, cuda: {gpus: [1, 1]}}", "deploy.cuda.gpus: expected each value once"),
        ("deploy: {device: cuda, cuda: {gpus: []}}", "found [], expected at least 1 of them"),
        ("deploy: {device: cuda, cuda: {enable_cuda_graph: true}}", "enable_cuda_graph: unknown setting"),
        ("deploy: {device: cuda, cuda: {cudnn_conv_algo_search: fast}}", "one of EXHAUSTIVE, HEURISTIC, DEFAULT"),
        ("deploy: {device: tensorrt, tensorrt: {precision: FP61}}", "did you mean `FP16`?"),
        (
            "deploy: {device: tensorrt, tensorrt: {engine_cache_path: here}}",
            "found 'here', expected a path from the root",
        ),
        ("deploy: {cache: 64}", "deploy.cache: unknown setting, found 64; did you mean `cache_mb`?"),
        ("deploy: {queue: {timeout_action: delay}}", "found 'delay', expected timeout_us beside it"),
        ("deploy: {queue: {allow_timeout_override: true}}", "without one nothing times out"),
        ("deploy: {queue: {priority_levels: 2, default_priority_level: 3}}", "of which there are 2"),
        ("deploy: {rate_limit: {resources: {}}}", "found {}, expected at least 1 of them"),
        (
            "deploy: {rate_limit: {resources: {a: 1}, available: {b: 1}}}",
            "found 'b', expected a name from resources: a",
        ),
        ("deploy: {rate_limit: {resources: {a: 2}, available: {a: 1}}}", "at least the 2 of one execution"),
        ("deploy: {tracing: {rate: 1}}", "deploy.tracing: expected either url or file"),
        ("deploy: {tracing: {url: localhost}}", "found 'localhost', expected an address such as http"),
        ("deploy: {preferred_batch_sizes: [8, 4]}", "found [8, 4], expected them ascending, each once"),
        ("deploy: {preferred_batch_sizes: [4, 4]}", "found [4, 4], expected them ascending, each once"),
        ("deploy: {preferred_batch_sizes: 8}", "found 8, expected a list"),
        ("deploy: {preferred_batch_sizes: [64]}", "expected at most max_batch_size, which is 32"),
        ("deploy: {threads: 0}", "greater than or equal to 1"),
        ("deploy: {p99_ms: 0}", "greater than 0"),
        ("fetch: [{package: x==1, files: [{member: a, sha256: 00, to: ../a}]}]", "inside the recipe's data/ folder"),
        ("folder: elsewhere", "unknown setting"),
        ("bench: {}\nbench: {}", "given twice"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_reason(wrong: str, said: str) -> None:
    section = wrong.partition(":")[0]
    kept = [part for part in _sections(RECIPE) if not part.startswith(f"{section}:")]
    assert said in mistakes("\n".join([*kept, wrong]))


def _sections(text: str) -> list[str]:
    sections: list[str] = []
    for line in text.splitlines():
        if line.startswith(" "):
            sections[-1] += f"\n{line}"
        else:
            sections.append(line)
    return sections


def test_a_missing_section_is_named() -> None:
    assert "data: missing" in mistakes("name: x\ntask: text-classification\nbackbone: {source: y}")


@pytest.mark.parametrize("text", ["", "- a list", "just words", "a: [1", "\tname: x"])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    assert mistakes(text).startswith("cannot use the recipe")


def test_an_absent_recipe_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such file"):
        Recipe.load(tmp_path / "nothing")


def test_class_names_that_yaml_takes_for_booleans_stay_text() -> None:
    recipe = parse(RECIPE.replace("label: label", 'label: label\n  bins: {no: "< 0", yes: ">= 0"}'))
    assert recipe.data.bins == {"no": "< 0", "yes": ">= 0"}


def test_a_rate_without_a_point_is_a_number() -> None:
    assert parse(RECIPE.replace("0.003", "3e-3")).tune.learning_rate == 0.003


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("< 3", [-1, 2.99], [3, 4]),
        ("<= 3", [3], [3.01]),
        ("> -0.05", [0], [-0.05]),
        (">= 1", [1], [0.9]),
        ("1 .. 2", [1, 2], [0.9, 2.1]),
    ],
)
def test_bins_hold_the_numbers_that_they_name(text: str, inside: list[float], outside: list[float]) -> None:
    found = Bin.parse(text)
    assert found is not None
    assert [found.holds(number) for number in inside + outside] == [True] * len(inside) + [False] * len(outside)


@pytest.mark.parametrize("text", ["", "3", "below 3", "1 ... 2", "< x"])
def test_what_is_no_bin_is_no_bin(text: str) -> None:
    assert Bin.parse(text) is None
