"""Snapshots, ratings and matchmaking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coevo_agents.methods.population import INITIAL_RATING, Population, expected_score
from coevo_agents.runs.checkpoint import load, save
from coevo_env.errors import ConfigError


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"model.a": torch.full((2, 3), value), "value_head.weight": torch.tensor([value], dtype=torch.bfloat16)}


def filled(matchmaking="uniform", capacity=9, share=1.0, seed=0, count=4, **options) -> Population:
    pool = Population(capacity, 10, matchmaking, share, seed, **options)
    for i in range(count):
        pool.add("llm1", 10 * i, weights(i))
    return pool


# ---------------------------------------------------------------- ratings
def test_elo_by_hand():
    """K = 32. Equal players, the first wins: +16, -16. Then 1016 against 984: expected 1 / (1 +
    10^(-32/400)) = 0.54592; the second wins: -17.46944. A draw at 998.53056 against 1001.46944:
    expected 0.49577, so +0.13534 for the first."""
    pool = Population(1, 1, step=32.0)
    table = [([1.0, 0.0], 1016.0), ([0.2, 0.3], 998.53056), ([5.0, 5.0], 998.66590)]
    for iteration, (scores, first) in enumerate(table):
        pool.record(iteration, ["a", "b"], np.array([scores]))
        assert pool.elo["a"] == pytest.approx(first, abs=1e-4) and pool.elo["a"] + pool.elo["b"] == pytest.approx(2000)
    again = Population(1, 1, step=32.0)
    again.record(0, ["a", "b"], np.array([scores for scores, _ in table]))  # a batch is its episodes in order
    assert again.elo == pytest.approx(pool.elo)


def test_expected_scores_of_the_published_table():
    """FIDE's table: 0.50, 0.64, 0.76 and 0.91 for differences of 0, 100, 200 and 400 points, to two
    digits."""
    assert [round(expected_score(1500 + d, 1500), 2) for d in (0, 100, 200, 400)] == [0.5, 0.64, 0.76, 0.91]


def test_three_players_by_hand():
    """K / (N - 1) = 8 for each of three pairs at 1000: the winner of both gets 8, the one between
    nothing, the last -8."""
    pool = Population(1, 1, step=16.0)
    pool.record(0, ["a", "b", "c"], np.array([[3.0, 2.0, 1.0]]))
    assert [pool.elo[name] for name in "abc"] == [1008.0, 1000.0, 992.0]


def test_ratings_converge_to_bradley_terry_strengths():
    """Four players of known strengths, a win with probability s_i / (s_i + s_j): rating differences
    approach 400 log10(s_i / s_j)."""
    strengths, draw = np.array([1.0, 2.0, 4.0, 10.0]), np.random.default_rng(0)
    pool, names, history = Population(1, 1, step=4.0), ["a", "b", "c", "d"], []
    for iteration in range(4000):
        i, j = draw.choice(4, 2, replace=False)
        wins = draw.random(4) < strengths[i] / (strengths[i] + strengths[j])
        pool.record(iteration, [names[i], names[j]], np.stack([wins, ~wins], 1))
        history.append([pool.elo.get(name, INITIAL_RATING) for name in names])
    found = np.mean(history[1000:], 0)
    wanted = 400 * np.log10(strengths)
    assert found - found.mean() == pytest.approx(wanted - wanted.mean(), abs=15)  # they range over 400


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=10), st.booleans())
def test_ratings_keep_their_sum_and_a_player_in_two_seats_has_one(scores, twice):
    pool, names = filled(count=2), ["llm1", "llm1@0", "llm1" if twice else "llm1@10"]
    before = sum(pool.elo.values())
    pool.record(0, names, np.array(scores, float))
    assert sum(pool.elo.values()) == pytest.approx(before)
    assert set(pool.elo) == {"llm1", "llm1@0", "llm1@10"}


def test_nobody_plays_against_himself():
    pool = filled(count=1)
    pool.record(0, ["llm1", "llm1"], np.array([[1.0, 0.0]]))
    assert set(pool.elo.values()) == {INITIAL_RATING} and pool.recorded == 0


# ---------------------------------------------------------------- the pool
def test_snapshots_are_copies_and_the_first_stays():
    pool, live = Population(3, 5), weights(1.0)
    assert [i for i in range(12) if pool.due(i)] == [0, 5, 10]
    pool.add("llm1", 0, live)
    live["model.a"].add_(1.0)
    assert pool.members[0].tensors["model.a"].tolist() == [[1.0] * 3] * 2
    pool.record(1, ["llm1", "llm2"], np.array([[1.0, 0.0]]))
    for iteration in (5, 10, 15):
        pool.add("llm1", iteration, live)
    assert [member.key for member in pool.members] == ["llm1@0", "llm1@10", "llm1@15"]
    assert pool.elo["llm1@15"] == pool.elo["llm1"] > pool.elo["llm1@0"] == INITIAL_RATING and "llm1@5" not in pool.elo
    only = Population(1, 5)
    only.add("llm1", 0, live)
    only.add("llm1", 5, live)
    assert [member.key for member in only.members] == ["llm1@0"]


def test_metrics_have_the_same_keys_all_along():
    pool = Population(4, 5)
    pool.add("llm1", 0, weights(0))
    pool.add("llm2", 0, weights(0))
    first = pool.metrics()
    pool.add("llm1", 5, weights(1))
    pool.record(6, ["llm2", "llm1@5"], np.array([[0.0, 1.0]] * 3))
    second = pool.metrics()
    assert list(first) == list(second) and first["population/spread"] == 0.0
    assert (
        second["population/size"] == 3
        and second["population/games"] == 3
        and second["population/worst"] == INITIAL_RATING
    )
    assert second["population/best"] == pool.elo["llm1@5"] == INITIAL_RATING + second["population/spread"]
    assert second["population/elo/llm2"] == pool.elo["llm2"] < INITIAL_RATING == second["population/elo/llm1"]


# ---------------------------------------------------------------- matchmaking
@pytest.mark.parametrize(
    ("matchmaking", "expected"),
    [("uniform", [1 / 3] * 3), ("recent", [1 / 7, 2 / 7, 4 / 7]), ("elo", [1 / 146.41, 30.25 / 146.41, 1.0])],
)
def test_probabilities_and_draws(matchmaking, expected):
    """Elo: 400 below, equal and 400 above the learner: (1 - p)^2 = (1/11)^2, (1/2)^2 and
    (10/11)^2."""
    pool = filled(matchmaking, count=3)
    pool.elo.update({"llm1": 1000.0, "llm1@0": 600.0, "llm1@10": 1000.0, "llm1@20": 1400.0})
    if matchmaking == "elo":
        expected = [(1 / 11) ** 2, 0.25, (10 / 11) ** 2]
    expected = np.array(expected) / sum(expected)
    assert pool.probabilities("llm1") == pytest.approx(expected)
    picked = [pool.pick(iteration, "llm1").iteration for iteration in range(3000)]
    counts = np.array([picked.count(when) for when in (0, 10, 20)])
    assert np.abs(counts / 3000 - expected).max() < 4 * np.sqrt(0.25 / 3000)


def test_the_live_partner_comes_as_often_as_it_should():
    pool = filled(share=0.3)
    members = sum(pool.pick(iteration, "llm2") is not None for iteration in range(3000))
    assert abs(members / 3000 - 0.3) < 4 * np.sqrt(0.21 / 3000)
    assert all(filled(share=0.0).pick(i, "llm1") is None for i in range(50))
    assert all(filled(share=1.0).pick(i, "llm1") is not None for i in range(50))


def test_picks_depend_on_seed_iteration_and_learner_alone():
    def picks(seed, name, order=range(40)):
        pool = filled(seed=seed, share=0.7)
        found = {i: pool.pick(i, name) for i in order}
        return [None if found[i] is None else found[i].key for i in range(40)]

    assert picks(0, "llm1") == picks(0, "llm1", reversed(range(40)))
    assert picks(0, "llm1") != picks(1, "llm1") and picks(0, "llm1") != picks(0, "llm2")


# ---------------------------------------------------------------- state
def test_state_goes_through_a_checkpoint(tmp_path):
    pool = filled("elo", share=0.6)
    pool.record(3, ["llm1", "llm1@10"], np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert all(isinstance(value, torch.Tensor) == key.startswith("member.") for key, value in pool.state_dict().items())
    save(tmp_path, 3, {"population": pool.state_dict()}, {})
    states, _ = load(tmp_path / "000003")
    again = Population(9, 10, "elo", 0.6)
    again.load_state_dict(states["population"])
    assert (again.elo, again.recorded, again.metrics()) == (pool.elo, pool.recorded, pool.metrics())
    for one, two in zip(pool.members, again.members, strict=True):
        assert one.key == two.key and list(one.tensors) == list(two.tensors)
        assert all(
            torch.equal(one.tensors[key], two.tensors[key]) and one.tensors[key].dtype == two.tensors[key].dtype
            for key in one.tensors
        )
    for population in (pool, again):  # and goes on as the other would
        population.add("llm1", 40, weights(4))
        population.record(41, ["llm1", "llm1@40"], np.array([[0.0, 1.0]]))
    assert again.elo == pool.elo
    met = [[found and found.key for found in (one.pick(i, "llm1") for i in range(50))] for one in (pool, again)]
    assert met[0] == met[1] and len(set(met[0])) > 2
    empty = Population(2, 1)
    empty.load_state_dict(Population(2, 1).state_dict())
    assert empty.members == [] and empty.metrics()["population/size"] == 0.0
    with pytest.raises(KeyError):
        empty.load_state_dict({})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Population(0, 1), "capacity=0"),
        (lambda: Population(1.5, 1), "capacity=1.5"),
        (lambda: Population(1, 0), "every=0"),
        (lambda: Population(1, 1, "elos"), "Did you mean 'elo'"),
        (lambda: Population(1, 1, share=1.5), "share=1.5"),
        (lambda: Population(1, 1, share=float("nan")), "share=nan"),
        (lambda: Population(1, 1, step=0.0), "step=0.0"),
        (lambda: Population(1, 1).pick(0, "llm1"), "population of one"),
        (lambda: Population(1, 1).record(3, ["llm1"], np.zeros((2, 1))), "population of one: iteration 3"),
        (lambda: filled().record(0, ["llm1", "llm1@7"], np.zeros((2, 2))), "no member; members: llm1@0, llm1@10"),
        (lambda: filled().record(0, ["llm1", "llm2"], np.zeros((2, 3))), r"shape \(2, 3\) for 2 players"),
        (lambda: filled().record(0, ["llm1", "llm2"], np.full((1, 2), np.nan)), "finite"),
        (lambda: filled().add("llm1", 10, {}), "llm1@10 is a member already"),
        (lambda: filled().add("a@b", 10, {}), "cannot be called 'a@b'"),
    ],
)
def test_clear_errors(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
