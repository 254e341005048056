"""Numbers of a run are those of its own agents: folders of agents that were exchanged or edited, a
summary or a checkpoint of another run are refused in words by every command that would use them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import runs
from runs import config, train

from coevo_agents import cli
from coevo_agents.runs import checkpoint, saved
from coevo_agents.runs.checkpoint import checkpoints
from coevo_agents.runs.folder import read_config
from coevo_agents.training.loop import Run
from coevo_env.errors import CoevoError

OLD = Path(__file__).parent / "data" / "run-0.1.0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Two runs that differ by their seed, `one` and `other`."""
    place = tmp_path_factory.mktemp("runs")
    model = runs.save_tiny(place / "tiny")
    for name, seed in (("one", 0), ("other", 1)):
        train(config(model, iterations=2, batch_size=2, seed=seed, eval_prompts=2, eval_draws=1), place / name)
    return place


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the first that a test may spoil."""
    return Path(shutil.copytree(finished / "one", tmp_path / "run"))


def evaluate(run: Path) -> None:
    cli.app(["eval", str(run)], standalone_mode=False)


def play(run: Path) -> None:
    cli.app(["play", str(run), "--prompt", "2"], standalone_mode=False)


def resume(run: Path) -> None:
    train(read_config(run), run, resume=True)


COMMANDS = (evaluate, play, resume)


def refused(run: Path, *commands: Callable[[Path], None]) -> list[str]:
    """What commands say that refuse a folder, leaving all of it as it is."""
    said, before = [], contents(run)
    for command in commands or COMMANDS:
        with pytest.raises(CoevoError) as caught:
            command(run)
        said.append(str(caught.value))
    assert contents(run) == before
    return said


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


# ---------------------------------------------------------------- exchanged
def test_agents_that_were_exchanged_in_a_run_are_refused(run):
    agents = run / "agents"
    for old, new in (("llm1", "x"), ("llm2", "llm1"), ("x", "llm2")):
        (agents / old).rename(agents / new)
    for said in refused(run):
        assert f"{agents / 'llm1'} holds the agent that the run saved as llm2" in said
        assert f"remove {agents}, then coevo train --resume {run}" in said


@pytest.mark.parametrize("name", ["agents", "agents/llm2"])
def test_agents_of_another_run_are_refused(name, run, finished):
    shutil.rmtree(run / name)
    shutil.copytree(finished / "other" / name, run / name)
    for said in refused(run):
        assert "is not what the run saved there: model.safetensors is another one" in said


def test_a_summary_of_another_run_is_refused(run, finished):
    for name in ("agents", "summary.json"):  # the digests in it belong to these agents
        shutil.rmtree(run / name) if name == "agents" else (run / name).unlink()
        copy = shutil.copytree if name == "agents" else shutil.copy
        copy(finished / "other" / name, run / name)
    assert all("summary.json is of another run" in said for said in refused(run))


def test_checkpoints_of_another_run_are_refused(run, finished):
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(finished / "other" / "checkpoints", run / "checkpoints")
    said: list[str] = []
    with pytest.raises(CoevoError, match="none of the"):
        Run(read_config(run), run, resume=True, say=said.append)
    assert "is of another run: model, task or settings are others" in said[0]
    shutil.rmtree(run / "agents")
    assert all("none of the" in told for told in refused(run, evaluate, play))


@pytest.mark.parametrize("name", ["llm2", "llm3"])
def test_an_agent_too_few_or_too_many_is_refused(name, run):
    if name == "llm3":
        shutil.copytree(run / "agents" / "llm1", run / "agents" / name)
    else:
        shutil.rmtree(run / "agents" / name)
    what = "is missing" if name == "llm2" else "is none that the run saved"
    assert all(f"{name} {what}; expected the agents llm1, llm2" in said for said in refused(run, evaluate, play))
    resume(run)  # which saves those that are missing


# ---------------------------------------------------------------- edited
def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of safetensors the sign or the last digit of a weight
    path.write_bytes(data)


def test_every_file_of_an_agent_counts(run):
    files = sorted(path for path in (run / "agents" / "llm1").rglob("*") if path.is_file())
    assert len(files) >= 5
    for path in files:
        whole = path.read_bytes()
        flip(path)
        with pytest.raises(CoevoError, match=f"{path.name} is another one"):
            saved.check_saved([path.parent])
        path.unlink()
        with pytest.raises(CoevoError, match=f"{path.name} is missing"):
            saved.check_saved([path.parent])
        path.write_bytes(whole)
    assert saved.check_saved([run / "agents" / "llm1", run / "agents" / "llm2"]) == []


def test_edited_weights_are_refused_by_every_command(run):
    flip(run / "agents" / "llm2" / "model.safetensors")
    for said in refused(run):
        assert f"{run / 'agents' / 'llm2'} is not what the run saved there: model.safetensors is another one" in said
    alone = ["eval", str(run / "agents" / "llm2")]
    assert "is another one" in refused(run, lambda run: cli.app(alone, standalone_mode=False))[0]


def test_a_file_that_loaders_read_may_not_be_added_and_a_page_may(run):
    for name in ("README.md", ".gitattributes"):
        (run / "agents" / "llm1" / name).write_text("mine")
    assert saved.check_saved([run / "agents" / "llm1"]) == []
    (run / "agents" / "llm1" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(CoevoError, match=r"chat_template\.jinja was added"):
        evaluate(run)


# ---------------------------------------------------------------- the ways out
def test_what_was_removed_is_saved_again_and_measured_from_the_checkpoint_until_then(run, finished, capsys):
    shutil.rmtree(run / "agents")
    cli.app(["eval", str(run), "--json"], standalone_mode=False)
    models = json.loads(capsys.readouterr().out)["models"]
    resume(run)
    assert contents(run / "agents").keys() == {
        run / "agents" / path.relative_to(finished / "one" / "agents") for path in contents(finished / "one" / "agents")
    }
    runs.assert_same_run(run, finished / "one")
    told = json.loads((run / "summary.json").read_text())["agents"]
    assert models["llm1"] == told["llm1"]["after"] and models["llm2"] == told["llm2"]["after"]


def test_agents_of_a_training_that_goes_on_are_not_taken_for_its_own(run, capsys):
    """A run that was made longer has, until it ends, the agents of the shorter one in its
    folder."""
    longer = Run(config(Path(read_config(run).model), iterations=4, batch_size=2, eval_prompts=2, eval_draws=1), run,
                 resume=True)  # fmt: skip
    with longer:
        for _ in range(2):
            longer.iterate()
    cli.app(["eval", str(run)], standalone_mode=False)
    assert "its agents are those of iteration 4" in capsys.readouterr().err.replace("\n", " ")
    assert [path.name for path in checkpoints(run / "checkpoints")][-1] == "000004"


def test_a_run_without_digests_is_read_and_says_so(tmp_path, capsys):
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    evaluate(run)
    play(run)
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("has no digests of its model, task and agents, as earlier runs have none") == 2
    resume(run)
    assert json.loads((run / "summary.json").read_text())["agents"]["llm1"]["files"]["model.safetensors"]
    flip(run / "agents" / "llm1" / "model.safetensors")
    refused(run)


def test_a_digest_of_names_and_sizes_alone_is_noticed(run, monkeypatch):
    monkeypatch.setattr(checkpoint, "_digest", lambda path: "0" * 64)
    summary = json.loads((run / "summary.json").read_text())
    for agent in summary["agents"].values():
        for file in agent["files"].values():
            file["sha256"] = "0" * 64
    (run / "summary.json").write_text(json.dumps(summary))
    flip(run / "agents" / "llm2" / "model.safetensors")
    with pytest.raises(pytest.fail.Exception):
        refused(run, evaluate)
