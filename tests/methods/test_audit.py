"""The collapse audit by itself: planted collapses are found and named, noise is not, and what it
keeps is enough to go on from."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from coevo_agents.methods import audit
from coevo_agents.methods.audit import SIGNALS, AuditConfig, is_sound, observations, observe
from coevo_agents.runs.schema import Audit, misfit
from coevo_env.errors import ConfigError

USUAL = {
    "kl_per_token": 0.2,
    "cross_entropy": 1.5,
    "eos": 0.95,
    "length": 9.0,
    "repeat": 0.02,
    "distinct_2": 0.7,
    "unique": 0.95,
}
GONE = {
    "kl_per_token": 8.0,
    "cross_entropy": 9.0,
    "eos": 0.0,
    "length": 60.0,
    "repeat": 0.9,
    "distinct_2": 0.02,
    "unique": 0.02,
    "ratio_max": 1e5,
}
"""What a total collapse makes of each."""


def row(changed: dict[str, float], agents: int = 2, iteration: int = 1, responses: float = 64) -> dict[str, float]:
    """The metrics of an iteration in which the agents sit in turn, and are evaluated every
    fifth."""
    found: dict[str, float] = {"iteration": float(iteration), "time/cpu_s": 1.0}
    for number in range(agents):
        name, seat = f"llm{number + 1}", (number + iteration // 5) % agents
        if iteration:
            found.update({f"{name}/seat{seat}/{key}": value for key, value in USUAL.items()})
            found[f"{name}/seat{seat}/responses"] = responses
            found[f"{name}/ratio_max"] = 3.0
        if iteration % 5 == 0:
            kept = {key: USUAL[key] for key in ("eos", "length", "repeat", "distinct_2", "unique")}
            kl = USUAL["kl_per_token"]
            kept |= {"kl": kl * 9.0, "entropy": USUAL["cross_entropy"] - kl, "responses": 128.0, "reward": 0.5}
            found.update({f"{name}/eval/{key}": value for key, value in kept.items()})
    return {**found, **{tag: value for tag, value in changed.items() if tag in found}}


def fires(config: AuditConfig, rows: list[dict[str, float]]) -> list[audit.Alarm]:
    state: dict = {}
    alarms: list[audit.Alarm] = []
    for one in rows:
        verdict = observe(config, state, int(one["iteration"]), one)
        state, alarms = verdict.state, alarms + verdict.alarms
    return alarms


def planted(tag: str, value: float, first: int = 12, last: int = 20) -> list[dict[str, float]]:
    return [row({tag: value} if first <= at <= last else {}, iteration=at) for at in range(21)]


def check_planted(signal: str) -> None:
    """llm2 has seat 0 in iterations 5 to 9 and 15 to 19; one of its signals goes there in 16."""
    tag = "llm2/ratio_max" if signal == "ratio_max" else f"llm2/seat0/{signal}"
    (alarm,) = fires(AuditConfig(), planted(tag, GONE[signal], 16, 19))
    place, since = ("update", 16) if signal == "ratio_max" else ("seat0", 15)
    assert (alarm.iteration, alarm.agent, alarm.place, alarm.since) == (17, "llm2", place, since)
    (found,) = alarm.findings
    before = 1.0 if signal == "ratio_max" else USUAL[signal]
    assert (found.signal, found.value, found.baseline) == (signal, pytest.approx(GONE[signal]), pytest.approx(before))
    assert min(before, GONE[signal]) < found.threshold < max(before, GONE[signal])
    limit = getattr(AuditConfig(), signal)
    assert SIGNALS[signal].excess(found.threshold, before) == pytest.approx(limit)


def check_all() -> None:
    for signal in SIGNALS:
        check_planted(signal)


# ---------------------------------------------------------------- what it finds
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_planted_collapse_of_one_signal_fires_once_and_is_named(signal):
    check_planted(signal)


@pytest.mark.parametrize(("tag", "value"), [("eos", 0.0), ("kl", 90.0), ("repeat", 0.9), ("distinct_2", 0.02)])
def test_evaluations_count_as_well(tag, value):
    """In the evaluations of 10 and 15: the second one fires, of weights of iteration 10."""
    (alarm,) = fires(AuditConfig(), planted(f"llm1/eval/{tag}", value, 10, 20))
    assert (alarm.iteration, alarm.place, alarm.since) == (15, "alone", 10)
    named = {found.signal for found in alarm.findings}
    assert named == ({"kl_per_token", "cross_entropy"} if tag == "kl" else {tag})


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("signal", ["cross_entropy", "length"])
def test_what_may_go_wrong_both_ways_is_found_both_ways(signal, way):
    before, limit = USUAL[signal], getattr(AuditConfig(), signal)
    step = 1.2 * limit if way == "up" else -1.2 * limit
    gone = before * math.exp(step) if signal == "length" else before + step
    (alarm,) = fires(AuditConfig(), planted(f"llm2/seat0/{signal}", gone, 16, 19))
    assert (alarm.findings[0].threshold > before) == (way == "up")


@pytest.mark.parametrize("signal", SIGNALS)
def test_one_odd_observation_is_none(signal):
    tag = "llm2/ratio_max" if signal == "ratio_max" else f"llm2/seat0/{signal}"
    for first in (16, 17, 19):
        assert fires(AuditConfig(), planted(tag, GONE[signal], first, first)) == []
    rows = planted(tag, GONE[signal], 16, 16)
    rows[18] = planted(tag, GONE[signal], 18, 18)[18]  # every second one is not in a row either
    assert fires(AuditConfig(), rows) == []
    assert len(fires(AuditConfig(lasting=1), rows)) > 0


def test_going_the_good_way_is_no_collapse():
    better = {"kl_per_token": -5.0, "eos": 1.0, "repeat": 0.0, "distinct_2": 1.0, "unique": 1.0, "ratio_max": 1e-3}
    for signal, value in better.items():
        tag = f"llm2/{signal}" if signal == "ratio_max" else f"llm2/seat0/{signal}"
        assert fires(AuditConfig(), planted(tag, value)) == []


def test_what_comes_back_can_go_again():
    """Two healthy observations end an alarm; one does not."""
    tag = "llm2/seat0/eos"

    def at(*gone: int) -> list[int]:
        rows = [row({tag: 0.0} if n in gone else {}, iteration=n) for n in range(30)]
        return [alarm.iteration for alarm in fires(AuditConfig(), rows)]

    # llm2 has the seat in 5 to 9, 15 to 19 and 25 to 29
    assert at(6, 7) == [7]
    assert at(6, 7, 9, 15, 16) == [7]  # only 8 was healthy
    assert at(6, 7, 15, 16) == [7, 16]


def test_a_limit_of_zero_leaves_a_signal_out():
    rows = planted("llm2/seat0/eos", 0.0)
    assert len(fires(AuditConfig(), rows)) == 1
    assert fires(AuditConfig(eos=0.0), rows) == []


MUTANTS = {
    "the mean over signals": lambda monkeypatch: monkeypatch.setattr(
        audit, "SIGNALS", {name: _shared(name) for name in SIGNALS}
    ),
    "only evaluations": lambda monkeypatch: monkeypatch.setattr(
        audit, "observations", lambda metrics: [one for one in observations(metrics) if one.place == "alone"]
    ),
    "the other direction": lambda monkeypatch: monkeypatch.setattr(
        audit.Signal, "excess", lambda self, now, before: self.scale(before) - self.scale(now) if self.up else 0.0
    ),
    "no memory": lambda monkeypatch: monkeypatch.setattr(audit.copy, "deepcopy", lambda state: {}),
}


def _shared(name: str) -> audit.Signal:
    one = SIGNALS[name]
    return audit.Signal(
        lambda value: one.scale(value) / len(SIGNALS), one.back, one.up, one.down, one.words
    )  # what is left of a signal in a mean of eight


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_planted_collapses_would_find_a_broken_audit(mutant, monkeypatch):
    MUTANTS[mutant](monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        check_all()


# ---------------------------------------------------------------- what it does not find
def noise(rng: np.random.Generator, iterations: int, agents: int, responses: int) -> list[dict[str, float]]:
    """A run in which nothing happens: means and shares of that many answers of one unchanging
    policy. Shares are binomial, tokens of an answer geometric, KL per token normal with a spread
    that is more than real ones have."""
    rows = []
    for iteration in range(iterations):
        one = row({}, agents, iteration, responses)
        for tag in list(one):
            signal = tag.rpartition("/")[2]
            many = 128 if "/eval/" in tag else responses
            if signal in ("eos", "unique", "distinct_2"):
                one[tag] = rng.binomial(many, one[tag]) / many
            elif signal == "repeat":
                one[tag] = rng.binomial(8 * many, one[tag]) / (8 * many)
            elif signal == "length":
                one[tag] = float(rng.geometric(1 / 9, many).mean())
            elif signal in ("kl", "kl_per_token", "cross_entropy", "entropy"):
                one[tag] += rng.normal() / math.sqrt(many)
            elif signal == "ratio_max":
                one[tag] = float(np.exp(rng.exponential(0.5, 64).max()))
        rows.append(one)
    return rows


def test_no_alarm_where_nothing_happens():
    """At the stated rate of 1 % in a run, more than 3 of 60 runs have one in 1 of 300 cases."""
    rng = np.random.default_rng(0)
    alarmed = sum(bool(fires(AuditConfig(), noise(rng, 40, 2, 32))) for _ in range(60))
    assert alarmed <= 3


# ---------------------------------------------------------------- observations
def test_what_an_iteration_says_is_sorted_by_agent_and_place():
    found = observations(
        {**row({}, iteration=5), "llm1/seat/x": 1.0, "llm10/seat3/eos": 0.5, "llm10/seat3/responses": 8}
    )
    assert [(one.agent, one.place) for one in found] == [
        *[(name, place) for name, seat in (("llm1", 1), ("llm2", 0)) for place in ("alone", f"seat{seat}", "update")],
        ("llm10", "seat3"),
    ]
    alone = found[0]
    assert alone.responses == 128
    assert alone.values["kl_per_token"] == pytest.approx(0.2)
    assert alone.values["cross_entropy"] == pytest.approx(1.5)
    assert found[-1].values == {"eos": 0.5}


def test_an_update_without_a_ratio_is_no_observation():
    """Learners of one's own need not report one."""
    rows = [
        {tag: value for tag, value in one.items() if "ratio_max" not in tag} for one in planted("llm2/seat0/eos", 0.0)
    ]
    assert not any(one.place == "update" for one in observations(rows[1]))
    assert len(fires(AuditConfig(), rows)) == 1


def test_numbers_of_earlier_versions_are_no_observation():
    """They did not say of how many answers an evaluation was, and had no seats."""
    old = {tag: v for tag, v in row({}, iteration=5).items() if "/seat" not in tag and not tag.endswith("responses")}
    assert [one.place for one in observations(old)] == ["update", "update"]


def test_one_agent_has_one_seat():
    rows = [row({"llm1/seat0/eos": 0.0} if n > 6 else {}, agents=1, iteration=n) for n in range(12)]
    (alarm,) = fires(AuditConfig(), rows)
    assert (alarm.agent, alarm.place, alarm.iteration) == ("llm1", "seat0", 8)


def test_small_batches_are_taken_together():
    """With 8 answers a batch, 32 make an observation: the first four batches are what later ones
    are compared with, and two times four have to be beyond the limit."""
    rows = [row({"llm1/seat0/eos": 0.0} if n > 8 else {}, 1, n, 8.0) for n in range(30)]
    (alarm,) = fires(AuditConfig(), rows)
    assert (alarm.iteration, alarm.since) == (16, 8)
    verdict = observe(AuditConfig(), {}, 1, rows[1])
    assert verdict.scores == {}, "an update alone does not tell how it answers"
    assert verdict.excesses == {("llm1", "update", "ratio_max"): pytest.approx(math.log(3))}


# ---------------------------------------------------------------- state
def test_going_on_from_a_saved_state_is_not_to_have_stopped():
    rng = np.random.default_rng(1)
    rows = noise(rng, 21, 2, 24)
    for number, one in enumerate(planted("llm2/seat0/eos", 0.0)):
        rows[number].update({tag: one[tag] for tag in one if tag == "llm2/seat0/eos"})
    whole: dict = {}
    cut: dict = {}
    for one in rows:
        iteration = int(one["iteration"])
        before = json.dumps(whole)
        ours, theirs = observe(AuditConfig(), whole, iteration, one), observe(AuditConfig(), cut, iteration, one)
        assert ours.alarms == theirs.alarms
        assert json.dumps(whole) == before, "observe changed what it was given"
        whole, cut = ours.state, json.loads(json.dumps(theirs.state))
        misfit(cut, Audit)
    assert whole == cut


def test_soundness_is_lost_with_the_first_observation_and_comes_back_with_the_last():
    state: dict = {}
    sound = []
    for one in planted("llm2/seat0/eos", 0.0, 16, 17):
        state = observe(AuditConfig(), state, int(one["iteration"]), one).state
        sound.append(is_sound(state))
    assert [at for at, fine in enumerate(sound) if not fine] == [16, 17, 18]


@pytest.mark.parametrize(
    "given", [{"eos": -1.0}, {"length": math.nan}, {"lasting": 0}, {"responses": 0}, {"lasting": 5000}]
)
def test_limits_that_cannot_work_are_refused(given):
    with pytest.raises(ConfigError, match=f"audit.{next(iter(given))}"):
        AuditConfig(**given)
