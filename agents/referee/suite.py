"""A suite: what is claimed, and every run by which it is going to be judged, written down before
the first of them.

One idea: a suite is a TOML file and nothing else, so that it can be read, hashed and run again.
Arms differ in what the file says and in nothing else: whatever would make a comparison unfair
(another beta, reward, length or clip) is refused unless the arm says why.

    claim = "Two agents that exchange roles reach a better J than one, at equal episodes."
    seeds = 20

    [settings]                       # of every run, as in a run's own file
    iterations = 40
    kl.beta = 0.2

    [arms.cory]
    [arms.ppo]
    num_agents = 1

    [match]                          # optional: what all arms may spend
    by = "episodes"

    [[claims]]
    better = "cory"
    than = "ppo"
    measure = "J"
    margin = 0.02                    # the smallest difference that matters
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError, real, unknown_name, whole

from ..runs.budget import KINDS, BudgetConfig
from ..runs.config import Config
from ..runs.settings import apply, preset, read_nested
from .frontier import MARK, Frontier, read_frontier
from .measures import find_measure

__all__ = ["Arm", "Claim", "Match", "Suite", "Tuning", "read_suite"]


@dataclass(frozen=True)
class Claim:
    """One arm is better than another.

    Attributes:
        better, than: The arms.
        measure: By what (`coevo_agents.referee.measures`).
        margin: The smallest difference that matters, in the unit of the measure.
        equal: Whether the claim is that they are about equal.
    """

    better: str
    than: str
    measure: str = "J"
    margin: float = 0.0
    equal: bool = False


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: What it is called.
        settings: What differs from the suite's settings, by dotted name.
        why: Why it may differ in what should be the same everywhere.
        grid: Settings to choose from before the seeds of the suite: name -> values.
    """

    name: str
    settings: dict[str, Any]
    why: str = ""
    grid: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """What makes the arms comparable.

    Attributes:
        by: A kind of budget, or "iterations": each arm's own number of them.
        amount: Of it; 0 takes what the arm `like` spent, seed by seed.
        like: An arm.
    """

    by: str = "iterations"
    amount: float = 0.0
    like: str = ""


@dataclass(frozen=True)
class Tuning:
    """How the settings of the arms are chosen: each arm tries the same number of configurations on
    seeds of its own, judged on the validation split; the best mean wins.

    Attributes:
        seeds: Their number.
        measure: By which they are judged.
        trials: Configurations of each arm; 0 without tuning.
        sampler: "grid", or "optuna", which proposes them (extra).
        settings: Of the tuning runs only.
    """

    seeds: int = 2
    measure: str = "J"
    trials: int = 0
    sampler: str = "grid"
    settings: dict[str, Any] = field(default_factory=dict)


NO_MARGIN = 1e-9
"""A margin that says that nobody stated one."""

TUNING_SEEDS = 10_000
"""Seeds of tuning runs begin here, far from those of a suite."""


@dataclass(frozen=True)
class Suite:
    """What a file of a suite says.

    Attributes:
        name: Of the file.
        claim: In words.
        seeds: Of every arm on every task.
        tasks: Name -> settings.
        arms: In the order of the file; the first is what others are compared with where no claim
            says otherwise.
        claims: What is to be judged, all of one family.
        match, tuning: See there.
        settings, preset: Of every run, by dotted name; from which preset they depart.
        frontier: How curves are drawn, where arms are curves; each arm stands for several then.
        digest, command: SHA-256 of what the file says; what carries it out.
    """

    name: str
    claim: str
    seeds: tuple[int, ...]
    tasks: dict[str, dict[str, Any]]
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    match: Match = Match()
    tuning: Tuning = Tuning()
    settings: dict[str, Any] = field(default_factory=dict)
    preset: str = "default"
    frontier: Frontier | None = None
    digest: str = ""
    command: str = ""

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def config(self, arm: Arm, task: str, seed: int, budget: float = 0.0, **more: Any) -> Config:
        """The settings of one run.

        Args:
            arm, task, seed: Which.
            budget: What it may spend, where arms are matched by what another spent.
            more: Settings over all others.
        """
        given = {**self.settings, **self.tasks[task], **arm.settings, **more, "seed": seed}
        config = _applied(f"arm {arm.name!r}", self.preset, given)
        amount = budget or self.match.amount
        if self.match.by == "iterations" or not amount:
            return config
        return replace(config, budget=BudgetConfig(self.match.by, amount), count_flops=self.match.by == "flops")

    def trials(self, arm: Arm) -> list[dict[str, Any]]:
        """The configurations that a grid gives an arm."""
        values = itertools.product(*arm.grid.values())
        return [dict(zip(arm.grid, chosen, strict=True)) for chosen in values]


KEYS = (
    *("claim", "seeds", "first_seed", "preset", "settings", "tasks", "arms", "match", "tuning", "claims"),
    "frontier",
)
SAME = (
    *("model", "task", "task_options", "kl", "temperature", "max_new_tokens", "max_new_tokens_low", "min_new_tokens"),
    *("max_context", "chat", "eval_prompts", "eval_draws"),
)
"""Settings, or groups of them, that all arms share."""
SAME_LEAVES = ("clip", "max_grad_norm", "value_clip")
"""The same of learners, by the end of their names."""


def read_suite(path: str | Path) -> Suite:
    """Reads the file of a suite.

    Raises:
        ConfigError: It cannot be read, or says something that cannot be run.
    """
    path = Path(path)
    return replace(make_suite(read_nested(path), path.stem), command=f"coevo compare {path.name}")


def make_suite(data: Mapping[str, Any], name: str) -> Suite:
    """A suite from what a file says."""
    for key in data:
        if key not in KEYS:
            raise unknown_name("entry of a suite", key, KEYS)
    claim = _text(data, "claim")
    seeds = _seeds(data)
    arms = _arms(data)
    names = [arm.name for arm in arms]
    frontier = read_frontier(_table(data, "frontier"))
    claims = tuple(_claim(number, one, names) for number, one in enumerate(_list(data, "claims"), 1))
    if not claims:
        raise ConfigError(
            "the suite has no [[claims]]; expected at least one, with better, than, measure and margin: what is to be "
            "judged is said before the runs."
        )
    suite = Suite(
        name=name,
        claim=claim,
        seeds=seeds,
        tasks={task: _flat(one) for task, one in _table(data, "tasks").items()} or {"": {}},
        arms=arms,
        frontier=frontier,
        claims=claims,
        match=_match(_table(data, "match"), names),
        tuning=_tuning(_table(data, "tuning"), arms),
        settings=_flat(_table(data, "settings")),
        preset=str(data.get("preset", "default")),
        digest=hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest(),
    )
    if suite.tasks == {"": {}}:
        task = suite.config(arms[0], "", seeds[0]).task
        suite = replace(suite, tasks={task: {}})
    for task in suite.tasks:
        _check_same(suite, task)
    return replace(suite, arms=_points(arms, frontier))


# ---------------------------------------------------------------- what is in a file
def _arms(data: Mapping[str, Any]) -> tuple[Arm, ...]:
    shared = {name: list(values) for name, values in _flat(_table(_table(data, "tuning"), "grid")).items()}
    arms = []
    for name, given in _table(data, "arms").items():
        if not isinstance(given, Mapping):
            raise ConfigError(f"arms.{name} = {given!r}; expected a table of settings, [arms.{name}].")
        settings = _flat(given)
        why = str(settings.pop("why", ""))
        grid = {key[5:]: settings.pop(key) for key in list(settings) if key.startswith("grid.")}
        grid = {key: list(values) for key, values in grid.items()} or shared
        arms.append(Arm(name, settings, why, grid))
    if len(arms) < 2:
        raise ConfigError(f"the suite has {len(arms)} arms; expected at least two tables [arms.NAME].")
    return tuple(arms)


def _claim(number: int, given: Any, arms: Sequence[str]) -> Claim:
    if not isinstance(given, Mapping):
        raise ConfigError(f"claim {number} is {given!r}; expected a table [[claims]].")
    for key in given:
        if key not in Claim.__dataclass_fields__:
            raise unknown_name(f"entry of claim {number}", key, Claim.__dataclass_fields__)
    for key in ("better", "than", "margin"):
        if key not in given:
            raise ConfigError(f"claim {number} has no {key!r}; expected better, than, measure and margin.")
    claim = Claim(**given)
    for name in (claim.better, claim.than):
        if name not in arms:
            raise unknown_name(f"arm of claim {number}", name, arms)
    if claim.better == claim.than:
        raise ConfigError(f"claim {number} compares {claim.better!r} with itself; expected two arms.")
    find_measure(claim.measure)
    if not real(f"margin of claim {number}", claim.margin) > 0:
        raise ConfigError(f"margin of claim {number} is {claim.margin!r}; expected a number > 0.")
    return claim


def _match(given: Mapping[str, Any], arms: Sequence[str]) -> Match:
    for key in given:
        if key not in Match.__dataclass_fields__:
            raise unknown_name("entry of [match]", key, Match.__dataclass_fields__)
    match = Match(**given)
    if match.by not in ("iterations", *KINDS):
        raise unknown_name("match.by", match.by, ("iterations", *KINDS))
    real("match.amount", match.amount)
    if match.by == "iterations" and (match.amount or match.like):
        raise ConfigError("match.by='iterations' takes neither amount nor like; each arm has its own iterations.")
    if match.by != "iterations" and not match.amount:
        match = replace(match, like=match.like or arms[0])
    if match.like and match.like not in arms:
        raise unknown_name("match.like", match.like, arms)
    return match


def _tuning(given: Mapping[str, Any], arms: Sequence[Arm]) -> Tuning:
    known = (*Tuning.__dataclass_fields__, "grid")
    for key in given:
        if key not in known:
            raise unknown_name("entry of [tuning]", key, known)
    if not given:
        if grids := [arm.name for arm in arms if arm.grid]:
            raise ConfigError(f"arm {grids[0]!r} has a grid, and the suite has no [tuning]; expected that too.")
        return Tuning()
    values = {key: value for key, value in given.items() if key not in ("grid", "settings")}
    tuning = Tuning(**values, settings=_flat(_table(given, "settings")))
    whole("tuning.seeds", tuning.seeds, 1)
    find_measure(tuning.measure)
    if tuning.sampler not in ("grid", "optuna"):
        raise unknown_name("tuning.sampler", tuning.sampler, ("grid", "optuna"))
    sizes = {arm.name: _product(arm.grid) for arm in arms}
    if tuning.sampler == "optuna":
        whole("tuning.trials", tuning.trials, 1)
        if empty := [name for name, size in sizes.items() if size == 1]:
            raise ConfigError(f"arm {empty[0]!r} has nothing to tune; expected a grid for every arm, or none.")
        return tuning
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ConfigError(
            f"the arms try different numbers of configurations ({told}); expected the same number, so that none is "
            "tuned more than another. Give each [arms.NAME.grid] as many, or all one [tuning.grid]."
        )
    size = next(iter(sizes.values()))
    if tuning.trials not in (0, size):
        raise ConfigError(f"tuning.trials={tuning.trials} with grids of {size}; leave it out, a grid is tried whole.")
    return replace(tuning, trials=size)


def _points(arms: tuple[Arm, ...], frontier: Frontier | None) -> tuple[Arm, ...]:
    """The arms that are run: of a frontier one for each point of each curve."""
    if frontier is None:
        return arms
    return tuple(
        replace(
            arm,
            name=f"{arm.name}{MARK}{value:g}",
            settings={**arm.settings, frontier.setting: value},
            why=arm.why or "it is a point of a curve",
        )
        for arm in arms
        for value in frontier.values
    )


def _product(grid: Mapping[str, Sequence[Any]]) -> int:
    size = 1
    for name, values in grid.items():
        if not values:
            raise ConfigError(f"the grid of {name} is empty; expected a list of values.")
        size *= len(values)
    return size


def _seeds(data: Mapping[str, Any]) -> tuple[int, ...]:
    given = data.get("seeds")
    if isinstance(given, list):
        seeds = tuple(whole("seeds", seed, 0) for seed in given)
        if not seeds or len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds = {given}; expected different ones.")
        return seeds
    if given is None:
        raise ConfigError("the suite has no seeds; expected their number, such as seeds = 10, or a list.")
    first = whole("first_seed", data.get("first_seed", 0), 0)
    return tuple(range(first, first + whole("seeds", given, 1)))


def _check_same(suite: Suite, task: str) -> None:
    """Arms whose settings make them incomparable are refused, and those that cannot run."""
    configs = {arm.name: suite.config(arm, task, suite.seeds[0]) for arm in suite.arms}
    for arm in suite.arms:  # what is tuned may not be what has to be the same
        for name in arm.grid:
            _applied(
                f"the grid of arm {arm.name!r}",
                suite.preset,
                {**suite.settings, **suite.tasks[task], **arm.settings, name: arm.grid[name][0]},
            )
    first, *others = suite.arms
    for arm in others:
        if arm.why:
            continue
        ours, theirs = configs[first.name], configs[arm.name]
        for name in SAME:
            if getattr(ours, name) != getattr(theirs, name):
                raise _incomparable(first.name, arm.name, name, getattr(ours, name), getattr(theirs, name))
        for agent, leaf in itertools.product(
            ("", *sorted({*ours.agents, *theirs.agents})), SAME_LEAVES
        ):  # "" has the run's own
            own = f"agents.{agent}." if agent else ""
            mine, its = (getattr(config.learner_of(agent)[1], leaf, None) for config in (ours, theirs))
            if None not in (mine, its) and mine != its:
                raise _incomparable(first.name, arm.name, f"{own}{theirs.learner_of(agent)[0]}.{leaf}", mine, its)
        swept = [name for name in arm.grid if name.split(".")[0] in SAME or name.split(".")[-1] in SAME_LEAVES]
        if swept:
            raise ConfigError(f"arm {arm.name!r} tunes {swept[0]}, which all arms share. {WHY.format(arm.name)}")


WHY = 'Make it the same, or say why it differs: [arms.{0}] why = "...".'


def _incomparable(first: str, other: str, name: str, mine: Any, its: Any) -> ConfigError:
    return ConfigError(
        f"arms {first!r} and {other!r} differ in {name} ({mine!r} and {its!r}), which all arms share. "
        f"{WHY.format(other)}"
    )


def _applied(who: str, base: str, given: Mapping[str, Any]) -> Config:
    try:
        return apply(preset(base), given)
    except ConfigError as error:
        raise ConfigError(f"{who}: {error}") from error


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f'the suite says no {name}; expected a sentence: {name} = "...".')
    return value


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} = {value!r}; expected a table.")
    return value


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name, [])
    if not isinstance(value, list):
        raise ConfigError(f"{name} = {value!r}; expected tables [[{name}]].")
    return value


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """`[kl]` with `beta` below it, and `kl.beta`, as the dotted name; options of a task stay
    together."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and name not in ("task_options", "learner_settings"):
            flat.update({f"{name}.{key}": inner for key, inner in _flat(value).items()})
        elif isinstance(value, Mapping):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat
