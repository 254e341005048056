"""Tapes: a gradient pass that looks up what sampling computed is the ordinary pass, in its values,
its derivatives and what it trains."""

from __future__ import annotations

import numpy as np
import pytest
import runs
import torch
from architectures import architectures, contexts

from coevo_agents.learners.grpo import GRPO
from coevo_agents.learners.policy import ActorCritic, LoRAConfig, make_policies, remembering
from coevo_agents.learners.ppo import PPO
from coevo_env.faces.batch import BatchEnv
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import LanguageModel
from coevo_env.lm.tape import Tape, find
from coevo_env.testing import tiny_lm

SAMPLING = Sampling(0.8, eos_id=0, banned=(3,), min_new_tokens=1)


def long_way(lm: LanguageModel) -> LanguageModel:
    """The model by transformers' own code, as a large one is run."""
    lm.short, lm.is_small = None, False
    return lm


@pytest.fixture(scope="module")
def models() -> dict[str, LanguageModel]:
    made = {name: long_way(lm) for name, lm in architectures().items()}
    (policy,), _ = make_policies(architectures()["llama"], ["llm1"], LoRAConfig(rank=4), seed=0)
    for name, parameter in policy.named_parameters().items():
        if "lora_B" in name:
            parameter.data.add_(0.1)
    made["llama with LoRA"] = long_way(policy.lm)
    return made


def record(lm: LanguageModel, prompts: list[list[int]], budget: int, seed: int = 0, limit: int = 1 << 30):
    tape = Tape(lm.backbone, limit)
    drawn = lm.generate(
        prompts, budget, SAMPLING, np.random.default_rng(seed).random((len(prompts), budget)), tape=tape
    )
    return tape, drawn


def gradients(lm: LanguageModel, prompts, tokens, lengths, tapes):
    lm.module.zero_grad()
    hidden, targets, positions = lm.hidden_states(prompts, tokens, lengths, tapes)
    logprobs = lm.token_logprobs(hidden, targets, positions, SAMPLING)
    with lm.active():
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
    return logprobs.detach(), {name: p.grad.clone() for name, p in lm.module.named_parameters() if p.grad is not None}


GROUPS = {
    "different": contexts(7, 11),
    "shared": [row for row in contexts(3, 11, seed=4) for _ in range(3)],
    "of one token": [[4], [5], [4]],
}


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "neox", "cohere (scaled logits)", "llama with LoRA"])
@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("budget", [1, 6])
def test_a_pass_from_a_tape_is_the_ordinary_pass(models, name, kind, budget, monkeypatch):
    lm, prompts = models[name], GROUPS[kind]
    tape, drawn = record(lm, prompts, budget)
    assert tape.kept and len(tape.layers) > 4
    order = np.random.default_rng(3).permutation(len(prompts))  # a learner may shuffle its rows
    asked = [prompts[row] for row in order], drawn.tokens[order], drawn.lengths[order]
    expected, slopes = gradients(lm, *asked, ())
    calls: list[int] = []
    for layer in tape.layers:
        plain = type(layer).forward
        monkeypatch.setattr(layer, "forward", lambda x, layer=layer, plain=plain: calls.append(1) or plain(layer, x))
    got, ours = gradients(lm, *asked, [tape])
    monkeypatch.undo()
    assert not calls, "a product was computed again"
    assert got.shape == expected.shape and (got - expected).abs().max() < 1e-5
    assert set(ours) == set(slopes) and len(ours) > 0
    for key, slope in slopes.items():
        assert (ours[key] - slope).abs().max() <= 1e-4 * max(1.0, float(slope.abs().max())), key
    mask = np.arange(drawn.tokens.shape[1]) < asked[2][:, None]
    assert np.abs(got.numpy() - drawn.logprobs[order][mask]).max() < 1e-5


def test_turns_of_several_tapes_are_found_in_any_order_and_a_stranger_spoils_it(models):
    lm = models["llama"]
    taped = [record(lm, contexts(4, 11, seed), 6, seed) for seed in (1, 2)]
    prompts = contexts(4, 11, 1) + contexts(4, 11, 2)
    width = max(drawn.tokens.shape[1] for _, drawn in taped)
    tokens = np.concatenate([np.pad(drawn.tokens, ((0, 0), (0, width - drawn.tokens.shape[1]))) for _, drawn in taped])
    lengths = np.concatenate([drawn.lengths for _, drawn in taped])
    order = np.array([5, 0, 7, 2, 2])  # some only, and one of them twice
    asked = [prompts[row] for row in order], tokens[order], lengths[order]
    tapes = [tape for tape, _ in taped]
    found = find(tapes, *asked)
    assert found is not None and found[0].tolist() == [1, 0, 1, 0, 0] and found[1].tolist() == [1, 0, 3, 2, 2]
    expected, slopes = gradients(lm, *asked, ())
    got, ours = gradients(lm, *asked, tapes)
    assert (got - expected).abs().max() < 1e-5
    assert all(
        (ours[key] - slope).abs().max() <= 1e-4 * max(1.0, float(slope.abs().max())) for key, slope in slopes.items()
    )
    assert find(tapes, [[9, 9, 9], *asked[0][1:]], *asked[1:]) is None


def test_nothing_is_kept_above_the_limit(models):
    lm = models["llama"]
    tape, drawn = record(lm, GROUPS["different"], 4, limit=1000)
    assert not tape.kept and not tape._outputs
    assert find([tape], GROUPS["different"], drawn.tokens, drawn.lengths) is None


def test_layers_are_as_they_were_afterwards_also_when_sampling_fails(models):
    lm = models["llama"]
    tape = Tape(lm.backbone, 1 << 30)
    with tape.recording(8):
        assert all("forward" in vars(layer) for layer in tape.layers)
    with pytest.raises(IndexError), tape.recording(8):
        lm.states(torch.tensor([[11]]), None, torch.tensor([[0]]), 1)  # there is no id 11
    assert not any("forward" in vars(layer) for layer in tape.layers)


@pytest.mark.parametrize("learner", ["grpo", "ppo", "ppo over two epochs"])
def test_an_update_is_the_same_with_and_without_tapes(learner, monkeypatch):
    asked: list[int] = []
    looked = LanguageModel._states_on_tapes
    monkeypatch.setattr(LanguageModel, "_states_on_tapes", lambda *a: asked.append(1) or looked(*a))
    weights = []
    for mib in (64, 0):
        policy = ActorCritic(long_way(tiny_lm(7, layers=2)))
        policy.lm.module.requires_grad_(True)
        game = BatchEnv(
            8,
            task="toy",
            model=tiny_lm(7, layers=2),
            num_agents=1,
            group_size=4,
            seed=3,
            task_options={"vocab_size": 7},
        )
        if learner == "grpo":
            made: object = GRPO(policy, None, GRPO.Settings(learning_rate=1e-2, reuse_mib=mib), game.rules.sampling)
        else:
            config = PPO.Settings(learning_rate=1e-2, epochs=2 if "two" in learner else 1, reuse_mib=mib)
            made = PPO(policy, None, config, game.rules.sampling)
        # or Adam makes a step of a gradient that is 0 but for rounding
        made.optimizer.param_groups[0]["eps"] = 1e-2  # type: ignore[attr-defined]
        for _ in range(3):
            with remembering([policy]):
                turn = game.begin_turn()
                assert turn is not None
                drawn = policy.generate(turn.contexts, turn.max_new_tokens, turn.sampling, turn.uniforms())
                assert len(policy.tapes) == (1 if mib else 0)
                game.submit_turn(drawn.tokens, drawn.lengths, drawn.logprobs, values=drawn.values)
                made.update(game.rollouts()[0])  # type: ignore[attr-defined]
                assert not policy.tapes
            game.reset()
        weights.append({name: p.detach().clone() for name, p in policy.named_parameters().items()})
    assert len(asked) == 3, "one pass of each update came from a tape"
    with_tapes, without = weights
    assert all((with_tapes[name] - tensor).abs().max() < 1e-5 for name, tensor in without.items())


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"weights": "lora"}, 2),
        ({"roles": "random", "exchange_every": 0}, 4),  # each agent has played both seats: two tapes for its update
        ({"weights": "shared", "learner": "grpo", "group_size": 4}, 2),
        ({"ppo__minibatch_size": 4}, 0),
        ({"ppo__recompute": "always"}, 0),
    ],
    ids=["lora", "both seats", "shared", "minibatches", "recomputed"],
)
def test_runs_with_tapes_continue_bit_for_bit(options, passes, tmp_path, monkeypatch):
    monkeypatch.setattr("coevo_env.lm.network.SMALL", 0)  # treat it as a large model
    asked: list[int] = []
    played = LanguageModel._states_of_turns
    monkeypatch.setattr(
        LanguageModel, "_states_of_turns", lambda lm, *a: (len(a) == 5 and asked.append(1)) or played(lm, *a)
    )
    model, whole, parts = runs.save_tiny(tmp_path / "model"), tmp_path / "whole", tmp_path / "parts"
    runs.train(runs.config(model, iterations=4, **options), whole)
    assert len(asked) == 4 * passes
    runs.train(runs.config(model, iterations=2, **options), parts)
    runs.train(runs.config(model, iterations=4, **options), parts, resume=True)
    runs.assert_same_run(parts, whole)


def test_small_models_and_those_outside_the_loop_keep_nothing():
    policy = ActorCritic(tiny_lm(7))
    policy.tape_bytes = 1 << 30
    noise = np.random.default_rng(0).random((2, 3))
    with remembering([policy, object()]):
        policy.generate([[1], [2]], 3, SAMPLING, noise)
        assert not policy.tapes  # computing it again is quicker than looking it up
    long_way(policy.lm)
    policy.generate([[1], [2]], 3, SAMPLING, noise)
    assert not policy.tapes
    policy.tape_rows = 1  # more are learned from in several passes
    with remembering([policy]):
        policy.generate([[1], [2]], 3, SAMPLING, noise)
        assert not policy.tapes
        policy.generate([[1]], 3, SAMPLING, noise)
        assert len(policy.tapes) == 1
