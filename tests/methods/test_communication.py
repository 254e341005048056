"""Whether observers listen: constructed policies of which the answer is known exactly, and an
enumeration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_agents.learners.policy import make_policies
from coevo_agents.methods.communication import METRICS, communication, longest_run
from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.game.kl import KLConfig
from coevo_env.game.reference import IntTokenizer
from coevo_env.game.task import Prompt, Task
from coevo_env.lm.model import Generation
from coevo_env.testing import tiny_lm

V, PROMPTS = 10, ["2 7", "3 7", "4 7", "5 7"]


class Scripted:
    """Answers by a function of what it reads, with the probability 0.9 for what it says at each
    step and the rest spread evenly."""

    def __init__(self, answer):
        self.answer = answer

    def say(self, context):
        return [*self.answer(list(context)), 0]

    def generate(self, contexts, budget, sampling, uniforms):
        rows = [self.say(context)[:budget] for context in contexts]
        tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        lengths = np.array([len(row) for row in rows])
        return Generation(tokens, lengths, self.score(contexts, tokens, lengths, sampling))

    def score(self, contexts, tokens, lengths, sampling):
        out = np.full(tokens.shape, math.log(0.1 / (V - 1)))
        for b, context in enumerate(contexts):
            planned = self.say(context)
            for t in range(int(lengths[b])):
                if t < len(planned) and planned[t] == tokens[b, t]:
                    out[b, t] = math.log(0.9)
        return out


def found(prompts, responses):
    """1 for naming the first number of the prompt, which only the pioneer is told."""
    return [float(p.split()[0] in r.split()) for p, r in zip(prompts, responses, strict=True)]


def task():
    # an observer sees the end of the prompt only through "7"; every context ends with 7
    return Task(
        name="secret",
        train=["1 7"],
        test=[Prompt(p) for p in PROMPTS],
        rewards={"found": found},
        templates={"pioneer": "{prompt}", "observer": "8 {responses} 9 {prompt}"},
        max_new_tokens=4,
        max_context=30,
        tokenizer=IntTokenizer(V),
        model="table",
    )


def held_out(agents=2, batch=4, **options):
    return BatchEnv(batch, task(), num_agents=agents, split="test", kl=KLConfig(mode="off"), seed=3, **options)


def read(context):
    """What stands between the marks 8 and 9 in an observer's context; None in a pioneer's."""
    return context[context.index(8) + 1 : context.index(9)] if 8 in context else None


def knows(context):
    """The pioneer names the secret, as an observer it says 1."""
    return [1] if read(context) is not None else [context[-2]]


def copies(context):
    heard = read(context)
    return [6] if heard is None else heard[:3]


def deaf(context):
    return [6, 6]


def test_a_copying_observer():
    got = communication(held_out(), [Scripted(knows), Scripted(copies)], ["a", "b"])
    assert set(got) == {f"{name}/communication/{tag}" for name in "ab" for tag in METRICS}
    b = {tag: got[f"b/communication/{tag}"] for tag in METRICS}
    assert (b["copy_rate"], b["exact_copy"], b["reward"]) == (1.0, 1.0, 1.0)
    assert (b["gain_masked"], b["gain_shuffled"], b["gain_own"]) == (
        1.0,
        1.0,
        1.0,
    )  # it benefits: alone it never finds the secret
    nats = math.log(0.9) - math.log(0.1 / (V - 1))
    # its response is [secret, EOS]. Reading nothing it would have said EOS, and then EOS was not
    # planned either: both tokens are surprising
    assert b["influence_masked"] == pytest.approx(nats)
    # reading another secret, the first token is surprising and the EOS behind it is not
    assert b["influence_shuffled"] == b["influence_previous"] == pytest.approx(nats / 2)


def test_a_deaf_observer_scores_exactly_nothing():
    got = communication(held_out(), [Scripted(knows), Scripted(deaf)], ["a", "b"])
    for tag in METRICS:
        assert got[f"b/communication/{tag}"] == 0.0
    assert got["a/communication/copy_rate"] == 0.0  # as an observer it says 1


def test_a_listener_that_adds_to_what_it_reads_copies_in_part():
    got = communication(
        held_out(), [Scripted(knows), Scripted(lambda c: [6] if read(c) is None else [1, *read(c), 1])], ["a", "b"]
    )
    assert got["b/communication/copy_rate"] == pytest.approx(1 / 3) and got["b/communication/exact_copy"] == 0.0
    assert got["b/communication/gain_masked"] == 1.0


@pytest.mark.parametrize(("context", "copy"), [("all", 1.0), ("previous", 1.0)])
def test_three_agents_read_the_others_before_them(context, copy):
    """Agents in cyclic order: before c come a, who knows, and b, who is deaf. With "all" c hears
    the secret first, with "previous" only b."""
    policies = [Scripted(knows), Scripted(deaf), Scripted(lambda c: [6] if read(c) is None else read(c)[:1])]
    got = communication(held_out(3, context=context), policies, ["a", "b", "c"])
    c = {tag: got[f"c/communication/{tag}"] for tag in METRICS}
    assert c["reward"] == (1.0 if context == "all" else 0.0) and c["copy_rate"] == copy
    assert c["gain_masked"] == (1.0 if context == "all" else 0.0)
    assert c["influence_previous"] == 0.0  # b says the same to every prompt
    assert (c["influence_shuffled"] > 0) == (context == "all")


def test_influence_is_the_kl_between_the_two_distributions():
    """The sampled estimate over many episodes against the enumeration over all responses, for a
    real model."""
    base = tiny_lm(4, seed=5, eos_id=0, scale=0.5)
    (one, two), reference = make_policies(base, ["a", "b"], None, 0)
    options = {"task_options": {"vocab_size": 4, "max_new_tokens": 2}, "min_new_tokens": 1, "temperature": 2.0}
    game = BatchEnv(6000, "toy", reference, split="test", kl=KLConfig(mode="off"), **options)
    rules = game.rules
    rows = list(product((1, 2, 3), (0, 1, 2, 3)))
    tokens, lengths = np.array([[*row, 0][:2] for row in rows]), np.array([len(row) for row in rows])

    def logprobs(context):
        return base.score([context] * len(rows), tokens, lengths, rules.sampling).sum(1)

    kl = length = 0.0
    for i in range(len(rules.prompts)):
        prompt = rules.task.prompt("test", i)
        first = np.exp(logprobs(rules.turn_context(i, prompt, [])))
        masked = logprobs(rules.turn_context(i, prompt, [""]))
        for p, row in zip(first, rows, strict=True):
            real = logprobs(rules.turn_context(i, prompt, [rules.text(list(row))]))
            kl += p * (np.exp(real) * (real - masked)).sum()
            length += p * (np.exp(real) * lengths).sum()
    got = communication(game, [one, two], ["a", "b"])
    assert kl / length > 0.05
    assert got["a/communication/influence_masked"] == pytest.approx(kl / length, rel=0.06)
    assert got["a/communication/influence_masked"] == got["b/communication/influence_masked"]  # the same weights


def test_it_is_reproducible_and_leaves_the_game_alone():
    base = tiny_lm(10, seed=1, eos_id=0)
    policies, _ = make_policies(base, ["a", "b"], None, 0)
    game = held_out(roles="periodic")
    game.reset(8)
    game.submit_turn(np.zeros((4, 1), int), np.ones(4, int))
    state, roles = game.state_dict(), game.rules.roles
    first = communication(game, policies, ["a", "b"])
    assert communication(game, policies, ["a", "b"]) == first
    assert game.state_dict() == state and game.rules.roles is roles and game.begin_turn().seat == 1
    other = BatchEnv(4, rules=game.rules.reseeded(4))
    assert communication(other, policies, ["a", "b"]) != first  # the noise comes from the seed of the rules
    game.submit_turn(np.zeros((4, 1), int), np.ones(4, int))
    assert game.done


class Mute:
    def generate(self, contexts, budget, sampling, uniforms):
        return Generation(
            np.zeros((len(contexts), 1), np.int64), np.ones(len(contexts), np.int64), np.zeros((len(contexts), 1))
        )


@pytest.mark.parametrize(
    ("game", "policies", "words"),
    [
        (lambda: held_out(1), 1, "1 agent; expected at least 2"),
        (lambda: held_out(2, context="none"), 2, "where no agent reads another"),
        (lambda: held_out(2), 1, "1 policies"),
        (lambda: held_out(2, batch=1), 2, "1 held-out episode"),
        (lambda: held_out(2), [Mute(), Mute()], "a Mute without `score`"),
    ],
)
def test_clear_errors(game, policies, words):
    policies = [Scripted(deaf)] * policies if isinstance(policies, int) else policies
    with pytest.raises(ConfigError, match=words):
        communication(game(), policies, [f"llm{i}" for i in range(len(policies))])


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_the_longest_run_against_trying_all(a, b):
    runs = [
        j - i
        for i in range(len(a))
        for j in range(i + 1, len(a) + 1)
        if any(a[i:j] == b[k : k + j - i] for k in range(len(b)))
    ]
    assert longest_run(a, b) == longest_run(b, a) == max(runs, default=0)
