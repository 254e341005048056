"""Controls of what an observer reads: no text, a text about another prompt, its own."""

from __future__ import annotations

import numpy as np
import pytest

import coevo_env
from coevo_env import BatchEnv
from coevo_env.errors import ConfigError
from coevo_env.game.kl import KLConfig
from coevo_env.tasks import toy
from coevo_env.testing import tiny_lm

V, B = 9, 6


def make(context: str, size: int = B, **options) -> BatchEnv:
    task = toy.task(vocab_size=V, max_new_tokens=3, prompts=4)
    return BatchEnv(size, task=task, context=context, seed=1, kl=KLConfig(mode="off"), **options)


def say(game: BatchEnv, words: list[int]) -> None:
    """Each row says one word and EOS."""
    game.submit_turn(np.array([[word, 0] for word in words]), np.full(len(words), 2))


def words(count: int = B, first: int = 1) -> list[int]:
    return [first + row % (V - 2) for row in range(count)]


@pytest.mark.parametrize("agents", [2, 3])
def test_an_observer_that_reads_nothing_reads_the_same_whatever_was_said(agents):
    read = []
    for said in (words(), words(first=2)):
        game = make("empty", num_agents=agents)
        contexts = []
        while (turn := game.begin_turn()) is not None:
            contexts.append(turn.contexts)
            say(game, said)
        read.append(contexts)
    rules = game.rules
    template = [rules.encode(rules.task.render(episode.prompt, [""])) for episode in game.episodes]
    assert read[0] == read[1]
    assert read[0][1:] == [template] * (agents - 1)


@pytest.mark.parametrize("way", ["turns", "tokens"])
def test_a_shuffled_text_is_that_of_a_row_about_another_prompt(way):
    game, heard = make("shuffled", num_agents=3), []
    for batch in range(4):
        game.reset(batch * B)
        prompts = [str(episode.prompt) for episode in game.episodes]
        said = [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]]
        for seat in range(3):
            turn = game.begin_turn()
            assert turn is not None and turn.seat == seat
            if seat:
                before = [[spoken[row] for spoken in said[:seat]] for row in range(B)]
                read = [context[:seat] for context in turn.contexts]
                whose = [before.index(one) for one in read]
                assert sorted(whose) == list(range(B))
                assert all(prompts[row] != prompts[other] for row, other in enumerate(whose))
                assert all(turn.contexts[row][seat:] == game.episodes[row].turns[0].context for row in range(B))
                heard.append(whose)
            spoken = said[seat] if seat < 2 else words()
            if way == "turns":
                say(game, spoken)
            else:
                game.step(np.array(spoken))
                game.step(np.zeros(B, int))
        assert [turn["context_ids"] for turn in game.transcripts([0])[0]["turns"]] == [
            turn.context for turn in game.episodes[0].turns
        ]
    assert len(set(map(tuple, heard))) > 2  # drawn anew

    again = make("shuffled", num_agents=3)  # as after a resume: the batch alone says who hears whom
    again.reset(3 * B)
    say(again, [1, 2, 3, 4, 5, 6])
    turn = again.begin_turn()
    assert turn is not None
    assert [[1, 2, 3, 4, 5, 6].index(context[0]) for context in turn.contexts] == heard[-2]


def test_with_own_an_observer_reads_what_it_rehearsed_and_nothing_can_be_played_before():
    game = make("own")
    assert game.begin_rehearsal() is None  # the pioneer's turn
    say(game, words())
    with pytest.raises(ConfigError, match="begin_rehearsal"):
        game.begin_turn()
    rehearsal = game.begin_rehearsal()
    assert rehearsal is not None
    assert rehearsal.contexts == [episode.turns[0].context for episode in game.episodes]
    assert rehearsal.agents.tolist() == [episode.seats[1] for episode in game.episodes]
    with pytest.raises(ConfigError, match="expected 1 to 3 tokens"):
        game.submit_rehearsal(np.full((B, 2), 3), np.full(B, 2))  # it does not end
    game.submit_rehearsal(np.array([[7, 0]] * B), np.full(B, 2))
    with pytest.raises(ConfigError, match="nothing is rehearsed"):
        game.submit_rehearsal(np.array([[7, 0]] * B), np.full(B, 2))
    turn = game.begin_turn()
    assert turn is not None
    assert turn.contexts == [[7, *context] for context in rehearsal.contexts]
    noise = turn.uniforms()
    assert not np.isin(rehearsal.uniforms(), noise).any()
    say(game, words())
    assert game.done


@pytest.mark.parametrize("context", ["shuffled", "own"])
def test_a_face_that_plays_one_episode_refuses_what_it_cannot_play(context):
    for face in (coevo_env.env, coevo_env.parallel_env):
        with pytest.raises(ConfigError, match=f"context='{context}'.*BatchEnv"):
            face(task="toy", context=context)
    coevo_env.env(task="toy", context=context, num_agents=1)  # nobody reads anybody


def test_the_aec_face_plays_an_observer_that_reads_nothing():
    env = coevo_env.env(task=toy.task(vocab_size=V, max_new_tokens=3), context="empty", seed=0)
    env.reset()
    env.step(4)
    env.step(0)
    turns = env.unwrapped.game.episode.turns  # type: ignore[attr-defined]
    assert turns[1].context == turns[0].context  # the toy's template is the text and the prompt


def test_an_unknown_context_is_told_the_nearest():
    with pytest.raises(ConfigError, match="'shuffled'"):
        make("shufled")


def test_a_batch_that_cannot_be_shuffled_is_refused_before_it_is_played():
    with pytest.raises(ConfigError, match="at most half"):
        make("shuffled", size=1)
    make("shuffled", size=1, num_agents=1)


def test_what_was_read_is_what_is_scored():
    model = tiny_lm(V, seed=0)
    task = toy.task(vocab_size=V, max_new_tokens=3)
    game = BatchEnv(B, task=task, model=model, context="shuffled", seed=1, kl=KLConfig(mode="reported", beta=0.1))
    while (turn := game.begin_turn()) is not None:
        drawn = model.generate(turn.contexts, 3, turn.sampling, turn.uniforms())
        game.submit_turn(drawn.tokens, drawn.lengths, drawn.logprobs)
    for rollout in game.rollouts():
        scored = model.score(rollout.contexts, rollout.tokens, rollout.lengths, game.rules.sampling)
        np.testing.assert_allclose(np.where(rollout.mask, scored, 0), rollout.logprobs, atol=1e-5)
        np.testing.assert_allclose(rollout.ref_logprobs, rollout.logprobs, atol=1e-5)
