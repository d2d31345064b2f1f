from __future__ import annotations

import heapq
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tldeploy import pipeline
from tldeploy.benchmarking.capacity import erlang_c, footing, measured_bound_ms, plan, remarks
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError, QualityError, UsageError
from tldeploy.recipe import Recipe

ROOT = Path(__file__).parent.parent.parent
RECORDED = ROOT / "bench" / "results" / "epyc-avx2-2-cores" / "review-sentiment.json"
KEPT_UP = {"cpu_share": 0.3, "late_ms": [0.1, 0.4], "kept_up": True}


def level(slowest: float, p99_ms: float | None, **other: Any) -> dict[str, Any]:
    rounds = [1.2 * slowest, slowest, 1.1 * slowest]
    return {
        "rounds_per_s": rounds,
        "p50_ms": 500 / slowest,
        "p99_ms": p99_ms,
        "samples": 600,
        "generator": KEPT_UP,
        **other,
    }


def trial(rate: float, p99_ms: float | None, keeps: bool, **other: Any) -> dict[str, Any]:
    interval = None if p99_ms is None else [0.8 * p99_ms, 1.1 * p99_ms]
    figures = {"p99_ms": p99_ms, "p99_ms_interval": interval, "samples": 400, "needed": {"p99_ms": 368}}
    found = {"rate_per_s": rate, "keeps_bound": keeps, "over_bound": 1 if keeps else 40, "dropped": 0}
    return {**found, **figures, "generator": KEPT_UP, **other}


def server(bound_ms: float, *trials: dict[str, Any]) -> dict[str, Any]:
    kept = max((found["rate_per_s"] for found in trials if found["keeps_bound"]), default=None)
    return {"p99_bound_ms": bound_ms, "highest_rate_per_s": kept, "trials": list(trials)}


def report(levels: dict[str, dict[str, Any]] | None = None, at_random: dict[str, Any] | None = None) -> dict[str, Any]:
    """With 1 client 100 rows a second in the slowest round and a p99 of 12 ms, with 4 clients 200 and 60 ms."""
    levels = levels or {"1": level(100, 12.0), "4": level(200, 60.0)}
    best = {clients: sum(found["rounds_per_s"]) / 3 for clients, found in levels.items()}
    served = {"name": "triton http", "throughput_per_s": best, "closed_loop": levels, "server": at_random}
    machine = {"cpu": "AMD EPYC", "cores": 2, "gpus": []}
    engines = [{"name": "torch eager"}, served]
    return {"engines": engines, "reported": {"engine": "triton http"}, "environment": machine, "schema_version": 2}


AT_RANDOM = server(50, trial(120, 40.0, keeps=True), trial(150, 80.0, keeps=False))


@pytest.mark.parametrize(
    ("servers", "load", "waits"),
    [(1, 0.6, 0.6), (3, 2, 4 / 9), (2, 1, 1 / 3), (14, 10, 0.1741), (11, 10, 0.6821)],
)
def test_erlang_c_has_the_values_of_the_tables(servers: int, load: float, waits: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(waits, abs=5e-5)


def test_erlang_c_neither_overflows_nor_leaves_its_range() -> None:
    found = [erlang_c(20_000, load) for load in (1, 10_000, 19_500, 19_990)]
    assert found == sorted(found)
    assert 0 <= found[0] < 1e-9
    assert 0.5 < found[-1] < 1


def test_the_wait_is_that_of_a_simulated_queue() -> None:
    """Three servers of 100 a second and 150 requests a second; seeds differ by 1 % in who waits, by 2 % in how long."""
    planned = plan(footing(report({"1": level(100, 12.0)}), 50), 150)
    assert planned.replicas == 3 + 1
    draw = np.random.default_rng(0)
    arrivals = np.cumsum(draw.exponential(1 / 150, 100_000)).tolist()
    free_at = [0.0] * 3
    waits = []
    for arrived, takes in zip(arrivals, draw.exponential(1 / 100, len(arrivals)).tolist(), strict=True):
        starts = max(arrived, free_at[0])
        heapq.heapreplace(free_at, starts + takes)
        waits.append(starts - arrived)
    assert np.mean(np.array(waits) > 0) == pytest.approx(erlang_c(3, 1.5), rel=0.035)
    assert 1000 * np.mean(waits) == pytest.approx(planned.wait_ms_one_lost, rel=0.065)


def test_requests_at_random_count_where_they_were_measured_with_the_bound() -> None:
    found = footing(report(at_random=AT_RANDOM), 50)
    assert (found.scenario, found.rate_per_s, found.p99_ms, found.samples) == ("server", 120, 40.0, 400)
    assert found.doubts == ()
    assert measured_bound_ms(report(at_random=AT_RANDOM)) == 50


def test_a_rate_that_kept_a_stricter_bound_keeps_a_longer_one() -> None:
    found = footing(report(at_random=AT_RANDOM), 80)
    assert (found.scenario, found.rate_per_s) == ("server", 120)
    assert "measured with a bound of 50 ms" in found.doubts[0]


def test_otherwise_it_is_60_percent_of_the_slowest_round_of_the_best_level_within_the_bound() -> None:
    found = footing(report(), 50)
    assert (found.scenario, found.level, found.rate_per_s) == ("closed loop", "1 client", pytest.approx(60))
    found = footing(report(), 60)
    assert (found.level, found.rate_per_s) == ("4 clients", pytest.approx(120))


def test_a_stricter_bound_never_allows_more_than_a_longer_one_did() -> None:
    found = footing(report(at_random=server(100, trial(45, 90.0, keeps=True))), 50)
    assert (found.scenario, found.rate_per_s) == ("closed loop", 45)
    assert any("less than the 60.0 a second of the closed loop" in doubt for doubt in found.doubts)


def test_the_table_of_bench_readme_is_what_the_verb_says() -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    replicas = {bound: plan(footing(recorded, bound), 1000).replicas for bound in (50, 150)}
    assert replicas == {50: 13, 150: 13}
    said = "\n".join(remarks(footing(recorded, 50), recorded))
    assert "the generator kept up, so the figure is the server's" in said
    assert "AMD EPYC, 2 cores, no GPU" in said


def test_what_a_report_of_the_first_schema_does_not_say_is_said() -> None:
    old = json.loads((RECORDED.parent.parent / "epyc-2-cores" / RECORDED.name).read_text(encoding="utf-8"))
    said = "\n".join(remarks(footing(old, 50), old))
    assert "whether the generator was the bottleneck was not recorded" in said


def test_a_plan_has_one_replica_that_may_be_lost() -> None:
    found = footing(report(), 50)
    assert [plan(found, rate).replicas for rate in (0.1, 60, 60.1, 600, 100_000)] == [2, 2, 3, 11, 1668]
    planned = plan(found, 600, cost_per_hour=0.36)
    assert planned.utilisation == pytest.approx(6 / 11)
    assert planned.utilisation_one_lost == pytest.approx(0.6)
    assert planned.wait_ms is not None
    assert planned.wait_ms_one_lost is not None
    assert 0 < planned.wait_ms < planned.wait_ms_one_lost
    assert planned.cost_per_million == pytest.approx(11 * 0.36 / 3600 / 600 * 1e6)


def test_replicas_grow_with_the_traffic_and_never_with_the_bound() -> None:
    found = report(at_random=AT_RANDOM)
    counts = [
        [plan(footing(found, bound), rate).replicas for rate in (1, 10, 99, 1000, 5000)] for bound in (12, 50, 500)
    ]
    assert all(row == sorted(row) for row in counts)
    assert all(list(column) == sorted(column, reverse=True) for column in zip(*counts, strict=True))


def test_no_wait_is_said_where_the_closed_loop_carried_less() -> None:
    found = footing(report({"1": level(100, 12.0)}, AT_RANDOM), 50)
    planned = plan(found, 600)
    assert (planned.replicas, planned.wait_ms_one_lost) == (6, None)
    assert any("no wait can be said" in doubt for doubt in found.doubts)


def test_samples_that_cannot_carry_the_bound_are_named() -> None:
    few = server(50, trial(120, None, keeps=True, samples=200))
    doubt = footing(report(at_random=few), 50).doubts[0]
    assert "200 requests are too few to know a p99, which takes 368: of these" in doubt
    few = server(50, trial(120, None, keeps=True, samples=66, needed={"p99_ms": 548}))
    doubt = footing(report(at_random=few), 50).doubts[0]
    assert "a p99, which takes 548, 1.5 times 368 as they hang together in a queue: of these" in doubt
    wide = server(50, trial(120, 48.0, keeps=True, p99_ms_interval=[40.0, None]))
    assert "the 95 % interval of that p99 has no upper end" in footing(report(at_random=wide), 50).doubts[0]
    one_known = footing(report({"1": level(100, 12.0), "4": level(200, None)}), 60)
    assert one_known.level == "1 client"
    assert any(
        "too few requests for a p99 with 4 clients; set bench.seconds to 3 or more" in doubt
        for doubt in one_known.doubts
    )


def test_where_no_p99_is_known_the_best_figure_is_named_and_how_long_to_measure() -> None:
    with pytest.raises(QualityError) as told:
        footing(report({"1": level(50, None), "4": level(80, None)}), 60)
    assert told.value.found == (
        "triton http was asked too few requests for a p99 with 1 client, 4 clients; the best that is known is a p50 of "
        "6.25 ms, with 4 clients"
    )
    assert told.value.fix == "set bench.seconds to 9 or more and run `tldeploy bench` again"
    with pytest.raises(QualityError, match="not even a p50 of it is known"):
        footing(report({"1": level(50, None) | {"p50_ms": None}}), 60)
    longer = server(100, trial(20, 70.0, keeps=True), trial(40, None, keeps=False))
    with pytest.raises(QualityError, match=r"the best p99 known is 70\.0 ms, with 20\.0 requests a second at random"):
        footing(report({"1": level(50, None)}, longer), 60)


def test_what_the_figures_cannot_carry_is_said_before_them(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = server(50, trial(120, None, keeps=True, samples=66))
    (recipe / "report.json").write_text(json.dumps(report(at_random=few)), encoding="utf-8")
    assert execute(["capacity", str(recipe)]) == 0
    _, doubt, empty, head, *_ = capsys.readouterr().out.splitlines()
    assert doubt.startswith("not sure: 66 requests are too few")
    assert empty == ""
    assert head.split()[0] == "requests/s"


def test_a_generator_that_did_not_keep_up_is_named() -> None:
    behind = {**KEPT_UP, "kept_up": False}
    found = report({"1": level(100, 12.0, generator=behind)})
    assert any("in part the generator's" in said for said in remarks(footing(found, 50), found))
    assert any("the generator kept up" in said for said in remarks(footing(report(), 50), report()))


def test_a_bound_that_nothing_keeps_is_refused_with_the_best_figure() -> None:
    with pytest.raises(QualityError, match=r"p99 of 5 ms: the best p99 of triton http is 12\.0 ms, with 1 client"):
        footing(report(), 5)
    none_kept = server(50, trial(20, 70.0, keeps=False), trial(150, 80.0, keeps=False, over_bound=90))
    for bound in (20, 50):
        with pytest.raises(QualityError, match=r"the nearest was 20\.0 requests a second, 40 of 400 over it \(p99 70"):
            footing(report(at_random=none_kept), bound)
    assert footing(report(at_random=none_kept), 60).scenario == "closed loop"


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="give a rate above 0"):
        plan(footing(report(), 50), rate)


@pytest.mark.parametrize("price", [0, math.nan, math.inf])
def test_a_price_that_is_none_is_refused(price: float) -> None:
    with pytest.raises(UsageError, match="give a price above 0"):
        plan(footing(report(), 50), 10, price)


def test_a_report_without_a_served_engine_is_refused() -> None:
    found = report()
    del found["engines"][1]
    with pytest.raises(ArtifactError, match="no served engine was measured, only torch eager"):
        footing(found, 50)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe folder, with nothing measured yet."""
    source = (ROOT / "models" / "review-sentiment" / "recipe.yaml").read_text(encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(source, encoding="utf-8")
    return tmp_path


def test_the_verb_prints_a_plan_a_rate(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe / "report.json").write_text(json.dumps(report(at_random=AT_RANDOM)), encoding="utf-8")
    assert execute(["capacity", str(recipe), "--cost-per-hour", "0.4"]) == 0
    head, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "triton http, p99 within 50 ms: 120 requests/s a replica"
    assert [row.split()[:2] for row in rows[:3]] == [["10", "2"], ["1,000", "10"], ["100,000", "835"]]
    assert execute(["capacity", str(recipe), "--rate", "60", "--rate", "61", "--p99", "0.02s", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [found["replicas"] for found in said["plans"]] == [2, 3]
    assert said["footing"]["scenario"] == "closed loop"


def test_without_a_measured_bound_the_recipes_is_taken(recipe: Path) -> None:
    (recipe / "report.json").write_text(json.dumps(report()), encoding="utf-8")
    assert pipeline.capacity(recipe, [10]).footing.bound_ms == Recipe.load(recipe).bench.p99_ms


def test_the_verb_says_what_is_missing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["capacity", str(recipe)]) == 5
    assert f"fix: run `tldeploy bench {recipe}` first" in capsys.readouterr().err
    (recipe / "report.json").write_text(json.dumps(report()), encoding="utf-8")
    assert execute(["capacity", str(recipe), "--p99", "5ms"]) == 8
    assert "the best p99 of triton http is 12.0 ms" in capsys.readouterr().err
    assert execute(["capacity", str(recipe), "--rate", "nan"]) == 2
