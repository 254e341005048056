"""Go on with an opener so that the sentence sounds happy: the default task, offline, on the
embedded model.

One idea: the openers carry no sentiment ("the soup we had tasted was"), so the initial reward is
about 0 and whatever is gained was learned. The observer reads the pioneer's whole sentence and then
the opener again. In the text that the embedded model was trained on, sentences that share their
opener mostly share their mood, so a better pioneer makes a better observer from the first iteration
on.

The reward is the VADER compound score of opener and response together, in [-1, 1]. It saturates:
one positive word gives about 0.6, three give 0.9. It does not judge grammar; the KL to the
reference model does that.

Version history: 1 (0.1.0).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..game.task import Prompt, Task
from ..lm.making import grammar
from ..rewards import lexicon_sentiment

__all__ = ["scripted", "task"]


def scripted(prompt: Prompt, responses: Sequence[str]) -> str:
    """Praises whatever the opener names; it looks at the prompt for the verb only, and not at the
    partner's responses."""
    words = prompt.split()
    if words[-1] in ("was", "were"):
        return "wonderful and delightful ."
    return "impressed all of us and everyone danced with joy ."


def task(max_new_tokens: int = 16) -> Task:
    """The task.

    Args:
        max_new_tokens: Longest response, in tokens. Of the sentences of the untrained model about
            97 in 100 end within 16.

    Returns:
        A `Task` with 520 train, 130 validation and 130 test openers.
    """
    return Task(
        name="sentiment",
        train=grammar.openers("train"),
        validation=grammar.openers("validation"),
        test=grammar.openers("test"),
        rewards={"sentiment": lexicon_sentiment},
        templates={"pioneer": "<eos> {prompt}", "observer": "<eos> {prompt} {responses} <eos> {prompt}"},
        separator=" <eos> ",
        max_new_tokens=max_new_tokens,
        max_context=96,
        scripted=scripted,
        description="Continue an opener in a positive mood (VADER lexicon, embedded model, offline).",
    )
