"""Runs and answers in the terminal: the progress of a run, its summary, its curves, and what agents
say to a prompt.

One idea: these functions only print. What a run folder holds is read by `record`, and the HTML page
is made by `report`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from coevo_env.errors import CoevoError, RewardError
from coevo_env.view.render import ansi, number

from ..runs.record import CURVES, Curve, Record, read_record
from .charts import braille
from .report import COLUMNS, page

if TYPE_CHECKING:
    from coevo_env.faces.batch import BatchEnv

    from ..runs.config import Config
    from ..training.assess import Assessment

__all__ = ["evaluation_table", "page", "play", "progress", "summary_table", "terminal"]

COLORS = ("magenta", "yellow", "cyan", "red", "green", "blue")
"""Of the agents, in order."""

SHOWN_EPISODES = 3


def terminal(run_dir: str | Path, console: Console) -> None:
    """Prints a run: what changed, the curves of every agent, and its last episodes.

    Args:
        run_dir: The run folder, of a finished or an unfinished run.
        console: Where to print.

    Raises:
        ConfigError: The folder holds no run.
    """
    record = read_record(run_dir)
    colors = _colors(record.agents)
    console.print(Text(str(record.directory), "bold"), soft_wrap=True)
    console.print(Text(" · ".join(filter(None, (str(record.config.get("task") or ""), record.state))), "dim"))
    for note in record.notes:
        console.print(Text(note, "yellow"))
    change = record.change()
    if change:
        console.print(_table(change, "" if record.summary else "first and latest evaluation", colors))
    charts = [chart for curve in CURVES if (chart := _chart(record, curve, colors, console.width))]
    if charts:
        names = [Text(f"━ {name}  ", style) for name, style in colors.items()]
        console.print(Text.assemble(*names, (_exchange_note(record), "dim")))
        console.print(Columns(charts, padding=(0, 3)))
    if record.transcripts:
        console.print(Text(f"last episodes (of {len(record.transcripts)} that were kept)", "bold"))
        for transcript in record.transcripts[-SHOWN_EPISODES:]:
            console.print(Text.from_ansi(ansi(transcript, color=console.is_terminal)))


def evaluation_table(assessed: Assessment) -> Table:
    """A table of saved models side by side."""
    table = Table(title=f"{assessed.task}: {assessed.prompts} held-out prompts, each agent alone")
    table.add_column("metric")
    metrics = assessed.metrics()
    for name in metrics:
        table.add_column(name, justify="right")
    for key in next(iter(metrics.values())):
        table.add_row(key, *(f"{values[key]:.4f}" for values in metrics.values()))
    return table


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The table that ends a run: each agent alone on held-out prompts, before and after, with
    samples.

    Args:
        summary: What `Run.train` returned, or `summary.json` holds.
    """
    agents = summary.get("agents", {})
    colors = _colors(list(agents))
    table = _table(
        {name: {when: agent.get(when) or {} for when in ("before", "after")} for name, agent in agents.items()},
        "",
        colors,
    )
    samples = Table("agent", "prompt", "before", "after", box=None, header_style="dim", pad_edge=False)
    for name, agent in agents.items():
        for sample in (agent.get("samples") or [])[:2]:
            texts = [Text(str(sample.get(key, ""))) for key in ("prompt", "before", "after")]
            samples.add_row(Text(name, colors[name]), *texts)
    whole = Table.grid()
    whole.add_row(table)
    if samples.row_count:
        whole.add_row("")
        whole.add_row(samples)
    return whole


@contextmanager
def progress(console: Console, config: Config) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A progress bar with live reward, KL and entropy of every agent.

    Yields:
        `report(iteration, metrics)`, to be called after each iteration.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    names = [f"llm{i + 1}" for i in range(config.num_agents)]
    colors = _colors(names)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=config.iterations)

        def report(iteration: int, metrics: dict[str, float]) -> None:
            parts, held_out = [], []
            for name in names:
                if f"{name}/kl" in metrics:
                    reward, kl, entropy = (
                        number(metrics[f"{name}/{tag}"], digits=2) for tag in ("reward/task", "kl", "entropy")
                    )
                    parts.append(
                        f"[{colors[name]}]{name}[/] reward {reward} kl {kl.lstrip('+')} entropy {entropy.lstrip('+')}"
                    )
                if f"{name}/eval/reward" in metrics:
                    reward, kl = metrics[f"{name}/eval/reward"], metrics.get(f"{name}/eval/kl")
                    held_out.append(
                        f"[{colors[name]}]{name}[/] {number(reward)} (KL {number(kl, sign=False, digits=2)})"
                    )
            bar.update(task, completed=iteration, description="  ".join(parts) or "starting")
            if held_out:
                bar.console.print(f"iteration {iteration:>4}: held-out reward  {'   '.join(held_out)}", highlight=False)

        yield report


def play(
    console: Console, config: Config, models: Sequence[str], prompts: Sequence[str] | None = None, seed: int = 0
) -> None:
    """Answers prompts: every agent in its seat, after reading what it may see, with the numbers of
    each token.

    Args:
        console: Where to print, and to read prompts from where none is given.
        config: Settings of the run that the models come from; its task's templates and rewards are
            used.
        models: Directories or names, in order of play; one alone takes every seat.
        prompts: What to answer; None asks line by line until an empty line or the end of the input.
        seed: Of the sampling noise.
    """
    from dataclasses import replace

    from coevo_env.faces.batch import BatchEnv
    from coevo_env.faces.build import build
    from coevo_env.game.kl import KLConfig
    from coevo_env.lm.load import load_language_model
    from coevo_env.tasks import make_task

    the_task = make_task(config.task, **config.task_options)
    loaded = [load_language_model(path, the_task, device=config.device, dtype=config.dtype) for path in models]
    base = config.model or the_task.model
    reference = (
        loaded[0]
        if list(models) == [base]
        else load_language_model(base, the_task, device=config.device, dtype=config.dtype)
    )
    seats = max(config.num_agents, 1)
    options = {
        **config.game(),
        "roles": "never",
        "kl": KLConfig(mode="reported", beta=config.kl.beta),
        "seed": seed,
        "task_options": None,
    }
    known = {
        str(prompt): prompt for split in (the_task.test, the_task.validation, the_task.train) for prompt in split
    }  # with their gold answers
    for count, typed in enumerate(_asked(console) if prompts is None else prompts):
        prompt = known.get(typed, typed)
        try:
            one = replace(the_task, train=[prompt], validation=(), test=[f"not {prompt}"])
            game = _answer(BatchEnv(1, rules=build(one, reference, **options)[0], reference=reference), loaded, count)
        except RewardError as error:  # an answer is worth reading also where nobody knows what it is worth
            console.print(Text(f"not scored: {error}", "yellow"))
            one = replace(one, rewards={"unknown": lambda asked, said: [0.0] * len(said)})
            game = _answer(BatchEnv(1, rules=build(one, reference, **options)[0], reference=reference), loaded, count)
        except CoevoError as error:  # a prompt that does not fit is no reason to leave
            if prompts is not None:
                raise
            console.print(Text(f"error: {error}", "red"))
            continue
        _print_answer(console, game)
    if seats > 1 and len(models) == 1:
        console.print(Text(f"one model took all {seats} seats", "dim"))


def _answer(game: BatchEnv, models: Sequence[Any], episode: int) -> BatchEnv:
    game.reset(episode)
    while (turn := game.begin_turn()) is not None:
        drawn = models[turn.seat % len(models)].generate(
            turn.contexts, turn.max_new_tokens, turn.sampling, turn.uniforms()
        )
        game.submit_turn(drawn.tokens, drawn.lengths, drawn.logprobs)
    return game


def _print_answer(console: Console, game: BatchEnv) -> None:
    transcript = {**game.transcripts()[0], "prompt_index": None}  # it was typed, and is of no split
    console.print(Text.from_ansi(ansi(transcript, color=console.is_terminal)))
    for index, turn in enumerate(transcript["turns"]):
        console.print(_tokens(turn, COLORS[index % len(COLORS)]))


def _asked(console: Console) -> Iterator[str]:
    console.print("Type a prompt; an empty line ends.", style="dim")
    while True:
        try:
            prompt = console.input("[bold]prompt>[/] ").strip()
        except EOFError:
            return
        if not prompt:
            return
        yield prompt


def _tokens(turn: Mapping[str, Any], style: str) -> Table:
    """Every token of a turn with its numbers; the team reward stands on the last one."""
    table = Table(
        title=Text(f"{turn['agent']} ({turn['role']})", style),
        title_justify="left",
        box=None,
        header_style="dim",
        pad_edge=False,
    )
    table.add_column("token")
    for heading in ("log-prob", "reference", "KL", "reward"):
        table.add_column(heading, justify="right")
    last = len(turn["tokens"]) - 1
    for i, piece in enumerate(turn["pieces"]):
        reward = turn["shaping"][i] + (turn["team_reward"] if i == last else 0.0)
        numbers = [number(turn[key][i]) for key in ("logprobs", "ref_logprobs", "kl")]
        table.add_row(Text(repr(piece)[1:-1]), *numbers, number(reward))
    return table


def _table(change: Mapping[str, Mapping[str, Mapping[str, float]]], caption: str, colors: Mapping[str, str]) -> Table:
    table = Table(
        title="Each agent alone on held-out prompts, before → after", title_justify="left", caption=caption or None
    )
    table.add_column("agent")
    known = [
        column for column in COLUMNS if any(column[0] in values for when in change.values() for values in when.values())
    ]
    for _, heading, _ in known:
        table.add_column(heading, justify="right")
    for name, when in change.items():
        cells = []
        for key, _, digits in known:
            before, after = (
                number(when[time].get(key), sign=False, digits=digits, tiny=False) for time in ("before", "after")
            )
            cells.append(Text.assemble((f"{before} → ", "dim"), (after, "bold")))
        table.add_row(Text(name, colors.get(name, "")), *cells)
    return table


def _chart(record: Record, curve: Curve, colors: Mapping[str, str], console_width: int) -> Group | None:
    """One curve of every agent: what training saw, or where that was never written the
    evaluations."""
    series = {name: record.series(f"{name}/{curve.tag}") for name in record.agents}
    if not any(points[0] for points in series.values()) and curve.held_out:
        series = {name: record.series(f"{name}/{curve.held_out}") for name in record.agents}
    values = [y for points in series.values() for y in points[1]]
    if not values:
        return None
    width = max(12, min(48, (console_width - 3) // 2 - 9 if console_width >= 70 else console_width - 10))
    rows = braille(series, width)
    labels = [
        f"{number(max(values), sign=False):>8}",
        *[" " * 8] * (len(rows) - 2),
        f"{number(min(values), sign=False):>8}",
    ]
    lines = [
        Text.assemble((label, "dim"), " ", *((dot, colors.get(who or "", "")) for dot, who in row))
        for label, row in zip(labels, rows, strict=True)
    ]
    return Group(Text.assemble((curve.title, "bold"), "  ", (curve.unit, "dim")), *lines)


def _exchange_note(record: Record) -> str:
    exchanges = len(record.exchanges()) - 1
    return f"iterations {int(record.metrics[0]['iteration'])} to {record.iteration}" + (
        f", {exchanges} role exchanges" if exchanges > 0 else ""
    )


def _colors(names: Sequence[str]) -> dict[str, str]:
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
