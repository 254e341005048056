"""Models as they come from elsewhere: loaded whole or not at all, and a turn ends where they say
that turns end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
import zoo_checks
import zoo_tokenizers
from safetensors.torch import load_file, save_file

from coevo_agents.learners.policy import ActorCritic
from coevo_env import metrics
from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.build import build
from coevo_env.faces.token_game import TokenGame
from coevo_env.game.reference import TableModel, warp
from coevo_env.game.rules import Rules
from coevo_env.game.sampling import Sampling
from coevo_env.game.task import Task
from coevo_env.lm.load import load_tokenizer
from coevo_env.lm.logits import stream, warp_logits
from coevo_env.lm.model import LanguageModel
from coevo_env.lm.tokenizer import TextTokenizer
from coevo_env.rewards.classifiers import classifier_reward

ANIMALS = ["Llama", "Llama, tied", "GPT-2", "Mixtral"]


def save(name: str, directory: Path) -> Path:
    zoo.module(name).save_pretrained(directory)
    zoo_checks.tokenizer().hf.save_pretrained(directory)
    return directory


def rewrite(directory: Path, change) -> None:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


# -------------------------------------------------------------------- loaded whole
@pytest.mark.parametrize("name", ANIMALS)
def test_a_whole_model_is_loaded_also_beside_a_value_head(name, tmp_path):
    save(name, tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    expected = zoo.module(name)(input_ids=ids).logits
    assert torch.allclose(LanguageModel.from_pretrained(tmp_path).module(input_ids=ids).logits, expected, atol=1e-6)
    rewrite(tmp_path, lambda state: {**state, "v_head.summary.weight": torch.zeros(1, 32)})
    assert torch.allclose(LanguageModel.from_pretrained(tmp_path).module(input_ids=ids).logits, expected, atol=1e-6)


@pytest.mark.parametrize("name", ANIMALS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {f"pretrained_model.{k}": v for k, v in s.items()}, "lacks .* with a prefix that does not belong"),
        (
            lambda s: {k: v for k, v in s.items() if ".1." not in k},
            r"lacks '[a-z.]*\.1\..*' and .* more tensors|experts.* in another shape",
        ),
        (lambda s: dict(list(s.items())[:-1]), r"lacks .*; expected all weights of a"),
        (lambda s: {k: v for k, v in s.items() if "emb" not in k and "wte" not in k}, r"lacks .*(emb|wte)"),
        (lambda s: {k: v[:-1].clone() if "norm" in k or "ln_f" in k else v for k, v in s.items()}, "in another shape"),
    ],
    ids=["foreign prefix", "no second layer", "no last tensor", "no embedding", "other shapes"],
)
def test_a_model_that_is_not_whole_is_refused_by_the_names_of_what_is_missing(name, change, message, tmp_path):
    save(name, tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(ConfigError, match=message):
        LanguageModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["Llama", "GPT-2"])
def test_layers_that_the_configuration_does_not_count_are_not_left_out(name, tmp_path):
    config = json.loads((save(name, tmp_path) / "config.json").read_text())
    config["num_hidden_layers" if "num_hidden_layers" in config else "n_layer"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"has '.*\.1\..*, which its configuration does not count"):
        LanguageModel.from_pretrained(tmp_path)


def test_a_language_model_is_no_text_classifier(tmp_path):
    save("Llama", tmp_path)
    with pytest.raises(ConfigError, match=r"lacks 'score.weight'; expected all weights of a LlamaForSequenceClassif"):
        classifier_reward(tmp_path, 0)(["1"], ["2"])


def test_prompt_learning_is_refused():
    from peft import PromptTuningConfig, get_peft_model

    module = get_peft_model(zoo.module("Llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ConfigError, match="prompt learning"):
        LanguageModel(module, zoo_checks.tokenizer(), "default")


# -------------------------------------------------------------------- where turns end
def several(directory: Path) -> Path:
    """A model whose turns end with 0, 2 and 5; its tokenizer says 0."""
    save("Llama", directory)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "eos_token_id": 5}))
    return directory


def task() -> Task:
    return Task(
        name="ends",
        train=["1 3", "4"],
        test=["3 1"],
        rewards={"words": lambda prompts, responses: [float(len(said.split())) for said in responses]},
        templates={"pioneer": "{prompt}", "observer": "{prompt} {responses}"},
        max_new_tokens=6,
        max_context=32,
    )


def test_every_id_that_the_model_names_ends_a_turn_on_every_face(tmp_path):
    model = several(tmp_path)
    assert load_tokenizer(model).eos_ids == LanguageModel.from_pretrained(model).tokenizer.eos_ids == (0, 2, 5)
    rules, reference = build(task(), model)
    assert rules.eos_ids == rules.sampling.eos_ids == (0, 2, 5) and rules.eos_id == 0
    assert not rules.sampling.mask(11, 0)[[0, 2, 5]].any() and rules.sampling.mask(11, 1)[[0, 2, 5]].all()
    assert reference is not None
    drawn = reference.generate([[1, 3]] * 64, 6, rules.sampling, np.random.default_rng(0).random((64, 6)))  # type: ignore[attr-defined]
    seen = set()
    for row, length in zip(drawn.tokens, drawn.lengths, strict=True):
        assert not {0, 2, 5} & set(row[: length - 1].tolist())
        assert length == 6 or row[length - 1] in (0, 2, 5)
        seen.add(int(row[length - 1]))
    assert {0, 2, 5} <= seen
    for end in (0, 2, 5):
        turns = [[3, 4, end], [7, end]]
        batch = BatchEnv(2, rules=rules, reference=reference)
        for said in turns:
            tokens = np.array([said, said])
            with pytest.raises(ConfigError, match="EOS"):
                batch.submit_turn(np.array([[3, end, 3]] * 2), np.array([3, 3]), np.zeros((2, 3)))
            batch.submit_turn(tokens, np.array([len(said)] * 2), np.zeros(tokens.shape))
        assert batch.done and [turn["text"] for turn in batch.transcripts()[0]["turns"]] == ["3 4", "7"]
        assert not any(turn["cut"] for turn in batch.transcripts()[0]["turns"])
        stepped = BatchEnv(2, rules=rules, reference=reference)
        game = TokenGame(task(), model, kl="reference", seed=0)
        game.reset(seed=0)
        for token in [3, 4, end, 7, end]:
            assert not stepped.done and game.actor >= 0
            stepped.step(np.array([token, token]), np.zeros(2))
            game.play(token)
        assert stepped.done and game.actor < 0
        assert [turn["text"] for turn in stepped.transcripts()[0]["turns"]] == ["3 4", "7"]
        assert game.episode is not None and game.episode.responses == ["3 4", "7"]


def test_metrics_count_every_end():
    tokens = [[3, 0], [3, 2], [3, 4]]
    assert metrics.eos_share(tokens, (0, 2)) == pytest.approx(2 / 3)
    assert metrics.eos_share(tokens, 0) == pytest.approx(1 / 3)
    got = metrics.summarize(["3", "3", "3 4"], tokens, (0, 2))
    assert got["eos"] == pytest.approx(2 / 3) and got["distinct_1"] == pytest.approx(2 / 4)  # 3, 3, 3 and 4


def test_every_end_is_masked_before_the_least_length_in_all_warps():
    sampling = Sampling(0.7, min_new_tokens=2, eos_id=4, eos_ids=(4, 1), banned=(3,))
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 5, generator=generator), torch.randn(9, 5, generator=generator)
    positions, targets = torch.tensor([0, 1, 2, 0, 1, 3]), torch.tensor([0, 2, 4, 5, 6, 1])
    logits = hidden @ weight.T
    expected = warp(logits.double().numpy(), sampling, positions.numpy())
    assert (expected[:2][:, [1, 3, 4]] == -np.inf).all() and np.isfinite(expected[2, [1, 4]]).all()
    ours = warp_logits(logits, sampling, positions).log_softmax(-1).numpy()
    assert np.allclose(np.exp(ours), np.exp(expected), atol=1e-6)
    found, _ = stream(hidden, weight, targets, positions, sampling)
    assert found.numpy() == pytest.approx(expected[np.arange(6), targets.numpy()], abs=1e-5)
    table = TableModel(np.zeros((9, 9))).table(sampling, 1)
    assert np.exp(table[0]) == pytest.approx([1 / 6, 0, 1 / 6, 0, 0, 1 / 6, 1 / 6, 1 / 6, 1 / 6])


def test_ends_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="token 2 is EOS and banned"):
        Sampling(eos_id=0, eos_ids=(0, 2), banned=(2,))
    with pytest.raises(ConfigError, match="eos_id as the first"):
        Sampling(eos_id=1, eos_ids=(0, 1))
    assert Sampling(eos_id=3).eos_ids == (3,) and Sampling(eos_id=3) == Sampling(eos_id=3, eos_ids=(3,))


# -------------------------------------------------------------------- what is read is what was said
def test_a_partner_whose_answer_must_be_cut_is_cut_by_words_and_not_by_chat_messages():
    hf = zoo_tokenizers.byte_level(chat_template=zoo_tokenizers.CHATML)
    spoken = Task(
        name="cut",
        train=["the soup was"],
        test=["the film was"],
        rewards={"none": lambda prompts, responses: [0.0 for _ in responses]},
        templates={"pioneer": "{prompt}", "observer": "{prompt}{responses}"},
        max_new_tokens=30,
        max_context=26,
    )
    rules = Rules(spoken, TextTokenizer(hf, chat="auto"))
    episode = rules.start(0)
    said = rules.tokenizer.encode(" wonderful and cold and wonderful and cold and wonderful and cold and wonderful")
    episode.take([*said, rules.eos_id])
    read = hf.decode(episode.turn.context)
    assert len(episode.turn.context) <= 26 and read.count("<|im_start|>") == 2 and read.count("user") == 1
    content = read.split("<|im_start|>user ")[1].split("<|im_end|>")[0]
    assert content.startswith("the soup was wonderful and cold")
    assert episode.turns[0].text.startswith(content.removeprefix("the soup was"))


def test_a_cut_keeps_the_space_in_front():
    tokenizer = TextTokenizer(zoo_tokenizers.sentence_piece("<s>", bos_token="<s>"))
    spoken = Task(
        name="cut",
        train=["the soup was"],
        test=["the film was"],
        rewards={"none": lambda prompts, responses: [0.0 for _ in responses]},
        templates={"pioneer": "{prompt}", "observer": "{prompt}{responses}"},
        max_new_tokens=30,
        max_context=7,
    )
    rules = Rules(spoken, tokenizer)
    episode = rules.start(0)
    episode.take(
        [*tokenizer.hf.convert_tokens_to_ids(["\u2581wonderful", "\u2581and", "\u2581cold"] * 2), rules.eos_id]
    )
    assert tokenizer.decode(episode.turn.context) == "the soup was wonderful and cold"


def test_chat_is_a_setting_of_every_face(tmp_path):
    model = zoo.module("Llama", vocab_size=300)
    lm = LanguageModel(model, TextTokenizer(zoo_tokenizers.byte_level(chat_template=zoo_tokenizers.CHATML), 300))
    spoken = Task(
        name="spoken",
        train=["the soup was"],
        test=["the film was"],
        rewards={"none": lambda prompts, responses: [0.0 for _ in responses]},
        max_context=40,
    )
    for chat, count in ((None, 0), (False, 0), ("auto", 2), (True, 2)):
        game = TokenGame(spoken, lm, kl="reference", chat=chat, seed=0)
        game.reset()
        assert game.episode is not None
        assert game.episode.turn.context.count(lm.tokenizer.encode("<|im_start|>")[0]) == count, chat
    with pytest.raises(ConfigError, match="no chat template"):
        build("toy", kl="off", chat=True)
    with pytest.raises(ConfigError, match="chat setting"):
        build(spoken, lm, chat="always")
    ActorCritic(lm).save_pretrained(tmp_path)
    rules, _ = build(spoken, tmp_path, chat="auto", max_new_tokens=4)
    assert rules.start(0).turn.context == lm.tokenizer.with_chat(True).render("the soup was")


def test_tables_that_the_architecture_does_not_train_stay_as_they_are(tmp_path):
    """RoFormer keeps its rotations in a parameter; trained, they would no longer be rotations, and
    a state would depend on its padding."""
    save("RoFormer, decoder", tmp_path)
    table = "roformer.encoder.embed_positions.weight"
    for lm in (LanguageModel.from_pretrained(tmp_path), LanguageModel.from_pretrained(tmp_path).clone().clone()):
        assert [name for name, p in lm.module.named_parameters() if not p.requires_grad] == [table]
        assert f"model.{table}" not in ActorCritic(lm).named_parameters()
        assert len(ActorCritic(lm).named_parameters()) == len(list(lm.module.parameters())) - 1 + 2
