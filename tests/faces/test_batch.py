"""A turn of the batched engine is played whole or not at all: whatever is wrong with it, what comes
afterwards is what would have come without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coevo_env import BatchEnv
from coevo_env.errors import ConfigError, NonFiniteError, RewardError
from coevo_env.game.kl import KLConfig
from coevo_env.game.reference import TableModel
from coevo_env.tasks import toy

B, V, T = 3, 5, 3
GOOD = np.array([[1, 2, 3], [4, 0, 0], [2, 2, 0]])
LENGTHS = np.array([3, 2, 3])
LOGPROBS = np.full((B, T), -1.0)
FLAT = np.full((B, T, V), -np.log(V))


def make(estimator: str = "k1", **options) -> BatchEnv:
    return BatchEnv(
        B,
        task=toy.task(vocab_size=V, max_new_tokens=T),
        seed=0,
        kl=KLConfig(mode="reported", estimator=estimator),
        **options,
    )


def play(game: BatchEnv, estimator: str = "k1") -> np.ndarray:
    return game.submit_turn(GOOD, LENGTHS, LOGPROBS, distributions=FLAT if estimator == "full" else None)


def changed(array: np.ndarray, place: tuple[int, int], value: float) -> np.ndarray:
    result = array.copy()
    result[place] = value
    return result


WRONG = {
    "no EOS at the end": ((changed(GOOD, (2, 2), 1), np.array([3, 2, 2]), LOGPROBS), "k1", ConfigError),
    "EOS in the middle of the last row": ((changed(GOOD, (2, 0), 0), LENGTHS, LOGPROBS), "k1", ConfigError),
    "no id": ((changed(GOOD, (2, 1), 9), LENGTHS, LOGPROBS), "k1", ConfigError),
    "no log-probs": ((GOOD, LENGTHS, None), "k1", ConfigError),
    "no distributions": ((GOOD, LENGTHS, LOGPROBS), "full", ConfigError),
    "a log-prob above 0": ((GOOD, LENGTHS, changed(LOGPROBS, (1, 0), 5.0)), "k1", NonFiniteError),
    "NaN": ((GOOD, LENGTHS, changed(LOGPROBS, (1, 0), np.nan)), "k1", NonFiniteError),
    "a log-prob under which nothing is sampled": (
        (GOOD, LENGTHS, changed(LOGPROBS, (1, 0), -1000.0)),
        "k3",
        NonFiniteError,
    ),
}


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_refused_turn_changes_nothing(wrong, seat):
    arguments, estimator, error = WRONG[wrong]
    game, other = make(estimator), make(estimator)
    for _ in range(seat):
        play(game, estimator)
        play(other, estimator)
    for _ in range(2):
        with pytest.raises(error):
            game.submit_turn(*arguments)
    while not game.done:
        assert np.array_equal(play(game, estimator), play(other, estimator))
    assert game.transcripts() == other.transcripts()
    for ours, theirs in zip(game.rollouts(), other.rollouts(), strict=True):
        assert ours.contexts == theirs.contexts and np.array_equal(ours.tokens, theirs.tokens)
        assert np.array_equal(ours.rewards, theirs.rewards)


STEPS = {
    "no id": ([1, 2, 9], [-1.0] * B, None, "k1", ConfigError),
    "a log-prob above 0": ([1, 2, 3], [-1.0, -1.0, 5.0], None, "k1", NonFiniteError),
    "a log-prob under which nothing is sampled": ([1, 2, 3], [-1.0, -1.0, -1000.0], None, "k3", NonFiniteError),
    "no distributions": ([1, 2, 3], [-1.0] * B, None, "full", ConfigError),
    "distributions of too few rows": ([1, 2, 3], [-1.0] * B, FLAT[:2, 0], "full", ConfigError),
    "distributions that are logits": ([1, 2, 3], [-1.0] * B, FLAT[:, 0] + 1.0, "full", ConfigError),
    "distributions of NaN": ([1, 2, 3], [-1.0] * B, FLAT[:, 0] * np.nan, "full", NonFiniteError),
}


@pytest.mark.parametrize("wrong", STEPS)
def test_a_refused_step_changes_nothing(wrong):
    tokens, logprobs, distributions, estimator, error = STEPS[wrong]
    game, other = make(estimator), make(estimator)

    def step(game: BatchEnv, column: int) -> np.ndarray:
        return game.step(
            GOOD[:, column], LOGPROBS[:, column], distributions=FLAT[:, column] if estimator == "full" else None
        )

    for _ in range(2):
        for column in range(T):
            for _ in range(2):
                with pytest.raises(error):
                    game.step(np.array(tokens), np.array(logprobs), distributions=distributions)
            if not game.active.all():  # what is wrong with a row that has ended does not count
                tokens, logprobs = [tokens[2]] * B, [logprobs[2]] * B
            assert np.array_equal(step(game, column), step(other, column))
    assert game.done and game.transcripts() == other.transcripts()


def test_distributions_of_another_shape_are_refused():
    game = make("full")
    for wrong in (FLAT[:2], FLAT[..., :4]):
        with pytest.raises(ConfigError, match=r"distributions of shape .* expected \(3, 3, 5\)"):
            game.submit_turn(GOOD, LENGTHS, LOGPROBS, distributions=wrong)
    for wrong in (lambda part: FLAT[0, :1], lambda part: FLAT[:1]):
        with pytest.raises(ConfigError, match=r"distributions of shape .* the tokens 0 to 8; expected \(8, 5\)"):
            game.submit_turn(GOOD, LENGTHS, LOGPROBS, distributions=wrong)


def test_logits_are_no_distributions():
    game = make("full")
    for wrong in (np.zeros((B, T, V)), lambda part: np.zeros((part.stop - part.start, V))):
        with pytest.raises(ConfigError, match="do not sum to 1; expected normalised log-probs"):
            game.submit_turn(GOOD, LENGTHS, LOGPROBS, distributions=wrong)
    behind = np.where(
        np.arange(T)[:, None] < LENGTHS[:, None, None], FLAT, 7.0
    )  # what stands behind the end of a turn is nobody's business
    game.submit_turn(GOOD, LENGTHS, LOGPROBS, distributions=behind)


def test_rules_with_kl_want_a_reference():
    rules = make().rules
    with pytest.raises(ConfigError, match="KL mode 'reported' and no reference policy"):
        BatchEnv(B, rules=rules)


@pytest.mark.parametrize("mode", ["reported", "reference"])
def test_a_reference_without_numbers_is_named(mode):
    class Broken(TableModel):
        def score(self, *arguments):
            return super().score(*arguments) * np.array([[1.0], [np.nan], [1.0]])

    task = toy.task(vocab_size=V, max_new_tokens=T)
    game = BatchEnv(B, task=task, model=Broken(np.zeros((V, V))), seed=0, kl=KLConfig(mode=mode))
    with pytest.raises(
        NonFiniteError, match=r"row 1 \(episode 1\): the reference policy gave a log-prob that is no number"
    ):
        game.submit_turn(GOOD, LENGTHS, LOGPROBS if mode == "reported" else None)


@pytest.mark.parametrize("by", ["turns", "tokens"])
def test_a_turn_whose_reward_failed_can_be_played_again(by):
    calls: list[int] = []

    def moody(prompts: list, responses: list[str]) -> list[float]:
        calls.append(len(responses))
        if len(calls) == 1:
            raise TimeoutError("the service did not answer")
        return [float(len(text)) for text in responses]

    game = BatchEnv(
        B, task=replace(toy.task(vocab_size=V, max_new_tokens=T), rewards={"moody": moody}), seed=0, kl="off"
    )

    def last() -> None:
        if by == "turns":
            game.submit_turn(GOOD, LENGTHS)
        else:
            for column in GOOD.T:
                game.step(column)

    game.submit_turn(GOOD, LENGTHS)
    with pytest.raises(RewardError, match="the service did not answer"):
        last()
    assert not game.done
    turn = game.begin_turn()
    assert turn is not None and turn.seat == 1
    last()
    assert game.done and len(calls) > 1
    assert [len(rollout) for rollout in game.rollouts()] == [B, B]
