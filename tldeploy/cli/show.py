"""What verbs print: aligned tables for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from tldeploy.devices import Device
from tldeploy.errors import ServerError
from tldeploy.tables import aligned

TOP = 10
LOGME = (
    "LogME is the log evidence, in nats a row, that the classes follow linearly from the backbone's features; "
    "only differences count, and larger is better."
)

if TYPE_CHECKING:
    from click.decorators import FC

    from tldeploy.benchmarking.comparison import Comparison
    from tldeploy.benchmarking.gate import Judged
    from tldeploy.exporting.explain import Explained
    from tldeploy.pipeline import Outcome
    from tldeploy.triton.running import Running
    from tldeploy.tuning.candidates import Candidate
    from tldeploy.tuning.search import Searched

TRAINERS = ("cpu", "cuda")  # what PyTorch trains on
recipe_argument = click.argument("recipe")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
no_check_option = click.option("--no-check", is_flag=True, help="Do not try it in a server of its own first.")
force_option = click.option("--force", is_flag=True, help="Do the work again even if nothing has changed.")


def device_option(said: str, devices: Sequence[str] = get_args(Device)) -> Callable[[FC], FC]:
    return click.option("--device", type=click.Choice(devices), help=said)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line that could not be parsed asked for JSON."""
    return "--json" in arguments


def print_next(name: str, repository: Path) -> None:
    """The servers that answer from what is live now; where there is none, how to start one."""
    from tldeploy import serving

    servers: list[Running] = []
    with suppress(ServerError):  # one that hangs took nothing
        servers = serving.serving_now(name, repository)
    for server in servers:
        print(f"served by the server at {server.url} (process {server.pid})")
    if not servers:
        print(f"next: tldeploy serve {repository}")


def print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """What every stage says of itself in JSON."""
    manifest = outcome.manifest
    return {
        "stage": outcome.stage,
        "folder": str(outcome.folder),
        "skipped": outcome.skipped,
        "sha256": manifest.sha256,
        "metrics": manifest.metrics,
        "decisions": [choice.model_dump(mode="json") for choice in manifest.decisions],
    }


def methods(outcome: Outcome) -> str:
    """What tuning measured, method by method; with another domain also by what was chosen there, where * is kept."""
    metrics = outcome.manifest.metrics
    if not any("score" in found for found in metrics.values()):
        rows = [
            [name, interval(found["validation"]), interval(found["test"]), f"{found['seconds']:.0f}"]
            for name, found in metrics.items()
        ]
        return f"{aligned(['method', 'validation', 'held out', 'seconds'], rows)}\n{reasons(outcome)}"
    kept = outcome.manifest.details["kept"]
    rows = [
        [
            f"{name}{' *' if name == kept else ''}",
            interval(found["validation"]),
            interval(found["test"]),
            f"{found['score']:.3f}" if "score" in found else "",
            f"{found['seconds']:.0f}",
        ]
        for name, found in metrics.items()
    ]
    head = ["method", "source validation", "held out", "label-free score", "seconds"]
    return f"{aligned(head, rows)}\n{reasons(outcome)}"


def scorecard(outcome: Outcome) -> str:
    """The variants, which one was chosen, and what it lost on the held-out rows."""
    from tldeploy.tasks.metrics import in_points

    details = outcome.manifest.details
    rows = [
        [
            f"{entry['name']}{' *' if entry['name'] == details['chosen'] else ''}",
            f"{entry['size_bytes'] / 1e6:.1f}",
            f"{entry['parity']['max_abs_diff']:.0e}",
            f"{entry['metric']['value']:.3f}",
            "{points:+.2f} [{low:+.2f}, {high:+.2f}]".format_map(entry["drop"]),
            f"{100 * entry['drop']['agreement']:.1f}",
            _figure(entry["p50_ms"], ".2f"),
            _gain(entry["speedup"]),
            _gain(entry["throughput_speedup"]),
            _figure(entry["load_ms"], ".0f"),
            _figure(entry["memory_mb"], ".0f"),
        ]
        for entry in details["variants"]
    ]
    head = ["variant", "MB", "parity", "validation", "points lost [95 %]", "% same", "p50 ms", "x fp32 [95 %]"]
    head += ["x in batches", "load ms", "RAM MB"]
    drop, metric = details["held_out"]["drop"], details["held_out"]["metric"]
    final = (
        f"held-out rows: {details['chosen']} {interval(metric)}, {in_points(drop['points'], drop['low'], drop['high'])}"
        f" on {drop['rows']} rows that no choice looked at"
    )
    return f"{aligned(head, rows)}\n{final}\n{reasons(outcome)}"


def explanation(explained: Sequence[Explained]) -> str:
    """Time and error of fp32 and of each variant, a table each: before and after."""
    before, *others = explained
    return "\n\n".join(_before_and_after(before, after) for after in others or [before])


def _before_and_after(before: Explained, after: Explained) -> str:
    both = [before, after] if after is not before else [before]
    head = [*(f"{found.variant} {unit}" for found in both for unit in ("ms", "%"))]
    groups = [
        [
            group,
            *(text for found in both for text in _share(found, found.groups[group])),
            *(_figure(found.departures[group], ".2g") or "not comparable" for found in both[1:]),
        ]
        for group in before.groups
    ]
    took_ms = {name: 0.0 for found in both for name in found.operators}
    for found in both:
        took_ms |= {name: max(took_ms[name], share * found.ms) for name, share in found.operators.items()}
    most = sorted(took_ms, key=lambda name: -took_ms[name])[:TOP]
    operators = [
        [name, *(text for found in both for text in _share(found, found.operators.get(name)))] for name in most
    ]
    where = [
        f"{found.variant}: {found.ms:.2f} ms a row in the graph, under the profiler; "
        + ", ".join(f"{count} nodes on {provider}" for provider, count in found.placed.items())
        for found in both
    ]
    tables = [aligned(["group", *head, *(["off fp32"] if len(both) > 1 else [])], groups)]
    tables += [aligned(["operator", *head], operators)]
    more = len(took_ms) - len(most)
    return "\n".join([*where, *tables, *([f"… and {more} more operators, with --json"] if more else [])])


def _share(found: Explained, share: float | None) -> tuple[str, str]:
    return ("", "") if share is None else (f"{share * found.ms:.2f}", f"{100 * share:.1f}")


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _gain(found: Mapping[str, float] | None) -> str:
    return "" if found is None else f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def conditions(judged: Sequence[Judged]) -> str:
    """What became of each condition of a regression gate, a line each."""
    return "\n".join(f"{found.state}: {found.condition.text}: {found.said}" for found in judged)


def comparison(found: Comparison) -> str:
    """Two runs side by side, a line for each figure of each engine, and what the figures rest on."""
    from tldeploy.benchmarking.page.comparing import changes, remarks, verdict

    table = changes(found)
    shown = aligned(table.head, [[cell.text for cell in row] for row in table.rows])
    return "\n".join([shown, *remarks(found), verdict(found)])


def serving(tuning: Mapping[str, Any]) -> str:
    """What was measured of the served model, what of it was chosen, as a recipe has it, and why."""
    head, *rows = fitted_rows(tuning)
    chosen = "\n".join(f"  {name}: {'null' if value is None else value}" for name, value in tuning["chosen"].items())
    anew = sum(entry["measured_in"] == "verdict" for entry in tuning["candidates"])
    about = (
        f"{tuning['rows']}, {tuning['seconds']:.0f} s; the first {anew} were measured anew after a race of the others"
    )
    return f"{aligned(head, rows)}\n{about}\n\ndeploy:\n{chosen}\nwhy: {tuning['reason']}"


def fitted_rows(tuning: Mapping[str, Any]) -> list[list[str]]:
    """The head and a row for each candidate: the recipe's settings first, * at what was chosen."""
    head = "settings|instances|threads|steps|delay us|preferred|clients|rows/s|p50 ms|p99 ms|requests|x recipe"
    return [head.split("|")] + [
        [
            f"{index or 'recipe'}{' *' if entry['settings'] == tuning['chosen'] else ''}",
            *(_setting(value) for value in entry["settings"].values()),
            str(entry["clients"]),
            f"{entry['rows_per_s']:.0f}",
            *(_latency(entry[name]) for name in ("p50_ms", "p99_ms")),
            f"{entry['requests']:,}",
            _gain(entry["gain"]),
        ]
        for index, entry in enumerate(tuning["candidates"])
    ]


def _latency(found: Mapping[str, float]) -> str:
    return f"{found['value']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def _setting(value: Any) -> str:
    return "-" if value is None or value == [] else str(value)


def trials(searched: Searched) -> str:
    """The best trials, with what each was given."""
    settings = list(searched.trials[0].settings)
    rows = [
        [
            str(trial.number),
            trial.state if trial.reason is None else f"{trial.state}: {trial.reason}",
            *(f"{value:.3g}" if type(value) is float else str(value) for value in trial.settings.values()),
            "" if trial.value is None else f"{trial.value:.4f}",
            str(trial.epochs),
            "" if trial.seconds is None else f"{trial.seconds:.0f}",
        ]
        for trial in searched.trials[:TOP]
    ]
    head = ["trial", "state", *settings, searched.metric, "epochs measured", "seconds"]
    more = len(searched.trials) - len(rows)
    hidden = f"\n… and {more} more, in the report" if more else ""
    return f"{aligned(head, rows, left=2)}{hidden}\nmeasured on {searched.rows} validation rows; best: {searched.best}"


def candidates(found: Sequence[Candidate]) -> str:
    """Backbones in the order of their scores, and what a score means."""
    rows = [
        [
            candidate.backbone,
            "" if candidate.score is None else f"{candidate.score:.4f}",
            "" if candidate.features is None else str(candidate.features),
            "" if candidate.parameters is None else f"{candidate.parameters / 1e6:.1f}",
            "" if candidate.seconds is None else f"{candidate.seconds:.1f}",
        ]
        for candidate in found
    ]
    head = ["backbone", "LogME", "features", "M parameters", "seconds"]
    reasons = [f"{candidate.backbone}: {candidate.reason}" for candidate in found if candidate.reason]
    return "\n".join([aligned(head, rows), *reasons, LOGME])


def reasons(outcome: Outcome) -> str:
    """Every automatic choice with its reason, a line each; what tuning has just said of the rows is not said again."""
    from tldeploy.tuning.card import is_about_rows

    was_said = outcome.stage == "tune" and not outcome.skipped
    choices = [choice for choice in outcome.manifest.decisions if not (was_said and is_about_rows(choice))]
    return "\n".join(f"{choice.about}: {choice.value} ({choice.reason})" for choice in choices)


def interval(metric: Mapping[str, float]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
