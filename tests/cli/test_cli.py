"""The `coevo` command on a real small run: what every subcommand prints, and that it starts
fast."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import runs
from runs import assert_same_run, config, train

from coevo_agents import cli
from coevo_agents.runs.config import Config
from coevo_agents.runs.folder import read_config
from coevo_agents.runs.presets import PRESETS
from coevo_agents.runs.settings import apply, from_dict, names, preset, to_dict
from coevo_agents.training.loop import Interrupted
from coevo_env.errors import ConfigError
from coevo_env.tasks import BUILTIN_TASKS

COMMANDS = ("train", "eval", "play", "tasks", "show", "assets", "version")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "run"
    train(config(model), directory)
    return directory


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls the command in this process and returns what it printed."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object, typed: str = "") -> str:
        monkeypatch.setattr(sys, "argv", ["coevo", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert not left.value.code and not err, err
        return out

    return call


# -------------------------------------------------------------------- help
def test_help_names_every_command(command):
    out = command("--help")
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, command):
    out = command(name, "--help")
    assert f"coevo {name}" in out and len(out.splitlines()) > 4


def test_every_setting_is_listed_with_its_value(command):
    lines = command("train", "--list-settings").splitlines()
    listed = {line.split(" = ")[0]: line.split(" = ", 1)[1].split("  # ") for line in lines}
    assert list(listed) == list(names())
    assert listed["batch_size"][0] == "64" and listed["kl.beta"][0] == "0.2" and listed["task"][0] == '"sentiment"'
    assert [name for name, (_, *words) in listed.items() if len(words) != 1 or not words[0]] == []
    ours = command("train", "--learner", "grpo", "--set", "group_size=2", "--list-settings")
    assert "\ngrpo.clip = 0.2  # Range of" in ours and "ppo." not in ours.replace("grpo.", "").replace("mappo", "")
    changed = command(
        "train", "--preset", "smollm2-imdb", "--batch-size", 7, "--set", "lora.targets=['a[b]']", "--list-settings"
    )
    assert (
        "batch_size = 7  #" in changed
        and 'task = "imdb"  #' in changed
        and """lora.targets = "['a[b]']"  #""" in changed
    )


def test_every_preset_is_a_config_and_is_named_in_the_help(command):
    out = re.sub(r"\W+", " ", command("train", "--help"))
    for name in PRESETS:
        assert isinstance(preset(name), Config)
        assert re.sub(r"\W+", " ", name) in out


def test_the_command_starts_without_torch():
    heavy = ("torch", "transformers", "peft", "tensorboard")
    code = f"import coevo_agents.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=runs.ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------- configs
def test_a_config_survives_json():
    changed = apply(
        Config(),
        {
            "kl.beta": "0.25",
            "ppo.whiten": "no",
            "batch_size": "1e2",
            "task_options.x": '{"a": [1, 2]}',
            "task_options.y": "word",
            "seed": str(2**60 + 1),
        },
    )
    assert (changed.kl.beta, changed.settings.whiten, changed.batch_size, changed.seed) == (0.25, False, 100, 2**60 + 1)
    assert changed.task_options == {"x": {"a": [1, 2]}, "y": "word"}
    assert from_dict(json.loads(json.dumps(to_dict(changed)))) == changed
    early = {
        name: value for name, value in to_dict(changed).items() if name != "keep"
    }  # written before `keep` was a setting
    assert from_dict(early) == changed
    assert apply(changed, {}) == changed and Config().task_options == {}


@pytest.mark.parametrize("value", ["1.5", "x", None, [], "nan", "inf"])
def test_values_of_another_type_are_refused(value):
    with pytest.raises(ConfigError, match="expected a value of type int"):
        apply(Config(), {"batch_size": value})


# -------------------------------------------------------------------- train
def test_train_by_words_is_train_by_settings(model, run, command, tmp_path):
    rest = [
        f"--set={name}={value}" for name, value in runs.TINY.items() if name not in ("task", "batch_size", "iterations")
    ]
    words = [
        "--task",
        "toy",
        "--model",
        model,
        "--batch-size",
        8,
        "--iterations",
        6,
        "--seed",
        0,
        "--agents",
        2,
        "--device",
        "cpu",
    ]
    out = command("train", *words, *rest, "--out", tmp_path / "a" / "run")
    assert_same_run(tmp_path / "a" / "run", run)
    assert f"Run folder: {tmp_path / 'a' / 'run'}\n" in out  # not broken by the width of the terminal
    assert f"coevo show {tmp_path / 'a' / 'run'}\n" in out and f"coevo play {tmp_path / 'a' / 'run'}\n" in out
    assert "llm1" in out and "llm2" in out and "before" in out and "validation reward" in out


def test_train_makes_a_folder_of_its_own(model, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        command("train", "--task", "toy", "--model", model, "--iterations", 1, "--batch-size", 2)
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(folders) == 2 and all(name.startswith("toy-2") for name in folders)


def test_train_resumes_and_extends(model, run, command, tmp_path):
    train(config(model, iterations=4), tmp_path / "run")
    out = command("train", "--resume", tmp_path / "run", "--iterations", 6)
    assert f"resumed from {tmp_path / 'run' / 'checkpoints' / '000004'}\n" in out
    assert_same_run(tmp_path / "run", run)
    assert read_config(tmp_path / "run").iterations == 6


def test_an_interrupted_run_ends_with_130(monkeypatch, capsys):
    def stop(*arguments, **options):
        raise Interrupted("stopped after iteration 3; Continue with: coevo train --resume runs/a[b]")

    monkeypatch.setattr(cli, "app", stop)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 130
    assert capsys.readouterr().err == "stopped after iteration 3; Continue with: coevo train --resume runs/a[b]\n"


def test_ctrl_c_before_or_beside_a_run_is_told(monkeypatch, capsys):
    def pressed():
        raise KeyboardInterrupt

    monkeypatch.setattr("coevo_agents.pages.tasks.make_task", lambda *a, **k: pressed())
    monkeypatch.setattr(sys, "argv", ["coevo", "tasks"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 130
    assert "stopped at once. What was saved before is whole" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_is_told(error, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1 and "Take a smaller model" in capsys.readouterr().err
    monkeypatch.setattr(cli, "app", lambda: [][0])
    with pytest.raises(IndexError):  # a bug of ours shows itself
        cli.main()


# -------------------------------------------------------------------- looking at a run
def test_eval_measures_what_the_run_measured(run, command):
    out = command("eval", run)
    last = json.loads((run / "summary.json").read_text())["agents"]
    row = next(line for line in out.splitlines() if re.match(r"\W*reward\b(?!/)", line))
    numbers = re.findall(r"-?\d+\.\d+(?= ±)", row)
    assert numbers[1:] == [f"{last[name]['after']['reward']:.4f}" for name in ("llm1", "llm2")]
    one = command("eval", run / "agents" / "llm2")
    row = next(line for line in one.splitlines() if re.match(r"\W*reward\b(?!/)", line))
    assert re.findall(r"-?\d+\.\d+(?= ±)", row) == [numbers[0], numbers[2]]


def test_eval_of_a_plain_model(model, command):
    out = command("eval", model, "--task", "toy", "--prompts", 1)
    assert "1 prompt of the test split, 8 draws each" in out and "tiny" in out
    assert "reference" not in out.split("No KL:")[0] and not re.search(
        r"^\W*kl\b", out, re.MULTILINE
    )  # it would be 0 to itself


def test_eval_of_an_agent_saved_outside_a_run(run, model, command, tmp_path):
    """It says that it knows no reference, and with one it measures what it measures in the run."""
    shutil.copytree(run / "agents" / "llm2", tmp_path / "mine")
    out = command("eval", tmp_path / "mine", "--task", "toy")
    assert f"No KL: {tmp_path / 'mine'} belongs to no run. Give --reference, the model that it was trained from" in out
    told = command("eval", tmp_path / "mine", "--task", "toy", "--reference", model)
    inside = command("eval", run / "agents" / "llm2")

    def numbers(text, key):
        return re.findall(
            r"-?\d+\.\d+", next(line for line in text.splitlines() if re.match(rf"\W*{key}\b(?!/)", line))
        )

    assert "reference" in told and "No KL" not in told
    assert numbers(told, "kl") == numbers(inside, "kl") and float(numbers(told, "kl")[2]) != 0
    assert numbers(out, "reward") == numbers(inside, "reward")[2:]  # each with its interval


def test_play_answers_prompts_given_and_typed(run, command):
    given = command("play", run, "--prompt", "2", "--prompt", "1 1")
    assert "llm1 (pioneer)" in given and "llm2 (observer)" in given and "log-prob" in given
    assert given.count("llm1 (pioneer)") >= 2
    typed = command("play", run, typed="2\nhello\n1 1\n\n")
    assert "is not made of ids" in typed  # and the conversation goes on
    assert re.findall(r"prompt +2\b", typed) and re.findall(r"prompt +1 1\b", typed)
    assert command("play", run, "--prompt", "2", "--seed", 5) == command("play", run, "--prompt", "2", "--seed", 5)


def test_show_prints_and_writes_a_page(run, command, tmp_path):
    out = command("show", run)
    assert f"Page: {run / 'report.html'}\n" in out and "llm1" in out and "6 of 6 iterations" in out
    command("show", run, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<html" in page and "llm2" in page
    assert not re.search(r"(src|href)=[\"']https?://", page)


def test_tasks_lists_every_task(command):
    out = command("tasks")
    assert all(name in out for name in BUILTIN_TASKS) and "package.module" in out
    assert re.search(r"reasoning-gym/<dataset>\s.*model: smollm2", out)


def test_version(command):
    import coevo_env

    assert command("version").strip() == coevo_env.__version__


# -------------------------------------------------------------------- the installed script
def test_the_installed_command_trains_a_task_from_the_current_folder(model, tmp_path):
    (tmp_path / "my_task.py").write_text(
        "from coevo_env.tasks import toy\n\ndef make(size=5):\n    return toy.task(vocab_size=size)\n"
    )
    words = [
        "--task",
        "my_task:make",
        "--set",
        "task_options.size=5",
        "--model",
        model,
        "--iterations",
        1,
        "--batch-size",
        2,
        "--agents",
        1,
    ]
    done = runs.coevo("train", *words, "--out", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Run folder: mine" in done.stdout and done.stderr == ""
    assert read_config(tmp_path / "mine", trusted={"task": "my_task:make"}).task_options == {"size": 5}


@pytest.mark.slow
def test_the_default_run_improves_both_agents(tmp_path):
    done = runs.coevo("train", "--out", tmp_path / "run", timeout=900)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for agent in summary["agents"].values():
        assert agent["after"]["reward"] > agent["before"]["reward"]


def test_commands_that_are_suggested_repeat_code_of_ones_own():
    from coevo_agents.runs.config import Config
    from coevo_agents.runs.folder import repeated

    own = Config(task="mine:task", learner="mine:Learner")
    assert repeated(own, "task") == " --task mine:task"
    assert repeated(own, "task", "learner") == " --task mine:task --learner mine:Learner"
    assert repeated(Config(), "task", "learner") == ""
