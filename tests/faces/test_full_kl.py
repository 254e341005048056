"""The exact KL over the vocabulary: on every face the one that plain forward passes in float64 give
when everything is enumerated, at the cost of no pass more, and without an array of all
distributions."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
import zoo
from torch.utils._python_dispatch import TorchDispatchMode

import coevo_env
from coevo_agents.learners.policy import ActorCritic, LoRAConfig, make_policies, remembering
from coevo_agents.training.play import play
from coevo_env.game.kl import KLConfig, full_kl
from coevo_env.game.reference import TableModel
from coevo_env.game.sampling import Sampling
from coevo_env.lm.logits import divergence
from coevo_env.lm.model import LanguageModel
from coevo_env.tasks import toy
from coevo_env.testing import tiny_lm

B, V, T = 6, 7, 4


def model(seed: int, dtype: torch.dtype = torch.float32, vocab: int = V) -> LanguageModel:
    lm = tiny_lm(vocab, seed=seed, scale=0.15)
    return lm if dtype == torch.float32 else LanguageModel(lm.module.to(dtype), lm.tokenizer)


def options(reference: LanguageModel, **changed) -> dict:
    """A game of two agents who swap seats from row to row, under a warp with everything that a
    reference may have."""
    return {
        "task": toy.task(vocab_size=reference.vocab_size, max_new_tokens=T),
        "model": reference,
        "kl": KLConfig(estimator="full", beta=0.3),
        "seed": 3,
        "roles": "random",
        "temperature": 0.8,
        "min_new_tokens": 2,
        **changed,
    }


def enumerated(policy, reference, context: list[int], said: list[int], warp) -> list[float]:
    """KL(policy || reference) at each token of `said`, word by word; the models in float64."""
    result = []
    rows = [zoo.truth(exact, context, said).tolist() for exact in (policy, reference)]
    for t, (ours, theirs) in enumerate(zip(*rows, strict=True)):
        legal = [word for word in range(len(ours)) if word not in warp.illegal(t)]
        p, q = ([math.exp(row[word] / warp.temperature) for word in legal] for row in (ours, theirs))
        p, q = ([mass / sum(masses) for mass in masses] for masses in (p, q))
        result.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return result


def expected(policies: list[LanguageModel], reference: LanguageModel, game) -> np.ndarray:
    """What `enumerated` says of the finished batch of a game, (agents, B, T)."""
    kl, (base, *agents) = np.zeros((len(policies), B, T)), [zoo.exact(lm.causal) for lm in (reference, *policies)]
    for row, episode in enumerate(game.episodes):
        for turn in episode.turns:
            found = enumerated(agents[turn.agent], base, turn.context, turn.tokens, game.rules.sampling)
            kl[turn.agent, row, : len(found)] = found
    return kl


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_all_faces_pay_the_enumeration(dtype, close):
    policies, reference = [model(1, dtype), model(2, dtype)], model(0, dtype)
    whole, single = (coevo_env.BatchEnv(B, **options(reference)) for _ in range(2))
    rng = np.random.default_rng(0)
    while (turn := whole.begin_turn()) is not None:
        tokens, lengths = rng.integers(1, V, (B, T)), rng.integers(2, T + 1, B)
        tokens[np.arange(B), lengths - 1] = np.where(lengths > 2, 0, tokens[np.arange(B), lengths - 1])
        lengths = np.where(lengths > 2, lengths, T)  # two tokens are too few for an end of a turn
        ours = np.full((B, T, V), 7.0)  # what stands behind the end is nobody's business
        for row, context in enumerate(turn.contexts):
            cursor = policies[turn.agents[row]].cursor(context, turn.sampling)
            for t in range(lengths[row]):
                ours[row, t] = cursor.logprobs()
                cursor.push(int(tokens[row, t]))
        logprobs = np.take_along_axis(ours, tokens[..., None], -1)[..., 0]
        whole.submit_turn(tokens, lengths, logprobs, distributions=ours)
        for t in range(lengths.max()):
            single.step(tokens[:, t], np.where(t < lengths, logprobs[:, t], 0.0), distributions=ours[:, t])
    truth = expected(policies, reference, whole)
    assert truth.max() > 0.1
    for game in (whole, single):
        for number, rollout in enumerate(game.rollouts()):
            assert np.abs(rollout.kl - truth[number][:, : rollout.kl.shape[1]]).max() < close
    for make in (coevo_env.env, coevo_env.parallel_env, coevo_env.GymEnv):
        for row in range(B):
            walk(make, options(reference), policies, whole, truth, row, close)


def walk(make, settings: dict, policies: list[LanguageModel], played, truth: np.ndarray, row: int, close: float):
    """An episode once more, token by token on a face, with what its policies report."""
    alone = make is coevo_env.GymEnv
    env = make(**settings, **({"learner": "llm1"} if alone else {}))
    turns = played.episodes[row].turns
    if alone:
        env.set_partner(lambda context, tokens, mask, rng: turns[env.game.episode.turn.seat].tokens[len(tokens)])
    env.reset(options={"episode": row})
    for turn in turns:
        if alone and turn.agent != 0:
            continue
        name = f"llm{turn.agent + 1}"
        cursor = policies[turn.agent].cursor(turn.context, played.rules.sampling)
        for token in turn.tokens:
            env.report(float(cursor.logprobs()[token]), cursor.logprobs())
            cursor.push(token)
            if make is coevo_env.parallel_env:
                infos = env.step(dict.fromkeys(env.agents, token))[4]
            elif alone:
                infos = {name: env.step(token)[4]}
            else:
                env.step(token)
                infos = env.infos
        assert abs(infos[name]["kl"] - truth[turn.agent, row].sum()) < close * T


@pytest.mark.parametrize("kept", [True, False], ids=["states kept", "read again"])
@pytest.mark.parametrize("weights", ["separate", "lora"])
def test_what_sampling_kept_gives_the_enumeration(kept, weights, monkeypatch):
    monkeypatch.setattr("coevo_env.lm.model.CHUNK_ELEMENTS", 2 * V * 5)  # five tokens at a time
    base = model(0)
    truths = [base.clone()]
    policies, reference = make_policies(base, ["llm1", "llm2"], LoRAConfig(rank=2) if weights == "lora" else None, 0)
    for number, policy in enumerate(policies):
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in policy.named_parameters().values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        truths.append(merged_or_own(policy))
    game = coevo_env.BatchEnv(B, **options(reference))
    with remembering(policies if kept else []):
        play(game, policies)
    truth = expected(truths[1:], truths[0], game)
    assert truth.max() > 0.01
    for number, rollout in enumerate(game.rollouts()):
        assert np.abs(rollout.kl - truth[number][:, : rollout.kl.shape[1]]).max() < 1e-6


def merged_or_own(policy: ActorCritic) -> LanguageModel:
    """A policy as a model without adapters."""
    from coevo_agents.learners.lora import merged

    return LanguageModel(merged(policy.lm), policy.lm.tokenizer) if policy.lm.is_peft else policy.lm


def test_the_definition_in_torch_is_that_in_numpy():
    rng = np.random.default_rng(0)
    for dtype, close in ((np.float32, 1e-6), (np.float64, 1e-14)):
        logits = rng.normal(0, 3, (2, 40, 9))
        logits[:, :, 0] = -np.inf  # neither can say it
        logits[0, ::2, 1], logits[1, ::3, 2] = -np.inf, -np.inf  # one of them cannot
        logits[0, :5, 3] = -400.0
        ours, theirs = (logits - np.logaddexp.reduce(logits, -1, keepdims=True)).astype(dtype)
        kl, mass = divergence(torch.as_tensor(ours), torch.as_tensor(theirs))
        right = full_kl(ours.astype(np.float64), theirs.astype(np.float64))
        assert right.max() > 10  # where the floor of the reference counts
        assert np.abs(kl.numpy() - right).max() < close * right.max()
        assert np.abs(mass.numpy() - 1).max() < 1e-6


def test_a_table_is_compared_in_parts_of_any_size(monkeypatch):
    rng, table, warp = np.random.default_rng(0), TableModel.random(V), Sampling(0.7, min_new_tokens=2, eos_ids=(0, 3))
    contexts, tokens, lengths = [[1]] * B, rng.integers(0, V, (B, T)), rng.integers(1, T + 1, B)
    mask, logits = np.arange(T) < lengths[:, None], rng.normal(size=(int(lengths.sum()), V))
    ours = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    expected = np.zeros((B, T))
    expected[mask] = full_kl(ours, table.distributions(contexts, tokens, lengths, warp)[mask])
    for chunk in (1, 2 * T * V, 1 << 24):
        monkeypatch.setattr("coevo_env.game.reference.CHUNK", chunk)
        found = table.compare(contexts, tokens, lengths, warp, lambda part: ours[part])
        assert np.array_equal(found.kl, expected) and np.allclose(found.mass[mask], 1) and not found.mass[~mask].any()
        assert np.array_equal(found.logprobs, table.score(contexts, tokens, lengths, warp))


class Largest(TorchDispatchMode):
    """Sees every tensor that an operation makes, and how many distributions the largest of those
    holds that are as wide as the vocabulary."""

    def __init__(self, vocab: int):
        super().__init__()
        self.vocab, self.rows = vocab, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            weights = func == torch.ops.aten.t.default  # those of the head, the other way round
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (self.vocab,) and not weights:
                self.rows = max(self.rows, tensor.numel() // self.vocab)
        return made


def measured(game, policies: list[ActorCritic], reference: LanguageModel, monkeypatch) -> tuple[int, int, list[int]]:
    """Rows of the largest tensor of distributions, bytes of NumPy's peak, and how many positions
    each model read, while a batch is played."""
    read = []
    for number, lm in enumerate((reference, *(policy.lm for policy in policies))):
        original = lm.states
        read.append(0)

        def states(ids, *rest, original=original, number=number, **named):
            read[number] += ids.numel()
            return original(ids, *rest, **named)

        monkeypatch.setattr(lm, "states", states)
    tracemalloc.start()
    with Largest(reference.vocab_size) as largest, remembering(policies):
        play(game, policies)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    monkeypatch.undo()
    return largest.rows, peak, read


def test_it_reads_no_position_more_and_makes_no_array_of_all_distributions(monkeypatch):
    vocab = 2003
    reference = model(0, vocab=vocab)
    policies = [ActorCritic(model(seed, vocab=vocab)) for seed in (1, 2)]
    found = {}
    for estimator in ("k1", "full"):
        monkeypatch.setattr("coevo_env.lm.model.CHUNK_ELEMENTS", 2 * vocab * 3)
        kl = KLConfig(estimator=estimator)
        game = coevo_env.BatchEnv(B, **options(reference, kl=kl, min_new_tokens=T, roles="never"))
        found[estimator] = measured(game, policies, reference, monkeypatch)
    assert found["full"][2] == found["k1"][2]
    whole = B * T
    assert found["full"][0] == B < whole  # the logits of a column of sampling; of the KL no more than three
    assert found["full"][1] < whole * vocab * 8 / 2
    with Largest(vocab) as largest:  # the measure can fail
        reference.distributions([[1]] * B, np.ones((B, T), np.int64), np.full(B, T), game.rules.sampling)
    assert largest.rows == whole
