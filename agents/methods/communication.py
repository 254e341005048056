"""Whether the observers use what they read: the guard against lazy agents.

One idea: an observer is asked the same held-out prompts with the same sampling noise four times,
and only what it reads of its partners changes: their answers, nothing, their answers to another
prompt, or its own answer. What the true answers add to its reward is the gain from communication;
how far they move its distribution is their influence. An observer that ignores its partners scores
exactly 0 in both, one that repeats them has a copy rate of 1. Nothing here trains, and the game
that is given is not played.

Source: lazy agents, arXiv 2511.02303; influence of a message on its reader's policy: Jaques et al.,
"Social Influence as Intrinsic Motivation", ICML 2019, section 2; of speaking on listening: Lowe et
al., "On the Pitfalls of Measuring Emergent Communication", AAMAS 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.game.rules import Episode, Rules
from coevo_env.game.scoring import score
from coevo_env.lm.model import Generation
from coevo_env.rng import rng, uniforms

from ..learners.learner import Actor

__all__ = ["METRICS", "communication", "longest_run"]

METRICS = {
    "reward": "mean task reward of the agent in the last seat, reading its partners",
    "gain_masked": "that reward less the reward when the partners' text is empty",
    "gain_shuffled": "less the reward when it reads what the partners answered to another prompt",
    "gain_own": "less the reward when it reads its own answer instead of theirs",
    "influence_masked": "KL in nats per token of its responses between reading its partners and reading nothing",
    "influence_shuffled": "the same against what the partners answered to another prompt",
    "influence_previous": "the same when only the answer of the seat just before it is exchanged for another prompt's",
    "copy_rate": "share of its words in the longest run of words that it has in common with an answer it read, 0 to 1",
    "exact_copy": "share of its responses that repeat an answer it read, 0 to 1",
}
"""Name -> what it is; `communication` returns each as `<agent>/communication/<name>`."""


def communication(game: BatchEnv, policies: Sequence[Actor], names: Sequence[str]) -> dict[str, float]:
    """Measures what each agent makes of its partners' answers, as the last of N seats with the
    others before it in cyclic order.

    Gains are differences of means over the same prompts under common random numbers. Influence is
    the sampled estimate of the KL, by the log-probs of the response that was given: unbiased for
    the KL of whole responses, and possibly negative by chance where there is little.

    Args:
        game: The N-agent game on the held-out split; its rules, seed and batch size are used,
            episodes 0 to B - 1, and nothing in it changes.
        policies: N policies; each generates, and it or its `lm` scores (`ReferencePolicy.score`).
        names: N agent names.

    Returns:
        `METRICS` for each agent, always the same keys.

    Raises:
        ConfigError: There is nobody to listen to (one agent, or context "none"), one episode only,
            or a policy that cannot score.
    """
    rules, size = game.rules, game.batch_size
    if rules.num_agents < 2:
        raise ConfigError(
            "communication with 1 agent; expected at least 2, one to speak and one to listen. Leave the measurement "
            "off."
        )
    if rules.context == "none":
        raise ConfigError(
            'communication with context="none", where no agent reads another; expected "all" or "previous". '
            "Leave the measurement off."
        )
    if not len(policies) == len(names) == rules.num_agents:
        raise ConfigError(
            f"communication got {len(policies)} policies and {len(names)} names; expected {rules.num_agents} of each."
        )
    if size < 2:
        raise ConfigError(
            "communication with 1 held-out episode; expected at least 2, or there is no other prompt to shuffle with."
        )
    result: dict[str, float] = {}
    for listener, name in enumerate(names):
        order = tuple((listener + 1 + seat) % rules.num_agents for seat in range(rules.num_agents))
        measured = _listen(_seated(rules, order), size, [policies[agent] for agent in order], name)
        result.update({f"{name}/communication/{tag}": measured[tag] for tag in METRICS})
    return result


def longest_run(read: Sequence[Any], said: Sequence[Any]) -> int:
    """Length of the longest run of consecutive items that two sequences have in common.

    >>> longest_run("the soup was cold".split(), "so the soup was good".split())
    3
    """
    best, row = 0, [0] * (len(said) + 1)
    for item in read:
        row = [0, *(row[j] + 1 if item == other else 0 for j, other in enumerate(said))]
        best = max(best, *row)
    return best


def _listen(rules: Rules, size: int, policies: Sequence[Actor], name: str) -> dict[str, float]:
    """The metrics of the agent in the last seat; `policies` by seat."""
    episodes = [rules.start(number) for number in range(size)]
    for seat, policy in enumerate(policies[:-1]):
        drawn = _draw(rules, policy, [episode.turns[seat].context for episode in episodes], seat)
        for episode, row in zip(episodes, _turns(drawn), strict=True):
            episode.take(row)
    listener, last = policies[-1], rules.num_agents - 1
    answers = [episode.responses for episode in episodes]  # B lists of N - 1 texts
    prompts = [rules.turn_context(e.prompt_index, e.prompt, []) for e in episodes]
    alone = _draw(rules, listener, prompts, last + 1)  # noise of a seat of its own
    other = _other_prompts(rules, episodes)
    conditions = {
        "real": answers,
        "masked": [[""] for _ in answers],
        "shuffled": [answers[row] for row in other],
        "own": [[rules.text(row, read)] for row, read in zip(_turns(alone), prompts, strict=True)],
        "previous": [[*said[:-1], answers[row][-1]] for said, row in zip(answers, other, strict=True)],
    }
    contexts = {
        condition: [rules.turn_context(e.prompt_index, e.prompt, said) for e, said in zip(episodes, texts, strict=True)]
        for condition, texts in conditions.items()
    }
    responses = {
        condition: _draw(rules, listener, contexts[condition], last)
        for condition in ("real", "masked", "shuffled", "own")
    }
    rewards = {condition: _rewards(rules, episodes, drawn) for condition, drawn in responses.items()}
    real = responses["real"]
    scores = {
        condition: _score(rules, listener, contexts[condition], real, name)
        for condition in ("real", "masked", "shuffled", "previous")
    }
    tokens = max(1, int(real.lengths.sum()))
    said = [rules.text(row, context) for row, context in zip(_turns(real), contexts["real"], strict=True)]
    read = [texts if rules.context == "all" else texts[-1:] for texts in answers]
    words = [text.split() for text in said]
    covered = sum(
        max(longest_run(text.split(), spoken) for text in texts) for texts, spoken in zip(read, words, strict=True)
    )
    return {
        "reward": float(rewards["real"].mean()),
        **{f"gain_{c}": float((rewards["real"] - rewards[c]).mean()) for c in ("masked", "shuffled", "own")},
        **{
            f"influence_{c}": float((scores["real"] - scores[c]).sum() / tokens)
            for c in ("masked", "shuffled", "previous")
        },
        "copy_rate": covered / max(1, sum(map(len, words))),
        "exact_copy": float(
            np.mean(
                [
                    spoken != [] and spoken in [t.split() for t in texts]
                    for texts, spoken in zip(read, words, strict=True)
                ]
            )
        ),
    }


def _other_prompts(rules: Rules, episodes: Sequence[Episode]) -> list[int]:
    """For each episode another one, about another prompt wherever there is one: the episodes moved
    on by a drawn number of places."""
    prompts = np.array([episode.prompt_index for episode in episodes])
    shifts = rng(rules.seed, len(episodes), stream="evaluation").permutation(np.arange(1, len(episodes)))
    same = [int((prompts == np.roll(prompts, shift)).sum()) for shift in shifts]
    shift = int(shifts[int(np.argmin(same))])
    return np.roll(np.arange(len(episodes)), shift).tolist()


def _draw(rules: Rules, policy: Actor, contexts: list[list[int]], seat: int) -> Generation:
    noise = uniforms(rules.seed, range(len(contexts)), seat, rules.max_new_tokens)
    return policy.generate(contexts, rules.max_new_tokens, rules.sampling, noise)


def _turns(drawn: Generation) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(drawn.tokens, drawn.lengths, strict=True)]


def _rewards(rules: Rules, episodes: Sequence[Episode], drawn: Generation) -> np.ndarray:
    """Task rewards (B,) of the last seat when it answers so; the episodes stay open."""
    finished = []
    for episode, row in zip(episodes, _turns(drawn), strict=True):
        ended = copy.copy(episode)
        ended.turns = [*episode.turns[:-1], copy.copy(episode.turns[-1])]
        ended.take(row)
        finished.append(ended)
    return score(rules, finished).task[:, -1]


def _score(rules: Rules, policy: Any, contexts: list[list[int]], drawn: Generation, name: str) -> np.ndarray:
    """Log-probs (B, T) of given responses after other contexts, 0 behind their ends."""
    model = getattr(policy, "lm", policy)
    if not callable(getattr(model, "score", None)):
        raise ConfigError(
            f"communication: the policy of {name} is a {type(policy).__name__} without `score`; expected one whose "
            "log-probs can be asked, "
            "itself or its `lm`. Leave the measurement off."
        )
    mask = np.arange(drawn.tokens.shape[1]) < drawn.lengths[:, None]
    return np.where(mask, model.score(contexts, np.where(mask, drawn.tokens, 0), drawn.lengths, rules.sampling), 0.0)


def _seated(rules: Rules, order: tuple[int, ...]) -> Rules:
    """The same rules with agents in fixed seats."""
    seated = copy.copy(rules)
    seated.roles = _Seats(order)
    return seated


class _Seats:
    def __init__(self, order: tuple[int, ...]):
        self.order = order

    def assignment(self, episode: int) -> tuple[int, ...]:
        return self.order
