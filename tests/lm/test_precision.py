"""What lower precision can and cannot hold: it is refused where it would lose what is learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
import zoo_checks

from coevo_agents.learners.learner import find_learner
from coevo_agents.learners.lora import merged
from coevo_agents.learners.policy import ActorCritic, LoRAConfig, make_policies
from coevo_env.errors import ConfigError
from coevo_env.game.sampling import Sampling
from coevo_env.lm.logits import LARGE, invert
from coevo_env.lm.model import LanguageModel
from coevo_env.testing import tiny_lm


def half(lm):
    lm.module.to(torch.bfloat16)
    return lm


@pytest.mark.parametrize("learner", ["ppo", "grpo", "reinforce", "rloo", "mappo"])
def test_weights_in_lower_precision_are_not_trained(learner):
    """An update of 1e-5 is less than half a step of bfloat16 nearly everywhere."""
    made = find_learner(learner)
    with pytest.raises(ConfigError, match=r"would be trained in bfloat16.* weights='lora'"):
        made(ActorCritic(half(tiny_lm(5))), tiny_lm(5), made.Settings(), Sampling())
    policies, reference = make_policies(half(tiny_lm(5)), ["llm1"], LoRAConfig(rank=2), seed=0)
    made(policies[0], reference, made.Settings(), Sampling())  # adapters are in single precision


@pytest.mark.parametrize("name", ["GPT-2", "Llama"])
def test_an_adapter_on_a_base_in_lower_precision_is_saved_as_it_was_trained(name):
    """The merged weights are those of the base, to the bit, and what the adapter adds, in
    float32."""
    lm = LanguageModel(zoo.module(name), zoo_checks.tokenizer())
    base = {key: value.float() for key, value in half(lm).module.state_dict().items()}
    policies, _ = make_policies(lm, ["llm1"], LoRAConfig(rank=2), seed=0)
    policy = policies[0]
    with torch.no_grad():
        for parameter in policy.named_parameters().values():
            parameter.add_(1e-3 * torch.randn_like(parameter))  # less than the base could hold
    whole, changed = merged(policy.lm).state_dict(), 0
    for key, layer in policy.lm.module.named_modules():
        if not isinstance(getattr(layer, "lora_A", None), torch.nn.ModuleDict):
            continue
        added = layer.get_delta_weight(policy.lm.adapter).float()
        plain = f"{key.removeprefix('base_model.model.')}.weight"
        assert whole[plain].dtype == torch.float32
        torch.testing.assert_close(whole[plain], base[plain] + added, rtol=0, atol=1e-7)
        changed += int((whole[plain].to(torch.bfloat16).float() - base[plain] - added).abs().max() > 1e-4)
    assert changed  # rounded to the precision of the base it would not be that


@pytest.mark.parametrize("size", [LARGE + 1, 151_936])
def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_are_scored(size):
    """What reaches each token: the slices between the sums, which in float32 are empty for most."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, size, generator=generator) * 2
    scores[0, 123] = scores.max() + 8
    mass = (scores - scores.max()).exp()
    exact = (mass.double() / mass.double().sum())[0]
    ends = exact.cumsum(0)
    rare = torch.arange(200, size, max(1, size // 500))
    middle = (ends[rare] - exact[rare] / 2).to(torch.float64)
    drawn = torch.cat([invert(mass, one[None]) for one in middle])[:, 0]
    assert (drawn - rare).abs().max() <= 1  # the last digit of a sum
    assert (drawn == rare).float().mean() > 0.9
    single = mass.cumsum(-1)[0]
    assert float((single[1:] == single[:-1]).float().mean()) > 0.1  # as it would be: never drawn


def test_small_vocabularies_are_drawn_from_as_before():
    mass = torch.rand(64, 300, generator=torch.Generator().manual_seed(1))
    noise = torch.rand(64, generator=torch.Generator().manual_seed(2))
    cumulative = mass.cumsum(-1)
    expected = [
        int(np.searchsorted(row.numpy(), float(u) * float(row[-1]), side="right"))
        for row, u in zip(cumulative, noise, strict=True)
    ]
    assert (invert(mass, noise)[:, 0] - torch.tensor(expected)).abs().max() <= 1
