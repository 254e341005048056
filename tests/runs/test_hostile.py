"""A run folder that comes from somebody else: links and special files in it, and forged states.

Every file spoilt in every way, under every command as it is typed, is in
tests/cli/test_hostile_folders.py.

One idea: whatever is in the folder, a command works or ends with one message, prints nothing that
steers a terminal, leaves the world outside the folder as it was, and is soon done. `wrong` is that
rule, and mutants at the end show that it can find what it looks for.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
from rich.console import Console
from runs import config, train
from spoil import SPOIL, link

from coevo_agents import cli
from coevo_agents.pages.report import page
from coevo_agents.pages.terminal import terminal
from coevo_agents.runs import checkpoint, door, folder, logbook, record, schema
from coevo_agents.runs.checkpoint import checkpoints, load
from coevo_agents.runs.folder import read_config
from coevo_agents.runs.logbook import lock
from coevo_agents.runs.record import read_record
from coevo_agents.training import state
from coevo_agents.training.assess import assess
from coevo_agents.training.loop import Run
from coevo_env import errors
from coevo_env.errors import CoevoError

SECONDS = 30
"""Of one command on a spoilt folder; it is 1 or 2 where nobody else uses the machine."""

STATE = "checkpoints/000002/state.json"
TEXT = (
    *("config.json", "summary.json", "metrics.jsonl", "transcripts.jsonl", STATE, "checkpoints/000002/manifest.json"),
    *("agents/llm1/config.json", "agents/llm1/tokenizer.json", "agents/llm1/tokenizer_config.json"),
)
BINARY = ("checkpoints/000002/llm1.safetensors", "agents/llm1/model.safetensors", "agents/llm1/value_head.safetensors")
FOLDERS = ("checkpoints", "checkpoints/000002", "agents", "agents/llm1", "tensorboard")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of two iterations."""
    model = runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")
    directory = tmp_path_factory.mktemp("finished") / "run"
    train(config(model, iterations=2, batch_size=2, save_every=1, eval_every=1), directory)
    return directory


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of it that a test may spoil, beside somebody's other files."""
    outside = tmp_path / "outside"
    (outside / "000001").mkdir(parents=True)
    (outside / "000001" / "thesis.txt").write_text("the only copy")
    for name in ("metrics.jsonl", "transcripts.jsonl", "summary.json", "config.json"):
        shutil.copy(finished / name, outside)
    return Path(shutil.copytree(finished, tmp_path / "run"))


# ---------------------------------------------------------------- the rule
def show(run: Path) -> str:
    stream = io.StringIO()
    terminal(run, Console(file=stream, width=100))
    return stream.getvalue()


def resume(run: Path) -> str:
    said: list[str] = []
    train(read_config(run), run, resume=True, say=said.append)
    return "\n".join(said)


def evaluate(run: Path) -> str:
    return str(assess(read_config(run), {"llm1": str(run / "agents" / "llm1")}).metrics())


COMMANDS: dict[str, Callable[[Path], Any]] = {
    "settings": read_config,
    "show": show,
    "page": lambda run: page(run).read_text(encoding="utf-8"),
    "lock": lambda run: lock(run).close(),
    "resume": resume,
    "eval": evaluate,
}


def outside(run: Path) -> dict[str, bytes]:
    """Everything beside the run folder."""
    files = [path for path in run.parent.rglob("*") if run not in path.parents and path.is_file()]
    return {str(path): path.read_bytes() for path in files}


def wrong(run: Path, command: str, refused: bool = False) -> list[str]:
    """What a command does on a folder that it should not do.

    Args:
        run: The folder.
        command: One of `COMMANDS`.
        refused: Whether it has to end with a message.
    """
    before, started, found = outside(run), time.monotonic(), []
    try:
        text = str(COMMANDS[command](run))
        if refused:
            found.append("it was not refused")
    except CoevoError as error:
        text = str(error)
        if len(text) > 2000 or not text:
            found.append(f"the message has {len(text)} characters")
    except (Exception, RecursionError) as error:
        found.append(f"a traceback: {type(error).__name__}: {error}"[:300])
        text = ""
    if "\x1b" in text:
        found.append(f"an escape is printed: {text[max(0, text.index(chr(27)) - 40) :][:80]!r}")
    if outside(run) != before:
        found.append("something outside the folder was changed")
    if time.monotonic() - started > SECONDS:
        found.append(f"it took {time.monotonic() - started:.0f} s")
    return [f"{command}: {what}" for what in found]


# ---------------------------------------------------------------- ways to spoil
def forged(run: Path, **changes: Any) -> None:
    """Another state in every checkpoint, with checksums that fit."""
    for path in checkpoints(run / "checkpoints"):
        data = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({**data, **changes}))
        sign(path)


def sign(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest:
        data = (path / name).read_bytes()
        manifest[name] = {"sha256": __import__("hashlib").sha256(data).hexdigest(), "bytes": len(data)}
    (path / "manifest.json").write_text(json.dumps(manifest))


SAMPLE = [
    ("config.json", "nested"),
    ("config.json", "escapes"),
    ("summary.json", "half characters"),
    ("metrics.jsonl", "escapes"),
    ("transcripts.jsonl", "other data"),
    (STATE, "a number"),
]


@pytest.mark.parametrize(("name", "how"), SAMPLE)
def test_a_spoilt_file_is_left_out_or_told(name, how, run):
    SPOIL[how](run / name)
    found = [what for command in ("settings", "show", "page", "lock") for what in wrong(run, command)]
    assert not found, "\n".join(found)


# ---------------------------------------------------------------- links
LINKS = [*TEXT, *BINARY, *FOLDERS, "report.html", ".config.json.partial", "initial", "agents/llm1/more.txt"]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_refused_by_every_command(name, run):
    link(run / name, run.parent / "outside")
    found = [what for command in COMMANDS for what in wrong(run, command, refused=True)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "anything"])
@pytest.mark.parametrize("what", ["pipe", "socket"])
def test_what_is_no_file_is_refused_and_not_waited_for(what, name, run, monkeypatch):
    (run / name).unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(run / name)
    else:
        monkeypatch.chdir(run)  # a path of a socket is short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)
    found = [what for command in COMMANDS for what in wrong(run, command, refused=True)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["metrics.jsonl", "transcripts.jsonl"])
def test_a_log_with_a_second_name_is_not_continued(name, run):
    (run / name).unlink()
    os.link(run.parent / "outside" / name, run / name)
    assert not (found := wrong(run, "resume", refused=True)), found
    assert not (found := wrong(run, "show")), found  # reading it does no harm


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "initial", ".config.json.partial", "config.json"])
def test_a_new_run_does_not_write_through_a_link(name, finished, tmp_path):
    place, target = tmp_path / "new", tmp_path / "target"
    place.mkdir()
    (place / name).symlink_to(target)  # to nothing: opening it would make it
    with pytest.raises(CoevoError, match="symbolic link"):
        Run(read_config(finished), place)
    assert not target.exists() and (place / name).is_symlink()


def test_a_run_folder_may_be_named_by_a_link(run, tmp_path):
    (tmp_path / "latest").symlink_to(run)
    assert read_record(tmp_path / "latest").iteration == 2
    assert read_config(tmp_path / "latest") == read_config(run)


# ---------------------------------------------------------------- long files
def test_of_long_logs_the_end_is_read(run, monkeypatch):
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    monkeypatch.setattr(record, "METRICS_BYTES", len(rows[-1]) + 5)
    (run / "metrics.jsonl").write_text("x" * 2**21 + "\n" + "".join(rows))
    found = read_record(run)
    assert [row["iteration"] for row in found.metrics] == [2]
    assert "metrics.jsonl is long, and its first 2 MiB were left out." in found.notes


def test_of_a_turn_without_end_the_beginning_is_shown(run):
    (*first, last) = [json.loads(line) for line in (run / "transcripts.jsonl").read_text().splitlines()]
    for turn in last["turns"]:
        for name in ("tokens", "pieces", "logprobs", "ref_logprobs", "kl", "shaping"):
            turn[name] = turn[name] * 3_000
    (run / "transcripts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*first, last)))
    assert not (found := [what for command in ("show", "page") for what in wrong(run, command)]), found
    shown = COMMANDS["page"](run)
    assert shown.count("of them not shown") == len(last["turns"]) and len(shown) < 10**7


def test_no_page_is_written_into_the_folder_of_somebody_else(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: run.stat().st_uid + 1)
    before = sorted(run.rglob("*"))
    cli.app(["show", str(run)], standalone_mode=False)
    assert "No page was written" in capsys.readouterr().out and sorted(run.rglob("*")) == before
    cli.app(["show", str(run), "--html", str(tmp_path / "page.html")], standalone_mode=False)
    assert (tmp_path / "page.html").exists() and sorted(run.rglob("*")) == before


# ---------------------------------------------------------------- the state of a checkpoint
STATES: dict[str, dict[str, Any]] = {
    "iteration": {"iteration": -5},
    "iteration too large": {"iteration": 1e308},
    "iteration of another": {"iteration": 7},
    "a bool": {"iteration": True},
    "beta": {"controllers": [{"beta": float("nan")}] * 2},
    "beta below 0": {"controllers": [{"beta": -1.0}] * 2},
    "a controller too few": {"controllers": [{"beta": 0.2}]},
    "offsets": {"offsets": "x"},
    "an offset": {"offsets": {"metrics.jsonl": -1}},
    "best": {"best": [1, "../x"]},
    "best nan": {"best": [float("nan"), 1]},
    "pending": {"pending": {"x": 1}},
    "turns": {"pending": {"metrics": {}, "transcripts": [{"turns": ["x"]}]}},
    "before": {"before": {"llm1": 3}},
    "scalars": {"scalars": {"llm1": {"updates": "x"}, "llm2": {}}},
    "updates": {"scalars": {"llm1": {"updates": -1}, "llm2": {"updates": 1}}},
    "nothing": {"scalars": {}},
}


@pytest.mark.parametrize("case", STATES)
def test_a_forged_state_is_never_adopted(case, run):
    forged(run, **STATES[case])
    with pytest.raises(CoevoError, match="none of the 2 checkpoints"):
        Run(read_config(run), run, resume=True)


def test_what_does_not_fit_is_told_by_file_place_and_value(run):
    forged(run, best=[1, "../x"])
    with pytest.raises(CoevoError) as caught:
        load(run / "checkpoints" / "000002")
    said = str(caught.value)
    for part in ("000002", "state.json", "best.1", "'../x'", "expected a valid integer", "altered"):
        assert part in said


# -------------------------------------------------- mutants, by which the rule shows itself
def deaf(*arguments: Any, **options: Any) -> None:
    """A check that checks nothing."""


@pytest.fixture
def blind(monkeypatch) -> Callable[[str], None]:
    """Plants a mutant: a check by name is skipped wherever it is called."""

    def plant(name: str) -> None:
        for module in (checkpoint, door, folder, logbook, record, schema, state):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, deaf)

    return plant


def test_a_door_that_is_not_watched_is_noticed(run, blind):
    for name in ("check_folder", "check_plain", "refuse_link"):
        blind(name)
    link(run / "metrics.jsonl", run.parent / "outside")
    (run.parent / "outside" / "metrics.jsonl").write_text("a line of somebody else's\n" * 500)
    assert "resume: something outside the folder was changed" in wrong(run, "resume", refused=True)
    assert "show: it was not refused" in wrong(run, "show", refused=True)


def test_a_schema_that_is_not_asked_is_noticed(run, blind):
    blind("misfit")
    forged(run, controllers=[{"beta": float("nan")}] * 2)
    adopted = Run(read_config(run), run, resume=True)
    adopted.log.close()
    assert adopted.parts.game.controllers[0].beta != adopted.parts.game.controllers[0].beta


def test_names_that_are_not_escaped_are_noticed(run, monkeypatch):
    for module in (errors, record, schema):
        monkeypatch.setattr(module, "printable", str)
    SPOIL["escapes"](run / "metrics.jsonl")
    assert any("an escape is printed" in what for what in wrong(run, "show"))
    SPOIL["escapes"](run / "config.json")
    assert any("an escape is printed" in what for what in wrong(run, "page"))
