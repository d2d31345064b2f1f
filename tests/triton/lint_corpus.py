"""Model repositories for the linter: good ones, and broken ones, each broken in one way and with its one rule.

Each is a function that writes into an empty folder. They start from a good model and change one thing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto

from tests.triton.handmade import CONFIG, CROP, ENSEMBLE, classifier, ensemble, graph, put, python_model
from tldeploy.triton.lint.models import Target

Write = Callable[[Path], None]

# The server that the corpus is held against, whatever machine the tests run on.
TARGET = Target(opset=20, ir_version=10, cores=8, gpus=0)


def changed(old: str, new: str, model: onnx.ModelProto | None = None) -> Write:
    """The good classifier with one thing of its configuration changed."""
    return lambda place: classifier(place, put(old, new), model) and None


def added(text: str) -> Write:
    return lambda place: classifier(place, CONFIG + text) and None


def with_graph(model: onnx.ModelProto | bytes) -> Write:
    return lambda place: classifier(place, model=model) and None


def joined(old: str, new: str) -> Write:
    """The good ensemble with one thing of its configuration changed."""
    return lambda place: ensemble(place, put(old, new, ENSEMBLE))


def stepped(old: str, new: str) -> Write:
    """The good ensemble with one thing of its Python step changed."""
    return lambda place: ensemble(place, crop=put(old, new, CROP))


# Good ones, in the ways that people write them.


def minimal(place: Path) -> None:
    """The server completes everything from the graph."""
    classifier(place, config=None)


def old_style(place: Path) -> None:
    """As in NVIDIA's examples: platform instead of backend, a reshape, a GPU asked for nowhere."""
    config = (
        'name: "classifier"\nplatform: "onnxruntime_onnx"\nmax_batch_size : 0\n'
        'input [\n  {\n    name: "pixels"\n    data_type: TYPE_FP32\n    format: FORMAT_NCHW\n'
        "    dims: [ 3, 2, 2 ]\n    reshape { shape: [ 1, 3, 2, 2 ] }\n  }\n]\n"
        'output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] reshape { shape: [ 1, 3 ] }\n'
        '  label_filename: "labels.txt" } ]\n'
    )
    classifier(place, config, graph((1, 3, 2, 2), (1, 3)))


def several_versions(place: Path) -> None:
    classifier(place, CONFIG + "version_policy: { specific: { versions: [ 1, 3 ] } }\n")
    for version in ("2", "3"):
        (place / "classifier" / version).mkdir()
        (place / "classifier" / version / "model.onnx").write_bytes(graph().SerializeToString())
    (place / "classifier" / "configs").mkdir()  # custom configurations, no version


def fixed_input_dim(place: Path) -> None:
    """A configuration may fix an input's dim that the graph leaves open."""
    classifier(place, model=graph(("batch", "width")))


def with_comments(place: Path) -> None:
    text = put("max_batch_size: 16", "# { a comment [ with braces\nmax_batch_size: 16  # 'and quotes", CONFIG)
    classifier(place, put('"intra_op_thread_count"', "'intra_op_thread_count'", text))


def names_and_links_within(place: Path) -> None:
    """Both may lead anywhere in the repository."""
    folder = classifier(place, put('"labels.txt"', '"../classifier/labels.txt"', CONFIG))
    (folder / "kept").mkdir()
    (folder / "1" / "model.onnx").rename(folder / "kept" / "model.onnx")
    (folder / "1" / "model.onnx").symlink_to("../kept/model.onnx")


def external_weights(place: Path) -> None:
    folder = classifier(place)
    onnx.save(graph(), folder / "1" / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)


def of_other_backends(place: Path) -> None:
    python_model(place)
    plan = place / "engine"
    (plan / "1").mkdir(parents=True)
    (plan / "1" / "model.plan").write_bytes(b"engine")
    (plan / "config.pbtxt").write_text(
        'platform: "tensorrt_plan"\nmax_batch_size: 8\ninput { name: "x" data_type: TYPE_FP16 dims: 4 }\n'
        'output { name: "y" data_type: TYPE_FP16 dims: 4 }\ndynamic_batching { }\n'
    )
    own = place / "own"
    (own / "1").mkdir(parents=True)
    (own / "libtriton_mine.so").write_bytes(b"")
    (own / "config.pbtxt").write_text('backend: "mine"\n')


def sequences(place: Path) -> None:
    text = put("dynamic_batching {\n  preferred_batch_size: [ 4, 8 ]\n}", "sequence_batching { oldest { } }")
    classifier(place, text)


def warmed_up(place: Path) -> None:
    sample = '{ key: "pixels" value { data_type: TYPE_FP32 dims: [ 4 ] random_data: true } }'
    classifier(place, CONFIG + f'model_warmup [ {{ name: "one" batch_size: 8 inputs {sample} }} ]\n')


GOOD: dict[str, Write] = {
    "names-and-links-within": names_and_links_within,
    "plain": lambda place: classifier(place) and None,
    "minimal": minimal,
    "old-style": old_style,
    "several-versions": several_versions,
    "fixed-input-dim": fixed_input_dim,
    "comments": with_comments,
    "external-weights": external_weights,
    "ensemble": ensemble,
    "other-backends": of_other_backends,
    "sequences": sequences,
    "warmed-up": warmed_up,
    "no-name": changed('name: "classifier"\n', ""),
    "one-instance": changed("count: 2 kind: KIND_CPU", "kind: KIND_CPU"),
}


# Broken ones.


def in_a_path_with_spaces(place: Path) -> None:
    classifier(place).rename(place / "my classifier")
    text = put('name: "classifier"', 'name: "my classifier"')
    (place / "my classifier" / "config.pbtxt").write_text(text)


def nothing_at_all(place: Path) -> None:
    (place / "classifier").mkdir()


def no_version(place: Path) -> None:
    folder = classifier(place)
    (folder / "1" / "model.onnx").unlink()
    (folder / "1").rmdir()


def odd_version(place: Path) -> None:
    (classifier(place) / "v2").mkdir()


def no_file_that_tells(place: Path) -> None:
    folder = classifier(place, put('backend: "onnxruntime"\n', ""))
    (folder / "1" / "model.onnx").rename(folder / "1" / "weights.bin")


def other_file_name(place: Path) -> None:
    folder = classifier(place)
    (folder / "1" / "model.onnx").rename(folder / "1" / "net.onnx")


def no_program(place: Path) -> None:
    (python_model(place) / "1" / "model.py").unlink()


def linked_graph(place: Path) -> None:
    file = classifier(place) / "1" / "model.onnx"
    file.unlink()
    file.symlink_to("/etc/hostname")


def linked_folder(place: Path) -> None:
    elsewhere = place.parent / f"{place.name}-elsewhere"
    classifier(elsewhere)
    (place / "classifier").symlink_to(elsewhere / "classifier")


def weights_outside(place: Path) -> None:
    external_weights(place)
    version = place / "classifier" / "1"
    (version / "weights").rename(place / "classifier" / "weights")
    model = onnx.load(version / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../weights"
    (version / "model.onnx").write_bytes(model.SerializeToString())


def lost_weights(place: Path) -> None:
    external_weights(place)
    (place / "classifier" / "1" / "weights").unlink()


def cut_weights(place: Path) -> None:
    external_weights(place)
    (place / "classifier" / "1" / "weights").write_bytes(b"short")


def not_utf8(place: Path) -> None:
    (classifier(place) / "config.pbtxt").write_bytes(CONFIG.encode("utf-16"))


def no_labels(place: Path) -> None:
    (classifier(place) / "labels.txt").unlink()


def too_few_labels(place: Path) -> None:
    (classifier(place) / "labels.txt").write_text("cat\ndog\n")


def fixed_batch_axis(place: Path) -> None:
    classifier(place, model=graph((1, 4), ("batch", 3)))


def random_token_ids(place: Path) -> None:
    config = put("data_type: TYPE_FP32\n    dims: [ 4 ]", "data_type: TYPE_INT64\n    dims: [ 4 ]")
    sample = '{ key: "pixels" value { data_type: TYPE_INT64 dims: [ 4 ] random_data: true } }'
    classifier(place, config + f"model_warmup {{ batch_size: 1 inputs {sample} }}\n", graph(kind=TensorProto.INT64))


def in_a_circle(place: Path) -> None:
    text = put('model_name: "crop"', 'model_name: "whole"', ENSEMBLE)
    ensemble(place, text)


def step_by_name_only(place: Path) -> None:
    (place / "whole" / "1").mkdir(parents=True)
    (place / "whole" / "config.pbtxt").write_text('platform: "ensemble"\nmax_batch_size: 8\n')


STRANGE = 'model_warmup { batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } }\n'

BROKEN: dict[str, tuple[str, Write]] = {
    "spaces": ("path-spaces", in_a_path_with_spaces),
    "nothing-at-all": ("config-missing", nothing_at_all),
    "name-of-another": ("name-differs", changed('name: "classifier"', 'name: "clasifier"')),
    "no-version": ("version-missing", no_version),
    "version-v2": ("version-name", odd_version),
    "version-that-is-gone": ("version-absent", added("version_policy { specific { versions: [ 1, 2 ] } }\n")),
    "no-backend": ("backend-missing", no_file_that_tells),
    "onnxruntme": ("backend-misspelt", changed("onnxruntime", "onnxruntme")),
    "own-backend": ("backend-unknown", changed("onnxruntime", "zebra")),
    "onnx-platform": ("platform-unknown", changed('backend: "onnxruntime"', 'platform: "onnx"')),
    "net.onnx": ("model-file-missing", other_file_name),
    "no-model.py": ("model-file-missing", no_program),
    "graph-outside": ("path-leaves", added('default_model_filename: "../../../model.onnx"\n')),
    "graph-at-the-root": ("path-leaves", added('default_model_filename: "/etc/hostname"\n')),
    "labels-outside": ("path-leaves", changed('"labels.txt"', '"../../labels.txt"')),
    "link-to-elsewhere": ("path-leaves", linked_graph),
    "folder-elsewhere": ("path-leaves", linked_folder),
    "weights-outside": ("external-data-missing", weights_outside),
    "empty-file": ("model-corrupt", with_graph(b"")),
    "half-a-file": ("model-corrupt", with_graph(graph().SerializeToString()[:-20])),
    "text-as-model": ("model-corrupt", with_graph(b"version https://git-lfs.github.com/spec/v1\n")),
    "lost-weights": ("external-data-missing", lost_weights),
    "cut-weights": ("external-data-missing", cut_weights),
    "opset-23": ("opset-newer", with_graph(graph(opset=23))),
    "ir-12": ("opset-newer", with_graph(graph(ir_version=12))),
    "no-text-format": ("config-text", changed("max_batch_size: 16", "max_batch_size = 16")),
    "utf-16": ("config-text", not_utf8),
    "number-as-text": ("config-text", changed("max_batch_size: 16", 'max_batch_size: "16"')),
    "brace-missing": ("braces", changed("dims: [ 4 ]\n  }", "dims: [ 4 ]\n")),
    "brace-at-the-end": (
        "braces",
        changed("  preferred_batch_size: [ 4, 8 ]\n}", "  preferred_batch_size: [ 4, 8 ]\n"),
    ),
    "brace-too-many": ("braces", added("}\n")),
    "misspelt-field": ("unknown-field", changed("max_batch_size", "max_batchsize")),
    "misspelt-inner-field": (
        "unknown-field",
        changed("data_type: TYPE_FP32\n    dims: [ 4 ]", "datatype: TYPE_FP32 dims: 4"),
    ),
    "made-up-field": ("unknown-field", added('author: "me"\n')),
    "misspelt-type": ("unknown-value", changed("TYPE_FP32\n    dims: [ 4 ]", "TYPE_FLOAT32\n    dims: [ 4 ]")),
    "field-twice": ("field-twice", added("max_batch_size: 8\n")),
    "two-schedulers": ("two-schedulers", added("sequence_batching { }\n")),
    "no-datatype": ("tensor-declaration", changed("    data_type: TYPE_FP32\n    dims: [ 4 ]", "    dims: [ 4 ]")),
    "dim-of-zero": (
        "tensor-declaration",
        lambda place: python_model(place, put("dims: [ 4 ]", "dims: [ 0 ]", CROP)) and None,
    ),
    "output-twice": ("tensor-twice", added('output { name: "scores" data_type: TYPE_FP32 dims: 3 }\n')),
    "input-misnamed": ("tensor-unexpected", changed('"pixels"', '"pixel"')),
    "output-misnamed": ("tensor-unexpected", changed('"scores"', '"probabilities"')),
    "input-left-out": ("tensor-missing", with_graph(graph(inputs=("pixels", "mask")))),
    "int-for-float": ("datatype", changed("TYPE_FP32\n    dims: [ 4 ]", "TYPE_INT32\n    dims: [ 4 ]")),
    "complex": ("datatype-unsupported", with_graph(graph(kind=TensorProto.COMPLEX64))),
    "fixed-batch": ("batch-axis", fixed_batch_axis),
    "rank": ("dims", changed("dims: [ 4 ]", "dims: [ 1, 4 ]")),
    "dims-with-batch-axis": ("dims", changed("dims: [ 4 ]", "dims: [ -1, 4 ]")),
    "open-for-fixed": ("dims", changed("dims: [ 4 ]", "dims: [ -1 ]")),
    "labels-gone": ("label-file-missing", no_labels),
    "labels-short": ("label-count", too_few_labels),
    "batch-size-forgotten": ("batching-off", changed("max_batch_size: 16\n", "")),
    "batch-size-zero": ("batching-off", changed("max_batch_size: 16", "max_batch_size: 0")),
    "batch-size-negative": ("max-batch-negative", changed("max_batch_size: 16", "max_batch_size: -1")),
    "preferred-too-large": ("preferred-batch-size", changed("[ 4, 8 ]", "[ 4, 32 ]")),
    "no-instances": ("instance-count", changed("count: 2", "count: 0")),
    "gpu": ("gpu-absent", changed("KIND_CPU", "KIND_GPU")),
    "gpu-too-high": ("gpu-number", changed("KIND_CPU", "KIND_AUTO gpus: [ 3 ]")),
    "threads-of-all": ("threads-oversubscribed", changed('string_value: "4"', 'string_value: "0"')),
    "threads-too-many": ("threads-oversubscribed", changed('string_value: "4"', 'string_value: "6"')),
    "graph-level-2": ("graph-level", added("optimization { graph { level: 2 } }\n")),
    "graph-level-99": ("graph-level", added("optimization { graph { level: 99 } }\n")),
    "warmup-of-another": ("warmup-input", added(STRANGE)),
    "warmup-too-large": ("warmup-input", added(put("1 inputs", "32 inputs", put('"x"', '"pixels"', STRANGE)))),
    "random-token-ids": ("warmup-random-ids", random_token_ids),
    "no-steps": ("ensemble-steps", step_by_name_only),
    "ensemble-with-instances": (
        "ensemble-instances",
        joined("max_batch_size: 8\n", "max_batch_size: 8\ninstance_group { count: 2 }\n"),
    ),
    "circle": ("ensemble-cycle", in_a_circle),
    "step-gone": ("ensemble-model-missing", joined('"classifier"', '"clasifier"')),
    "pinned-version-gone": ("ensemble-version-absent", joined("model_version: 1\n", "model_version: 2\n")),
    "batch-too-large": ("ensemble-batch", joined("max_batch_size: 8", "max_batch_size: 32")),
    "key-misspelt": ("ensemble-map", joined('key: "pixels"', 'key: "pixel"')),
    "output-key-misspelt": ("ensemble-map", joined('key: "scores"', 'key: "score"')),
    "input-unmapped": (
        "ensemble-input-unmapped",
        stepped("dims: [ 1 ] }", 'dims: [ 1 ] }, { name: "size" data_type: TYPE_INT32 dims: [ 2 ] }'),
    ),
    "tensor-unmade": (
        "ensemble-tensor-unmade",
        joined('key: "pixels" value: "between"', 'key: "pixels" value: "betwixt"'),
    ),
    "output-unmade": (
        "ensemble-tensor-unmade",
        joined('key: "scores" value: "answer"', 'key: "scores" value: "scores"'),
    ),
    "input-unused": (
        "ensemble-tensor-unused",
        joined("dims: [ 1 ] }", 'dims: [ 1 ] }, { name: "extra" data_type: TYPE_FP32 dims: 1 }'),
    ),
    "types-between": (
        "ensemble-datatype",
        stepped('"cropped" data_type: TYPE_FP32', '"cropped" data_type: TYPE_UINT8'),
    ),
    "dims-between": ("ensemble-dims", stepped("dims: [ 4 ]", "dims: [ 5 ]")),
    "dims-at-the-end": ("ensemble-dims", joined("dims: [ 3 ]", "dims: [ 4 ]")),
}
