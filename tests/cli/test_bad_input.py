"""Bad input, as users give it: each is one message that says what, what was got, what was expected
and what to do.

The command is called in this process (its `main`), which is what the installed script calls; a few
go through the script itself. No test here accepts a traceback, a zero exit code or a run folder
that was begun.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch


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
        ({"lora__rank": 4}, ["lora.rank=4 does nothing in this run", "weights='lora'"]),
        ({"kl__target": 3}, ["kl.target=3.0 does nothing", "kl.controller='adaptive' or 'dual'"]),
        ({"mixing_weight": 0.5}, ["mixing_weight=0.5 does nothing", "mixing='weighted'"]),
        ({"elastic__decay": 0.5}, ["elastic.decay=0.5 does nothing", "elastic.every > 0"]),
        ({"alternate_every": 3}, ["alternate_every=3 does nothing", "updates='alternating'"]),
        (
            {"learner": "grpo", "ppo__learning_rate": 1},
            ["this run's learner is grpo", "Did you mean 'grpo.learning_rate'?"],
        ),
        ({"best_of": 17}, ["unknown setting 'best_of'", "Did you mean 'best_of_n.n'?"]),
        ({"learner_options__nobody": 1}, ["unknown setting 'learner_options.nobody'", "'learner_settings'?"]),
        ({"ppo__clpi": 1}, ["ppo.clpi: this run's learner is ppo", "Did you mean 'ppo.clip'?"]),
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
    (
        "my_tasks:nan",
        ["task 'mine', reward 'mine'", "returned nan for the response", "to prompt", "of the validation split"],
    ),
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
                "'my_tasks:Narrow' cannot be made",
                "takes these five: (policy, reference, settings, sampling, seed)",
                "too many",
            ],
        ),
        (
            "my_tasks:constant",
            ["'my_tasks:constant' cannot be made", "3 is not a callable object", "Expected a class"],
        ),
        ("my_tasks:Early", ["takes `config`", "since 0.2 it is given `settings`", "docs/add_a_learner.md"]),
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
