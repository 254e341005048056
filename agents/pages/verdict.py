"""A judgement shown: in the terminal, as Markdown, and as one self-contained page.

One idea: verdicts come first, for who decides; the rest is for who checks. What a report is made of
is computed elsewhere, and how it looks is in `coevo_agents.pages.sections`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from coevo_env.errors import printable

from ..referee import statistics
from ..referee.compare import Difference, Judged, Judgement
from ..referee.frontier import dominated, method_of
from ..referee.measures import find_measure
from ..referee.rows import Row
from ..referee.suite import NO_MARGIN, Suite
from .charts import svg
from .sections import Report, Section
from .words import LANGUAGES, phrase

__all__ = ["LANGUAGES", "report"]

REACHED = ("reward", "kl", "J", "distinct_2", "repeat", "length", "drawdown", "collapsed", "hypervolume")
COST = (
    *("episodes", "prompt_tokens", "generated_tokens", "reference_tokens", "trained_tokens", "value_tokens", "flops"),
    *("cpu_s", "wall_s", "gain_per_mtoken", "gain_per_cpu_hour"),
)
CURVES = ("reward", "kl", "distinct_2", "length")
FACTOR = 100
"""How much larger a run is whose cost is projected."""


# ---------------------------------------------------------------- sections
def report(
    judgement: Judgement,
    suite: Suite | None = None,
    trials: Sequence[Row] = (),
    probes: Mapping[str, Mapping[str, float]] | None = None,
    lang: str = "en",
    *,
    points: Sequence[Row] = (),
    price: float = 0.0,
) -> Report:
    """Makes a report.

    Args:
        judgement: What came of the runs.
        suite: What was to be done.
        trials: Runs that chose settings.
        probes: Task -> name of a probe -> reward.
        lang: "en" or "ja".
        points: Rows of a frontier before they became curves.
        price: Of a processor hour, for the projection.
    """
    made = _Sections(judgement, suite, lang, list(points) or judgement.rows)
    name = suite.name if suite else ", ".join(judgement.tasks)
    sections = [
        made.verdicts(),
        made.notes(),
        made.failed(),
        made.differed(),
        *(made.reached(task) for task in judgement.tasks),
        made.differences(),
        *(made.curves(task) for task in judgement.tasks),
        *(made.frontier(task) for task in judgement.tasks),
        made.collapse(),
        made.cost(price),
        made.probed(probes or {}),
        *(made.side_by_side(task) for task in judgement.tasks),
        made.tried(trials),
        made.provenance(),
    ]
    shown = [_clean(section) for section in sections if section is not None]
    return Report(printable(phrase(lang, "title", name=name)), lang, shown, [printable(name) for name in made.methods])


def _clean(section: Section) -> Section:
    """Texts as they can be printed; rows can come from anywhere."""
    return Section(
        printable(section.title),
        [printable(line) for line in section.lines],
        [printable(name) for name in section.head],
        [[printable(cell) for cell in row] for row in section.rows],
        section.charts,
        section.strong,
    )


class _Sections:
    def __init__(self, judgement: Judgement, suite: Suite | None, lang: str, runs: Sequence[Row]):
        self.j, self.suite, self.lang = judgement, suite, lang
        self.runs = [row for row in runs if row.error is None]
        self.methods = list(dict.fromkeys(method_of(row.arm) for row in runs))

    def say(self, key: str, **values: object) -> str:
        return phrase(self.lang, key, **values)

    def on(self, task: str) -> str:
        """The name of a task, where there are several."""
        return self.say("on", task=task) if len(self.j.tasks) > 1 else ""

    def verdicts(self) -> Section:
        lines = [] if self.suite is None else [self.suite.claim]
        lines += [] if self.j.stated else [self.say("afterwards")]
        lines += [note for note in self.j.notes if "SUITE WAS CHANGED" in note]
        return Section(self.say("claim"), [*lines, *(self.sentence(one) for one in self.j.judged)], strong=True)

    def sentence(self, judged: Judged) -> str:
        claim, found = judged.claim, judged.difference
        values: dict[str, object] = {
            "ours": claim.better,
            "theirs": claim.than,
            "measure": find_measure(claim.measure).title,
            "task": self.on(judged.task),
            "margin": f"{claim.margin:g}",
        }
        if found is None:
            return self.say("nothing", **values)
        values.update(difference=str(found.mean), count=len(found.values), p=f"{judged.adjusted:.3g}")
        kind = judged.verdict.kind
        if claim.equal and kind in ("supported", "contradicted"):
            other = "supported" if found.mean.estimate > 0 else "contradicted"
            kind = "equivalent" if kind == "supported" else other
        if kind == "undecided" and claim.margin <= NO_MARGIN:
            kind = "undecided bare"
        elif kind == "undecided":
            values["needed"] = statistics.seeds_needed(stdev(found.values), claim.margin)
        said = self.say(kind or "no verdict", **values)
        return f"{said} {self.say('equal claim')}" if claim.equal else said

    def notes(self) -> Section | None:
        lines = [note for note in self.j.notes if "SUITE WAS CHANGED" not in note]
        return Section(self.say("notes"), lines) if lines else None

    def failed(self) -> Section | None:
        rows = [[f"{row.arm}", row.task, str(row.seed), str(row.error)[:300]] for row in self.j.failed]
        head = [self.say(key) for key in ("arm", "task", "seed", "error")]
        return Section(self.say("failed"), (), head, rows) if rows else None

    def differed(self) -> Section | None:
        if self.suite is None:
            return None
        rows = []
        for arm in self.suite.arms:
            told = ", ".join(f"{name}={value}" for name, value in arm.settings.items()) or self.say("the suite's")
            chosen = {
                ", ".join(f"{k}={v}" for k, v in row.chosen.items()) for row in self.runs if row.arm == arm.name
            } - {""}
            rows.append([arm.name, told, arm.why, "; ".join(sorted(chosen))])
        like = self.say("like", arm=self.suite.match.like) if self.suite.match.like else ""
        seeds = self.say("seeds", count=len(self.suite.seeds))
        matched = self.say("matched", by=self.suite.match.by, like=like, seeds=seeds)
        head = [self.say(key) for key in ("arm", "settings", "why", "tuned to")]
        keep = [i for i in range(4) if i < 2 or any(row[i] for row in rows)]
        return Section(
            self.say("differed"), [matched], [head[i] for i in keep], [[row[i] for i in keep] for row in rows]
        )

    def reached(self, task: str) -> Section | None:
        known = [m for m in REACHED if any(self.j.cell(arm, task, m) for arm in self.j.arms)]
        claimed = [one.claim.measure for one in self.j.judged if one.claim.measure not in known]
        known += [m for m in dict.fromkeys(claimed) if any(self.j.cell(arm, task, m) for arm in self.j.arms)]
        if not known:
            return None
        rows = []
        for arm in self.j.arms:
            cells = [self.j.cell(arm, task, measure) for measure in known]
            count = max((len(cell.values) for cell in cells if cell), default=0)
            rows.append([arm, *(_cell(cell.mean) if cell else "" for cell in cells), str(count)])
        measured = next((row.measured for row in self.runs if row.task == task), {})
        on = ", ".join(f"{key} {value}" for key, value in measured.items() if key != "asked")
        head = [self.say("arm"), *(find_measure(name).title for name in known), "n"]
        return Section(self.say("reached", task=self.on(task)), [self.say("mean", on=on)], head, rows)

    def differences(self) -> Section | None:
        rows = []
        for one in self.j.judged:
            if (found := one.difference) is None:
                continue
            measure = find_measure(found.measure).title + self.on(one.task)
            rows.append([f"{found.ours} - {found.theirs}, {measure}", *_numbers(one, found)])
        keys = ("difference", "over prompts", "iqm", "chance", "p", "adjusted", "equal p", "power", "margin")
        head = [self.say("arm"), *(self.say(key) for key in keys), "n"]
        return Section(self.say("differences"), [self.say("positive")], head, rows) if rows else None

    def curves(self, task: str) -> Section | None:
        if self.suite is not None and self.suite.frontier is not None:
            return None
        charts = []
        for tag in CURVES:
            lines, areas, last = {}, {}, 0.0
            for arm in dict.fromkeys(row.arm for row in self.runs if row.task == task):
                mine = [row.curves for row in self.runs if (row.arm, row.task) == (arm, task) and row.curves.get(tag)]
                if not mine:
                    continue
                size = min(len(one[tag]) for one in mine)
                x = mine[0]["iteration"][:size]
                mean, low, high = statistics.band([one[tag][:size] for one in mine])
                lines[arm], areas[arm] = (x, mean), (x, low, high)
                last = max(last, x[-1])
            if len(lines) <= 12 and (drawn := svg(_named(lines), {}, (0.0, last), areas=_named(areas))):
                measure = find_measure(tag)
                charts.append({**drawn, "title": measure.title, "unit": measure.unit})
        return (
            Section(self.say("curves", task=self.on(task)), [self.say("curves note")], charts=charts)
            if charts
            else None
        )

    def frontier(self, task: str) -> Section | None:
        runs = [row for row in self.runs if row.task == task and {"reward", "kl"} <= set(row.measures)]
        if not runs:
            return None
        dots = {
            method: ([r.measures["kl"] for r in mine], [r.measures["reward"] for r in mine])
            for method in self.methods
            if (mine := [row for row in runs if method_of(row.arm) == method])
        }
        lines = {}
        for method in dots:
            means = sorted(
                (
                    float(fmean([r.measures["kl"] for r in runs if r.arm == arm])),
                    float(fmean([r.measures["reward"] for r in runs if r.arm == arm])),
                )
                for arm in {row.arm for row in runs if method_of(row.arm) == method}
            )
            lines[method] = ([x for x, _ in means], [y for _, y in means])
        last = max(x for xs, _ in dots.values() for x in xs)
        drawn = svg(_named(lines), {}, (0.0, last * 1.05), dots=_named(dots))
        told = []
        for ours in lines:
            for theirs in lines:
                if ours != theirs and self.suite is not None and self.suite.frontier is not None:
                    share = f"{dominated(runs, ours, theirs, task):.0%}"
                    told.append(self.say("dominated", share=share, ours=ours, theirs=theirs))
        note = self.say("frontier note", dominated=" ".join(told))
        chart = [{**drawn, "title": find_measure("reward").title, "unit": "/ KL, nats"}] if drawn else []
        return Section(self.say("frontier", task=self.on(task)), [note], charts=chart)

    def collapse(self) -> Section | None:
        rows = []
        for task in self.j.tasks:
            for arm in dict.fromkeys(row.arm for row in self.runs):
                mine = [r for r in self.runs if (r.arm, r.task) == (arm, task) and "collapsed" in r.measures]
                gone = [r for r in mine if r.measures["collapsed"]]
                alarmed = [r for r in mine if r.measures.get("alarmed")]
                if gone or alarmed:
                    when = ", ".join(f"{r.measures.get('collapse_at', 0):.0f}" for r in gone)
                    rows.append([arm + self.on(task), str(len(mine)), str(len(gone)), when, str(len(alarmed))])
        head = [self.say(key) for key in ("arm", "runs", "collapsed runs", "at iterations", "alarms")]
        if not any("collapsed" in row.measures for row in self.runs):
            return None
        note = self.say("collapse note" if rows else "collapse none")
        return Section(self.say("collapse"), [note], head, rows)

    def cost(self, price: float) -> Section | None:
        known = [m for m in COST if any(m in row.measures for row in self.runs)]
        if not known:
            return None
        rows, told = [], []
        for arm in dict.fromkeys(row.arm for row in self.runs):
            mine = [row.measures for row in self.runs if row.arm == arm]
            means = [
                fmean([m[name] for m in mine if name in m]) if any(name in m for m in mine) else None for name in known
            ]
            rows.append([arm, *("" if value is None else _short(float(value)) for value in means)])
            if any("cpu_s" in m for m in mine):
                hours = FACTOR * float(fmean([m["cpu_s"] for m in mine if "cpu_s" in m])) / 3600
                money = self.say("money", price=f"{hours * price:.2f}") if price else ""
                told.append(self.say("projection", arm=arm, factor=FACTOR, hours=f"{hours:.1f}", money=money))
        head = [self.say("arm"), *(f"{find_measure(m).title} ({find_measure(m).unit})" for m in known)]
        return Section(self.say("cost"), [self.say("cost note"), *told], head, rows)

    def probed(self, probes: Mapping[str, Mapping[str, float]]) -> Section | None:
        rows = [[name + self.on(task), f"{paid:.3f}"] for task, found in probes.items() for name, paid in found.items()]
        head = [self.say("probe"), self.say("reward")]
        return Section(self.say("probes"), [self.say("probes note")], head, rows) if rows else None

    def side_by_side(self, task: str) -> Section | None:
        mine = [row for row in self.runs if row.task == task and row.samples]
        if not mine:
            return None
        seed = mine[0].seed
        arms = {row.arm: row for row in mine if row.seed == seed}
        first = next(iter(arms.values()))
        rows = [
            [
                str(sample["prompt"]),
                f"{sample['before']} ({sample['reward'][0]:.2f})",
                *(
                    f"{row.samples[n]['after']} ({row.samples[n]['reward'][1]:.2f})" if n < len(row.samples) else ""
                    for row in arms.values()
                ),
            ]
            for n, sample in enumerate(first.samples)
        ]
        head = [self.say("prompt"), self.say("initial model"), *arms]
        title = self.say("side by side", task=self.on(task))
        return Section(title, [f"{self.say('seed')} {seed}, llm1"], head, rows)

    def tried(self, trials: Sequence[Row]) -> Section | None:
        if not trials or self.suite is None:
            return None
        measure, groups = self.suite.tuning.measure, {}
        for row in trials:
            groups.setdefault((row.arm, row.task), []).append(row)
        rows = []
        for (arm, task), mine in groups.items():
            values = [row.measures[measure] for row in mine if row.error is None and measure in row.measures]
            told = ", ".join(f"{name}={value}" for name, value in mine[0].chosen.items())
            score = f"{fmean(values):.3f}" if len(values) == len(mine) else str(next(r.error for r in mine if r.error))
            rows.append([arm + self.on(task), told, score, str(len(mine))])
        head = [self.say("arm"), self.say("settings"), find_measure(measure).title, "n"]
        return Section(self.say("tried"), [self.say("tried note")], head, rows)

    def provenance(self) -> Section:
        lines = []
        if self.suite is not None:
            lines.append(self.say("suite", name=self.suite.name, digest=self.suite.digest))
            lines.append(self.say("again", command=f"coevo compare {self.suite.name}.toml"))
        rows = []
        for key, of in (
            ("commit", lambda p: str(p.get("git_commit"))),
            ("versions", lambda p: ", ".join(f"{k} {v}" for k, v in p.get("versions", {}).items())),
            ("platform", lambda p: str(p.get("platform"))),
        ):
            found = sorted({of(row.provenance) for row in self.runs})
            rows.append([self.say(key), "; ".join(found)])
        return Section(self.say("provenance"), lines, ["", ""], rows)


def _named(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The same by names that can be printed."""
    return {printable(name): points for name, points in drawn.items()}


def _numbers(judged: Judged, found: Difference) -> list[str]:
    """A difference as cells."""
    return [
        str(found.mean),
        str(found.prompts) if found.prompts else "",
        str(found.iqm),
        _cell(found.chance, 2),
        f"{found.pvalue:.3g}",
        f"{judged.adjusted:.3g}",
        f"{judged.equivalence:.3g}" if judged.claim.margin > NO_MARGIN else "",
        "" if judged.powered is None or judged.claim.margin <= NO_MARGIN else f"{judged.powered:.2f}",
        f"{judged.claim.margin:g}" if judged.claim.margin > NO_MARGIN else "",
        str(len(found.values)),
    ]


def _cell(found: statistics.Interval, digits: int = 3) -> str:
    """A mean and its interval, without signs."""
    if found.low is None or found.high is None:
        return f"{found.estimate:.{digits}f}"
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _short(value: float) -> str:
    """A large number, short.

    >>> _short(1234567.0), _short(12.345)
    ('1.23e+06', '12.3')
    """
    return f"{value:.3g}" if abs(value) < 1e4 or abs(value) >= 1e6 else f"{value:,.0f}"
