"""Settings come from one place: typed, explained, read from files, repeated, and refused where
they do nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from runs import assert_same_run, coevo, lines, save_tiny, weights
from safetensors.torch import load_file

from coevo_agents.learners.learner import LEARNERS, settings_class
from coevo_agents.runs.config import Config
from coevo_agents.runs.folder import read_config
from coevo_agents.runs.presets import PRESETS
from coevo_agents.runs.settings import apply, explained, from_dict, listing, names, preset, read_toml, to_dict
from coevo_env.errors import ConfigError

OWN = '''
"""A learner of somebody's own."""
from dataclasses import dataclass

from coevo_agents.learners.reinforce import Reinforce
from coevo_env.errors import ConfigError


class Mine(Reinforce):
    @dataclass(frozen=True)
    class Settings(Reinforce.Settings):
        """Mine. Those of `Reinforce.Settings`, and:

        Attributes:
            pace: How fast.
            words: What to say.
        """

        pace: float = 0.5
        words: tuple[str, ...] = ("a",)

        def __post_init__(self):
            super().__post_init__()
            if self.pace <= 0:
                raise ConfigError(f"pace={self.pace}; expected a number > 0.")
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "owned.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "owned:Mine"
    sys.modules.pop("owned", None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def grouped(learner: str) -> dict[str, int]:
    return {"group_size": 2} if learner in ("rloo", "grpo") else {}


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_setting_is_explained_and_survives_toml_and_json(learner, tmp_path):
    config = apply(Config(), {"learner": learner, **grouped(learner), "task_options.a": '{"b": [1, "x y"]}'})
    assert set(names(learner)) == {line.split(" = ")[0] for line in listing(config)}
    for item in fields(settings_class(learner)):
        assert explained(settings_class(learner)).get(item.name), item.name
    file = tmp_path / "run.toml"
    file.write_text("\n".join(line for line in listing(config) if "trust_remote" not in line), encoding="utf-8")
    assert apply(Config(), read_toml(file)) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert json.dumps(to_dict(from_dict(to_dict(config)))) == json.dumps(to_dict(config))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_too(name):
    config = preset(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert json.dumps(to_dict(from_dict(to_dict(config)))) == json.dumps(to_dict(config))


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_learner_by_its_class_is_the_learner_by_its_name(learner):
    config = apply(Config(), {"learner": learner, **grouped(learner)})
    assert apply(Config(), {"learner": LEARNERS[learner], **grouped(learner)}) == config
    assert config.learner == learner and type(config.settings) is settings_class(learner)


def test_another_learner_begins_with_its_own_defaults():
    slow = apply(Config(), {"ppo.learning_rate": 1e-6})
    assert slow.settings.learning_rate == 1e-6
    assert apply(slow, {"learner": "reinforce"}).settings.learning_rate == 3e-4
    assert apply(slow, {"seed": 1}).settings.learning_rate == 1e-6


def test_a_learner_of_ones_own_has_typed_settings(own):
    config = apply(Config(), {"learner": own, "learner_settings.pace": "0.25", "learner_settings.words": '["b", "c"]'})
    assert config.settings.pace == 0.25 and config.settings.words == ("b", "c")
    assert config.learner_settings["baseline"] == 0.9  # complete
    assert any(line.startswith("learner_settings.pace = 0.25  # How fast.") for line in listing(config))
    with pytest.raises(
        ConfigError, match=r"learner_settings.pase: .* is owned:Mine.*Did you mean 'learner_settings.pace'"
    ):
        apply(Config(), {"learner": own, "learner_settings.pase": 1})
    with pytest.raises(ConfigError, match=r"learner_settings.pace=-1.0; expected a number > 0"):
        apply(Config(), {"learner": own, "learner_settings.pace": -1})
    with pytest.raises(ConfigError, match=r"learner_settings.pace='fast'; expected a value of type float"):
        apply(Config(), {"learner": own, "learner_settings.pace": "fast"})
    with pytest.raises(ConfigError, match=r"ppo.clip: this run's learner is owned:Mine"):
        apply(Config(), {"learner": own, "ppo.clip": 0.1})


def test_settings_that_are_no_dataclass_are_refused(tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text(
        "class Odd:\n    Settings = dict\n    def __init__(self, policy, reference, settings, sampling, seed): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=r"learner 'odd:Odd': its `Settings` is .*dict.*; expected a frozen dataclass"
    ):
        apply(Config(), {"learner": "odd:Odd"})


def test_explanations_are_read_from_docstrings():
    @dataclass
    class Base:
        """One.

        Attributes:
            a, b: Both of
                them.
            c: Old words.

        Raises:
            d: Not an attribute.
        """

    class Child(Base):
        """Two.

        Attributes:
            c: New: words.
        """

    assert explained(Child) == {"a": "Both of them.", "b": "Both of them.", "c": "New: words."}


# ---------------------------------------------------------------- files
def test_a_toml_file_and_the_command_line_over_it(model, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        f'preset = "default"\ntask = "toy"\nmodel = "{model}"\niterations = 2\nbatch_size = 4\n'
        "[kl]\nbeta = 0.05\n[ppo]\nclip = 0.1\n[task_options]\nmax_new_tokens = 2\n"
    )
    done = coevo("train", "--config", file, "--seed", 3, "--set", "ppo.clip=0.3", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    config = read_config(tmp_path / "run")
    assert (config.kl.beta, config.settings.clip, config.seed, config.iterations) == (0.05, 0.3, 3, 2)
    assert config.task_options == {"max_new_tokens": 2}

    again = coevo("train", "--config", tmp_path / "run" / "config.json", "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert_same_run(tmp_path / "run", tmp_path / "again")
    ours, theirs = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("run", "again"))
    assert ours["config"] == theirs["config"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("batch_size = \n", "could not be read as TOML"),
        ("batchsize = 3\n", "unknown setting 'batchsize'.*Did you mean 'batch_size'"),
        ("[ppo]\nclpi = 3\n", "Did you mean 'ppo.clip'"),
        ('learner = "grpo"\ngroup_size = 4\n[ppo]\nclip = 0.1\n', "this run's learner is grpo"),
        ("batch_size = 2.5\n", "batch_size=2.5; expected a value of type int"),
        ("trust_remote_code = true\n", "a file cannot ask for"),
        ('preset = "smol"\n', "unknown preset 'smol'"),
    ],
)
def test_files_that_cannot_work(text, says, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(text)
    done = coevo("train", "--config", file, "--out", tmp_path / "run")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_saved_config_cannot_start_code(tmp_path, model):
    """A config.json may come from anywhere; a learner of one's own has to be named on the command
    line."""
    (tmp_path / "owned.py").write_text(OWN + "\nopen('called', 'w').close()\n")
    data = to_dict(Config(task="toy", model=str(model), iterations=1, batch_size=4))
    data |= {"learner": "owned:Mine", "learner_settings": {"pace": 0.1}}
    (tmp_path / "config.json").write_text(json.dumps({"config": data}))
    done = coevo("train", "--config", "config.json", "--out", "run", cwd=tmp_path)
    assert done.returncode == 1 and "names the learner 'owned:Mine', code that would be imported" in done.stderr
    assert not (tmp_path / "called").exists()
    done = coevo("train", "--config", "config.json", "--learner", "owned:Mine", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "run", uses=()).learner_settings["pace"] == 0.1


# ---------------------------------------------------------------- runs of 0.1.0
OLD = Path(__file__).parent / "data" / "run-0.1.0"


def test_a_run_of_0_1_is_read_shown_evaluated_and_resumed(tmp_path):
    """Made by 0.1.0 (see the folder's README): ten iterations of grpo with LoRA, a checkpoint after
    the fifth."""
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    config = read_config(folder)
    assert config.learner == "grpo" and config.settings.learning_rate == 0.01 and config.settings.scale == "batch"
    for words in (("show", folder), ("eval", folder)):
        done = coevo(*words)
        assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "agents")
    shutil.rmtree(folder / "checkpoints" / "000010")
    (folder / "summary.json").unlink()
    done = coevo("train", "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout and "without the collapse audit" in done.stdout
    since = ("/eval/", "cost/", "/seat0/", "/seat1/")  # what has changed or come since then
    trained = [
        [{tag: v for tag, v in row.items() if not any(part in tag for part in since)} for row in lines(one)]
        for one in (folder, OLD)
    ]
    turns = [[turn for row in lines(one, "transcripts.jsonl") for turn in row["turns"]] for one in (folder, OLD)]
    for key in ("agent", "tokens"):
        assert [turn[key] for turn in turns[0]] == [turn[key] for turn in turns[1]]
    if trained[0] == trained[1]:  # evaluations read the validation split now, which 0.1 did not have
        assert [turn["logprobs"] for turn in turns[0]] == [turn["logprobs"] for turn in turns[1]]
        assert weights(folder) == weights(OLD)
        return
    for ours, theirs in zip(*trained, strict=True):  # other processors round otherwise
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    for ours, theirs in zip(*turns, strict=True):
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=1e-3)
    for file in sorted(OLD.glob("agents/*/model.safetensors")):
        ours, theirs = load_file(folder / file.relative_to(OLD)), load_file(file)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-3)


def test_importing_the_command_reads_no_learner():
    code = "import sys, coevo_agents.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
