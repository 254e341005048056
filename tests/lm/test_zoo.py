"""Right or refused: every architecture and tokenizer of the zoo either holds what is promised of
log-probs, adapters, saved agents and texts, or is refused before anything is computed; and
docs/models.md says which.

The checks can fail: models that are made wrong on purpose are refused, and see
`test_the_checks_can_fail`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import transformers
import zoo
import zoo_checks
import zoo_tokenizers

from coevo_agents.learners.policy import LoRAConfig, make_policies
from coevo_env.errors import ConfigError
from coevo_env.faces.build import build
from coevo_env.lm.model import LanguageModel
from coevo_env.lm.tape import Tape

CURRENT = int(transformers.__version__.split(".")[0]) >= 5
of_the_page = pytest.mark.skipif(not CURRENT, reason="docs/models.md is of transformers 5; earlier ones hold others")

PAGE = Path(__file__).parents[2] / "docs/models.md"
QUICK = [
    *("Llama", "Llama, tied", "Gemma 3, window of 4", "Phi-3, longrope", "OPT, large, projected", "Falcon, ALiBi"),
    *("Mixtral", "Cohere", "BERT, decoder", "RoBERTa, decoder", "BERT, reads both ways, small weights", "Mamba"),
]


def rows() -> dict[str, list[str]]:
    """The tables of the page, by their first cells."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row for row in cells}


def check_row(name: str, directory: Path) -> None:
    """The page's row is what is found here. Another release of transformers may fail in other
    words, but not hold what the page refuses, or refuse what it holds."""
    told, found = rows()[name], zoo_checks.verdict(name, directory)
    same = f"transformers {transformers.__version__}." in PAGE.read_text("utf-8")
    assert told == found if same else told[1].split()[0] == found[1].split()[0]


def model(name: str, **changes) -> LanguageModel:
    return LanguageModel(zoo.module(name, **changes), zoo_checks.tokenizer())


@of_the_page
@pytest.mark.parametrize("name", QUICK)
def test_right_or_refused(name, tmp_path):
    check_row(name, tmp_path)


@of_the_page
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.ANIMALS if name not in QUICK])
def test_right_or_refused_throughout(name, tmp_path):
    check_row(name, tmp_path)


@pytest.mark.parametrize("name", zoo_tokenizers.tokenizers())
def test_what_a_tokenizer_does(name):
    zoo_tokenizers.check(*zoo_tokenizers.tokenizers()[name])


@of_the_page
def test_the_page_has_every_animal_and_every_tokenizer():
    page = rows()
    assert set(zoo.ANIMALS) <= set(page)
    for row in zoo_tokenizers.verdicts():
        assert page[row[0]] == row


@pytest.mark.parametrize("name", ["Llama, tied", "OPT", "Mixtral", "Falcon, ALiBi"])
@pytest.mark.parametrize("kind", ["all-linear", "head", "embedding"])
def test_log_probs_hold_with_adapters_that_say_something_also_from_a_tape(name, kind):
    lm = model(name)
    target = zoo_checks.targets_of(lm)[kind]
    (policy, _), _ = make_policies(lm, ["llm1", "llm2"], LoRAConfig(rank=2, targets=target), 0)
    with torch.no_grad():
        for parameter in policy.named_parameters().values():
            parameter.add_(0.1)
    with policy.lm.active():  # the truth is a copy of the model as it is now
        zoo_checks.check_logprobs(policy.lm)


# -------------------------------------------------------------------- lengths
@of_the_page
@pytest.mark.parametrize("name", ["Phi-3, longrope", "Llama, longrope"])
def test_lengths_beyond_a_switch_of_rotary_factors_are_refused(name):
    lm = model(name)
    assert lm.max_positions == zoo.LONG["original_max_position_embeddings"]
    with pytest.raises(ConfigError, match=r"19 tokens and a response of up to 6, but the model has 24 positions of 64"):
        zoo_checks.draw(lm, [[1], [2] * 19])
    cursor = lm.cursor([1] * 24, zoo_checks.WARP)
    cursor.logprobs()
    cursor.push(1)
    with pytest.raises(
        ConfigError, match="25 tokens, but the model has 24 positions of 64 in which a row does not depend on"
    ):
        cursor.logprobs()
    with pytest.raises(ConfigError, match="28 tokens, but the model has 24 positions of 64"):
        build("toy", lm, task_options={"vocab_size": 11}, max_context=24, max_new_tokens=4)


def test_a_dynamic_rotary_model_is_right_up_to_its_last_position():
    lm = model("Llama, dynamic NTK")
    prompts = [[1, 2, 3], [4] * 58, [5, 6]]
    drawn = zoo_checks.draw(lm, prompts)
    assert abs(drawn.logprobs - zoo_checks.right(lm, prompts, drawn)).max() < 2e-5
    with pytest.raises(ConfigError, match="59 tokens and a response of up to 6, but the model has 64 positions;"):
        zoo_checks.draw(lm, [[4] * 59])


# -------------------------------------------------------------------- the checks can fail
def deaf(module, forward, **kwargs):
    return forward(**{**kwargs, "attention_mask": None})


def shifted(module, forward, **kwargs):
    if kwargs.get("position_ids") is not None:
        kwargs["position_ids"] = kwargs["position_ids"] * 2
    return forward(**kwargs)


def mixed(module, forward, **kwargs):
    output = forward(**kwargs)
    output.last_hidden_state = output.last_hidden_state + 1e-9 * output.last_hidden_state.roll(1, 0)
    return output


def peeking(module, forward, **kwargs):
    output = forward(**kwargs)
    output.last_hidden_state = output.last_hidden_state + 1e-9 * output.last_hidden_state.roll(-1, 1)
    return output


@pytest.mark.parametrize(
    ("mutant", "message"),
    [
        (deaf, "off when it reads token by token behind padding"),
        (shifted, "off when it is given the positions 0, 1, 2"),
        (mixed, "another row of the batch changes an earlier state"),
        (peeking, "a later token changes an earlier state"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_are_made_wrong_are_refused(mutant, message, dtype, monkeypatch):
    module = zoo.module("Llama").to(dtype)
    forward = module.base_model.forward
    wrong = functools.wraps(forward)(lambda **kwargs: mutant(module, forward, **kwargs))
    monkeypatch.setattr(module.base_model, "forward", wrong)
    with pytest.raises(ConfigError, match=message):
        LanguageModel(module, zoo_checks.tokenizer())


def test_the_checks_can_fail(tmp_path, monkeypatch):
    lm = model("OPT")
    monkeypatch.setattr(Tape, "_whole", lambda tape, kept: len(kept) == len(tape._rows))
    monkeypatch.setattr("coevo_env.lm.tape._looked_up", lambda layer, look, x: look().reshape(*x.shape[:-1], -1))
    with pytest.raises((AssertionError, RuntimeError)):
        zoo_checks.check_logprobs(lm)
    monkeypatch.undo()
    plain = LanguageModel.logits

    def outside(lm, hidden):  # the head of whoever was active last
        if not lm.is_peft or lm.adapter is not None:
            return plain(lm, hidden)
        lm.module.base_model.enable_adapter_layers()
        try:
            return plain(lm, hidden)
        finally:
            lm.module.base_model.disable_adapter_layers()

    monkeypatch.setattr(LanguageModel, "logits", outside)
    with pytest.raises(ConfigError, match="cannot be its own reference"):
        zoo_checks.check_training(model("Llama"), "lm_head", tmp_path)


@of_the_page
@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        ("Mixtral", "experts", "could not be made: Target module MixtralExperts.* Take other lora.targets"),
        ("BERT, decoder", "word_embeddings", "ties its output layer, which has a bias of its own"),
        ("OPT, projected", "embed_positions", "merged into the weights the adapters do not say"),
        ("Llama", "nobody", "no module 'nobody'"),
    ],
)
def test_targets_that_cannot_hold_are_refused_at_the_start(name, targets, message):
    with pytest.raises(ConfigError, match=message):
        make_policies(model(name), ["llm1"], LoRAConfig(targets=targets), 0)


def test_adapters_that_something_inside_another_view_asks_for_leave_it_as_it_was():
    (one, two), reference = make_policies(model("Llama"), ["llm1", "llm2"], LoRAConfig(rank=2), 0)
    with torch.no_grad():
        for policy in (one, two):
            for name, p in policy.named_parameters().items():
                if "lora_B" in name:
                    p.add_(0.1 if policy is one else -0.1)
    views = {"one": one.lm, "two": two.lm, "reference": reference}
    ids = torch.tensor([[1, 2, 3]])

    def said(lm):
        return lm.states(ids, None, torch.arange(3)[None], 1)

    alone = {}
    for name, lm in views.items():
        with lm.active(), torch.no_grad():
            alone[name] = said(lm)
    assert not torch.equal(alone["one"], alone["two"]) and not torch.equal(alone["one"], alone["reference"])
    for outer in views:
        for inner in views:
            with views[outer].active(), torch.no_grad():
                with views[inner].active():
                    assert torch.equal(said(views[inner]), alone[inner])
                assert torch.equal(said(views[outer]), alone[outer]), (outer, inner)
    assert all(p.requires_grad for policy in (one, two) for p in policy.named_parameters().values())
