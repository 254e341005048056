"""What a finished run is judged by: one number for each run.

One idea: a measure is a function of a run folder that was read (`coevo_agents.runs.record`), with
its unit and which way is better; agents are averaged, because the run, not the agent, is the unit
of evidence. docs/referee.md defines each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coevo_env.errors import unknown_name

from ..runs.record import Record

__all__ = ["MEASURES", "Measure", "curves", "find_measure", "measured"]

Number = float | None


@dataclass(frozen=True)
class Measure:
    """One number of a run.

    Attributes:
        title: For a heading.
        unit: Of the number.
        higher: Whether more is better; of what is neither, False where less of it is what a claim
            would be about.
        of: The number of a record, or None where the run does not have it.
    """

    title: str
    unit: str
    higher: bool
    of: Callable[[Record], Number]


def find_measure(name: str) -> Measure:
    """The measure of that name; `reward/TERM` is the raw value of a term of the reward.

    Raises:
        ConfigError: There is none.
    """
    if name.startswith("reward/"):
        return Measure(f"{name[7:]} (term)", "raw value", True, _final(name))
    if name.startswith("reward_at_kl/"):
        return Measure(f"reward at a KL of {name[13:]} nats", "reward", True, lambda record: None)
    if name not in MEASURES:
        raise unknown_name("measure", name, (*MEASURES, "reward/TERM", "reward_at_kl/K"))
    return MEASURES[name]


def measured(record: Record) -> dict[str, float]:
    """Every measure that a run has."""
    names = [*MEASURES, *(tag for tag in _finals(record, "after") if tag.startswith("reward/"))]
    found = {name: find_measure(name).of(record) for name in names}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def curves(record: Record) -> dict[str, list[float]]:
    """The evaluations of a run, averaged over its agents: "iteration", and one list for each
    metric."""
    rows = [row for row in record.metrics if any("/eval/" in tag for tag in row)]
    found: dict[str, list[float]] = {"iteration": [row["iteration"] for row in rows]}
    for tag in ("reward", "kl", "distinct_2", "unique", "repeat", "entropy", "length", "eos"):
        values = [
            [row[f"{agent}/eval/{tag}"] for agent in record.agents if f"{agent}/eval/{tag}" in row] for row in rows
        ]
        if rows and all(values):
            found[tag] = [float(np.mean(one)) for one in values]
    return found


# ---------------------------------------------------------------- of the numbers at the end
def _finals(record: Record, when: str) -> dict[str, float]:
    """Means over the agents."""
    found = [agent[when] for agent in record.change().values() if agent.get(when)]
    tags = set.intersection(*(set(one) for one in found)) if found else set()
    return {tag: float(np.mean([one[tag] for one in found])) for tag in sorted(tags)}


def _final(tag: str) -> Callable[[Record], Number]:
    return lambda record: _finals(record, "after").get(tag)


def beta(record: Record) -> float:
    """The coefficient that the suite states: that of the settings, also where a controller moves
    it."""
    return float(record.config.get("kl", {}).get("beta", 0.0))


def _objective(record: Record) -> Number:
    found = _finals(record, "after")
    return found["reward"] - beta(record) * found["kl"] if {"reward", "kl"} <= set(found) else None


def _gain(record: Record) -> Number:
    before, after = _finals(record, "before").get("reward"), _finals(record, "after").get("reward")
    return None if None in (before, after) else after - before  # type: ignore[operator]


def _kl_per_token(record: Record) -> Number:
    found = _finals(record, "after")
    return found["kl"] / found["length"] if found.get("length") and "kl" in found else None


def _perplexity(record: Record) -> Number:
    """exp of minus the mean log-prob under the reference, to which entropy and KL per token add
    up."""
    entropy, kl = _finals(record, "after").get("entropy"), _kl_per_token(record)
    return None if None in (entropy, kl) else math.exp(min(700.0, entropy + kl))  # type: ignore[operator]


# ---------------------------------------------------------------- of the way there
def _drawdown(record: Record) -> Number:
    rewards = curves(record).get("reward")
    return None if not rewards else float(np.max(np.maximum.accumulate(rewards) - rewards))


def _area(record: Record) -> Number:
    found = curves(record)
    if len(found.get("reward", ())) < 2:
        return None
    x = np.array(found["iteration"])
    return float(np.trapezoid(found["reward"], x) / (x[-1] - x[0])) if x[-1] > x[0] else None


def has_collapsed(found: dict[str, list[float]]) -> list[bool]:
    """For each evaluation whether the agents have collapsed by a rule fixed in advance: distinct
    bigrams, or answers that end by themselves, are below half of what they were before training,
    or the share of repeated bigrams is above a half and was not."""
    size = len(found["iteration"])
    gone = np.zeros(size, bool)
    for tag in ("distinct_2", "eos"):
        if tag in found and found[tag][0] > 0:
            gone |= np.array(found[tag]) < 0.5 * found[tag][0]
    if "repeat" in found and found["repeat"][0] <= 0.5:
        gone |= np.array(found["repeat"]) > 0.5
    return gone.tolist()


def _collapse_at(record: Record) -> Number:
    found = curves(record)
    if not found["iteration"]:
        return None
    gone = has_collapsed(found)
    for number in range(1, len(gone)):
        if gone[number] and (number + 1 == len(gone) or gone[number + 1]):
            return found["iteration"][number]
    return found["iteration"][-1] + 1


def _collapsed(record: Record) -> Number:
    at = _collapse_at(record)
    return None if at is None else float(at <= curves(record)["iteration"][-1])


def _alarm_at(record: Record) -> Number:
    """Of the first alarm; one more than there are iterations where the audit was content."""
    if not (record.audited or record.alarms):
        return None
    return float(min((alarm["iteration"] for alarm in record.alarms), default=record.iteration + 1))


def _alarmed(record: Record) -> Number:
    return float(bool(record.alarms)) if record.audited or record.alarms else None


def _entropy_slope(record: Record) -> Number:
    found = curves(record)
    if len(found.get("entropy", ())) < 3 or found["iteration"][-1] == found["iteration"][0]:
        return None
    return float(np.polyfit(found["iteration"], found["entropy"], 1)[0])


def _length_drift(record: Record) -> Number:
    lengths = curves(record).get("length")
    return lengths[-1] - lengths[0] if lengths else None


def _training(record: Record, tag: str) -> np.ndarray:
    """(I, N) of the iterations that have the tag for every agent."""
    rows = [[row.get(f"{agent}/{tag}", np.nan) for agent in record.agents] for row in record.metrics]
    return np.array(rows, float).reshape(len(record.metrics), len(record.agents))


def _by_seat(place: int) -> Callable[[Record], Number]:
    def mean(record: Record) -> Number:
        seats, rewards = _training(record, "seat"), _training(record, "reward/task")
        here = (seats == place) & np.isfinite(rewards)
        rows = np.nonzero(here.any(1))[0]
        if seats.shape[1] < 2 or len(rows) < 10:
            return None
        last = rows[-10:]
        return float(rewards[last][here[last]].mean())

    return mean


def exchange_shock(seats: np.ndarray, rewards: np.ndarray) -> Number:
    """How far training rewards fall when agents change seats, the difference between the seats
    taken out.

    Args:
        seats, rewards: (I, N) of iterations and agents.

    Returns:
        The mean fall of the reward at an exchange beyond the mean fall from one iteration to the
        next elsewhere, in reward. An agent's reward is taken relative to the mean of its seat in
        the ten iterations before and after. None without an exchange.
    """
    usual = np.full(rewards.shape, np.nan)
    for t in range(len(rewards)):
        near = slice(max(0, t - 10), t + 11)
        for n in range(rewards.shape[1]):
            usual[t, n] = np.nanmean(np.where(seats[near] == seats[t, n], rewards[near], np.nan))
    falls = -(np.diff(rewards - usual, axis=0))
    moved = np.diff(seats, axis=0) != 0
    known = np.isfinite(falls)
    if not (moved & known).any() or not (~moved & known).any():
        return None
    return float(falls[moved & known].mean() - falls[~moved & known].mean())


def _shock(record: Record) -> Number:
    seats, rewards = _training(record, "seat"), _training(record, "reward/task")
    rows = np.isfinite(seats).all(1) & np.isfinite(rewards).all(1)
    if rows.sum() < 3 or seats.shape[1] < 2:
        return None
    return exchange_shock(seats[rows], rewards[rows])


def _listening(tag: str) -> Callable[[Record], Number]:
    def last(record: Record) -> Number:
        found = [values[-1] for agent in record.agents if (values := record.series(f"{agent}/communication/{tag}")[1])]
        return float(np.mean(found)) if found else None

    return last


# ---------------------------------------------------------------- what it cost
def _sum(*tags: str) -> Callable[[Record], Number]:
    def total(record: Record) -> Number:
        rows = [[row[tag] for tag in tags if tag in row] for row in record.metrics if row["iteration"] > 0]
        return float(sum(map(sum, rows))) if rows and all(rows) else None

    return total


def _per(what: Callable[[Record], Number], cost: Sequence[str], scale: float) -> Callable[[Record], Number]:
    def ratio(record: Record) -> Number:
        gained, paid = what(record), _sum(*cost)(record)
        return None if gained is None or not paid else gained / (paid / scale)

    return ratio


_ALL = ("cost/prompt_tokens", "cost/generated_tokens", "cost/reference_tokens", "cost/trained_tokens")
_ALL = (*_ALL, "cost/value_tokens")

MEASURES: dict[str, Measure] = {
    "J": Measure("J = reward - beta KL", "reward", True, _objective),
    "reward": Measure("held-out reward", "reward", True, _final("reward")),
    "kl": Measure("KL to the reference", "nats per response", False, _final("kl")),
    "gain": Measure("reward over the initial model's", "reward", True, _gain),
    "area": Measure("mean held-out reward while training", "reward", True, _area),
    "kl_per_token": Measure("KL to the reference", "nats per token", False, _kl_per_token),
    "perplexity": Measure("perplexity under the reference", "", False, _perplexity),
    "entropy": Measure("entropy", "nats per token", True, _final("entropy")),
    "entropy_slope": Measure("slope of the entropy", "nats per token and iteration", True, _entropy_slope),
    "distinct_1": Measure("distinct tokens", "share", True, _final("distinct_1")),
    "distinct_2": Measure("distinct bigrams", "share", True, _final("distinct_2")),
    "unique": Measure("different responses", "share", True, _final("unique")),
    "repeat": Measure("repetition within a response", "share", False, _final("repeat")),
    "eos": Measure("responses that end by themselves", "share", True, _final("eos")),
    "length": Measure("length", "tokens", True, _final("length")),
    "length_drift": Measure("change of length", "tokens", False, _length_drift),
    "drawdown": Measure("largest fall of held-out reward", "reward", False, _drawdown),
    "collapsed": Measure("collapsed", "0 or 1", False, _collapsed),
    "collapse_at": Measure("time to collapse", "iterations", True, _collapse_at),
    "alarmed": Measure("alarm of the collapse audit", "0 or 1", False, _alarmed),
    "alarm_at": Measure("time to the first alarm", "iterations", True, _alarm_at),
    "exchange_shock": Measure("fall of reward at an exchange", "reward", False, _shock),
    "pioneer": Measure("reward in the first seat, last 10 iterations", "reward", True, _by_seat(0)),
    "observer": Measure("reward in the second seat, last 10 iterations", "reward", True, _by_seat(1)),
    "gain_masked": Measure("gain over reading nothing", "reward", True, _listening("gain_masked")),
    "gain_shuffled": Measure("gain over reading another prompt's text", "reward", True, _listening("gain_shuffled")),
    "gain_own": Measure("gain over reading its own text", "reward", True, _listening("gain_own")),
    "episodes": Measure("episodes", "count", False, _sum("cost/episodes")),
    "prompt_tokens": Measure("prompt tokens", "tokens", False, _sum("cost/prompt_tokens")),
    "generated_tokens": Measure("generated tokens", "tokens", False, _sum("cost/generated_tokens")),
    "reference_tokens": Measure("tokens read by the reference", "tokens", False, _sum("cost/reference_tokens")),
    "trained_tokens": Measure("tokens read to learn", "tokens", False, _sum("cost/trained_tokens")),
    "value_tokens": Measure("tokens read by critics", "tokens", False, _sum("cost/value_tokens")),
    "tokens": Measure("all tokens", "tokens", False, _sum(*_ALL)),
    "flops": Measure("model FLOPs", "FLOPs", False, _sum("cost/flops")),
    "cpu_s": Measure("processor time of training", "seconds", False, _sum("time/cpu_s")),
    "wall_s": Measure("time of training", "seconds", False, _sum("time/rollout_s", "time/update_s")),
    "hypervolume": Measure("area under the frontier", "reward", True, lambda record: None),
    "gain_per_mtoken": Measure("gain per million tokens", "reward", True, _per(_gain, _ALL, 1e6)),
    "gain_per_cpu_hour": Measure("gain per processor hour", "reward", True, _per(_gain, ("time/cpu_s",), 3600.0)),
}
"""Measures by name."""
