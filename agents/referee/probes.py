"""What a reward pays without any learning: how easily it is had, and so what a high one means.

One idea: anybody who wants to know whether agents learned the task or its reward asks what nothing,
the prompt, one word and the best of n answers of the initial model are paid. The prompts are those
of the validation split, so that the test split is not searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from coevo_env.faces.batch import BatchEnv
from coevo_env.game.scoring import rate
from coevo_env.lm.load import load_language_model
from coevo_env.tasks import make_task

from ..runs.config import Config
from ..training.evaluate import evaluation_game
from ..training.play import draw

__all__ = ["probe"]

PROMPTS, WORDS, DRAWS = 32, 60, 8


def probe(config: Config, say: Callable[[str], None] = lambda line: None) -> dict[str, float]:
    """Mean rewards over prompts of a task.

    Args:
        config: Of a run of the task.
        say: Called with what could not be probed.

    Returns:
        Name of the probe -> reward: "initial model", "best of 8" (of the initial model, by the
        reward itself), "empty answer", "prompt copied", "longest answer" (a sampled one, over and
        over to the limit), "best word repeated" (of the words that the initial model says most; the
        word is part of the name).
    """
    task = make_task(config.task, **config.task_options)
    model = load_language_model(config.model, task, device=config.device, dtype=config.dtype)
    game = evaluation_game(_smaller(config), task, model, split="validation", draws=DRAWS)
    rules, size = game.rules, game.batch_size
    budget = rules.max_new_tokens
    encode, decode = model.tokenizer.encode, rules.text
    said: list[list[list[int]]] = []
    texts: list[list[str]] = []
    paid: list[np.ndarray] = []
    for number in range(DRAWS):
        game.reset(number * size)
        turn = game.begin_turn()
        assert turn is not None
        drawn = draw(game, turn, np.arange(size), model)
        ids = [row[:length].tolist() for row, length in zip(drawn.tokens, drawn.lengths, strict=True)]
        said.append(ids)
        texts.append([decode(one, context) for one, context in zip(ids, turn.contexts, strict=True)])
        paid.append(_pay(game, texts[-1]))
    prompts = [str(episode.prompt) for episode in game.episodes]
    found = {"initial model": float(np.mean(paid)), f"best of {DRAWS}": float(np.max(paid, 0).mean())}
    words = _common(texts)

    def as_far_as_it_goes(text: str) -> str:
        """What of a text fits into a turn."""
        try:
            ids = encode(text)
        except ValueError as error:  # a task whose answers are ids, not text
            say(f"note: {error}")
            return text
        return decode(ids[:budget], []) if len(ids) > budget else text

    answers = {
        "empty answer": [""] * size,
        "prompt copied": [as_far_as_it_goes(prompt) for prompt in prompts],
        "longest answer": [as_far_as_it_goes(" ".join([text] * budget)) for text in texts[0]],
    }
    for name, each in answers.items():
        found[name] = float(_pay(game, each).mean())
    if words:
        repeated = {
            word: float(_pay(game, [as_far_as_it_goes(" ".join([word] * budget))] * size).mean()) for word in words
        }
        best = max(repeated, key=lambda word: repeated[word])
        found[f"best word repeated ({best})"] = repeated[best]
    return found


def _smaller(config: Config) -> Config:
    return replace(config, eval_prompts=min(PROMPTS, config.eval_prompts))


def _pay(game: BatchEnv, texts: Sequence[str]) -> np.ndarray:
    """Task rewards (P,) of one answer to each prompt; joint terms do not count."""
    rewards = np.zeros(len(texts))
    for name, values in rate(game.rules, game.episodes, texts).items():
        rewards += game.rules.terms[name][0] * values
    return rewards


def _common(texts: Sequence[Sequence[str]]) -> list[str]:
    """The words that are said most, and so can be said."""
    counts: dict[str, int] = {}
    for batch in texts:
        for text in batch:
            for word in text.split():
                counts[word] = counts.get(word, 0) + 1
    return sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]
