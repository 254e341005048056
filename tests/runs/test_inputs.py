"""What a run rests on is pinned: another model, tokenizer, task, library or setting is refused by
name when a run goes on or its agents are measured again."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import runs
from runs import config, lines, train

from coevo_agents.runs import inputs
from coevo_agents.runs.folder import read_config, read_saved
from coevo_agents.runs.inputs import compare, libraries, model_digests, settings_digest, source, task_digests
from coevo_agents.training.assess import assess
from coevo_agents.training.loop import Run
from coevo_env.errors import ConfigError
from coevo_env.tasks import make_task
from coevo_env.testing import tiny_lm

OLD = Path(__file__).parent / "data" / "run-0.1.0"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("finished") / "run"
    train(config(model, iterations=2, batch_size=4), directory)
    return directory


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(run: Path, **settings) -> None:
    saved = json.loads((run / "config.json").read_text())
    saved["config"].update(settings)
    (run / "config.json").write_text(json.dumps(saved))


def again(run: Path, settings=None) -> None:
    Run(settings or read_config(run), run, resume=True).log.close()


def measured(run: Path) -> tuple[str, ...]:
    return assess(read_config(run), {"llm1": str(run / "agents" / "llm1")}).notes


def test_what_nobody_touched_goes_on_and_is_measured(run):
    again(run)
    assert measured(run) == ()
    again(run, replace(read_config(run), iterations=3))  # the one setting that may change


def test_another_initial_model_is_refused(run, tmp_path):
    other = tmp_path / "tiny"
    tiny_lm(5, seed=4).module.save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(run / "agents" / "llm1" / name, other)
    edit(run, model=str(other))  # as where a directory holds another model now
    saved = json.loads((run / "config.json").read_text())
    saved["inputs"]["settings"] = settings_digest(saved["config"])
    (run / "config.json").write_text(json.dumps(saved))
    for act in (again, measured):
        with pytest.raises(ConfigError, match=r"different are: the weights of the initial model\. .*Put back"):
            act(run)


def test_edited_settings_are_refused(run):
    edit(run, temperature=2.0)
    with pytest.raises(ConfigError, match=r"the settings in .*config\.json are not those .* the file was edited"):
        again(run)


def test_other_settings_are_refused_by_name(run):
    with pytest.raises(ConfigError, match=r"temperature is 2\.0 and was 1\.0\. Only iterations may change"):
        again(run, replace(read_config(run), temperature=2.0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train": ["1", "3"]}, "the train prompts"),
        ({"test": ["1 1", "3 3"]}, "the test prompts"),
        ({"validation": ["2 1", "4 2"]}, "the validation prompts"),
        ({"separator": "|"}, "the templates, lengths or name"),
        ({"rewards": {"matches": lambda prompts, responses: [0.0 for _ in responses]}}, "the source or weights"),
    ],
)
def test_every_part_of_a_task_counts(change, says):
    task = make_task("toy")
    compare({"task": task_digests(task)}, {"task": task_digests(make_task("toy"))}, "it")
    with pytest.raises(ConfigError, match=says):
        compare({"task": task_digests(task)}, {"task": task_digests(replace(task, **change))}, "it")


def test_the_weight_of_a_reward_and_what_it_was_made_with_count():
    task = make_task("toy")
    heavier = replace(task, rewards={**task.rewards, "ascents": (0.5, task.rewards["ascents"][1])})
    assert task_digests(task)["rewards"] != task_digests(heavier)["rewards"]
    assert task_digests(task)["rewards"] != task_digests(make_task("toy", max_new_tokens=2))["rewards"]

    def made(best: float):
        return lambda prompts, responses: [best for _ in responses]

    def scaled(factor, prompts, responses):
        return [factor for _ in responses]

    assert source(made(1.0)) == source(made(1.0)) != source(made(2.0))
    assert source(functools.partial(scaled, 1.0)) != source(functools.partial(scaled, 2.0))


def test_the_library_that_rewards_is_pinned_by_its_version(monkeypatch):
    task = make_task("sentiment")
    now = libraries(task)
    assert set(now) == {"vaderSentiment"}
    with pytest.raises(ConfigError, match=r"vaderSentiment is .* and was 3\.2\.1"):
        compare({"libraries": {"vaderSentiment": "3.2.1"}}, {"libraries": now}, "it")


def test_a_tensor_and_a_token_count():
    one, same = tiny_lm(5, seed=1), tiny_lm(5, seed=1)
    assert model_digests(one) == model_digests(same)
    next(iter(same.module.parameters())).data.view(-1)[3] += 1e-3
    assert model_digests(one)["weights"] != model_digests(same)["weights"]
    assert model_digests(one)["tokenizer"] == model_digests(same)["tokenizer"]
    assert model_digests(one)["tokenizer"] != model_digests(tiny_lm(6, seed=1))["tokenizer"]


def test_a_run_without_digests_goes_on_and_says_so(tmp_path):
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    assert "has no digests" in measured(run)[0]
    said: list[str] = []
    resumed = Run(read_config(run), run, resume=True, say=said.append)
    resumed.log.close()
    assert "has no digests of its model, task and settings" in said[0]
    assert read_saved(run / "config.json")["inputs"]["model"] == resumed.parts.rests_on["model"]
    again(run)


def test_a_comparison_that_compares_nothing_is_noticed(run, monkeypatch):
    monkeypatch.setattr(inputs, "settings_digest", lambda config: "0" * 64)
    monkeypatch.setattr("coevo_agents.runs.folder.settings_digest", lambda config: "0" * 64)
    edit(run, temperature=2.0)
    with pytest.raises(ConfigError, match="the file was edited"):  # what was written before is no such digest
        again(run)


def test_transcripts_say_what_was_read_and_which_weights_spoke(finished):
    for row in lines(finished, "transcripts.jsonl"):
        for turn in row["turns"]:
            assert turn["weights"] == row["iteration"] - 1
            assert turn["context"].split() == [str(token) for token in turn["context_ids"]]
