"""Runs and answers in the terminal: a run's summary and curves, and what agents say to a prompt.

One idea: these functions only print. What a run folder holds is read by `record`, and the HTML page
is made by `report`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from coevo_env.errors import CoevoError, RewardError
from coevo_env.view.render import ansi, number

from ..methods.audit import sentence as sentence_of_alarm
from ..runs.record import CURVES, Curve, Record, read_record
from .charts import braille
from .console import agent_colors, paints, writes
from .report import held_out, sentence
from .tables import change_table

if TYPE_CHECKING:
    from coevo_env.faces.batch import BatchEnv

    from ..runs.config import Config

__all__ = ["play", "terminal"]

SHOWN_EPISODES, SHOWN_ALARMS = 3, 6


def terminal(run_dir: str | Path, console: Console) -> None:
    """Prints a run: what changed, the curves of every agent, and its last episodes.

    Args:
        run_dir: The run folder, of a finished or an unfinished run.
        console: Where to print.

    Raises:
        ConfigError: The folder holds no run.
    """
    record = read_record(run_dir)
    colors = agent_colors(record.agents)
    console.print(Text(str(record.directory), "bold"), soft_wrap=True)
    console.print(Text(sentence(record)))
    console.print(Text(record.state, "dim"))
    for note in record.notes:
        console.print(Text(note, "yellow"))
    for alarm in record.alarms[:SHOWN_ALARMS]:
        console.print(Text(sentence_of_alarm(alarm), "red"))
    if len(record.alarms) > SHOWN_ALARMS:
        console.print(Text(f"... and {len(record.alarms) - SHOWN_ALARMS} alarms more, in alarms.jsonl", "red"))
    change = record.change()
    if change:
        console.print(change_table(change, *held_out(record), record.ci95()))
    charts = [chart for curve in CURVES if (chart := _chart(record, curve, colors, console))]
    if charts:
        names = [Text(f"━ {name}  ", style) for name, style in colors.items()]
        console.print(Text.assemble(*names, (_exchange_note(record), "dim")))
        console.print(Columns(charts, padding=(0, 3)))
    if record.transcripts:
        console.print(Text(f"last episodes (of {len(record.transcripts)} that were kept)", "bold"))
        for transcript in record.transcripts[-SHOWN_EPISODES:]:
            console.print(Text.from_ansi(ansi(transcript, color=paints(console))))


def play(
    console: Console,
    config: Config,
    models: Sequence[str],
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    run: Path | None = None,
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
        run: The run folder that the models come from, where they do not lie in it.

    Raises:
        ConfigError: A model cannot be loaded, or is not what its run saved; or the run was made
            with something else than is there now.
    """
    from dataclasses import replace

    from coevo_env.faces.batch import BatchEnv
    from coevo_env.faces.build import build
    from coevo_env.game.kl import KLConfig

    the_task, loaded, reference = _loaded(console, config, models, run)
    seats = max(config.num_agents, 1)
    options = {
        **config.game(control=False),
        "roles": "never",
        "kl": KLConfig(mode="reported", beta=config.kl.beta),
        "seed": seed,
        "task_options": None,
    }
    splits = (the_task.test, the_task.validation, the_task.train)
    known = {str(prompt): prompt for split in splits for prompt in split}  # with their gold answers
    for count, typed in enumerate(_asked(console) if prompts is None else prompts):
        _tell_unknown(console, loaded[0].tokenizer, typed)
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


def _loaded(console: Console, config: Config, models: Sequence[str], run: Path | None) -> tuple[Any, list[Any], Any]:
    """The task, the models and the reference, after a look at whether they are those of the run."""
    from coevo_env.lm.load import load_language_model
    from coevo_env.tasks import make_task

    from ..training.assess import compared

    task = make_task(config.task, **config.task_options)
    loaded = [load_language_model(path, task, device=config.device, dtype=config.dtype) for path in models]
    base = config.model or task.model
    alone = list(models) == [base]
    reference = loaded[0] if alone else load_language_model(base, task, device=config.device, dtype=config.dtype)
    for note in compared(config, task, models, reference, run):
        console.print(Text(note, "dim"))
    return task, loaded, reference


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
    console.print(Text.from_ansi(ansi(transcript, color=paints(console))))
    colors = agent_colors(game.agents)
    for turn in transcript["turns"]:
        console.print(_tokens(turn, colors[turn["agent"]]))


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


def _tell_unknown(console: Console, tokenizer: Any, text: str) -> None:
    if words := _unknown_words(tokenizer, text):
        told = f"not in the vocabulary: {', '.join(map(repr, words))}; the agents read <unk> there"
        console.print(Text(told, "yellow"))


def _unknown_words(tokenizer: Any, text: str) -> list[str]:
    """The words that the tokenizer has no tokens for, each once."""
    hf = getattr(tokenizer, "hf", None)
    unknown = getattr(hf, "unk_token_id", None)
    if hf is None or unknown is None:
        return []

    def known(word: str) -> bool:
        try:
            return unknown not in hf.encode(word, add_special_tokens=False)
        except Exception:  # a tokenizer that refuses it says so where the prompt is encoded
            return True

    return [word for word in dict.fromkeys(text.split()) if not known(word)]


def _tokens(turn: Mapping[str, Any], style: str) -> Table:
    """Every token of a turn with its numbers; the team reward stands on the last one."""
    table = Table(
        title=Text(f"{turn['agent']} ({turn['role']})", style),
        title_justify="left",
        box=None,
        header_style="dim",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("token", overflow="fold")
    for heading in ("log-prob", "reference", "KL", "reward"):
        table.add_column(heading, justify="right", overflow="fold")
    last = len(turn["tokens"]) - 1
    for i, piece in enumerate(turn["pieces"]):
        reward = turn["shaping"][i] + (turn["team_reward"] if i == last else 0.0)
        numbers = [number(turn[key][i]) for key in ("logprobs", "ref_logprobs", "kl")]
        table.add_row(Text(repr(piece)[1:-1]), *numbers, number(reward))
    return table


def _chart(record: Record, curve: Curve, colors: Mapping[str, str], console: Console) -> Group | None:
    """One curve of every agent: what training saw, or where that was never written the
    evaluations."""
    series = {name: record.series(f"{name}/{curve.tag}") for name in record.agents}
    if not any(points[0] for points in series.values()) and curve.held_out:
        series = {name: record.series(f"{name}/{curve.held_out}") for name in record.agents}
    values = [y for points in series.values() for y in points[1]]
    if not values:
        return None
    width = max(12, min(48, (console.width - 3) // 2 - 9 if console.width >= 70 else console.width - 10))
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
    title, unit = writes(console, curve.title), writes(console, curve.unit)
    return Group(Text.assemble((title, "bold"), "  ", (unit, "dim")), *lines)


def _exchange_note(record: Record) -> str:
    exchanges = len(record.exchanges()) - 1
    return f"iterations {int(record.metrics[0]['iteration'])} to {record.iteration}" + (
        f", {exchanges} role exchanges" if exchanges > 0 else ""
    )
