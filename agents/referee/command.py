"""What `coevo compare`, `sweep` and `pareto` do: find out what was given, run what is missing,
judge.

One idea: a file of a suite, run folders and rows that were kept all become rows and claims; from
there on they are the same.
"""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coevo_env.errors import CoevoError, ConfigError

from ..launch.executor import Outcome, run_all
from ..runs.settings import from_dict
from ..training.loop import Run
from .compare import Judgement, judge
from .conduct import Conducted, Runner, conduct, earlier, plan, rows_of
from .frontier import frontier_rows
from .notes import Note
from .probes import probe
from .rows import Row, read_rows
from .suite import NO_MARGIN, Claim, Suite, make_suite, read_suite

__all__ = ["Compared", "compare", "forecast", "pareto", "sweep"]


@dataclass(frozen=True)
class Compared:
    """What a report is made of.

    Attributes:
        judgement: See `coevo_agents.referee.compare`.
        suite: What was to be done, where there was a suite.
        trials: Runs that chose settings.
        probes: Task -> name of a probe -> reward.
        points: Rows of a frontier, before they became curves; else [].
    """

    judgement: Judgement
    suite: Suite | None = None
    trials: list[Row] = field(default_factory=list)
    probes: dict[str, dict[str, float]] = field(default_factory=dict)
    points: list[Row] = field(default_factory=list)


Told = Callable[[Outcome, int, int], None]


def compare(
    places: Sequence[Path],
    out: Path | None = None,
    workers: int = 1,
    report: Told = lambda outcome, done, total: None,
    run: Runner = run_all,
    margin: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> Compared:
    """Compares what is given: one file of a suite, or run folders, or files of rows.

    Args:
        places: See above. Rows lie beside the file of their suite, `NAME.toml` and
            `NAME.rows.jsonl.gz`, or in the folder of one.
        out: Where runs go.
        workers, report, run: See `conduct`.
        margin: The smallest difference in J that matters; of run folders, whose claims are made
            here.
        say: Called with what a person should know.

    Raises:
        ConfigError: What is given is none of these, or does not belong together.
    """
    if not places:
        raise ConfigError("nothing to compare; expected a suite (NAME.toml), run folders, or rows (NAME.jsonl).")
    if len(places) == 1 and places[0].suffix == ".toml":
        return carry_out(read_suite(places[0]), out or Path("runs") / places[0].stem, workers, report, run, say)
    files = [place for place in places if place.name.endswith((".jsonl", ".jsonl.gz"))]
    if files and len(files) == len(places):
        return _kept(files, margin)
    if files or any(place.suffix == ".toml" for place in places):
        raise ConfigError("give one suite, or run folders, or files of rows; not several kinds at once.")
    rows, notes = rows_of(places)
    return Compared(judge(rows, _afterwards(rows, margin), notes, stated=False), probes=_probes(rows, None, say))


def carry_out(
    suite: Suite,
    out: Path,
    workers: int = 1,
    report: Told = lambda outcome, done, total: None,
    run: Runner = run_all,
    say: Callable[[str], None] = lambda line: None,
) -> Compared:
    """Runs what is missing of a suite, and judges it."""
    done = conduct(suite, out, workers, report, run)
    probes = _probes(done.rows, out / "probes.json", say)
    return _judged(suite, done, probes)


def _judged(suite: Suite, done: Conducted, probes: dict[str, dict[str, float]]) -> Compared:
    if suite.frontier is None:
        return Compared(judge(done.rows, suite.claims, done.notes), suite, done.trials, probes)
    rows = frontier_rows(done.rows, suite.frontier)
    return Compared(judge(rows, suite.claims, done.notes), suite, done.trials, probes, done.rows)


def _kept(files: Sequence[Path], margin: float) -> Compared:
    """Rows that were kept, with the suite beside them."""
    rows = [row for file in files for row in read_rows(file)]
    beside = _suite_of(files[0]) if len(files) == 1 else None
    if beside is None:
        return Compared(judge(rows, _afterwards(rows, margin), stated=False))
    suite = read_suite(beside)
    said = earlier(beside.parent) if files[0].name == "rows.jsonl" else []
    text = "The runs began under another suite, {digest}, which claimed: {claim}"
    other = bool(said) and said[0]["digest"] != suite.digest
    first = {"digest": said[0]["digest"][:12], "claim": said[0]["claim"]} if other else {}
    notes: list[str] = [Note("began under another", text, grave=True, **first)] if other else []
    trials = next(iter(_with(files[0], "trials")), None)
    probes = next(iter(_with(files[0], "probes", ".json")), None)
    return _judged(
        suite,
        Conducted(rows, read_rows(trials) if trials else [], notes),
        json.loads(probes.read_text(encoding="utf-8")) if probes else {},
    )


def _suite_of(file: Path) -> Path | None:
    stem = file.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix("rows").removesuffix(".")
    found = [file.with_name(f"{stem or 'suite'}.toml"), file.parent.with_suffix(".toml")]
    return next((path for path in found if path.is_file()), None)


def _with(file: Path, what: str, suffix: str = "") -> list[Path]:
    name = file.name.replace("rows", what)
    if suffix:
        name = name.removesuffix(".gz").removesuffix(".jsonl") + suffix
    return [path for path in [file.with_name(name)] if path.is_file() and path != file]


def _afterwards(rows: Sequence[Row], margin: float) -> list[Claim]:
    """Claims about runs that are there: every arm against the first, by J."""
    arms = list(dict.fromkeys(row.arm for row in rows))
    return [Claim(arm, arms[0], "J", margin or NO_MARGIN) for arm in arms[1:]]


def _probes(rows: Sequence[Row], path: Path | None, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Probes of the reward of each task; kept in a file."""
    if path is not None and path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(row.task for row in rows):
        settings = next((row.settings for row in rows if row.task == task and row.settings), None)
        if settings is None:
            continue
        if ":" in str(settings.get("task")) or ":" in str(settings.get("task_options", {}).get("reward", "")):
            say(f"note: the reward of {task} is code of your own, which rows cannot ask for; it was not probed")
            continue
        try:
            found[task] = probe(from_dict(settings), say)
        except CoevoError as error:
            say(f"note: the reward of {task} could not be probed: {error}")
    if path is not None and found:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


# ---------------------------------------------------------------- suites from words
def sweep(
    swept: Sequence[str],
    seeds: int,
    measure: str = "J",
    margin: float = 0.0,
    base: str = "default",
) -> Suite:
    """A suite from `--set NAME=VALUE[,VALUE...]`: an arm for each combination of the values.

    Args:
        swept: `NAME=VALUE` of every run, and `NAME=VALUE,VALUE,...`.
        seeds: Their number.
        measure, margin: Of the claims: each arm against the first.
        base: A preset.

    Raises:
        ConfigError: There is nothing to sweep, or a setting is unknown.
    """
    values: dict[str, list[str]] = {}
    for item in swept:
        name, separator, some = item.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {item!r}; expected NAME=VALUE,VALUE, such as kl.beta=0.05,0.2,0.8.")
        if name in values:
            raise ConfigError(f"the setting {name} is given twice; give it once.")
        values[name] = some.split(",")
    many = {name: some for name, some in values.items() if len(some) > 1}
    if not many:
        raise ConfigError(
            f"--set {' '.join(swept)}: nothing to sweep; expected several values for one setting at least."
        )
    fixed = {name: some[0] for name, some in values.items() if len(some) == 1}
    arms = {
        ", ".join(f"{name}={value}" for name, value in zip(many, chosen, strict=True)): {
            **dict(zip(many, chosen, strict=True)),
            "why": "it is what is swept",
        }
        for chosen in itertools.product(*many.values())
    }
    first, *others = arms
    suite = make_suite(
        {
            "claim": f"A sweep of {', '.join(many)}: does any value differ from {first}?",
            "seeds": seeds,
            "preset": base,
            "settings": fixed,
            "arms": arms,
            "claims": [
                {"better": arm, "than": first, "measure": measure, "margin": margin or NO_MARGIN} for arm in others
            ],
        },
        "sweep",
    )
    words = [*(f"--set {shlex.quote(item)}" for item in swept), f"--seeds {seeds} --preset {base} --measure {measure}"]
    return replace(suite, command=f"coevo sweep {' '.join(words)} --margin {margin:g}")


def pareto(path: Path) -> Suite:
    """The suite of a file that has a `[frontier]`.

    Raises:
        ConfigError: It has none.
    """
    suite = read_suite(path)
    if suite.frontier is None:
        raise ConfigError(
            f'{path} has no [frontier]; expected one with values, such as setting = "kl.beta", values = [0.05, 0.1, '
            "0.2, 0.4, 0.8]."
        )
    return suite


# ---------------------------------------------------------------- before
def forecast(suite: Suite, workers: int = 1) -> list[str]:
    """What a suite would do: arms, runs, hours, from one iteration of each arm run here and now."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, arm in enumerate(suite.arms):
            config = suite.config(arm, next(iter(suite.tasks)), suite.seeds[0])
            began = time.perf_counter()
            with Run(replace(config, iterations=max(2, config.iterations)), Path(folder) / str(number)) as run:
                run.begin()
                ready = time.perf_counter()
                run.iterate()
                one = time.perf_counter() - ready
            evaluations = 1 + (config.iterations // config.eval_every if config.eval_every else 1)
            seconds[arm.name] = (ready - began) * (2 + evaluations / 2) + one * config.iterations
            shutil.rmtree(Path(folder) / str(number), ignore_errors=True)
    judged = len(plan(suite))
    tried = len(suite.tasks) * len(suite.arms) * suite.tuning.trials * suite.tuning.seeds
    each = len(suite.tasks) * (len(suite.seeds) + suite.tuning.trials * suite.tuning.seeds)
    hours = sum(each * one for one in seconds.values()) / 3600 / workers
    lines = [
        f"claim: {suite.claim}",
        f"suite {suite.digest[:12]}: {judged} runs to judge" + f", {tried} to tune" * bool(tried),
    ]
    for arm in suite.arms:
        told = ", ".join(f"{name}={value}" for name, value in arm.settings.items()) or "the settings of the suite"
        lines.append(f"  {arm.name}: {told}; about {seconds[arm.name]:.0f} s a run")
    for claim in suite.claims:
        lines.append(f"  {claim.better} against {claim.than} by {claim.measure}, margin {claim.margin:g}")
    matched = suite.match.by + (f", as much as {suite.match.like}" if suite.match.like else "")
    lines.append(f"matched by {matched}; {len(suite.seeds)} seeds, {len(suite.tasks)} task(s)")
    lines.append(f"about {hours:.2f} hours with {workers} worker{'s' * (workers != 1)}, as fast as this machine is now")
    return lines
