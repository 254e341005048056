"""What a run rests on is pinned: another model, tokenizer, task, library or setting is refused by
name when a run goes on or its agents are measured again."""

from __future__ import annotations

import functools
import importlib
import json
import linecache
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from runs import config, lines, train
from safetensors.torch import load_file, save_file

from coevo_agents.runs import inputs
from coevo_agents.runs.folder import read_config, read_saved
from coevo_agents.runs.inputs import compare, libraries, model_digests, settings_digest, task_digests
from coevo_agents.runs.reached import source
from coevo_agents.training.assess import assess
from coevo_agents.training.loop import Run
from coevo_env.assets.tfidf import TfidfClassifier
from coevo_env.errors import ConfigError
from coevo_env.rewards import classifier_reward
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
    assert task_digests(task)[inputs.REWARDS] != task_digests(heavier)[inputs.REWARDS]
    assert task_digests(task)[inputs.REWARDS] != task_digests(make_task("toy", max_new_tokens=2))[inputs.REWARDS]

    def made(best: float):
        return lambda prompts, responses: [best for _ in responses]

    def scaled(factor, prompts, responses):
        return [factor for _ in responses]

    assert source(made(1.0)) == source(made(1.0)) != source(made(2.0))
    assert source(functools.partial(scaled, 1.0)) != source(functools.partial(scaled, 2.0))


# ---------------------------------------------------------------- models that reward
@pytest.fixture
def classifier(tmp_path) -> Path:
    """A text classifier of two layers over a few words, that a test may change."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *"01234"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 32}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path / "classifier")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BertForSequenceClassification(BertConfig(vocab_size=len(words), **sizes, pad_token_id=0))
    network.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = tensors["classifier.bias"] + 1e-4
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_words(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    vocabulary = json.loads(text)
    vocabulary["model"]["vocab"].update({"3": 6, "4": 5})
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))


CHANGES = {
    "a weight": other_weight,
    "the words": other_words,
    "the activation": lambda folder: edit_json(folder / "config.json", hidden_act="relu"),
    "the longest text": lambda folder: edit_json(folder / "tokenizer_config.json", model_max_length=8),
}


def of(classifier: Path) -> dict[str, str]:
    return task_digests(replace(make_task("toy"), rewards={"judge": classifier_reward(classifier, 1)}))


@pytest.mark.parametrize("what", CHANGES)
def test_all_of_a_classifier_that_rewards_counts(what, classifier):
    before = of(classifier)
    assert of(classifier) == before
    assert of(Path(shutil.copytree(classifier, classifier.parent / "moved"))) == before  # what it does, not where it is
    CHANGES[what](classifier)
    with pytest.raises(ConfigError, match="rewards, or a model that they hold"):
        compare({"task": before}, {"task": of(classifier)}, "it")


def test_a_run_does_not_go_on_with_another_classifier_and_is_not_measured_by_it(classifier, model, tmp_path):
    (tmp_path / "own.jsonl").write_text("".join(f'{{"prompt": "{i} {j}"}}\n' for i in range(5) for j in range(5)))
    options = {"prompts": str(tmp_path / "own.jsonl"), "reward": str(classifier), "reward_options": {"label": 1}}
    options["templates"] = {"observer": "{prompt} {responses}"}
    settings = config(model, task="own", iterations=1, batch_size=2, eval_draws=1, max_context=32, max_new_tokens=4,
                      task_options=options)  # fmt: skip
    train(settings, tmp_path / "run")
    again(tmp_path / "run")
    other_weight(classifier)
    for act in (again, measured):
        with pytest.raises(ConfigError, match="rewards, or a model that they hold"):
            act(tmp_path / "run")


@functools.cache
def judge() -> dict[str, float]:
    return dict(SCORES)


SCORES = {"good": 1.0}


def judged(prompts, responses):
    return [judge().get(text, 0.0) for text in responses]


def test_what_a_reward_of_ones_own_loads_counts(monkeypatch):
    judge.cache_clear()
    before = source(judged)
    judge.cache_clear()
    monkeypatch.setitem(SCORES, "good", 2.0)
    assert source(judged) != before
    judge.cache_clear()
    monkeypatch.setitem(SCORES, "good", 1.0)
    assert source(judged) == before
    terms, idf, weights = ["good"], np.ones(1), np.ones(1)

    def table(weights):
        held = TfidfClassifier(terms, idf, weights, 0.0)
        return lambda prompts, responses: list(held.score(responses))

    assert source(table(weights)) == source(table(weights)) != source(table(2 * weights))


def test_a_reward_that_cannot_load_is_told_before_anything_is_computed():
    @functools.cache
    def load():
        raise KeyError("weights")

    with pytest.raises(ConfigError, match=r"could not load what it scores with: .*load\(\) raised KeyError: 'weights'"):
        source(lambda prompts, responses: [load() for _ in responses])


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
    assert model_digests(one)[inputs.TOKENIZER] == model_digests(same)[inputs.TOKENIZER]
    assert model_digests(one)[inputs.TOKENIZER] != model_digests(tiny_lm(6, seed=1))[inputs.TOKENIZER]
    assert model_digests(one)["configuration"] == model_digests(same)["configuration"]
    same.module.config.layer_norm_epsilon = 1e-3
    assert model_digests(one)["configuration"] != model_digests(same)["configuration"]


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


# ---------------------------------------------------------------- all that a reward reaches
MODULE = """
import re
import torch
from coevo_env.rewards import exact_answer, regex_reward
BONUS = {bonus}
def deep(r): return {deep}
def helper(r): return deep(r) + BONUS
def fn(prompts, responses, w={default}): return [helper(r) * w for r in responses]
class Slots:
    __slots__ = ("k",)
    def __init__(self): self.k = {slot}
class Object:
    def __init__(self): self.held = [dict(a=Slots())]; self.tensor = torch.ones(2) * {tensor}; self.me = self
    def score(self, prompts, responses): return [0.0 for r in responses]
REWARDS = dict(regex=regex_reward({pattern!r}, flags={flags}), exact=exact_answer({extract!r}))
REWARDS.update(fn=fn, ob=Object().score)
"""
BEFORE = {"bonus": 0.0, "deep": "0.0", "default": 1.0, "slot": 1, "tensor": 1.0, "pattern": "a", "flags": 0,
          "extract": "last_number"}  # fmt: skip
AFTER = {"bonus": 5.0, "deep": "7.0", "default": 2.0, "slot": 2, "tensor": 2.0, "pattern": "e", "flags": 2,
         "extract": "first_number"}  # fmt: skip


@pytest.mark.parametrize("what", [None, *AFTER])
def test_whatever_a_reward_reaches_counts(what, tmp_path, monkeypatch):
    def digest(number, values):
        path = tmp_path / f"{number}" / "reached_by_a_reward.py"
        path.parent.mkdir()
        path.write_text(MODULE.format(**values))
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
        linecache.clearcache()
        rewards = importlib.import_module(path.stem).REWARDS
        return task_digests(replace(make_task("toy"), rewards=rewards))[inputs.REWARDS]

    before = digest(0, BEFORE)
    assert (digest(1, BEFORE if what is None else {**BEFORE, what: AFTER[what]}) == before) == (what is None)


def test_a_digest_of_rewards_in_the_form_of_before_is_not_compared():
    now = {"task": task_digests(make_task("toy"))}
    old = {"task": {**now["task"], "rewards": "0" * 64}}
    assert compare(old, now, "it") == []
    del old["task"][inputs.REWARDS]
    assert compare(old, now, "it") == [
        "it has no digest of its rewards in the form of today: what it was is not compared."
    ]
