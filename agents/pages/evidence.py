"""The second half of a report of a comparison: curves, costs, answers and origins, for who checks.

One idea: everything here is of the runs themselves, arm by arm and task by task, and a number that
is of fewer runs than its neighbour says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from ..referee.frontier import dominated, hull
from ..referee.measures import find_measure
from ..referee.rows import Row
from ..referee.statistics import band
from .charts import Points
from .parts import Cell, Chart, Context, Line, Section, Table, brief, counted

__all__ = ["answers", "collapse", "cost", "curves", "frontier", "probed", "provenance", "tried"]

CURVES = ("reward", "kl", "distinct_2", "length")
COST = (
    *("episodes", "prompt_tokens", "generated_tokens", "reference_tokens", "trained_tokens", "value_tokens", "flops"),
    *("cpu_s", "wall_s", "gain_per_mtoken", "gain_per_cpu_hour"),
)
LARGER = (1, 10, 100)
"""How much larger runs are whose cost is projected."""
STRIP = 30
"""Characters of a timeline."""
COLUMNS = 5
"""Points of a curve that a table shows."""
BESIDE = 4
"""Arms whose answers stand beside each other; of more they stand below each other."""


# ---------------------------------------------------------------- curves
def curves(of: Context, task: str) -> Section | None:
    """The evaluations while training: means over seeds with bands."""
    if of.suite is not None and of.suite.frontier is not None:
        return None  # points of curves are many, and their last values are what matters
    charts, tables, cut = [], [], False
    for tag in CURVES:
        drawn = {arm: found for arm in of.arms if (found := _curve([row.curves for row in of.of(arm, task)], tag))}
        if not drawn:
            continue
        cut = cut or any(shorter for *_, shorter in drawn.values())
        last = max(x[-1] for x, *_ in drawn.values())
        lines: dict[str, Points] = {arm: (x, mean) for arm, (x, mean, *_) in drawn.items()}
        areas = {arm: (x, low, high) for arm, (x, _, low, high, _) in drawn.items()}
        charts.append(
            Chart(
                of.measure(tag),
                of.unit(tag),
                of.say("iteration"),
                (0.0, last),
                lines,
                areas if len(areas) <= 12 else {},
            )
        )
        tables.append(_points(of, of.with_unit(tag), drawn))
    if not charts:
        return None
    note = of.say("curves note") + (of.say("curves cut") if cut else "")
    return Section(of.say("curves", task=of.on(task)), [Line(note)], tables, charts)


Drawn = tuple[list[float], list[float], list[float], list[float], bool]


def _curve(runs: Sequence[Mapping[str, list[float]]], tag: str) -> Drawn | None:
    """x, mean, ends of the band, at the iterations that every run has; and whether some run has
    more."""
    known = [dict(zip(run["iteration"], run[tag], strict=False)) for run in runs if run.get(tag)]
    if not known:
        return None
    shared = sorted(set.intersection(*(set(one) for one in known)))
    if not shared:
        return None
    mean, low, high = band([[one[x] for x in shared] for one in known])
    return shared, mean, low, high, any(len(one) > len(shared) for one in known)


def _points(of: Context, caption: str, drawn: Mapping[str, Drawn]) -> Table:
    every = sorted({x for xs, *_ in drawn.values() for x in xs})
    some = [every[round(i * (len(every) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)]
    columns = list(dict.fromkeys(some))
    rows: list[list[Cell]] = []
    for arm, (xs, mean, low, high, _) in drawn.items():
        at = {x: (brief(m), f"[{brief(a)}, {brief(b)}]") for x, m, a, b in zip(xs, mean, low, high, strict=True)}
        rows.append([arm, *(at.get(x, "–") for x in columns)])
    return Table([of.say("arm"), *(of.say("at iteration", x=f"{x:g}") for x in columns)], rows, caption, fold=True)


# ---------------------------------------------------------------- reward against KL
def frontier(of: Context, task: str) -> Section | None:
    """A dot for each run, and what each method can have."""
    runs = [row for row in of.runs if row.task == task and {"reward", "kl"} <= set(row.measures)]
    if not runs:
        return None
    curved = of.suite is not None and of.suite.frontier is not None
    dots: dict[str, Points] = {}
    lines: dict[str, Points] = {}
    rows: list[list[Cell]] = []
    for method in of.methods:
        mine = [row for row in runs if of.method(row.arm) == method]
        if not mine:
            continue
        dots[method] = ([row.measures["kl"] for row in mine], [row.measures["reward"] for row in mine])
        means = []
        for arm in dict.fromkeys(row.arm for row in mine):
            pairs = [(row.measures["kl"], row.measures["reward"]) for row in mine if row.arm == arm]
            kl, reward = map(fmean, zip(*pairs, strict=True))
            means.append((kl, reward))
            rows.append([arm, brief(kl), brief(reward), str(len(pairs))])
        start = [row.before["reward"] for row in mine if "reward" in row.before]
        if curved and start:
            x, y = hull([kl for kl, _ in means], [reward for _, reward in means], fmean(start))
            lines[method] = (x.tolist(), y.tolist())
    notes = [Line(of.say("frontier note") + (of.say("hull note") if lines else ""))]
    if curved:
        pairs = [(ours, theirs) for ours in dots for theirs in dots if ours != theirs]
        for ours, theirs in pairs:
            share = f"{dominated(runs, ours, theirs, task):.0%}"
            notes.append(Line(of.say("dominated", share=share, ours=ours, theirs=theirs)))
    last = max(x for xs, _ in dots.values() for x in xs)
    first = min(0.0, *(x for xs, _ in dots.values() for x in xs))
    chart = Chart(
        of.measure("reward"), "", of.with_unit("kl"), (first, last * 1.05 or 1.0), lines, dots=dots, wide=True
    )
    head = [of.say("arm"), of.with_unit("kl"), of.measure("reward"), "n"]
    table = Table(head, rows, of.say("means"), fold=True)
    return Section(of.say("frontier", task=of.on(task)), notes, [table], [chart])


# ---------------------------------------------------------------- collapse
def collapse(of: Context) -> Section | None:
    """Which runs collapsed, and when; which the audit warned of."""
    if not any("collapsed" in row.measures or "alarmed" in row.measures for row in of.runs):
        return None
    rows: list[list[Cell]] = []
    seen = False
    for task in of.judgement.tasks:
        last = max((row.iterations for row in of.runs if row.task == task), default=1)
        for arm in of.arms:
            mine = [row for row in of.of(arm, task) if "collapsed" in row.measures or "alarmed" in row.measures]
            if not mine:
                continue
            gone = [(row.measures.get("collapse_at"), row.seed) for row in mine if row.measures.get("collapsed")]
            warned = [(row.measures.get("alarm_at"), row.seed) for row in mine if row.measures.get("alarmed")]
            audited = any("alarmed" in row.measures for row in mine)
            seen = seen or bool(gone or warned)
            shares = (f"{len(gone)} / {len(mine)}", f"{len(warned)} / {len(mine)}" if audited else "–")
            strip = _strip([at for at, _ in gone if at is not None], last)
            rows.append([arm + of.on(task), (shares[0], strip), _when(of, gone), shares[1], _when(of, warned)])
    if not seen:
        return Section(of.say("collapse"), [Line(of.say("collapse none", count=len(of.runs)))])
    keys = ("arm", "collapsed runs", "which", "alarms", "which")
    keep = [i for i in range(5) if i != 4 or any(row[4] for row in rows)]
    table = Table([of.say(keys[i]) for i in keep], [[row[i] for i in keep] for row in rows], texts=True, solid=True)
    return Section(of.say("collapse"), [Line(of.say("collapse note"))], [table])


def _strip(at: Sequence[float], last: int) -> str:
    """Iterations from 0 to the last as one line: how many runs collapsed at each place.

    >>> _strip([3.0, 3.0, 30.0], 30)[:5], len(_strip([], 30))
    ('··2··', 30)
    """
    counts = [0] * STRIP
    for one in at:
        counts[min(STRIP - 1, max(0, int((one - 1) * STRIP / max(1, last))))] += 1
    return "".join("·" if not count else str(count) if count < 10 else "+" for count in counts)


def _when(of: Context, found: Sequence[tuple[float | None, int]]) -> str:
    return of.listed(
        of.say("seed at", seed=seed, at="?" if at is None else f"{at:g}")
        for at, seed in sorted(found, key=lambda pair: (pair[0] is None, pair[0] or 0, pair[1]))
    )


# ---------------------------------------------------------------- cost
def cost(of: Context, price: float, trials: Sequence[Row]) -> Section | None:
    """What runs cost, and what larger ones would."""
    known = [m for m in COST if any(m in row.measures for row in of.runs)]
    if not known:
        return None
    rows: list[list[Cell]] = []
    larger: list[list[Cell]] = []
    for task in of.judgement.tasks:
        for arm in of.arms:
            mine = [row.measures for row in of.of(arm, task)]
            if not mine:
                continue
            found = [[m[name] for m in mine if name in m] for name in known]
            cells = [counted(fmean(values)) if values else "–" for values in found]
            rows.append([arm + of.on(task), *cells, str(len(mine))])
            if times := [m["cpu_s"] for m in mine if "cpu_s" in m]:
                hours = fmean(times) / 3600
                larger.append([arm + of.on(task), *(_hours(of, hours * factor, price) for factor in LARGER)])
    notes = [Line(of.say("cost note") + ("" if "flops" in known else of.say("no flops")))]
    spent = sum(row.measures.get("cpu_s", 0.0) for row in (*of.runs, *trials)) / 3600
    if spent:
        count = len(of.runs) + len(trials)
        notes.append(Line(of.say("all spent", count=count, spent=of.listed(_hours(of, spent, price)))))
    tables = [Table([of.say("arm"), *map(of.with_unit, known), "n"], rows)]
    if larger:
        head = [of.say("arm"), *(of.say("as large", factor=factor) for factor in LARGER)]
        tables.append(Table(head, larger, of.say("projection")))
    return Section(of.say("cost"), notes, tables)


def _hours(of: Context, hours: float, price: float) -> tuple[str, ...]:
    if hours < 0.1:
        shown = of.say("seconds", seconds=f"{3600 * hours:.3g}")
    else:
        shown = of.say("hours", hours=f"{hours:.3g}" if hours < 1000 else f"{hours:,.0f}")
    money = hours * price
    return (shown, of.say("money", price=f"{money:,.2f}" if money >= 0.1 else f"{money:.2g}")) if price else (shown,)


# ---------------------------------------------------------------- what the reward is worth
def probed(of: Context, probes: Mapping[str, Mapping[str, float]]) -> Section | None:
    """What the reward pays without learning, beside what arms reached."""
    rows: list[list[Cell]] = []
    notes = [Line(of.say("probes note"))]
    for task, found in probes.items():
        known = [(arm, one) for arm in of.arms if (one := _rewards(of, arm, task))]
        best = max((fmean(values) for _, values in known), default=None)
        for name, paid in found.items():
            rows.append([of.say("probe", name=name) + of.on(task), brief(paid)])
            if best is not None and paid >= best and not name.startswith(UNTRAINED):
                notes.append(Line(of.say("cheap", name=name, paid=brief(paid), best=brief(best)), "warning"))
        for arm, one in known:
            rows.append([of.say("reached by", arm=arm) + of.on(task), brief(fmean(one))])
    head = ["", of.say("reward")]
    return Section(of.say("probes"), notes, [Table(head, rows)]) if rows else None


UNTRAINED = ("initial model", "best of")
"""Probes that are answers of a model."""


def _rewards(of: Context, arm: str, task: str) -> list[float]:
    return [row.measures["reward"] for row in of.of(arm, task) if "reward" in row.measures]


# ---------------------------------------------------------------- answers
def answers(of: Context, task: str) -> Section | None:
    """The same prompts before training and after it in every arm, of one seed."""
    seeds: dict[int, dict[str, Row]] = {}
    for row in of.runs:
        if row.task == task and row.samples:
            seeds.setdefault(row.seed, {})[row.arm] = row
    if not seeds:
        return None
    seed = max(seeds, key=lambda one: (len(seeds[one]), -one))
    arms = seeds[seed]
    prompts = dict.fromkeys(sample["prompt"] for row in arms.values() for sample in row.samples)
    said = {arm: {sample["prompt"]: sample for sample in row.samples} for arm, row in arms.items()}
    tables = []
    if len(arms) <= BESIDE:
        head = [of.say("prompt"), of.say("initial model"), *arms]
        rows = [
            [prompt, _first(said, prompt), *(_answer(said[arm].get(prompt), "after", 1) for arm in arms)]
            for prompt in prompts
        ]
        tables.append(Table(head, rows, texts=True))
    else:
        for prompt in prompts:
            rows = [[of.say("initial model"), _first(said, prompt)]]
            rows += [[arm, _answer(said[arm].get(prompt), "after", 1)] for arm in arms]
            tables.append(Table([of.say("arm"), of.say("answer")], rows, prompt, texts=True))
    lacking = [arm for arm in of.arms if arm not in arms]
    note = of.say("answers note", seed=seed) + (of.say("answers lack", arms=", ".join(lacking)) if lacking else "")
    return Section(of.say("answers", task=of.on(task)), [Line(note)], tables)


def _first(said: Mapping[str, Mapping[str, Mapping[str, object]]], prompt: str) -> Cell:
    """What the initial model, the same in most arms, said; where it said different things, all."""
    found = dict.fromkeys(_answer(one.get(prompt), "before", 0) for one in said.values() if prompt in one)
    cells = [cell for cell in found if isinstance(cell, tuple)]
    return cells[0] if len(cells) == 1 else tuple(part for cell in cells for part in cell)


def _answer(sample: Mapping[str, object] | None, when: str, place: int) -> Cell:
    if sample is None:
        return "–"
    reward = sample.get("reward")
    paid = brief(float(reward[place])) if isinstance(reward, list) and len(reward) > place else "–"
    return str(sample.get(when, "")) or "∅", f"({paid})"


# ---------------------------------------------------------------- tuning and origin
def tried(of: Context, trials: Sequence[Row]) -> Section | None:
    """Every configuration that tuning tried, with its score."""
    if not trials or of.suite is None:
        return None
    measure, groups = of.suite.tuning.measure, {}
    for row in trials:
        groups.setdefault((row.arm, row.task), []).append(row)
    taken = {(row.arm, row.task): row.chosen for row in of.rows}
    rows: list[list[Cell]] = []
    for (arm, task), mine in groups.items():
        values = [row.measures[measure] for row in mine if row.error is None and measure in row.measures]
        told = ", ".join(f"{name}={value}" for name, value in mine[0].chosen.items()) or "–"
        error = next((row.error for row in mine if row.error), None)
        score = brief(fmean(values)) if len(values) == len(mine) else of.say("trial failed", error=error)
        is_it = taken.get((arm.rpartition(" #")[0], task)) == mine[0].chosen
        rows.append([arm + of.on(task), told, score, str(len(mine)), of.say("taken") if is_it else ""])
    head = [of.say("arm"), of.say("settings"), of.measure(measure), "n", ""]
    way = of.say("highest" if find_measure(measure).higher else "lowest")
    return Section(of.say("tried"), [Line(of.say("tried note", way=way))], [Table(head, rows, texts=True)])


def provenance(of: Context) -> Section:
    """With what rows were made, and how to make them again."""
    lines = []
    suite = of.suite
    if suite is not None:
        lines.append(Line(of.say("suite", name=suite.name, digest=suite.digest)))
        lines += [Line(of.say("again", command=suite.command))] if suite.command else []
    lines.append(Line(of.say("from rows")))
    rows: list[list[Cell]] = []
    for key in ("git_commit", "versions", "platform", "threads"):
        found = dict.fromkeys(_told(row.provenance.get(key)) for row in of.runs)
        rows.append([of.say(key), "; ".join(one or of.say("unknown") for one in found)])
    for task in of.judgement.tasks:
        for what in ("task", "model"):
            found = dict.fromkeys(_told(row.inputs.get(what)) for row in of.runs if row.task == task)
            rows.append([of.say(f"digests {what}") + of.on(task), "; ".join(one or of.say("unknown") for one in found)])
    arms = {arm: [str(row.seed) for row in of.rows if row.arm == arm] for arm in of.arms}
    for arm, seeds in arms.items():
        rows.append([of.say("seeds of", arm=arm), ", ".join(dict.fromkeys(seeds))])
    return Section(of.say("provenance"), lines, [Table(["", ""], rows, texts=True)])


def _told(value: object) -> str:
    """Whatever stands there, as text; digests by their beginnings."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(one)}" for name, one in value.items())
    text = "" if value is None else str(value)
    return text[:12] if len(text) == 64 and all(sign in "0123456789abcdef" for sign in text) else text
