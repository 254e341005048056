"""The toy's closed form against brute force written here, and against gradient ascent on a free
policy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_forms import Tabular, all_responses

from coevo_env.errors import ConfigError
from coevo_env.faces.build import build
from coevo_env.game.reference import TableModel
from coevo_env.tasks import toy

BETA = 0.3


def reward(prompt: int, ids: tuple[int, ...], budget: int) -> float:
    """The reward in words: 1 / T for each copy of the prompt, 1/4 for each ascending pair of
    neighbours."""
    total = 0.0
    for i, token in enumerate(ids):
        total += (token == prompt) / budget
        total += 0.25 * (i > 0 and ids[i - 1] < token)
    return total


def ref_logprob(logits: np.ndarray, start: int, row: tuple[int, ...], minimum: int, temperature: float) -> float:
    total, last = 0.0, start
    for t, token in enumerate(row):
        weights = [math.exp(logits[last, a] / temperature) for a in range(len(logits))]
        if t < minimum:
            weights[0] = 0.0
        total += math.log(weights[token] / sum(weights))
        last = token
    return total


@pytest.mark.parametrize(
    ("vocab", "budget", "minimum", "temperature"), [(3, 3, 1, 1.0), (5, 3, 0, 0.7), (4, 2, 2, 1.3), (8, 3, 1, 1.0)]
)
def test_closed_form_equals_brute_force(vocab, budget, minimum, temperature):
    model = TableModel.random(vocab, seed=1)
    options = {"vocab_size": vocab, "max_new_tokens": budget}
    rules, _ = build("toy", model, task_options=options, min_new_tokens=minimum, temperature=temperature)
    found = toy.optimum(rules, model, BETA)
    uniform = toy.value_of(TableModel(np.zeros((vocab, vocab))), rules, model, BETA)
    for c, prompt in enumerate((1, 2)):
        rows = list(all_responses(vocab, budget, 0, minimum))
        log_ref = [ref_logprob(model.logits, prompt, row, minimum, temperature) for row in rows]
        log_uniform = [-sum(math.log(vocab - (t < minimum)) for t in range(len(row))) for row in rows]
        earned = [reward(prompt, row[:-1] if row[-1] == 0 else row, budget) for row in rows]
        assert sum(map(math.exp, log_ref)) == pytest.approx(1.0, abs=1e-12)
        partition = sum(math.exp(p + r / BETA) for p, r in zip(log_ref, earned, strict=True))
        best = [math.exp(p + r / BETA) / partition for p, r in zip(log_ref, earned, strict=True)]
        kl = sum(q * (math.log(q) - p) for q, p in zip(best, log_ref, strict=True))
        assert found.values[c] == pytest.approx(BETA * math.log(partition), abs=1e-12)
        assert found.rewards[c] == pytest.approx(sum(q * r for q, r in zip(best, earned, strict=True)), abs=1e-12)
        assert found.kls[c] == pytest.approx(kl, abs=1e-12)
        assert sorted(found.probabilities[c]) == pytest.approx(sorted(best), abs=1e-12)
        expected = sum(math.exp(q) * (r - BETA * (q - p)) for q, r, p in zip(log_uniform, earned, log_ref, strict=True))
        assert uniform.values[c] == pytest.approx(expected, abs=1e-12)
        assert uniform.values[c] < found.values[c]


def test_the_reference_itself_has_no_kl():
    rules, reference = build("toy")
    value = toy.value_of(reference, rules, reference, BETA)
    assert value.kl == pytest.approx(0.0, abs=1e-12)
    assert value.value == pytest.approx(value.reward)


def test_gradient_ascent_reaches_the_optimum():
    import torch

    rules, reference = build("toy", "table", task_options={"vocab_size": 4, "max_new_tokens": 2})
    policy = Tabular(4, 2, starts=[1, 2], minimum=1)
    log_ref, earned, paths = [], [], []
    for prompt in (1, 2):
        for row in policy.rows:
            log_ref.append(ref_logprob(reference.logits, prompt, row, 1, 1.0))
            earned.append(reward(prompt, row[:-1] if row[-1] == 0 else row, 2))
            paths.append([(policy.index[prompt, row[:t]], token) for t, token in enumerate(row)])
    log_ref, earned = torch.tensor(log_ref), torch.tensor(earned)

    def objective(table):
        logp = torch.stack([sum(table[i, a] for i, a in path) for path in paths])
        return (logp.exp() * (earned - BETA * (logp - log_ref))).sum() / 2

    policy.ascend(objective, steps=400)
    best, reached = toy.optimum(rules, reference, BETA), toy.value_of(policy, rules, reference, BETA)
    assert reached.value == pytest.approx(best.value, abs=1e-5)
    assert reached.value <= best.value + 1e-12


def test_observer_contexts_have_their_own_optimum():
    rules, reference = build("toy")
    prompt = rules.task.prompt("train", 0)
    alone = (prompt, rules.turn_context(0, prompt, []))
    after = (prompt, rules.turn_context(0, prompt, ["2 3"]))
    assert after[1] == [2, 3, 1]
    found = toy.optimum(rules, reference, BETA, [alone, after])
    assert found.values[0] == pytest.approx(found.values[1])  # a table looks at the last id alone, which is the prompt
    assert toy.optimum(rules, reference, BETA).values[0] == pytest.approx(found.values[0])


def test_scripted_policy_scores_and_optimum_beats_the_reference():
    rules, reference = build("toy")
    prompt = rules.task.prompt("train", 1)
    text = rules.task.scripted(prompt, [])
    assert text == "2 2 2"
    assert sum(weight * function([prompt], [text])[0] for weight, function in rules.terms.values()) == pytest.approx(
        1.0
    )
    assert toy.optimum(rules, reference, BETA).value > toy.value_of(reference, rules, reference, BETA).value + 0.05


def test_small_beta_approaches_the_best_response():
    rules, reference = build("toy")
    tokens, lengths = toy.responses(rules)
    best = max(reward(1, tuple(int(i) for i in row[:n] if i), 3) for row, n in zip(tokens, lengths, strict=True))
    assert toy.optimum(rules, reference, 1e-3).rewards[0] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: toy.task(vocab_size=2), "vocab_size=2"),
        (lambda: toy.task(prompts=5), "prompts=5"),
        (lambda: toy.optimum(*build("toy"), beta=0.0), "beta=0.0"),
        (lambda: toy.responses(build("toy", kl="off", task_options={"vocab_size": 100})[0]), "too many"),
        (lambda: build("toy", task_options={"vocab_size": 50257}), "at most 4096"),
        (lambda: build("toy", task_options={"vocabulary": 5}), "vocabulary"),
    ],
)
def test_clear_errors(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
