"""Bad folders, as users give them: run folders that are damaged, taken, locked or none. The manners
are those of test_bad_input.py."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import runs
from runs import config, train

from coevo_agents import cli
from coevo_agents.training.loop import Run
from coevo_env.errors import NonFiniteError


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
    assert "only --iterations and --stop-on can be given besides" in refused(
        "train", "--resume", here / "run", "--set", "kl.beta=1"
    )
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
    del record["inputs"]  # whoever made the folder can have left the digests out

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
    shutil.rmtree(here / "run" / "checkpoints")
    assert "has no saved agents and no checkpoint yet" in refused("eval", here / "run")
    assert "has no saved agents and no checkpoint yet" in refused("play", here / "run", "--prompt", "1")
    assert "eval_prompts=0" in refused("eval", model, "--task", "toy", "--prompts", 0)


def test_a_prompt_that_cannot_be_answered(refused, here, model):
    train(config(model, iterations=1), here / "run")
    assert "'hello' is not made of ids; expected whole numbers" in refused("play", here / "run", "--prompt", "hello")
    assert "max_context" in refused("play", here / "run", "--prompt", "1 2 " * 40)


def test_a_policy_that_diverged_is_told_and_not_a_crash(model, here):
    with pytest.raises(NonFiniteError, match=r"expected finite numbers|is not finite|norm is"):
        train(config(model, ppo__learning_rate=1e9, ppo__max_grad_norm=0), here / "run")
    run = Run(config(model), here / "nan")
    next(run.parts.learners[0].policy.lm.module.parameters()).data.fill_(
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
