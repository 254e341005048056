"""Bad input, as users give it: each is one message that says what, what was got, what was expected
and what to do.

The command is called in this process (its `main`), which is what the installed script calls; a few
go through the script itself. No test here accepts a traceback, a zero exit code or a run folder
that was begun.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import runs
import torch
from runs import config, train

from coevo_agents import cli
from coevo_agents.training.loop import Run
from coevo_env.errors import NonFiniteError

FUNCTIONS = """
from dataclasses import replace
from coevo_env.game.task import Task
from coevo_env.tasks import toy

def with_reward(function):
    return replace(toy.task(), name="mine", rewards={"mine": function})

def short():
    return with_reward(lambda prompts, responses: [0.0] * (len(responses) - 1))

def nan():
    return with_reward(lambda prompts, responses: [float("nan")] * len(responses))

def text():
    return with_reward(lambda prompts, responses: ["good"] * len(responses))

def raising():
    return with_reward(lambda prompts, responses: [1 / len("") for _ in responses])

def number():
    return with_reward(lambda prompts, responses: 1.0)

def no_function():
    return replace(toy.task(), rewards={"mine": 3})

def no_placeholder():
    return replace(toy.task(), templates={"pioneer": "hello", "observer": "{responses} {prompt}"})

def other_placeholder():
    return replace(toy.task(), templates={"pioneer": "{prompt}", "observer": "{responses} {prompt} {partner}"})

def no_prompts():
    return replace(toy.task(), train=[])

def long_prompts():
    return replace(toy.task(), train=["1 2 3 4 " * 20])

def one_long_prompt_in_many():
    return replace(toy.task(), train=["1"] * 200 + ["1 2 3 4 " * 20])

def one_long_prompt_held_out():
    return replace(toy.task(), test=["1"] * 200 + ["1 2 3 4 " * 20])

def noting():
    open("called", "w").close()
    return toy.task()

class Noting:
    def __init__(self, *arguments):
        open("called", "w").close()

class Narrow:
    def __init__(self, policy, config):
        self.policy = policy

class Idle:
    def __init__(self, policy, reference, config, sampling, seed):
        self.policy = self

    def generate(self, contexts, max_new_tokens, sampling, uniforms):
        return None

class Mute(Idle):
    def update(self, rollout):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

def no_task():
    return {"prompts": []}

def failing():
    raise KeyError("reviews")

constant = 3
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder of the user's with a module of his own in it, which is the current directory."""
    (tmp_path / "my_tasks.py").write_text(FUNCTIONS)
    (tmp_path / "broken_module.py").write_text("def task(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_tasks", "broken_module"):
        sys.modules.pop(name, None)


@pytest.fixture
def refused(here, monkeypatch, capsys):
    """Calls the command, and returns its error message after checking its manners."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object, code: int = 1) -> str:
        monkeypatch.setattr(sys, "argv", ["coevo", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert left.value.code == code, err
        assert "Traceback" not in out + err
        if code == 1:
            assert err.startswith("error: ") and err.count("\nerror: ") == 0
        return err

    return call


@pytest.fixture
def refused_run(refused, model, here):
    """Starts a tiny run with settings that cannot work; nothing may be left of it."""

    def call(*words: str, **settings: object) -> str:
        named = {**runs.TINY, "model": model, **{name.replace("__", "."): value for name, value in settings.items()}}
        err = refused(
            "train", *(f"--set={name}={value}" for name, value in named.items()), "--out", here / "run", *words
        )
        assert not (here / "run" / "config.json").exists() or (here / "run" / "checkpoints").exists()
        return err

    return call


# -------------------------------------------------------------------- names and settings
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"task": "sentimant"}, ["unknown task 'sentimant'", "expected one of sentiment", "Did you mean 'sentiment'?"]),
        ({"kl__betta": 1}, ["unknown setting 'kl.betta'", "--list-settings", "Did you mean 'kl.beta'?"]),
        ({"learning_rate": 1}, ["unknown setting 'learning_rate'", "Did you mean 'ppo.learning_rate'?"]),
        ({"kl__beta": "much"}, ["kl.beta='much'", "expected a value of type float"]),
        ({"kl__beta": -1}, ["beta=-1.0", "expected a finite number >= 0"]),
        ({"kl__mode": "off"}, ["kl.mode='off'", "expected 'reported'", "use kl.beta=0"]),
        ({"kl__mode": "repotred"}, ["unknown KL mode", "Did you mean 'reported'?"]),
        ({"kl__controller": "adaptiv"}, ["Did you mean 'adaptive'?"]),
        ({"roles": "perodic"}, ["unknown role schedule 'perodic'", "Did you mean 'periodic'?"]),
        ({"mixing": "coperative"}, ["Did you mean 'cooperative'?"]),
        ({"context": "some"}, ["unknown context 'some'", "expected one of all, previous, none"]),
        ({"weights": "lorra"}, ["unknown weights 'lorra'", "Did you mean 'lora'?"]),
        ({"learner": "pppo"}, ["unknown learner 'pppo'", "Did you mean 'ppo'?"]),
        (
            {"learner": "nowhere:make"},
            ["learner 'nowhere:make' could not be imported", "Expected 'package.module:Class'"],
        ),
        ({"temperature": 0}, ["temperature=0", "expected a number > 0"]),
        (
            {"batch_size": 8, "ppo__minibatch_size": 3},
            ["batch_size=8 does not divide", "minibatch_size=3", "choose a divisor of 8"],
        ),
        ({"batch_size": 0}, ["batch_size=0", "expected a whole number >= 1"]),
        ({"batch_size": 2.5}, ["batch_size='2.5'", "expected a value of type int"]),
        ({"iterations": 0}, ["iterations=0", ">= 1"]),
        ({"seed": 2**63}, ["seed=9223372036854775808", "below 2**63"]),
        ({"ppo__clip": 2}, ["ppo.clip=2.0", "from 0 to 1"]),
        ({"ppo__decay_updates": -1}, ["ppo.decay_updates=-1"]),
        ({"ppo__whiten": "maybe"}, ["ppo.whiten='maybe'", "type bool"]),
        ({"lora__rank": 0}, ["lora.rank=0", "from 1"]),
        (
            {"weights": "lora", "lora__targets": "nothing"},
            ["targets='nothing'", "no module 'nothing' in the model", "c_attn, c_fc, c_proj"],
        ),
        (
            {"weights": "lora", "lora__targets": "c_attn,nothing"},
            ["no module 'nothing'", "with commas between them, or 'all-linear'"],
        ),
        ({"weights": "lora", "lora__targets": ""}, ["lora.targets=''", "no module ''"]),
        ({"task_options": 3}, ["task_options='3'", "type dict"]),
        (
            {"task_options.vocabulary": 7},
            ["task 'toy'", "unexpected keyword argument 'vocabulary'", "Its options are", "vocab_size"],
        ),
        ({"task_options.vocab_size": "many"}, ["task 'toy'", "'many'"]),
        ({"task_options.vocab_size": 2}, ["vocab_size=2", "expected vocab_size >= 3"]),
        ({"task_options.vocab_size": 9}, ["vocabulary of 9 tokens", "one of 5", "must agree"]),
        ({"max_context": 1}, ["context for prompt", "expected 1 to max_context=1", "Raise max_context"]),
        (
            {"max_new_tokens": 400, "max_context": 800, "min_new_tokens": 300},
            ["the model has 256 positions", "make up to 1200 tokens", "Lower one of them"],
        ),
        (
            {"max_context": 254},
            ["max_context=254 and max_new_tokens=3 make up to 257 tokens", "256 positions", "Lower one of them"],
        ),
        ({"dtype": "float16"}, ["dtype 'float16'", "expected one of float32, bfloat16."]),
        ({"dtype": "float8"}, ["dtype 'float8'", "expected one of float32, bfloat16"]),
        ({"device": "gpu"}, ["device 'gpu'", "expected 'cpu', 'cuda'"]),
        ({"device": "mps"}, ["device 'mps'", "expected 'cpu', 'cuda'"]),
        (
            {"mixing": "weighted", "mixing_anneal": 5, "mixing_weight_end": float("nan")},
            ["mixing_weight_end=nan", "a finite number"],
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work(settings, says, refused_run):
    message = refused_run(**settings)
    assert [part for part in says if part not in message] == [], message


def test_a_game_longer_than_its_model_is_refused_before_it_begins(refused):
    import coevo_env

    assert "make up to 272 tokens, but the model has 128 positions" in refused(
        "train", "--agents", 12, "--set", "max_context=256"
    )
    for make in (coevo_env.env, coevo_env.parallel_env, lambda **options: coevo_env.BatchEnv(2, **options)):
        make(task="sentiment", kl="reported", max_context=112)
        with pytest.raises(coevo_env.ConfigError, match=r"max_context=113 and max_new_tokens=16 make up to 129 tokens"):
            make(task="sentiment", kl="reported", max_context=113)


def test_words_that_the_command_does_not_know(refused):
    assert "No such option" in refused("train", "--iteration", "3", code=2)
    assert "No such command" in refused("trian", code=2)
    assert "Invalid value" in refused("train", "--iterations", "many", code=2)
    assert "expected NAME=VALUE" in refused("train", "--set", "kl.beta")
    assert "kl.beta is given twice, as '1' and '2'" in refused("train", "--set", "kl.beta=1", "--set", "kl.beta=2")
    assert "seed is given twice, as 1 and '2'" in refused("train", "--seed", 1, "--set", "seed=2")
    assert "Did you mean 'smollm2-imdb'?" in refused("train", "--preset", "smolm2-imdb")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_without_cuda(refused_run, refused, model):
    for device in ("cuda", "cuda:1"):
        assert "sees no CUDA device. Use device='cpu' or 'auto'" in refused_run("--device", device)
    assert "sees no CUDA device" in refused("eval", model, "--task", "toy", "--device", "cuda")


# -------------------------------------------------------------------- tasks of the user's own
FAULTY_REWARDS = [
    (
        "my_tasks:short",
        ["task 'mine', reward 'mine'", "returned 1 values for 2 responses", "expected one float for each"],
    ),
    ("my_tasks:nan", ["task 'mine', reward 'mine'", "returned nan for the response", "to prompt", "of the test split"]),
    ("my_tasks:text", ["task 'mine', reward 'mine'", "'good', a str", "the response", "expected a list of floats"]),
    (
        "my_tasks:raising",
        ["task 'mine', reward 'mine'", "ZeroDivisionError", "the response", "to prompt", "check_reward"],
    ),
    ("my_tasks:number", ["returned float", "expected a list of 2 floats"]),
]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        *FAULTY_REWARDS,
        ("my_tasks:no_function", ["reward 'mine' is 3", "expected a function"]),
        ("my_tasks:no_placeholder", ["pioneer template 'hello' lacks {prompt}", "add it"]),
        ("my_tasks:other_placeholder", ["placeholder {partner}", "only {prompt}, {responses} can be filled"]),
        ("my_tasks:no_prompts", ["the train split has no prompts", "give at least one"]),
        ("my_tasks:one_long_prompt_in_many", ["the pioneer's context for prompt 200", "has 80 tokens"]),
        ("my_tasks:one_long_prompt_held_out", ["the pioneer's context for prompt 200", "has 80 tokens"]),
        ("my_tasks:long_prompts", ["the pioneer's context for prompt 0", "has 80 tokens", "shorten the prompt"]),
        ("my_tasks:no_task", ["returned dict", "expected a coevo_env.Task"]),
        ("my_tasks:failing", ["task 'my_tasks:failing'", "KeyError: 'reviews'"]),
        ("my_tasks:constant", ["is a int", "expected a function"]),
        ("my_tasks:missing", ["could not be imported", "'missing'", "Expected 'package.module:function'"]),
        ("no_such_module:task", ["could not be imported", "no_such_module"]),
        ("broken_module:task", ["could not be imported", "SyntaxError"]),
    ],
)
def test_tasks_of_ones_own(function, says, refused_run):
    message = refused_run(task=function)
    assert [part for part in says if part not in message] == [], message


@pytest.mark.parametrize(("function", "says"), FAULTY_REWARDS)
def test_rewards_that_choose_the_best_of_n(function, says, refused_run):
    message = refused_run(task=function, learner="best_of_n")
    assert [part for part in says if part not in message] == [], message


# -------------------------------------------------------------------- learners of the user's own
@pytest.mark.parametrize(
    ("learner", "says"),
    [
        (
            "my_tasks:Narrow",
            [
                "'my_tasks:Narrow' cannot be made from policy, reference, config, sampling, seed",
                "too many",
                "five arguments",
            ],
        ),
        (
            "my_tasks:constant",
            ["'my_tasks:constant' cannot be made", "3 is not a callable object", "Expected a class or function"],
        ),
        (
            "my_tasks:Idle",
            [
                "'my_tasks:Idle', a Idle, has no update and no state_dict and no load_state_dict; see "
                "docs/add_a_learner.md"
            ],
        ),
        (
            "my_tasks:Mute",
            [
                "generate() of the policy, a Mute, returned a NoneType",
                "expected a coevo_env.lm.model.Generation with (2, T)",
            ],
        ),
    ],
)
def test_learners_of_ones_own(learner, says, refused_run):
    message = refused_run(learner=learner)
    assert [part for part in says if part not in message] == [], message


# -------------------------------------------------------------------- models
def test_models_that_are_not_there(refused_run, refused, here):
    assert "no such directory. Expected 'embedded', 'smollm2', a model directory, or a hub name" in refused_run(
        model="./nowhere"
    )
    (here / "runs").mkdir()
    for message in (
        refused_run(model="runs/frist"),
        refused("play", "runs/frist", "--prompt", "1"),
    ):  # the hub is not asked for it
        assert "model 'runs/frist': no such directory. Expected" in message
    (here / "runs").rmdir()
    (here / "empty").mkdir()
    message = "has no config.json; expected a directory written by `save_pretrained`"
    assert message in refused_run(model=here / "empty")
    assert message in refused("eval", here / "empty")
    assert message in refused("play", here / "empty", "--prompt", "1")
    for name in ("no-such-model-anywhere", "runs/none"):
        hub = refused_run(model=name)
        assert f"no causal language model could be loaded from '{name}'" in hub
        for message in (hub, refused("eval", name)):
            assert (
                f"There is no directory '{name}' here either. Expected 'embedded', 'smollm2', a model directory, or a "
                "hub name" in message
            )


@pytest.mark.parametrize("damage", ["cut", "text", "gone", "config"])
def test_models_that_are_damaged(damage, refused_run, model, here):
    copy = Path(shutil.copytree(model, here / "copy"))
    weights = copy / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "text":
        weights.write_text("version https://git-lfs.github.com/spec/v1")
    elif damage == "gone":
        weights.unlink()
    else:
        (copy / "config.json").write_text("{")
    assert f"no causal language model could be loaded from '{copy}'" in refused_run(model=copy)


def test_pickled_weights_are_refused(refused_run, model, here, monkeypatch):
    copy = Path(shutil.copytree(model, here / "copy"))
    (copy / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(5, 32)}, copy / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *a, **o: pytest.fail("unpickled"))
    assert "no causal language model could be loaded" in refused_run(model=copy)


def test_an_adapter_beside_a_model_is_refused(refused_run, model, here):
    """peft imports what such a file names."""
    copy = Path(shutil.copytree(model, here / "copy"))
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA", "megatron_core": "my_tasks"}')
    assert "holds an adapter beside the model; expected a plain model. Merge it" in refused_run(model=copy)


def test_a_tokenizer_without_eos(refused_run, model, here):
    copy = Path(shutil.copytree(model, here / "copy"))
    for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json"):
        if (copy / name).exists():  # a model that has one would do
            data = json.loads((copy / name).read_text())
            (copy / name).write_text(
                json.dumps({key: it for key, it in data.items() if not key.startswith("eos_token")})
            )
    message = refused_run(model=copy)
    assert "has no EOS token" in message and "Set `tokenizer.eos_token`" in message


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"model": {"type": "no such model"}}'])
def test_a_damaged_tokenizer(name, text, refused, model, here):
    copy = Path(shutil.copytree(model, here / "copy"))
    (copy / name).write_text(text)
    message = refused("train", "--task", "toy", "--model", copy, "--iterations", 1, "--out", here / "run")
    assert any(
        part in message for part in ("no tokenizer could be loaded from", "has no EOS token", "do not belong together")
    )


def test_a_tokenizer_of_another_model(refused, refused_run, model):
    assert "Do task and model belong together?" in refused("eval", model)  # sentiment with the vocabulary of the toy
    assert "vocabulary of 5 tokens" in refused_run(model="embedded")


# -------------------------------------------------------------------- folders
def test_a_second_run_into_the_same_folder(refused_run, model, here):
    train(config(model, iterations=1), here / "run")
    before = {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()}
    message = refused_run()
    assert "already holds a run" in message and f"coevo train --resume {here / 'run'}" in message
    (here / "run" / "config.json").rename(here / "config.json")  # also when only its checkpoints are left
    assert "already holds a run" in refused_run()
    (here / "config.json").rename(here / "run" / "config.json")
    assert {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "name", ["initial/notes.txt", "initial/config.json", "metrics.jsonl", "tensorboard/notes.txt", "data.txt"]
)
def test_a_folder_with_something_else_in_it(name, refused_run, model, here):
    file = here / "run" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    message = refused_run()
    assert f"is not empty, and what it holds is no run: {name.split('/')[0]}." in message and "--out" in message
    assert file.read_text() == "mine"


def test_what_a_run_left_that_never_began_is_in_nobodys_way(model, here):
    run = here / "run"
    Run(config(model, warm_start__steps=1), run).log.close()
    assert (run / "initial" / "config.json").exists()
    (run / "config.json").unlink()  # as if it had been killed a moment before
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").mkdir()
    for name in ("metrics.jsonl", "transcripts.jsonl", ".config.json.partial", "tensorboard/events.out.tfevents.1"):
        (run / name).write_text("")
    train(config(model, iterations=1), run)
    assert len(runs.lines(run)) > 0 and not (run / "initial").exists()


def test_a_folder_that_cannot_be_written(refused_run, here):
    (here / "file").write_text("")
    for place in ("file", "file/run"):
        message = refused_run("--out", str(here / place))
        assert "the run folder" in message and "could not be" in message and "--out" in message
    if os.geteuid():
        (here / "locked").mkdir(mode=0o500)
        assert "could not be made" in refused_run("--out", str(here / "locked" / "run"))


def test_resuming_what_is_no_run(refused, here, model):
    assert "is no run folder: it has no config.json" in refused("train", "--resume", here / "nothing")
    assert "is no run folder" in refused("train", "--resume", here / "my_tasks.py")
    train(config(model, iterations=1), here / "run")
    assert "only --iterations can be given besides" in refused("train", "--resume", here / "run", "--set", "kl.beta=1")
    assert "only --iterations" in refused("train", "--resume", here / "run", "--out", here / "other")
    train(config(model, iterations=2), here / "longer")
    assert "is at iteration 2; expected iterations >= that, got 1" in refused(
        "train", "--resume", here / "longer", "--iterations", "1"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"config": 3}',
        '{"config": {"batch_size": "many"}}',
        '{"config": {"batchsize": 3}}',
        '{"config": {"kl": 3}}',
        "\x00\xff",
    ],
)
def test_a_damaged_config(text, refused, here, model):
    train(config(model, iterations=1), here / "run")
    (here / "run" / "config.json").write_bytes(text.encode("latin-1"))
    for command in (("train", "--resume"), ("eval",), ("play", "--prompt", "1")):
        message = refused(*command, here / "run")
        assert str(here / "run" / "config.json") in message and "Was it edited" in message


def test_a_run_folder_cannot_ask_for_code(refused, here, model):
    """What a folder says is imported and called only if a person says it too."""
    train(config(model, iterations=1), here / "run")
    record = json.loads((here / "run" / "config.json").read_text())

    def edit(**changes: object) -> None:
        (here / "run" / "config.json").write_text(json.dumps({**record, "config": {**record["config"], **changes}}))

    edit(task="my_tasks:noting")
    for command in (("train", "--resume"), ("eval",), ("play", "--prompt", "1")):
        message = refused(*command, here / "run")
        assert (
            "names the task 'my_tasks:noting', code that would be imported and run" in message
            and "--task my_tasks:noting" in message
        )
    edit(learner="my_tasks:Noting")
    message = refused("train", "--resume", here / "run")
    assert "names the learner 'my_tasks:Noting'" in message and "--learner my_tasks:Noting" in message
    assert "names the learner" in refused(
        "train", "--resume", here / "run", "--learner", "ppo", "--task", "my_tasks:noting"
    )
    edit()
    assert "only --iterations" in refused("train", "--resume", here / "run", "--task", "my_tasks:noting")
    assert not (here / "called").exists()
    edit(task="my_tasks:noting")
    cli.app(
        ["train", "--resume", str(here / "run"), "--task", "my_tasks:noting", "--iterations", "2"],
        standalone_mode=False,
    )
    cli.app(["eval", str(here / "run"), "--task", "my_tasks:noting", "--prompts", "2"], standalone_mode=False)
    assert (here / "called").exists()


def test_damaged_checkpoints(refused, here, model):
    train(config(model, iterations=1), here / "run")
    (here / "run" / "checkpoints" / "000001" / "llm1.safetensors").write_bytes(b"")
    assert "is whole, so there is nothing to resume from" in refused("train", "--resume", here / "run")


def test_looking_at_what_is_no_run(refused, here, model):
    assert "is no folder" in refused("show", here / "nothing")
    (here / "empty").mkdir()
    assert "holds no run" in refused("show", here / "empty")
    train(config(model, iterations=1), here / "run")
    assert "could not be written" in refused("show", here / "run", "--html", here / "no" / "page.html")
    shutil.rmtree(here / "run" / "agents")
    assert "has no saved agents yet" in refused("eval", here / "run")
    assert "has no saved agents yet" in refused("play", here / "run", "--prompt", "1")
    assert "eval_prompts=0" in refused("eval", model, "--task", "toy", "--prompts", 0)


def test_a_prompt_that_cannot_be_answered(refused, here, model):
    train(config(model, iterations=1), here / "run")
    assert "'hello' is not made of ids; expected whole numbers" in refused("play", here / "run", "--prompt", "hello")
    assert "max_context" in refused("play", here / "run", "--prompt", "1 2 " * 40)


def test_a_policy_that_diverged_is_told_and_not_a_crash(model, here):
    with pytest.raises(NonFiniteError, match=r"expected finite numbers|is not finite|norm is"):
        train(config(model, ppo__learning_rate=1e9, ppo__max_grad_norm=0), here / "run")
    run = Run(config(model), here / "nan")
    next(run.learners[0].policy.lm.module.parameters()).data.fill_(
        float("nan")
    )  # as a step in which the weights overflow
    with pytest.raises(
        NonFiniteError, match=r"non-finite logprobs in row 0 \(episode 0\).*diverged[\s\S]*no checkpoint"
    ):
        run.train()


def test_the_installed_command_has_the_same_manners(here, model):
    done = runs.coevo("train", "--task", "my_tasks:nan", "--model", model, "--out", here / "run", cwd=here)
    assert done.returncode == 1
    assert (
        done.stderr.lstrip().startswith("error: task 'mine', reward 'mine': returned nan")
        and "Traceback" not in done.stderr
    )
