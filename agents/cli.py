"""The `coevo` command.

One idea: a command reads words, calls one function of the package and prints what came back. Errors
that a user can mend are one message and a non-zero exit, never a traceback.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

import coevo_env
from coevo_env.errors import CoevoError, first_line, printable, short_of_memory

from .learners.learner import LEARNERS
from .pages.console import open_consoles
from .runs.presets import PRESETS

app = typer.Typer(
    name="coevo",
    help="Multi-agent reinforcement learning for language models: train agents that answer together, and look at "
    "what they learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console(emoji=False)  # ":b:" is part of a name
errors = Console(stderr=True, emoji=False)


def main() -> None:
    """Entry point of the command."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # "module:function" finds a file beside the user, and never hides an installed module
    threading.excepthook = _in_thread
    _hear()
    open_consoles()
    try:
        app()
    except CoevoError as error:
        _fail(str(error), getattr(error, "code", 1))
    except (KeyboardInterrupt, SystemExit) as stop:  # typer ends with 130 where Ctrl-C was pressed
        code = stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else 130
        if code not in STOPPED:
            raise
        _fail(
            "stopped at once. What was saved before is whole; a run that has begun goes on with: coevo train --resume "
            "RUN",
            code,
        )
    except BrokenPipeError:
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        if short_of_memory(error):
            _fail(f"out of memory: {first_line(error).rstrip('.')}. Take a smaller model, or fewer prompts.")
        if not isinstance(error, OSError):
            raise
        # a file or folder of the user's that cannot be read or written
        _fail(f"{type(error).__name__}: {error}. Check the path, its permissions and the space left.")


STOPPED = (130, 143)
"""Exit statuses after Ctrl-C and SIGTERM."""


def _hear() -> None:
    """SIGTERM, by which schedulers take a machine back, ends a command like Ctrl-C does; while a
    run goes, it is the run's (`deferred_interrupt`)."""

    def leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)


def _in_thread(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread, and what stops it there is raised once more where the run is,
    which says so."""
    if not (issubclass(failed.exc_type, OSError) and type(failed.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(failed)


def _fail(message: str, code: int = 1) -> NoReturn:
    label = "" if code > 128 else "[bold red]error:[/] "
    errors.print(f"{label}{_escape(printable(message))}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _say(line: str) -> None:
    """Prints a line as it is: no markup, no colours, and no line break inside a path."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _aside(line: str) -> None:
    """The same beside what was asked for."""
    errors.print(printable(line), style="dim", markup=False, highlight=False, soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# The options of `coevo train`.
Preset = Annotated[str | None, typer.Option(help=f"Named settings: {', '.join(PRESETS)}.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings from a TOML file, or those of a run: RUN/config.json."),
]
Task = Annotated[str | None, typer.Option(help="Task name (see `coevo tasks`), or package.module:function.")]
Prompts = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Prompts of your own (JSONL, JSON, CSV, TSV, text, Parquet, a folder, hub:owner/name): task own.",
    ),
]
PromptColumn = Annotated[str | None, typer.Option(help="Column of the prompts.")]
AnswerColumn = Annotated[str | None, typer.Option(help="Column of the gold answers.")]
Reward = Annotated[
    str | None, typer.Option(help="Reward of your prompts: number, exact, length:20, ..., or module:function.")
]
Template = Annotated[
    list[str] | None,
    typer.Option(metavar="ROLE=TEXT", help=r"What pioneer or observer reads; \n is a line break. Repeatable."),
]
Chat = Annotated[
    str | None, typer.Option(metavar="auto|true|false", help="Whether prompts go through the model's chat template.")
]
Model = Annotated[str | None, typer.Option(help="embedded, smollm2, a model directory, or a hub name.")]
Learner = Annotated[str | None, typer.Option(help=f"{', '.join(LEARNERS)}, or package.module:Class.")]
Agents = Annotated[int | None, typer.Option(help="Number of agents N; 1 is ordinary RL fine-tuning.")]
Iterations = Annotated[int | None, typer.Option(help="Length of the run.")]
BatchSize = Annotated[int | None, typer.Option(help="Episodes per iteration.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything.")]
StopOn = Annotated[
    str | None,
    typer.Option(
        metavar="collapse|never",
        help="collapse: save and end, with exit status 3, when the collapse audit gives its first alarm.",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting by dotted name, e.g. --set kl.beta=0.1. Repeatable."),
]
Out = Annotated[Path | None, typer.Option(help="Run folder; by default a new one in runs/.")]
Resume = Annotated[
    Path | None, typer.Option(help="Continue the run in this folder (only --iterations and --stop-on may change).")
]
ListSettings = Annotated[
    bool,
    typer.Option(
        "--list-settings", help="Print every setting that applies, as a TOML file with explanations, and exit."
    ),
]


@app.command()
def train(
    preset: Preset = None,
    config_file: ConfigFile = None,
    task: Task = None,
    prompts: Prompts = None,
    prompt_column: PromptColumn = None,
    answer_column: AnswerColumn = None,
    reward: Reward = None,
    template: Template = None,
    chat: Chat = None,
    model: Model = None,
    learner: Learner = None,
    agents: Agents = None,
    iterations: Iterations = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    stop_on: StopOn = None,
    device: Device = None,
    settings: Settings = None,
    out: Out = None,
    resume: Resume = None,
    list_settings: ListSettings = False,
) -> None:
    """Trains agents on a task. Without options: two agents, PPO, role exchange, on the embedded
    model, in about two minutes."""
    named = {
        "task": task,
        "chat": chat,
        "model": model,
        "learner": learner,
        "num_agents": agents,
        "iterations": iterations,
        "batch_size": batch_size,
        "seed": seed,
        "stop_on": stop_on,
        "device": device,
    }
    if not list_settings:
        _say(f"coevo {coevo_env.__version__}: loading PyTorch")  # before what takes seconds to import
    from .pages.training import trained
    from .runs.given import chosen, fresh_folder, overrides, own_data, resumed
    from .runs.settings import listing

    named |= own_data(task, prompts, prompt_column, answer_column, reward, template or [])
    given = overrides(named, settings or [])
    if resume is not None:
        alone = preset is None and config_file is None and out is None
        config, folder = resumed(resume, given, alone), resume
    else:
        config, folder = chosen(preset, config_file, given), out
    if list_settings:
        for line in listing(config):
            _say(line)
    elif folder is not None:
        trained(console, config, folder, resume is not None)
    else:
        with fresh_folder(config.task if task or config_file else preset or config.task) as folder:
            trained(console, config, folder, False)


@app.command("eval")
def evaluate(
    agent: Annotated[
        str,
        typer.Argument(help="A run folder, a saved agent in it (RUN/agents/llm1), any model directory, or a hub name."),
    ],
    task: Annotated[str | None, typer.Option(help="Task; by default the run's, else sentiment.")] = None,
    reward: Annotated[str | None, typer.Option(help="The run's reward once more, where it is code of yours.")] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model to measure KL against; by default the run's initial model. A model of no run needs it for a KL."
        ),
    ] = None,
    prompts: Annotated[int | None, typer.Option(help="Test prompts; by default as many as the run used.")] = None,
    draws: Annotated[int | None, typer.Option(help="Answers to each; by default as many as the run used.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or auto; by default the run's, else cpu.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Evaluates saved agents on the test split, each alone. Of a run folder, the numbers of its
    summary."""
    import json
    from dataclasses import replace

    from .training.found import found

    with found(agent, task, reward, _aside) as (config, models, run):
        from .pages.tables import evaluation_table
        from .training.assess import assess

        given = {"device": device, "eval_prompts": prompts, "eval_draws": draws}
        config = replace(config, **{name: value for name, value in given.items() if value is not None})
        assessed = assess(config, models, reference, run)
    for note in assessed.notes:
        _aside(note)
    if as_json:
        _say(json.dumps(assessed.to_dict(), indent=2))
        return
    console.print(evaluation_table(assessed))
    for note in assessed.notes:
        _say(note)
    if assessed.alone:
        _say(f"No KL: {agent} belongs to no run. Give --reference, the model that it was trained from, to measure one.")


# The options of `coevo compare` and its kin.
SuiteOut = Annotated[Path | None, typer.Option("--out", help="Folder of the runs; by default runs/NAME.")]
Workers = Annotated[int, typer.Option(help="Runs at a time, each in a process of its own.")]
Executor = Annotated[str, typer.Option(help="processes, or ray (extra): a cluster that shares the folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print arms, runs and estimated hours, and exit.")]
Lang = Annotated[str, typer.Option(help="Language of the report: en or ja.")]
Html = Annotated[Path | None, typer.Option(help="Where to write the page.")]
Markdown = Annotated[Path | None, typer.Option(help="Where to write the same as Markdown.")]
Price = Annotated[float, typer.Option("--price-per-hour", help="Of a processor, for projections of cost.")]


@app.command()
def compare(
    places: Annotated[list[Path], typer.Argument(help="A suite (SUITE.toml), run folders, or rows (NAME.rows.jsonl).")],
    out: SuiteOut = None,
    workers: Workers = 1,
    executor: Executor = "processes",
    margin: Annotated[float, typer.Option(help="Smallest difference in J that matters, of run folders.")] = 0.0,
    dry_run: DryRun = False,
    lang: Lang = "en",
    html: Html = None,
    markdown: Markdown = None,
    price: Price = 0.0,
) -> None:
    """Says whether one way to train is better than another, by how much, at what cost, and how sure
    that is: of a suite that it runs, or of runs that exist."""
    from .pages.judging import judging

    judging(console, places, out, workers, executor, dry_run, lang, html, markdown, price, margin)


@app.command()
def sweep(
    settings: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE[,VALUE...]", help="Settings; several values are swept.")
    ],
    seeds: Annotated[int, typer.Option(help="Seeds of every combination.")] = 3,
    preset: Annotated[str, typer.Option(help=f"Named settings: {', '.join(PRESETS)}.")] = "default",
    measure: Annotated[str, typer.Option(help="What is compared (docs/referee.md).")] = "J",
    margin: Annotated[float, typer.Option(help="Smallest difference that matters.")] = 0.0,
    out: SuiteOut = None,
    workers: Workers = 1,
    executor: Executor = "processes",
    dry_run: DryRun = False,
    lang: Lang = "en",
    html: Html = None,
    markdown: Markdown = None,
    price: Price = 0.0,
) -> None:
    """Compares values of settings: a suite written on the command line."""
    from .pages.judging import judging
    from .referee.command import sweep as suite

    swept = suite(settings, seeds, measure, margin, preset)
    judging(console, swept, out, workers, executor, dry_run, lang, html, markdown, price)


@app.command()
def pareto(
    suite: Annotated[Path, typer.Argument(help="A suite with a [frontier].")],
    out: SuiteOut = None,
    workers: Workers = 1,
    executor: Executor = "processes",
    dry_run: DryRun = False,
    lang: Lang = "en",
    html: Html = None,
    markdown: Markdown = None,
    price: Price = 0.0,
) -> None:
    """Draws and compares frontiers: what methods reach at each distance from the initial model."""
    from .pages.judging import judging
    from .referee.command import pareto as with_frontier

    judging(console, with_frontier(suite), out, workers, executor, dry_run, lang, html, markdown, price)


@app.command()
def play(
    agent: Annotated[
        str, typer.Argument(help="A run folder, or a model directory or name that plays every role.")
    ] = "embedded",
    prompt: Annotated[
        list[str] | None, typer.Option(help="Prompt to answer; without it, prompts are read line by line.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task; by default the run's, else sentiment.")] = None,
    reward: Annotated[str | None, typer.Option(help="The run's reward once more, where it is code of yours.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
) -> None:
    """Answers prompts: the pioneer first, then the observer after reading it, with the reward of
    every token."""
    from .training.found import found

    with found(agent, task, reward, _aside) as (config, models, run):
        from .pages.terminal import play as answer

        answer(console, config, list(models.values()), prompt, seed, run)


@app.command()
def tasks() -> None:
    """Lists the built-in tasks."""
    import os

    # a list should not wait for a network, nor fetch data sets
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

    from .pages.tasks import task_list

    for paragraph in task_list():
        console.print(paragraph)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    html: Annotated[Path | None, typer.Option(help="Where to write the page; by default RUN/report.html.")] = None,
) -> None:
    """Shows a run: summary, curves and transcripts in the terminal, and all of it as one
    self-contained HTML page."""
    from .pages.report import page
    from .pages.terminal import terminal
    from .runs.door import is_own

    terminal(run, console)
    if html is None and not is_own(run):
        _say(f"No page was written, because {run} is somebody else's. For one elsewhere: --html FILE")
    else:
        _say(f"Page: {page(run, html)}")


@app.command()
def assets(
    names: Annotated[
        list[str] | None, typer.Argument(help="smollm2, reviews and sentiment-tfidf by default; also sentiment-minilm.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make them again.")] = False,
) -> None:
    """Installs the real language model and the real reviews into the cache (about 110 MB to
    download, 700 MB on disk)."""
    from coevo_env.assets.store import prepare

    prepare(names or None, force=force, log=_say)


@app.command()
def version() -> None:
    """Prints the version."""
    _say(coevo_env.__version__)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
