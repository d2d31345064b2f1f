"""The search for settings, where the truth is known."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.triton.fitting.law import START_S, LawfulArena
from tldeploy.recipe import Deploy
from tldeploy.triton.fitting.fit import search
from tldeploy.triton.fitting.goals import Goal, Running, batchings, layouts
from tldeploy.triton.fitting.race import SHORTEST_S
from tldeploy.triton.fitting.verdict import FEWEST_ROUNDS, Verdict

DEFAULT = Running.of(Deploy())
CLIENTS = 8


def found_in(arena: LawfulArena, goal: Goal, cores: int = 4, seconds: float = 120) -> Verdict:
    return search(arena, DEFAULT, goal, cores=cores, most_clients=CLIENTS, most_rows=32, seconds=seconds)[0]


def queue(running: Running, clients: int) -> float:
    """20 ms of work, as many at a time as there are instances; clients beyond wait."""
    return 20 * max(1, clients / running.instances) + running.queue_delay_us / 1000


def no_difference(running: Running, clients: int) -> float:
    return 8 * clients


@pytest.mark.parametrize("seed", range(3))
def test_a_configuration_that_is_truly_better_is_found(seed: int) -> None:
    verdict = found_in(LawfulArena(queue, seed=seed), Goal())
    assert (verdict.chosen.instances, verdict.chosen.queue_delay_us) == (4, 0)
    gain = verdict.judged[1].gain
    assert gain is not None
    assert gain.low <= 4.2
    assert gain.high >= 3.8


def test_batching_is_found_where_it_pays() -> None:
    def pays(running: Running, clients: int) -> float:
        batched = running.queue_delay_us == 2000 and running.preferred_batch_sizes == (8,)
        return clients * (10 if batched else 20) / running.instances

    chosen = found_in(LawfulArena(pays), Goal()).chosen
    assert (chosen.instances, chosen.queue_delay_us, chosen.preferred_batch_sizes) == (4, 2000, (8,))


@pytest.mark.parametrize("goal", [Goal(), Goal("latency"), Goal("throughput", 500.0)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_where_nothing_differs_the_recipes_settings_stay(goal: Goal, seed: int) -> None:
    verdict = found_in(LawfulArena(no_difference, seed=seed), goal)
    assert verdict.chosen == DEFAULT
    assert verdict.holds
    assert "the best layout is not surely better: " in verdict.reason


def test_an_advantage_below_the_noise_is_none() -> None:
    def slightly(running: Running, clients: int) -> float:
        return 20.0 * clients / (1.01 if running.instances > 1 else 1)

    assert found_in(LawfulArena(slightly, drift=0.1), Goal()).chosen == DEFAULT


def test_for_one_client_threads_are_what_helps() -> None:
    def threads_help(running: Running, clients: int) -> float:
        return 80 / (running.threads or 2)

    arena = LawfulArena(threads_help)
    chosen = found_in(arena, Goal("latency")).chosen
    assert (chosen.instances, chosen.threads, chosen.queue_delay_us) == (1, 4, 0)
    assert {clients for _, clients, _ in arena.turns} == {1}


def test_p99_limits_how_many_clients_are_served() -> None:
    """Four instances serve four clients in 20 ms, and eight in 40; a p99 of 36 ms leaves four."""
    verdict = found_in(LawfulArena(queue, noise=0.1), Goal("throughput", 36.0))
    default, layout, *_ = (judged.figures for judged in verdict.judged)
    assert verdict.chosen.instances == 4
    assert (default.clients, layout.clients) == (1, 4)
    assert layout.p99_ms.high <= 36


def test_settings_that_alone_hold_p99_are_chosen() -> None:
    def recipe_is_slow(running: Running, clients: int) -> float:
        return 200.0 if running.threads is None else 20.0 * clients

    verdict = found_in(LawfulArena(recipe_is_slow, noise=0.1), Goal("throughput", 80.0))
    assert verdict.chosen.threads is not None
    assert verdict.reason.startswith("the best layout holds p99: ")
    assert "; the recipe's settings: 2" in verdict.reason


def test_a_p99_that_nothing_holds_is_not_claimed() -> None:
    verdict = found_in(LawfulArena(queue), Goal("throughput", 8.0))
    assert not verdict.holds
    assert verdict.reason.startswith("with 1 client p99 is ")


def test_a_p99_is_not_claimed_on_too_few_requests() -> None:
    """Two seconds a request, far below the limit; but only some dozens of them in the time."""
    arena = LawfulArena(lambda running, clients: 2000.0 * clients, noise=0.01)
    verdict = found_in(arena, Goal("throughput", 1e6))
    default = verdict.judged[0].figures
    assert default.requests < 368 <= default.needed
    assert not verdict.holds
    assert f"requests, which takes {default.needed:,}" in verdict.reason


@pytest.mark.parametrize("goal", [Goal(), Goal("latency"), Goal("throughput", 80.0)], ids=str)
@pytest.mark.parametrize("seconds", [10, 60, 240])
def test_the_time_is_kept_but_for_a_turn_at_the_end_of_each_part(goal: Goal, seconds: float) -> None:
    arena = LawfulArena(queue)
    found_in(arena, goal, seconds=seconds)
    round_s = 4 * (START_S + 4 * (SHORTEST_S + 0.2))
    assert arena.clock <= seconds + round_s


def test_without_time_nothing_is_said() -> None:
    verdict = found_in(LawfulArena(queue), Goal(), seconds=3)
    assert verdict.chosen == DEFAULT
    assert f"the time was too short for {FEWEST_ROUNDS} rounds" in verdict.reason


def test_the_better_half_has_the_longer_turns() -> None:
    arena = LawfulArena(queue)
    verdict = found_in(arena, Goal())
    spent: Counter[Running] = Counter()
    for running, _, seconds in arena.turns:
        spent[running] += seconds
    (longest, _), *_ = spent.most_common(1)
    assert longest in {DEFAULT, verdict.chosen}
    assert min(spent.values()) < spent[verdict.chosen] / 4


def test_clients_that_are_the_bottleneck_are_told() -> None:
    assert "clients were busier" in found_in(LawfulArena(queue, busy=0.95), Goal()).reason
    assert "clients were busier" not in found_in(LawfulArena(queue), Goal()).reason


@pytest.mark.parametrize("cores", [1, 2, 3, 6, 64])
def test_no_layout_has_more_threads_than_cores(cores: int) -> None:
    tried = layouts(DEFAULT, cores, Goal())
    assert all(each.instances * (each.threads or 1) <= cores for each in tried)
    assert all((each.step_instances or 1) <= cores for each in tried)
    assert DEFAULT not in tried
    assert len(set(tried)) == len(tried)


def test_batches_are_within_the_recipes_limit_and_the_delay_within_p99() -> None:
    assert {each.preferred_batch_sizes for each in batchings(DEFAULT, DEFAULT, Goal(), 4)} == {(), (4,)}
    assert {each.queue_delay_us for each in batchings(DEFAULT, DEFAULT, Goal("throughput", 1.0), 32)} == {0, 500}


@pytest.mark.parametrize(("goal", "clients"), [(Goal(), [6]), (Goal("latency"), [1]), (Goal(p99_ms=9), [1, 2, 4, 6])])
def test_clients_are_doubled_while_p99_is_to_hold(goal: Goal, clients: list[int]) -> None:
    assert goal.clients(6) == clients
