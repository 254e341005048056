"""Prompts of one's own by the options of the command: what is trained on, what is shown before, and
that a reward in a run folder runs no code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runs

from coevo_agents.cli import console, errors
from coevo_agents.runs.config import Config
from coevo_agents.runs.folder import read_config
from coevo_agents.runs.given import own_data
from coevo_agents.runs.settings import to_dict
from coevo_agents.training.found import found
from coevo_env.errors import ConfigError

MINE = """
open("imported", "w").close()

def brief(prompts, responses):
    return [1.0 / (1 + len(response)) for response in responses]
"""
OPTIONS = ["--model", "embedded", "--set", "max_context=64", "--set", "max_new_tokens=4"]
SHORT = [*OPTIONS, "--iterations", "1", "--batch-size", "2", "--set", "eval_draws=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    rows = [f"the {thing} was;good" for thing in ("soup", "film", "song", "day", "house", "dog", "game", "train")]
    (folder / "rows.csv").write_text("\n".join(["start;answer", *rows]) + "\n")
    (folder / "mine.py").write_text(MINE)
    return folder


def test_a_file_is_trained_on_shown_and_evaluated(place):
    words = ["--prompts", "rows.csv", "--prompt-column", "start", "--reward", "mine:brief"]
    words += ["--template", r"observer={responses}\n{prompt}", "--out", "run"]
    done = runs.coevo("train", *words, *SHORT, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "prompt 0 of the train split" in done.stdout and "prompt 2 of the train split" in done.stdout
    assert "note: the data have no test split" in done.stdout
    config = read_config(place / "run", trusted={"reward": "mine:brief"})
    assert config.task == "own" and config.task_options["templates"] == {"observer": "{responses}\n{prompt}"}
    assert config.task_options["prompts"] == str((place / "rows.csv").resolve())

    (place / "imported").unlink()
    for words in (["eval", "run"], ["play", "run", "--prompt", "the soup was"], ["train", "--resume", "run"]):
        done = runs.coevo(*words, cwd=place)
        assert done.returncode == 1 and "--reward mine:brief" in done.stderr
    assert not (place / "imported").exists()
    done = runs.coevo("eval", "run", "--reward", "mine:brief", "--json", cwd=place)
    measured = json.loads(done.stdout)
    assert (measured["draws"], measured["reward"]) == (2, "mine:brief"), done.stderr


@pytest.mark.parametrize("given", [None, "length:3", "length:9", "mine:brief", "mine:other", ""])
@pytest.mark.parametrize("task", [None, "own", "toy"])
@pytest.mark.parametrize("paid", ["length:3", "mine:brief", None])
def test_a_reward_that_is_not_the_runs_is_never_ignored(given, task, paid, tmp_path):
    """The faults: eval took any --reward of a run whose reward is no code, and ran code unasked for
    where the task was said once more."""
    options = {"prompts": "rows.csv", "reward": paid} if paid else {}
    run = Config(task="own" if paid else "toy", task_options=options, model="embedded")
    (tmp_path / "config.json").write_text(json.dumps({"config": to_dict(run), "provenance": {}}))
    (tmp_path / "agents" / "llm1").mkdir(parents=True)
    (tmp_path / "agents" / "llm1" / "config.json").write_text("{}")
    same = task in (None, run.task)
    code = same and paid is not None and paid.startswith("mine")
    right = given == paid if code else given is None or (same and given == paid)

    def asked():
        with found(str(tmp_path), task, given, pytest.fail) as (config, _, _):
            return config.task_options

    if right:
        assert asked() == (options if same else {})
    else:
        with pytest.raises(ConfigError, match=f"--reward {paid if code else given}"):
            asked()


def test_the_same_from_a_file_of_settings(place):
    (place / "own.toml").write_text(
        'task = "own"\n[task_options]\nprompts = "rows.csv"\nprompt_column = "start"\nreward = "length:3"\n'
        'templates = { observer = "{responses}\\n{prompt}" }\n'
    )
    done = runs.coevo("train", "--config", "own.toml", *SHORT, "--out", "by-file", cwd=place)
    assert done.returncode == 0, done.stderr
    assert read_config(place / "by-file").task_options["templates"] == {"observer": "{responses}\n{prompt}"}


@pytest.mark.parametrize("out", [console, errors])
def test_a_name_between_colons_is_no_picture(out):
    with out.capture() as captured:
        out.print("--reward mine:b: and [red]mine:smile:[/]")
    assert captured.get() == "--reward mine:b: and mine:smile:\n"


def test_words_that_are_not_in_the_vocabulary_are_told(place):
    done = runs.coevo("play", "embedded", "--prompt", "the zebra soup was zebra", cwd=place)
    assert done.returncode == 0 and "not in the vocabulary: 'zebra'; the agents read <unk> there" in done.stdout
    assert "not in the vocabulary" not in runs.coevo("play", "embedded", "--prompt", "the soup was", cwd=place).stdout


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("toy", "p.csv", None, None, None, []), "--prompts with --task toy"),
        ((None, "p.csv", None, None, None, ["judge=x"]), "unknown role of --template 'judge'"),
        ((None, "p.csv", None, None, None, ["pioneer"]), "expected ROLE=TEXT"),
        ((None, "p.csv", None, None, None, ["pioneer=a", "pioneer=b"]), "given twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        own_data(*given)


@pytest.mark.parametrize("chat", ["auto", "true", "false"])
def test_prompts_go_through_the_chat_template_where_asked(chat, tmp_path):
    from transformers import AutoTokenizer

    model = runs.save_tiny(tmp_path / "tiny", None)
    hf = AutoTokenizer.from_pretrained(model)
    hf.chat_template = "{% for m in messages %}7 {{ m['content'] }} {% endfor %}8"
    hf.save_pretrained(model)
    (tmp_path / "p.txt").write_text("".join(f"{i}\n" for i in [f"{a} {b}" for a in range(2, 7) for b in range(2, 7)]))
    words = ["--prompts", "p.txt", "--reward", "length:3", "--model", "tiny", "--chat", chat, "--out", "run"]
    done = runs.coevo("train", *words, *SHORT[2:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rendered = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    assert rendered and all((line[:2] == "7 ") == (chat != "false") for line in rendered), done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["chat"] == (
        {"true": True, "false": False}.get(chat, chat)
    )
