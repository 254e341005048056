"""The first half of a report of a comparison, for who decides: claims and what came of them.

One idea: the first screen can be read alone. It has the claims with their verdicts, whatever makes
them doubtful, and what the arms are; the numbers behind follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean

from ..referee.compare import Cell as Values
from ..referee.compare import Difference, Judged
from ..referee.measures import find_measure
from ..referee.suite import NO_MARGIN
from .parts import Cell, Context, Line, Section, Table, about, brief, counted, stacked
from .report import flatten

__all__ = ["differed", "differences", "failed", "notes", "reached", "verdicts"]

REACHED = ("reward", "kl", "J", "distinct_2", "repeat", "length", "drawdown", "collapsed", "hypervolume")
"""Measures of the table of arms, beside those that are claimed."""
ALONE = ("seed", "task", "device", "threads")
"""Settings in which runs of one arm may differ."""
MATCHED = ("budget.", "iterations")
"""What matching sets, which is told as what was spent."""


def verdicts(of: Context) -> Section:
    """What was claimed, and what can be said of it."""
    lines = [] if of.suite is None else [Line(of.suite.claim, "claim")]
    if not of.judgement.stated:
        lines.append(Line(of.say("afterwards"), "warning"))
    lines += [line for note in of.judgement.notes if (line := of.note(note)).kind]
    if broken := len(of.rows) - len(of.runs):
        lines.append(Line(of.say("some failed", count=broken, total=len(of.rows)), "warning"))
    lines += [Line(sentence(of, one), one.verdict.kind or "none") for one in of.judgement.judged]
    return Section(of.say("claim"), lines, top=True)


def sentence(of: Context, judged: Judged) -> str:
    """A verdict in words."""
    claim, found, seen = judged.claim, judged.difference, judged.verdict.seen
    values: dict[str, object] = {
        "ours": claim.better,
        "theirs": claim.than,
        "measure": of.measure(claim.measure),
        "task": of.on(judged.task),
        "margin": f"{claim.margin:g}",
    }
    said = of.say(f"verdict {judged.verdict.kind or 'none'}")
    if found is None:
        return said + of.say("no pairs", **values)
    count = len(found.values)
    values.update(difference=about(found.mean, sign=True), count=count, p=f"{judged.adjusted:.3g}")
    said += of.say(f"seen {seen}" if (seen, claim.margin > NO_MARGIN) != ("equal", False) else "seen same", **values)
    if found.mean.estimate and not find_measure(claim.measure).higher:  # signs are turned, so that + is better
        said += of.say("lower" if found.mean.estimate > 0 else "higher", ours=claim.better)
    if judged.verdict.needed is not None and claim.margin > NO_MARGIN:
        needed = judged.verdict.needed
        said += of.say("needed" if needed > count else "enough", needed=needed, **values)
    return said + (of.say("equal claim") if claim.equal else "")


def notes(of: Context) -> Section | None:
    """What is to be known besides."""
    lines = [line for note in of.judgement.notes if not (line := of.note(note)).kind]
    return Section(of.say("notes"), lines, top=True) if lines else None


def differed(of: Context) -> Section:
    """What the arms are, and what made them comparable."""
    lines, rows = [], []
    suite = of.suite
    if suite is not None:
        like = of.say("like", arm=suite.match.like) if suite.match.like else ""
        amount = of.say("amount", amount=f"{suite.match.amount:g}") if suite.match.amount else ""
        by = of.say(f"match {suite.match.by}")
        lines.append(Line(of.say("matched", by=by, like=like + amount, count=len(suite.seeds))))
        for arm in suite.arms:
            told = _settings(arm.settings) or of.say("the suite's")
            rows.append([arm.name, told, arm.why, _chosen(of, arm.name), _spent(of, arm.name, suite.match.by)])
        head = ["arm", "settings", "why", "tuned to", "spent"]
        keep = [i for i in range(len(head)) if i < 2 or any(row[i] for row in rows)]
        shown = Table([of.say(head[i]) for i in keep], [[row[i] for i in keep] for row in rows], texts=True)
        tables = [shown]
        common = {**suite.settings, **{f"{t}: {k}": v for t, given in suite.tasks.items() for k, v in given.items()}}
        lines.append(Line(of.say("common", preset=suite.preset, settings=_settings(common) or "–")))
    else:
        tables = []
    found = _in_fact(of)
    if found and suite is None:
        head = [of.say("arm"), of.say("settings")]
        tables.append(Table(head, [[arm, told] for arm, told in found.items()], texts=True))
    elif found:
        head = [of.say("arm"), of.say("settings")]
        rows = [[arm, told] for arm, told in found.items()]
        tables.append(Table(head, rows, of.say("in fact"), texts=True, fold=True))
    elif suite is None:
        lines.append(Line(of.say("no difference")))
    return Section(of.say("differed"), lines, tables, top=True)


def _settings(given: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in given.items())


def _chosen(of: Context, arm: str) -> str:
    found = {task: _settings(row.chosen) for task in of.judgement.tasks for row in of.of(arm, task) if row.chosen}
    alike = len(set(found.values())) == 1
    return "; ".join(dict.fromkeys(told if alike else f"{task}: {told}" for task, told in found.items()))


def _spent(of: Context, arm: str, by: str) -> str:
    """What runs spent of that by which they are matched: the mean, and from where to where."""
    told = []
    for task in of.judgement.tasks:
        runs = of.of(arm, task)
        spent = [row.iterations if by == "iterations" else row.measures.get(f"spent/{by}") for row in runs]
        values = [float(value) for value in spent if value is not None]
        if not values:
            continue
        low, high = min(values), max(values)
        mean = counted(fmean(values))
        told.append((mean if low == high else f"{mean} ({counted(low)}–{counted(high)})") + of.on(task))
    return ", ".join(told)


def _in_fact(of: Context) -> dict[str, str]:
    """For each arm the settings of its runs that are not those of all others."""
    found: dict[str, dict[str, set[str]]] = {arm: defaultdict(set) for arm in of.arms}
    matched = any(dict(flatten(row.settings)).get("budget.amount", "0.0") not in ("0.0", "–") for row in of.runs)
    for row in of.runs:
        for name, value in flatten(row.settings):
            told = name in ALONE or name.startswith("task_options")
            if not told and not (matched and name.startswith(MATCHED)):
                found[row.arm][name].add(value)
    found = {arm: settings for arm, settings in found.items() if settings}
    names = dict.fromkeys(name for settings in found.values() for name in settings)
    differ = [name for name in names if len({frozenset(one.get(name, ())) for one in found.values()}) > 1]
    differ += [name for name in names if name not in differ and any(len(one[name]) > 1 for one in found.values())]
    if not differ:
        return {}
    return {
        arm: ", ".join(f"{name}={' / '.join(sorted(one[name]))}" for name in differ if one.get(name)) or "–"
        for arm, one in found.items()
    }


SPLITS = ("train", "validation", "test")


def reached(of: Context, task: str) -> Section | None:
    """Arms by measures: mean with its interval, standard deviation and number of seeds."""
    cell = of.judgement.cell
    claimed = [one.claim.measure for one in of.judgement.judged]
    known = [m for m in dict.fromkeys((*REACHED, *claimed)) if any(cell(arm, task, m) for arm in of.judgement.arms)]
    if not known:
        return None
    rows: list[list[Cell]] = []
    for arm in of.judgement.arms:
        found = [cell(arm, task, measure) for measure in known]
        rows.append([arm, *(_reached(of, one) for one in found)] if any(found) else [arm, *["–"] * len(known)])
    measured = next((row.measured for row in of.runs if row.task == task), {})
    on = [of.say(f"of {key}", value=measured[key]) for key in ("prompts", "draws") if key in measured]
    if (split := measured.get("split")) is not None:
        on.insert(0, of.say(f"split {split}") if split in SPLITS else str(split))
    note = of.say("mean", on=of.listed(on) or of.say("unknown"))
    table = Table([of.say("arm"), *map(of.with_unit, known)], rows)
    return Section(of.say("reached", task=of.on(task)), [Line(note)], [table])


def _reached(of: Context, found: Values | None) -> Cell:
    if found is None:
        return "–"
    mean, count = found.mean, len(found.values)
    spread = f"sd {brief(found.spread)}, n {count}" if found.spread is not None else f"n {count}"
    if mean.low is None:
        return brief(mean.estimate), spread
    return brief(mean.estimate), f"[{brief(mean.low)}, {brief(mean.high)}]", spread


def differences(of: Context) -> Section | None:
    """What the verdicts rest on."""
    rows: list[list[Cell]] = []
    for one in of.judgement.judged:
        if (found := one.difference) is not None:
            name = (f"{found.ours} − {found.theirs}", of.measure(found.measure) + of.on(one.task))
            rows.append([name, *_numbers(one, found)])
    keys = ("difference", "over prompts", "iqm", "chance", "p", "adjusted", "equal p", "power", "seeds needed")
    head = [of.say("claim"), *map(of.say, keys), of.say("margin"), "n"]
    return Section(of.say("differences"), [Line(of.say("positive"))], [Table(head, rows)]) if rows else None


def _numbers(judged: Judged, found: Difference) -> list[Cell]:
    """A difference as cells."""
    stated, needed = judged.claim.margin > NO_MARGIN, judged.verdict.needed
    return [
        stacked(found.mean, sign=True),
        stacked(found.prompts, sign=True),
        stacked(found.iqm, sign=True),
        stacked(found.chance),
        f"{found.pvalue:.3g}",
        f"{judged.adjusted:.3g}",
        f"{judged.equivalence:.3g}" if stated else "–",
        f"{judged.powered:.2f}" if stated and judged.powered is not None else "–",
        str(needed) if stated and needed is not None else "–",
        f"{judged.claim.margin:g}" if stated else "–",
        str(len(found.values)),
    ]


def failed(of: Context) -> Section | None:
    """Runs that failed, and why."""
    rows = [[row.arm, row.task, str(row.seed), _shortened(row.error or "")] for row in of.rows if row.error is not None]
    head = [of.say(key) for key in ("arm", "task", "seed", "error")]
    note = of.say("failed note")
    return Section(of.say("failed"), [Line(note)], [Table(head, rows, texts=True)]) if rows else None


def _shortened(text: str, most: int = 2_000) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,})"
