"""Rows judged: what each arm reached, how arms differ, and what can be said of each claim.

One idea: a judgement is plain data, computed from rows and claims alone and by
`coevo_agents.referee.statistics` alone, so that pages only have to show it and anybody can make it
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from coevo_env.errors import ConfigError

from . import statistics
from .measures import find_measure
from .notes import Note
from .rows import Row, check_rows
from .statistics import FEWEST, Interval, Verdict
from .suite import Claim

__all__ = ["Cell", "Difference", "Judged", "Judgement", "judge"]

SHOWN = ("reward", "kl", "J", "distinct_2", "repeat", "length", "drawdown", "collapsed")
"""Measures of the first table."""
COSTS = ("episodes", "generated_tokens", "tokens", "flops", "cpu_s", "wall_s", "gain_per_mtoken", "gain_per_cpu_hour")
"""Measures of the table of costs."""


@dataclass(frozen=True)
class Cell:
    """A measure over the seeds of an arm.

    Attributes:
        values: One for each seed that has it.
    """

    values: tuple[float, ...]

    @cached_property
    def mean(self) -> Interval:
        """The mean, with its interval."""
        return statistics.interval(self.values)

    @cached_property
    def iqm(self) -> float:
        """The interquartile mean."""
        return float(statistics.interquartile_mean(self.values))

    @cached_property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None of one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A measure of one arm less that of another, seed by seed; positive is better.

    Attributes:
        ours, theirs, task, measure: Of what.
        mine, its: The two, in the order of the seeds that both have, higher is better.
        table: (S, P), the difference for each seed and prompt, where rows have that.
    """

    ours: str
    theirs: str
    task: str
    measure: str
    mine: tuple[float, ...]
    its: tuple[float, ...]
    table: np.ndarray | None = None

    @cached_property
    def values(self) -> tuple[float, ...]:
        """One for each seed."""
        return tuple(a - b for a, b in zip(self.mine, self.its, strict=True))

    @cached_property
    def mean(self) -> Interval:
        """The mean, with its interval over seeds."""
        return statistics.interval(self.values)

    @cached_property
    def iqm(self) -> Interval:
        """The interquartile mean, with its interval over seeds."""
        return statistics.interval(self.values, statistics.interquartile_mean)

    @cached_property
    def prompts(self) -> Interval | None:
        """The mean, with its interval over seeds and prompts, for reward, kl and J."""
        return None if self.table is None else statistics.two_way(self.table)

    @cached_property
    def chance(self) -> Interval:
        """How likely a run of ours is better than one of theirs."""
        return statistics.chance_of_improvement(self.mine, self.its)

    @cached_property
    def pvalue(self) -> float:
        """Of the sign-flip test."""
        return statistics.sign_flip(self.values)


@dataclass(frozen=True)
class Judged:
    """A claim on a task, and what came of it.

    Attributes:
        claim, task: Which.
        difference: What it rests on; None where no seed has both runs.
        adjusted: The p-value after Holm's correction over all claims.
        equivalence: The p-value of two one-sided tests within the margin.
        verdict: In words.
        powered: How likely as many seeds show a difference of the margin among so many claims, with
            the spread that was seen; None under two seeds.
    """

    claim: Claim
    task: str
    difference: Difference | None
    adjusted: float
    equivalence: float
    verdict: Verdict
    powered: float | None = None


@dataclass(frozen=True)
class Judgement:
    """Everything that a report shows.

    Attributes:
        arms, tasks: Names, in order.
        cells: (arm, task, measure) -> over seeds.
        judged: Every claim on every task.
        failed: Rows of runs that failed.
        rows: All rows.
        notes: What is to be said besides.
        stated: Whether the claims were written down before the runs.
    """

    arms: list[str]
    tasks: list[str]
    cells: dict[tuple[str, str, str], Cell]
    judged: list[Judged]
    failed: list[Row]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    stated: bool = True

    def cell(self, arm: str, task: str, measure: str) -> Cell | None:
        """A measure of an arm, where it has it."""
        return self.cells.get((arm, task, measure))


def judge(rows: Sequence[Row], claims: Sequence[Claim], notes: Sequence[str] = (), stated: bool = True) -> Judgement:
    """Judges rows.

    Args:
        rows: Of runs.
        claims: What is to be judged; all of them, on all tasks, are one family.
        notes: To be shown besides.
        stated: Whether the claims stood before the runs.

    Raises:
        ConfigError: The rows do not belong into one table, or none of them succeeded.
    """
    said = [*notes, *check_rows(rows)]
    failed = [row for row in rows if row.error is not None]
    fine = [row for row in rows if row.error is None]
    if not fine:
        raise ConfigError(f"all {len(rows)} runs failed; the first one: {rows[0].error if rows else 'there is none'}")
    arms, tasks = list(dict.fromkeys(row.arm for row in rows)), list(dict.fromkeys(row.task for row in rows))
    cells: dict[tuple[str, str, str], Cell] = {}
    for arm in arms:
        for task in tasks:
            mine = [row for row in fine if (row.arm, row.task) == (arm, task)]
            for measure in dict.fromkeys(name for row in mine for name in row.measures):
                values = tuple(row.measures[measure] for row in mine if measure in row.measures)
                cells[arm, task, measure] = Cell(values)
    said += _missing(rows, arms, tasks)
    found = [(claim, task, difference(fine, claim, task)) for claim in claims for task in tasks]
    pvalues = [one.pvalue for _, _, one in found if one is not None]
    said += _out_of_reach([len(one.values) for _, _, one in found if one is not None])
    adjusted = iter(statistics.holm(pvalues) if pvalues else [])
    judged = [
        _judged(claim, task, one, next(adjusted) if one is not None else 1.0, len(pvalues))
        for claim, task, one in found
    ]
    return Judgement(arms, tasks, cells, judged, failed, list(rows), said, stated)


def difference(rows: Sequence[Row], claim: Claim, task: str) -> Difference | None:
    """The paired difference that a claim is about; None where no seed has both runs."""
    measure, sign = claim.measure, 1.0 if find_measure(claim.measure).higher else -1.0

    def of(arm: str) -> dict[int, Row]:
        return {row.seed: row for row in rows if (row.arm, row.task) == (arm, task) and measure in row.measures}

    ours, theirs = of(claim.better), of(claim.than)
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    mine, its = (tuple(sign * rows[seed].measures[measure] for seed in seeds) for rows in (ours, theirs))
    table = _by_prompt([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], measure)
    return Difference(claim.better, claim.than, task, measure, mine, its, None if table is None else sign * table)


def _by_prompt(ours: Sequence[Row], theirs: Sequence[Row], measure: str) -> np.ndarray | None:
    """(S, P) differences, where rows have the measure prompt by prompt."""

    def table(rows: Sequence[Row]) -> np.ndarray | None:
        if not all(row.by_prompt.get("reward") for row in rows):
            return None
        reward, kl = (np.array([row.by_prompt[tag] for row in rows]) for tag in ("reward", "kl"))
        if measure != "J":
            return {"reward": reward, "kl": kl}.get(measure)
        betas = np.array([float(row.settings.get("kl", {}).get("beta", 0.0)) for row in rows])
        return reward - betas[:, None] * kl

    mine, its = table(ours), table(theirs)
    return None if mine is None or its is None else mine - its


def _judged(claim: Claim, task: str, found: Difference | None, adjusted: float, family: int) -> Judged:
    if found is None:
        sentence = f"{claim.better} against {claim.than}: no seed has both runs with {claim.measure}; no verdict."
        return Judged(claim, task, None, 1.0, 1.0, Verdict("", sentence, "few"))
    names = {"ours": claim.better, "theirs": claim.than, "measure": find_measure(claim.measure).title}
    verdict = statistics.verdict(found.values, claim.margin, adjusted, **names, family=family)
    if claim.equal and verdict.kind:
        kind = {"equivalent": "supported", "supported": "contradicted"}.get(verdict.kind, verdict.kind)
        verdict = replace(verdict, kind=kind)
    powered = None
    if len(found.values) > 1:
        deviation = float(np.std(found.values, ddof=1))
        powered = statistics.power(deviation, claim.margin, len(found.values), statistics.LEVEL / family)
    return Judged(claim, task, found, adjusted, statistics.equivalence(found.values, claim.margin), verdict, powered)


def _missing(rows: Sequence[Row], arms: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """Sentences about seeds that an arm lacks, and about too few of them."""
    said = []
    for task in tasks:
        seeds = {arm: {row.seed for row in rows if (row.arm, row.task, row.error) == (arm, task, None)} for arm in arms}
        every = set.union(*seeds.values())
        for arm, mine in seeds.items():
            if lacking := sorted(every - mine):
                some = ", ".join(map(str, lacking[:10])) + (", ..." if len(lacking) > 10 else "")
                text = "{arm} on {task} has no run of seed {seeds}; differences are of the seeds that both have."
                said.append(Note("lacking", text, arm=arm, task=task, seeds=some))
        if len(every) < FEWEST:
            text = "{task} has {count} seeds; under {fewest} differences are shown and no verdict is given."
            said.append(Note("few", text, task=task, count=len(every), fewest=FEWEST))
    return said


def _out_of_reach(seeds: Sequence[int]) -> list[str]:
    """A sentence where claims have verdicts but too few seeds for any difference to count as one.

    Args:
        seeds: Of each claim on each task, all of them one family.
    """
    if not seeds:
        return []
    least = statistics.holm([statistics.least_pvalue(count) for count in seeds])
    lost = [(count, p) for count, p in zip(seeds, least, strict=True) if count >= FEWEST and p > statistics.LEVEL]
    if not lost:
        return []
    needed = next(n for n in range(FEWEST, 100) if statistics.least_pvalue(n) * len(seeds) <= statistics.LEVEL)
    text = (
        "For {count} of {claims} claims no difference could have been shown, however large: with {seeds} seeds p is "
        "never under {least} (Holm's correction for all claims). At least {needed} seeds are needed."
    )
    values = {"seeds": max(count for count, _ in lost), "least": f"{min(p for _, p in lost):.3g}", "needed": needed}
    return [Note("out of reach", text, grave=True, count=len(lost), claims=len(seeds), **values)]


def table(judgement: Judgement, task: str, measures: Sequence[str]) -> list[dict[str, Any]]:
    """For each arm the cells of some measures, those that any arm has."""
    known = [m for m in measures if any(judgement.cell(arm, task, m) for arm in judgement.arms)]
    return [{"arm": arm, **{m: judgement.cell(arm, task, m) for m in known}} for arm in judgement.arms]


def named(measures: Mapping[str, Any]) -> list[str]:
    """Headings of a table."""
    return [find_measure(name).title for name in measures if name != "arm"]
