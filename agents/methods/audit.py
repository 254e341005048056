"""The collapse audit: whether an agent still answers as it did before training.

One idea: reward cannot tell, because a collapse may raise it. So what answers look like is compared
with what the run itself saw first, signal by signal, for every agent in every seat and alone. The
largest excess counts and nothing is averaged over signals or seats, so that one total collapse is
enough; it has to last for some observations in a row, so that one odd batch is not.

It says what has happened, and predicts nothing. It sees numbers by tag (docs/metrics.md) and gives
alarms; its state is plain data that `observe` never changes, so that asking what it would say costs
nothing.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from coevo_env.errors import ConfigError, real, whole

__all__ = [
    "ALONE",
    "SIGNALS",
    "Alarm",
    "AuditConfig",
    "Finding",
    "Verdict",
    "is_sound",
    "observations",
    "observe",
    "sentence",
]

State = Mapping[str, Any]
ALONE, UPDATE = "alone", "update"
"""Places beside the seats: an evaluation, and an update of the learner."""


@dataclass(frozen=True)
class AuditConfig:
    """Limits of the collapse audit: how far a signal may go from where it began. A limit of 0
    leaves a signal out. docs/collapse_audit.md says where the defaults come from.

    Attributes:
        kl_per_token: Rise of the KL to the reference, nats per token (k1).
        cross_entropy: Change of the log-perplexity under the reference, nats per token; up is text
            that the reference would not write, down is one thing said over and over.
        eos: Fall of the share of answers that end by themselves, as the difference of 2
            asin(sqrt(share)), which is at most pi.
        length: Change of the mean length, as a log-ratio.
        repeat: Rise of the share of repeated bigrams within answers, measured like `eos`.
        distinct_2: Fall of the share of distinct bigrams, as a log-ratio.
        unique: Fall of the share of different answers, as a log-ratio.
        ratio_max: Log of the largest probability ratio met in an update.
        lasting: Observations in a row that a signal has to be beyond its limit.
        responses: Answers that make an observation; smaller batches are taken together.
    """

    kl_per_token: float = 2.0
    cross_entropy: float = 2.0
    eos: float = 1.6
    length: float = 1.1
    repeat: float = 1.05
    distinct_2: float = 1.1
    unique: float = 1.6
    ratio_max: float = 3.9
    lasting: int = 2
    responses: int = 32

    def __post_init__(self) -> None:
        for name in SIGNALS:
            if real(f"audit.{name}", getattr(self, name)) < 0:
                raise ConfigError(
                    f"audit.{name}={getattr(self, name)!r}; expected a limit above 0, or 0 to leave the signal out."
                )
        whole("audit.lasting", self.lasting, 1, "as many observations are kept", most=1000)
        whole("audit.responses", self.responses, 1)


# ---------------------------------------------------------------- signals
@dataclass(frozen=True)
class Signal:
    """How far a number is from where it began.

    Attributes:
        scale: Puts the number on the scale of the limit.
        back: Its inverse.
        up, down: Whether it goes wrong by rising, and by falling.
        words: What it is, for people.
    """

    scale: Callable[[float], float]
    back: Callable[[float], float]
    up: bool
    down: bool
    words: str

    def excess(self, now: float, before: float) -> float:
        """How far, on the scale of the limit; at most 0 where it went the good way."""
        moved = self.scale(now) - self.scale(before)
        return max(moved if self.up else -math.inf, -moved if self.down else -math.inf)

    def threshold(self, now: float, before: float, limit: float) -> float:
        """The value at which the limit is reached, on the side where `now` is."""
        start = self.scale(before)
        rises = self.up and (not self.down or self.scale(now) >= start)
        return self.back(start + limit if rises else start - limit)


def _angle(share: float) -> float:
    """Stabilises the variance of a share: differences mean the same near 0 and near 1/2."""
    return 2 * math.asin(math.sqrt(min(1.0, max(0.0, share))))


def _share(angle: float) -> float:
    return math.sin(min(math.pi, max(0.0, angle)) / 2) ** 2


def _log(value: float) -> float:
    """Of a number above 0; below a thousandth, where there is nothing left to lose, that of it."""
    return math.log(max(1e-3, value))


def _same(value: float) -> float:
    return value


def _exp(value: float) -> float:
    return math.exp(min(200.0, value))


SIGNALS: dict[str, Signal] = {
    "kl_per_token": Signal(_same, _same, True, False, "KL to the reference, nats per token"),
    "cross_entropy": Signal(_same, _same, True, True, "log-perplexity under the reference, nats per token"),
    "eos": Signal(_angle, _share, False, True, "share of answers that end by themselves"),
    "length": Signal(_log, _exp, True, True, "length, tokens"),
    "repeat": Signal(_angle, _share, True, False, "share of repeated bigrams within answers"),
    "distinct_2": Signal(_log, _exp, False, True, "share of distinct bigrams"),
    "unique": Signal(_log, _exp, False, True, "share of different answers"),
    "ratio_max": Signal(_log, _exp, True, False, "largest probability ratio in an update"),
}
"""Each has a limit of its name in `AuditConfig`."""


# ---------------------------------------------------------------- observations
@dataclass(frozen=True)
class Observation:
    """What one agent did in one place of an iteration.

    Attributes:
        agent: Its name.
        place: "seat0", "seat1", ... of the batch, "alone" of an evaluation, or "update".
        responses: Answers that it is a mean over.
        values: Of each signal that is known there.
    """

    agent: str
    place: str
    responses: float
    values: dict[str, float]


TAG = re.compile(r"([^/]+)/(?:(seat\d+)/(\w+)|eval/(\w+)|(ratio_max))")


def observations(metrics: Mapping[str, float]) -> list[Observation]:
    """What the metrics of an iteration say of every agent and place, in the order of their
    names."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for tag, value in metrics.items():
        if hit := TAG.fullmatch(tag):
            agent, seat, of_seat, of_eval, of_update = hit.groups()
            place = seat or (ALONE if of_eval else UPDATE)
            found.setdefault((agent, place), {})[of_seat or of_eval or of_update] = value
    result = []
    for (agent, place), values in sorted(found.items(), key=lambda item: (len(item[0][0]), item[0])):
        if place == ALONE and values.get("length") and {"kl", "entropy"} <= values.keys():
            values["kl_per_token"] = values["kl"] / values["length"]
            values["cross_entropy"] = values["entropy"] + values["kl_per_token"]
        responses = 1.0 if place == UPDATE else values.get("responses", 0.0)
        known = {name: values[name] for name in SIGNALS if name in values}
        if known and responses > 0:
            result.append(Observation(agent, place, responses, known))
    return result


# ---------------------------------------------------------------- the audit
@dataclass(frozen=True)
class Finding:
    """A signal beyond its limit: what it is, what it was at first, and where the limit is, all in
    the signal's own unit."""

    signal: str
    value: float
    baseline: float
    threshold: float


@dataclass(frozen=True)
class Alarm:
    """An agent does not answer any more as it did.

    Attributes:
        iteration: When that was said.
        agent, place: Whose answers, and where (see `Observation`).
        since: The iteration whose weights were the first to show it.
        findings: The signals, worst first.
    """

    iteration: int
    agent: str
    place: str
    since: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Verdict:
    """What the audit says of an iteration.

    Attributes:
        state: To go on from.
        alarms: New ones.
        scores: Agent -> its largest excess in limits, 1 being at one; of agents with an
            observation, once there are answers to compare with.
        excesses: (agent, place, signal) -> excess on the scale of the limit, of every observation.
    """

    state: dict[str, Any]
    alarms: list[Alarm]
    scores: dict[str, float]
    excesses: dict[tuple[str, str, str], float]


def observe(config: AuditConfig, state: State, iteration: int, metrics: Mapping[str, float]) -> Verdict:
    """Takes in what an iteration wrote down.

    The first `config.responses` answers in a place, whoever gave them, are what later ones there
    are compared with: all agents begin as one model. An update is compared with one that changes
    nothing.

    Args:
        config: Limits.
        state: Of the iteration before; {} at the start. It is left as it is.
        iteration: Which it is; 0 is the evaluation before training.
        metrics: Its numbers by tag.
    """
    new: dict[str, Any] = copy.deepcopy(dict(state)) or {"baseline": {}, "streams": {}}
    verdict = Verdict(new, [], {}, {})
    for seen in observations(metrics):
        # answers of the batch come from the weights of the iteration before
        weights = iteration - seen.place.startswith("seat")
        stream = new["streams"].setdefault(f"{seen.agent}/{seen.place}", {"over": {}, "under": {}, "active": []})
        if seen.place == UPDATE:
            _judge(config, verdict, stream, seen, seen.values, dict.fromkeys(seen.values, 1.0), (iteration, weights))
            continue
        baseline = new["baseline"].setdefault(seen.place, _empty(0))
        if baseline["count"] < config.responses:
            _pool(baseline, seen)
            continue
        pool = stream.setdefault("pool", _empty(weights))
        _pool(pool, seen)
        if pool["count"] >= config.responses:
            del stream["pool"]
            _judge(config, verdict, stream, seen, _means(pool), _means(baseline), (iteration, pool["weights"]))
    if not any(baseline["count"] >= config.responses for baseline in new["baseline"].values()):
        verdict.scores.clear()  # updates alone do not tell how it answers
    return verdict


def is_sound(state: State) -> bool:
    """Whether nothing was beyond its limit when it was last seen, and no alarm is on."""
    return not any(stream["active"] or any(stream["over"].values()) for stream in state.get("streams", {}).values())


def sentence(alarm: Mapping[str, Any]) -> str:
    """An alarm, as a line of `alarms.jsonl` has it, in words.

    >>> found = {"signal": "eos", "value": 0.02, "baseline": 1.0, "threshold": 0.46}
    >>> sentence({"iteration": 7, "agent": "llm1", "place": "seat1", "signals": [found]})
    'collapse alarm, iteration 7: llm1 in seat 1: eos 0.02 (was 1, limit 0.46)'
    """
    place = alarm["place"]
    where = f"in seat {place[4:]}" if place.startswith("seat") else {UPDATE: "in its update"}.get(place, place)
    signals = ", ".join(
        f"{one['signal']} {one['value']:.3g} (was {one['baseline']:.3g}, limit {one['threshold']:.3g})"
        for one in alarm["signals"]
    )
    shown = "".join(f"; {one['prompt'][-60:]!r} -> {one['answer'][:100]!r}" for one in alarm.get("examples", [])[:1])
    return f"collapse alarm, iteration {alarm['iteration']}: {alarm['agent']} {where}: {signals}{shown}"


def _judge(
    config: AuditConfig,
    verdict: Verdict,
    stream: dict[str, Any],
    seen: Observation,
    now: Mapping[str, float],
    before: Mapping[str, float],
    when: tuple[int, int],
) -> None:
    """Compares an observation with what there was before, and says what has lasted. `when` is its
    iteration, and that of the first weights in it."""
    (iteration, weights), since = when, when[1]
    found: list[tuple[float, Finding]] = []
    for name in [name for name in SIGNALS if name in now and name in before and getattr(config, name) > 0]:
        signal, limit = SIGNALS[name], getattr(config, name)
        excess = signal.excess(now[name], before[name])
        verdict.excesses[seen.agent, seen.place, name] = excess
        verdict.scores[seen.agent] = max(verdict.scores.get(seen.agent, 0.0), excess / limit)
        if excess < limit:
            stream["over"].pop(name, None)
            stream["under"][name] = stream["under"].get(name, 0) + 1
            if name in stream["active"] and stream["under"][name] >= config.lasting:
                stream["active"].remove(name)
            continue
        stream["under"].pop(name, None)
        streak = [*stream["over"].get(name, []), weights][-config.lasting :]
        stream["over"][name] = streak
        if len(streak) == config.lasting and name not in stream["active"]:
            stream["active"].append(name)
            since = min(since, streak[0])
            threshold = signal.threshold(now[name], before[name], limit)
            found.append((excess / limit, Finding(name, now[name], before[name], threshold)))
    if found:
        findings = tuple(finding for _, finding in sorted(found, key=lambda item: -item[0]))
        verdict.alarms.append(Alarm(iteration, seen.agent, seen.place, since, findings))


# ---------------------------------------------------------------- means over small batches
def _empty(weights: int) -> dict[str, Any]:
    return {"count": 0.0, "sums": {}, "weights": weights}


def _pool(pool: dict[str, Any], seen: Observation) -> None:
    pool["count"] += seen.responses
    for name, value in seen.values.items():
        pool["sums"][name] = pool["sums"].get(name, 0.0) + seen.responses * value


def _means(pool: Mapping[str, Any]) -> dict[str, float]:
    return {name: total / pool["count"] for name, total in pool["sums"].items()}


assert set(SIGNALS) <= {field.name for field in fields(AuditConfig)}
