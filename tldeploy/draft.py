"""A first recipe, drafted from a person's own file: `tldeploy init`.

1. The table is opened and its columns are told apart (data/profile.py).
2. The rows are split once for trial, so that what cannot be learnt from is refused here, and every figure is real.
3. Each setting is an artifacts.Choice: what, the value, and why; the reasons become the comments of the YAML.
4. The recipe's text is read back as a recipe, and only then written.
"""

from __future__ import annotations

import json
import math
import os
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tldeploy.artifacts import Choice, write_file
from tldeploy.data.profile import Lengths, Source, cut_into_bins, find_label, find_text, open_table, repeats
from tldeploy.data.rows import Splits, split_rows
from tldeploy.errors import ArtifactError, UsageError, storage_errors
from tldeploy.recipe import NAME, RECIPE_FILE, Data, Deploy, Export, Recipe
from tldeploy.tasks.encoding import TextEncoder

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
TOKENS_A_WORD = 1.4
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
MEASURED_TEXTS = 20_000
SHORTEST, LONGEST = 16, 512
NARROW = 512  # hidden units up to which an encoder stands, and needs, larger steps
BENCH_ROWS = 1_000


@dataclass(frozen=True)
class _Encoder:
    """What is known of the backbone before it is loaded; of one on the hub, nothing but its name."""

    source: str
    is_local: bool = False
    positions: int | None = None
    hidden: int | None = None
    encoder: TextEncoder | None = None


def init(
    data: str | Path,
    backbone: str | Path,
    name: str | None = None,
    out: str | Path | None = None,
    text: str | None = None,
    label: str | None = None,
) -> Path:
    """Look at a table of labelled texts and write a recipe that runs; the path of the recipe.

    name: by default after the file; out: the recipe's folder, by default models/<name>.
    Raises UsageError for a name that is none, a backbone that is none and a recipe that is there already, DataError
    for rows that cannot be learnt from, ArtifactError for a broken backbone folder. Then nothing has been written.
    """
    file = Path(data).expanduser()
    name = _checked_name(name, file)
    folder = Path(out).expanduser() if out else Path("models", name)
    recipe = folder / RECIPE_FILE
    if os.path.lexists(recipe):
        fix = "edit it, remove it, or give another --name or --out"
        raise UsageError(f"write {recipe}", "there is a recipe already", fix)
    encoder = _look_at_backbone(str(backbone), folder)
    source = open_table(file)
    columns = _columns(source, text, label)
    settings = [*columns, *_shares(source, columns)]
    trial = {choice.about.removeprefix("data."): choice.value for choice in settings}
    splits = split_rows(Data(**trial, file=str(file.resolve())), folder)
    settings = [
        Choice(about="name", value=name, reason="it names the served model; clients ask for it by this name."),
        Choice(about="task", value="text-classification", reason=_balance(splits)),
        Choice(about="data.file", value=_relative(file.resolve(), folder), reason=_about_file(source, splits)),
        *settings,
        Choice(about="data.seed", value=0, reason="the same rows are held out every time."),
        *_backbone(encoder, splits),
        *_tune(encoder, splits),
        *_serve(folder, splits),
    ]
    written = _yaml(settings)
    Recipe.parse(written, recipe)
    try:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"write {recipe}", "a part of that path is a file", "give another --out") from None
    write_file(recipe, written)
    return recipe


def _checked_name(name: str | None, file: Path) -> str:
    if name is not None:
        if not NAME.fullmatch(name):
            found = "a name has letters, digits, - and _ only (it names folders and served models)"
            raise UsageError(f"name the model {name!r}", found, "give a name such as reviews-en with --name")
        return name
    plain = unicodedata.normalize("NFKD", file.stem).encode("ascii", "ignore").decode()
    made = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-_")
    if not made:
        found = "it has no letter or digit of the kind that names of models have"
        raise UsageError(f"name the model after {file.name!r}", found, "give a name with --name")
    return made


def _look_at_backbone(backbone: str, recipe_folder: Path) -> _Encoder:
    asked = f"use the backbone {backbone}"
    folder = Path(backbone).expanduser()
    if not folder.is_dir():
        if not HUB_ID.fullmatch(backbone) or folder.exists():
            found = "it is no folder, and no name that the hub could have"
            fix = "give a hub id such as bert-base-uncased, or a folder with config.json and model.safetensors"
            raise UsageError(asked, found, fix)
        return _Encoder(backbone)
    fix = "give a folder with config.json, model.safetensors and tokenizer.json"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        positions, hidden = config.get("max_position_embeddings"), config.get("hidden_size") or config.get("dim")
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(asked, f"its config.json cannot be read ({error})", fix) from error
    encoder = None
    if (tokenizer := folder / "tokenizer.json").is_file():
        try:
            encoder = TextEncoder(tokenizer.read_text(encoding="utf-8"), max_length=2**31, pad_id=0)
        except Exception as error:  # what tokenizers raises is no subclass
            raise ArtifactError(asked, f"its tokenizer.json cannot be read ({error})", fix) from error
    if positions and config.get("model_type") in {"roberta", "xlm-roberta", "camembert"}:
        positions -= 2  # RoBERTa counts positions from its padding id on
    return _Encoder(_relative(folder.resolve(), recipe_folder), True, positions, hidden, encoder)


def _columns(source: Source, text: str | None, label: str | None) -> list[Choice]:
    """How the table is read: its encoding and delimiter, its columns, and the bins of a number column."""
    table = source.table
    named = "it was named when this recipe was drafted."
    for column, option in ((text, "--text"), (label, "--label")):
        if column is not None:
            table.column(column, option)
    if text is not None and text == label:
        raise UsageError("tell texts from labels", f"both are {text!r}", "give --text and --label different columns")
    found = Choice(about="data.text", value=text, reason=named) if text is not None else find_text(table, label)
    given = Choice(about="data.label", value=label, reason=named)
    choices = [found, given if label is not None else find_label(table, found.value)]
    name = choices[-1].value
    bins = cut_into_bins(name, table.column(name, "--label"))
    if source.encoding != "utf-8":
        reason = f"the file is not UTF-8; it reads as {source.encoding}. If letters look wrong, name another."
        choices.append(Choice(about="data.encoding", value=source.encoding, reason=reason))
    if not source.delimiter_is_implied:
        reason = f"with it every row has the {len(table.columns)} cells that the header has."
        choices.append(Choice(about="data.delimiter", value=source.delimiter, reason=reason))
    return [*choices, bins] if bins else choices


def _shares(source: Source, columns: Sequence[Choice]) -> list[Choice]:
    """Fewer rows, larger shares: the held-out figure's interval narrows with the root of the rows behind it."""
    chosen = {choice.about: choice.value for choice in columns}
    rows = sum(1 for text in source.table.column(chosen["data.text"], "--text") if text.strip())
    labels = source.table.column(chosen["data.label"], "--label")
    classes = len(chosen.get("data.bins") or {label.strip() for label in labels})
    sizes = ((1_000, 0.3, 0.2), (10_000, 0.2, 0.15), (100_000, 0.1, 0.1))
    test, validation = next(((test, val) for below, test, val in sizes if rows < below), (0.05, 0.05))
    test = _at_least(test, rows, classes)
    held_out = math.ceil(test * rows)
    validation = _at_least(validation, rows - held_out, classes)
    points = 98 / math.sqrt(max(held_out, 1))  # half the 95% interval of a share of one half
    about_test = (
        f"{held_out:,} of {rows:,} rows are never learnt from; they tell accuracy to about ±{points:.1f} points."
    )
    about_validation = (
        f"{math.ceil(validation * (rows - held_out)):,} of what is left; every choice is made on these rows."
    )
    return [
        Choice(about="data.test", value=test, reason=about_test),
        Choice(about="data.validation", value=validation, reason=about_validation),
    ]


def _at_least(share: float, rows: int, classes: int) -> float:
    """The share, raised where it would hold fewer rows than there are classes, in hundredths; at most one half."""
    return min(max(share, math.ceil(100 * classes / max(rows, 1)) / 100), 0.5)


def _balance(splits: Splits) -> str:
    parts = (splits.train.classes, splits.validation.classes, splits.test.classes)
    counts = np.bincount(np.concatenate(parts), minlength=len(splits.labels)).tolist()
    largest = sorted(zip(counts, splits.labels, strict=True), key=lambda pair: -pair[0])
    total = sum(counts)
    shown = [f"{_quoted(label[:40])} {count:,} ({count / total:.1%})" for count, label in largest[:8]]
    more = f", and {len(largest) - 8} more" if len(largest) > 8 else ""
    uneven = (
        " The classes are uneven, so weighted F1 says more than accuracy."
        if counts and max(counts) > 3 * min(counts)
        else ""
    )
    return f"each text gets one of {len(counts)} classes: {', '.join(shown)}{more}.{uneven}"


def _about_file(source: Source, splits: Splits) -> str:
    table, found = source.table, repeats(splits)
    empty = f", of which {len(splits.left_out):,} have no text and are left out" if splits.left_out else ""
    reason = f"{len(table.rows):,} rows with {len(table.columns)} columns{empty}."
    if not found.rows:
        return f"{reason} No text occurs twice."
    reason += f" {found.rows:,} {'row repeats' if found.rows == 1 else 'rows repeat'} the text of another"
    if found.contradictions:
        reason += f"; texts that occur with different labels: {found.contradictions:,}"
    if found.leaked:
        reason += f"; held-out rows whose text is learnt from too, which flatters the figures: {found.leaked:,}"
    return f"{reason}."


def _backbone(encoder: _Encoder, splits: Splits) -> list[Choice]:
    where = "a folder on this machine." if encoder.is_local else "a name on the hub; loaded at the first run."
    texts = [*splits.train.inputs, *splits.validation.inputs, *splits.test.inputs]
    step = -(-len(texts) // MEASURED_TEXTS)  # evenly, because files are often sorted
    if encoder.encoder:
        unit, lengths = "tokens", [len(ids) for ids in encoder.encoder.token_ids(texts[::step])]
    else:
        # Two more for the special tokens at both ends.
        unit = f"tokens, estimated as {TOKENS_A_WORD} a word"
        lengths = [round(TOKENS_A_WORD * len(WORD.findall(text))) + 2 for text in texts[::step]]
    found = Lengths.of(lengths)
    measured = f" (measured on {len(lengths):,} of them)" if step > 1 else ""
    limit = min(LONGEST, max(encoder.positions or 0, 0) or LONGEST)
    length = min(max(SHORTEST, -(-found.p99 // 8) * 8), limit)
    reason = (
        f"99% of the texts{measured} have at most {found.p99:,} {unit}; the median has {found.median:,}, the longest "
    )
    reason += f"{found.longest:,}."
    if found.p99 > limit:
        reason += f" The limit is {limit}: longer texts are cut off there."
    pooling = "the mean over a text's tokens suits most encoders; `cls` takes the first token's vector alone."
    return [
        Choice(about="backbone.source", value=encoder.source, reason=where),
        Choice(about="backbone.pooling", value="mean", reason=pooling),
        Choice(about="backbone.max_length", value=length, reason=reason),
    ]


def _tune(encoder: _Encoder, splits: Splits) -> list[Choice]:
    rows = len(splits.train)
    sizes = ((500, 8, 8), (2_000, 4, 16), (20_000, 3, 16), (200_000, 2, 32))
    epochs, batch = next(((epochs, batch) for below, epochs, batch in sizes if rows < below), (1, 64))
    if encoder.hidden and encoder.hidden <= NARROW:
        rate, why = 1e-4, f"a narrow encoder ({encoder.hidden} hidden units) takes larger steps than BERT-base."
    else:
        rate, why = (3e-5, "usual for encoders of BERT-base's size") if batch < 32 else (5e-5, "larger batches bear it")
        why += "; lower it if training diverges."
    steps = -(-rows // batch) * epochs
    few_or_many = "few rows must be seen more often" if epochs > 3 else "so many rows need no more"
    methods = "both are run and reported: the first trains only the last layer, in a fraction of the time."
    return [
        Choice(about="tune.methods", value=["feature-extraction", "fine-tuning"], reason=methods),
        Choice(about="tune.keep", value="best", reason="the one that is better on the validation rows is exported."),
        Choice(about="tune.epochs", value=epochs, reason=f"{rows:,} rows to learn from: {few_or_many}."),
        Choice(about="tune.batch_size", value=batch, reason=f"it makes {steps:,} steps in all."),
        Choice(about="tune.learning_rate", value=rate, reason=why),
    ]


def _serve(folder: Path, splits: Splits) -> Iterable[Choice]:
    """The budget of the export, where it is published, and how many rows are measured if not all."""
    reason = "points of weighted F1 that a faster graph may lose on the validation rows before it is refused."
    yield Choice(about="export.max_drop", value=Export().max_drop, reason=reason)
    if folder.resolve().parent.name == "models":
        shared = Deploy().repository
        reason = "the repository that the server reads; all models of this project share it."
        yield Choice(about="deploy.repository", value=shared, reason=reason)
    else:
        reason = "the repository that the server reads, beside this file."
        yield Choice(about="deploy.repository", value="triton_repo", reason=reason)
    if len(splits.test) > BENCH_ROWS:
        reason = (
            f"of the {len(splits.test):,} held-out rows, every engine is measured on these; take it out to use all."
        )
        yield Choice(about="bench.rows", value=BENCH_ROWS, reason=reason)


def _relative(path: Path, folder: Path) -> str:
    """From the recipe's real folder: `..` of a linked folder leads elsewhere than it looks."""
    return Path(os.path.relpath(path, folder.resolve())).as_posix()


def _yaml(settings: Iterable[Choice]) -> str:
    """One line a setting, its reason as a comment above it, one block a section."""
    lines = ["# Drafted by `tldeploy init`. Each comment says why; change what you know better."]
    open_section = ""
    for choice in settings:
        section, _, key = choice.about.rpartition(".")
        indent = "  " if section else ""
        if section != open_section:
            lines += ["", f"{section}:"]
            open_section = section
        elif not section:
            lines.append("")
        prefix = f"{indent}# "
        lines += textwrap.wrap(
            choice.reason,
            110,
            initial_indent=prefix,
            subsequent_indent=prefix,
            break_long_words=False,
            break_on_hyphens=False,
        )
        if isinstance(choice.value, dict):
            lines.append(f"{indent}{key}:")
            lines += [f"{indent}  {name}: {_scalar(value)}" for name, value in choice.value.items()]
        else:
            lines.append(f"{indent}{key}: {_scalar(choice.value)}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, float):
        return str(value) if value >= 0.001 else f"{value:.1e}"  # YAML wants the point: 3e-05 would be a text
    if not isinstance(value, str):
        return str(value)
    is_plain = re.fullmatch(r"[A-Za-z0-9_./-]*[A-Za-z0-9][A-Za-z0-9_./-]*", value) and yaml.safe_load(value) == value
    return value if is_plain else _quoted(value)


def _quoted(text: str) -> str:
    """Double-quoted as in YAML and JSON; what could end a line or is no printable character is escaped."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in escaped
    )
