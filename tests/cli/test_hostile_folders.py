"""Folders that come from somebody else, under every command as it is typed: every file of a run, of
a checkpoint, of a model and of an asset, spoilt in every way.

One idea: a command gives the right result or ends with one message; it prints nothing that steers a
terminal, starts no markup, leaves the world outside the folder as it was, and is soon done. Tables
of files, ways and commands are tried whole; mutants at the end show that the rule can find what it
looks for.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jinja2
import numpy as np
import pytest
import runs
from runs import config, train
from spoil import SPOIL, spoil

from coevo_agents import cli
from coevo_agents.pages import report
from coevo_agents.runs import door, folder, logbook, record, schema
from coevo_agents.runs.checkpoint import manifest
from coevo_agents.training import assess, loop, state
from coevo_env import errors
from coevo_env.assets import store
from coevo_env.assets.tfidf import TfidfClassifier

SECONDS = 60
WAYS = (*SPOIL, "linked")


# ---------------------------------------------------------------- the folders
@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that was warm-started, the model that it began with, and an asset that rewards."""
    place = tmp_path_factory.mktemp("whole")
    runs.save_tiny(place / "model")
    (place / "cache").mkdir()
    classifier = TfidfClassifier(["1", "2"], np.array([1.0, 2.0]), np.array([0.5, -1.0]), 0.25)
    asset = store.ASSETS["sentiment-tfidf"]
    (place / "cache" / asset.name).mkdir()
    classifier.save(place / "cache" / asset.name)
    store._write_manifest(asset, place / "cache" / asset.name)
    (place / "prompts.jsonl").write_text("".join(f'{{"prompt": "{i} {j}"}}\n' for i in range(1, 4) for j in range(4)))
    often = {"iterations": 2, "save_every": 1, "eval_every": 1, "batch_size": 2, "eval_prompts": 2, "eval_draws": 1}
    train(config(place / "model", **often, warm_start__steps=1), place / "run")
    (place / "settings.toml").write_text('task = "toy"\niterations = 2\n[kl]\nbeta = 0.1\n')
    return place


@pytest.fixture
def place(whole, tmp_path, monkeypatch) -> Path:
    """A copy of them that a test may spoil, beside somebody's other files."""
    place = Path(shutil.copytree(whole, tmp_path / "place"))
    (tmp_path / "outside" / "000001").mkdir(parents=True)
    (tmp_path / "outside" / "000001" / "thesis.txt").write_text("the only copy")
    for name in ("metrics.jsonl", "transcripts.jsonl", "summary.json", "config.json"):
        theirs = (whole / "run" / name).read_text() + "\n" * 500  # of another length than that of the run
        (tmp_path / "outside" / name).write_text(theirs)
    monkeypatch.setenv("COEVO_CACHE", str(place / "cache"))
    monkeypatch.chdir(tmp_path)
    return place


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- the commands
OWN = ("--set", "task_options.reward=tfidf", "--set", "max_context=16", "--template", "observer={prompt} {responses}")
SMALL = ("--iterations", 1, "--batch-size", 2, "--set", "eval_prompts=2", "--set", "eval_draws=1")


def train_(place: Path) -> tuple[object, ...]:
    return ("train", "--model", place / "model", *SMALL, "--out", place / "new")


COMMANDS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "show": lambda place: ("show", place / "run"),
    "eval": lambda place: ("eval", place / "run", "--json"),
    "eval an agent": lambda place: ("eval", place / "run" / "agents" / "llm1", "--json"),
    "play": lambda place: ("play", place / "run", "--prompt", "2"),
    "resume": lambda place: ("train", "--resume", place / "run"),
    "settings": lambda place: ("train", "--config", place / "run" / "config.json", "--list-settings"),
    "model, eval": lambda place: ("eval", place / "model", "--task", "toy", "--prompts", 2, "--draws", 1, "--json"),
    "model, play": lambda place: ("play", place / "model", "--task", "toy", "--prompt", "2"),
    "model, train": lambda place: (*train_(place), "--task", "toy"),
    "asset, train": lambda place: (*train_(place), "--prompts", place / "prompts.jsonl", *OWN),
    "toml": lambda place: ("train", "--config", place / "settings.toml", "--list-settings"),
}
RUN = ("show", "eval", "eval an agent", "play", "resume", "settings")


Call = Callable[..., tuple[int, str, str]]


class Late(Exception):
    """A command took too long."""


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise Late(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def call(monkeypatch, capsys) -> Call:
    """The command as it is typed: exit status, and what it printed."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["coevo", *map(str, words)])
        with pytest.raises(SystemExit) as left, in_time():
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return call


def wrong(call: Call, place: Path, whole: Path, command: str, right: dict[str, str]) -> list[str]:
    """What a command does that it should not do.

    Args:
        call: The fixture.
        place: Where the folders are.
        whole: What they were before.
        command: One of `COMMANDS`.
        right: What commands say whose result is known, of folders that nobody spoilt.
    """
    before, found = outside(place), []
    try:
        code, out, err = call(*COMMANDS[command](place))
    except Exception as error:  # what a user would see as a traceback
        return [f"{command}: {type(error).__name__}: {error}"[:300]]
    if code not in (0, 1, 2) or (code and not err.strip()):
        found.append(f"it ended with {code} and the words {err!r}")
    if code == 1 and (not err.startswith("error: ") or len(err) > 3000):
        found.append(f"its last words are {err[:300]!r}")
    if code == 0 and command in right and numbers(out) != right[command]:
        found.append(f"it gave another result: {out[:300]!r}")
    if code == 0 and command == "resume" and right and weights(place) != weights(whole):
        found.append("it saved other agents")
    if "\x1b" in out + err:
        at = (out + err).index("\x1b")
        found.append(f"an escape is printed: {(out + err)[max(0, at - 60) :][:120]!r}")
    page = place / "run" / "report.html"
    if page.is_file() and not page.is_symlink() and "<script>alert" in page.read_text(encoding="utf-8"):
        found.append("the page runs a script of somebody's")
    if outside(place) != before:
        found.append("something outside was changed")
    return [f"{command}: {what}" for what in found]


def numbers(out: str) -> str:
    """The part of what is printed that is a result: all of it but paths and notes."""
    return "\n".join(line for line in out.splitlines() if "no digests" not in line and "place" not in line)


def weights(place: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(place.glob("run/agents/*/*.safetensors"))]


def outside(place: Path) -> dict[str, bytes]:
    """Everything beside the folders."""
    found = [path for path in place.parent.rglob("*") if place not in path.parents and path.is_file()]
    return {str(path): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def right(whole) -> dict[str, str]:
    """Results of commands on what nobody spoilt; filled where they are first asked for."""
    return {}


def known(call: Call, whole: Path, right: dict[str, str], monkeypatch) -> dict[str, str]:
    if not right:
        with tempfile.TemporaryDirectory() as other:
            copy = Path(shutil.copytree(whole, Path(other) / "place"))
            with monkeypatch.context() as patch:
                patch.setenv("COEVO_CACHE", str(copy / "cache"))
                for command in ("eval", "eval an agent", "play"):
                    code, out, err = call(*COMMANDS[command](copy))
                    assert code == 0, err
                    right[command] = numbers(out)
    return right


# ---------------------------------------------------------------- the tables
AGENT = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
RUN_FILES = (
    *("config.json", "metrics.jsonl", "transcripts.jsonl", "alarms.jsonl", "summary.json", "tensorboard/events*"),
    *(f"checkpoints/000002/{name}" for name in ("llm1.safetensors", "state.json", "manifest.json")),
    *(f"agents/llm1/{name}" for name in (*AGENT, "value_head.safetensors")),
    *(f"initial/{name}" for name in (*AGENT, ".made-by-coevo-train")),
)
FILES: dict[str, tuple[str, ...]] = {
    **{f"run/{name}": RUN for name in RUN_FILES},
    **{f"model/{name}": ("model, eval", "model, play", "model, train") for name in AGENT},
    **{f"cache/*/{name}": ("asset, train",) for name in ("manifest.json", "classifier.json", "classifier.safetensors")},
    "settings.toml": ("toml",),
}
SAMPLE = [
    ("run/config.json", "escapes"),
    ("run/summary.json", "markup"),
    ("run/agents/llm1/model.safetensors", "truncated"),
    ("model/tokenizer.json", "nested"),
    ("cache/*/classifier.json", "a leaf (0)"),
    ("settings.toml", "linked"),
]


def test_the_tables_have_every_file(whole):
    """Of one agent and of one checkpoint."""
    other = ("llm2", "checkpoints/000001", "checkpoints/000000", "cache", "prompts.jsonl", "model/value_head")
    found = {file for file in files(whole) if not any(part in file for part in other)}
    named = {str(path.relative_to(whole)) for pattern in FILES for path in whole.glob(pattern)}
    assert found == {file for file in named if "cache" not in file}
    assert len({file for file in named if "cache" in file}) == 3


def tried(file: str, how: str, place: Path, whole: Path, call, right: dict[str, str]) -> list[str]:
    """Spoils a file and tries the commands that read it, each on a copy of its own; of a checkpoint
    once more with a manifest that fits."""
    found, signs = [], "checkpoints" in file and "manifest" not in file and how not in ("huge", "linked", "missing")
    for command in FILES[file]:
        for signed in (False, True) if signs else (False,):
            shutil.rmtree(place)
            shutil.copytree(whole, place)
            path = next(place.glob(file))
            spoil(path, how, place.parent / "outside")
            if signed:
                (path.parent / "manifest.json").unlink()
                (path.parent / "manifest.json").write_text(json.dumps(manifest(path.parent)))
            case = f"{file}, {how}{', signed' * signed}"
            known = {} if signed else right  # whoever signs what he changed has made another run
            found += [f"{case}: {what}" for what in wrong(call, place, whole, command, known)]
    return found


@pytest.mark.parametrize(("file", "how"), SAMPLE)
def test_a_spoilt_file_gives_the_right_result_or_a_message(file, how, place, whole, call, right, monkeypatch):
    assert not (found := tried(file, how, place, whole, call, known(call, whole, right, monkeypatch))), "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("file", FILES)
def test_every_file_spoilt_in_every_way(file, how, place, whole, call, right, monkeypatch):
    assert not (found := tried(file, how, place, whole, call, known(call, whole, right, monkeypatch))), "\n".join(found)


# -------------------------------------------------- mutants, by which the rule shows itself
def deaf(*arguments: object, **options: object) -> list[str]:
    """A check that checks nothing."""
    return []


def unescaped() -> object:
    loader = jinja2.PackageLoader("coevo_agents", "pages/templates")
    return jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True).get_template("report.html.j2")


LINKS = [
    (module, name, deaf)
    for module in (door, folder, logbook, record, state)
    for name in ("check_folder", "check_plain", "refuse_link")
]
MUTANTS: dict[str, tuple[list[tuple[object, str, object]], str, str, str]] = {
    "names are not escaped": (
        [(module, "printable", str) for module in (cli, errors, record, schema)],
        *("run/metrics.jsonl", "escapes", "show: an escape is printed"),
    ),
    "agents are not compared": (
        [(module, "check_saved", deaf) for module in (assess, loop)],
        *("run/agents/llm1/model.safetensors", "a bit", "eval: it gave another result"),
    ),
    "links are followed": (
        LINKS,
        *("run/metrics.jsonl", "linked", "resume: something outside was changed"),
    ),
    "JSON of any depth": (
        [(schema, "plain_json", json.loads), (record, "plain_json", json.loads)],
        *("run/summary.json", "nested", "eval: RecursionError"),
    ),
    "pages are not escaped": (
        [(report, "_template", unescaped)],
        *("run/summary.json", "markup", "show: the page runs a script"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mutant_is_found(name, place, whole, call, right, monkeypatch):
    right = known(call, whole, right, monkeypatch)
    changes, file, how, said = MUTANTS[name]
    for module, attribute, other in changes:
        monkeypatch.setattr(module, attribute, other, raising=False)
    found = tried(file, how, place, whole, call, right)
    assert any(said in what for what in found), found
