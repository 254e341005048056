"""What an agent's answers look like in each seat of a batch: the numbers by which a collapse shows.

One idea: an agent can collapse in one seat and be as before in another, and a mean over both would
hide it. So answers are measured seat by seat, and the reward, which a collapse may raise, is not
among the numbers.
"""

from __future__ import annotations

import numpy as np

from coevo_env.faces.batch import BatchEnv
from coevo_env.game.rollout import Rollout
from coevo_env.metrics import summarize

__all__ = ["by_seat"]


def by_seat(game: BatchEnv, rollout: Rollout, texts: list[str]) -> dict[str, float]:
    """Numbers of one agent's turns in a batch for each seat that it had, by `seat<k>/<name>`
    (docs/metrics.md).

    Args:
        game: The batch.
        rollout: The agent's B turns.
        texts: What it said in them, B texts.
    """
    found: dict[str, float] = {}
    taken = np.unique(rollout.seats)
    tokens, ends = rollout.token_lists(), game.rules.eos_ids
    # seats that are drawn by lot have now more, now fewer answers: sets are compared at one size
    most = len(rollout) if len(taken) == 1 else max(1, len(rollout) // len(game.agents))
    for seat in taken:
        rows = np.nonzero(rollout.seats == seat)[0]
        read = max(1, int(rollout.lengths[rows].sum()))
        logprob, reference = (float(array[rows].sum()) for array in (rollout.logprobs, rollout.ref_logprobs))
        all_of_them = summarize([texts[row] for row in rows], [tokens[row] for row in rows], ends)
        few = rows[:most]
        as_many = all_of_them
        if len(few) < len(rows):
            as_many = summarize([texts[row] for row in few], [tokens[row] for row in few], ends)
        values = {
            "responses": float(len(rows)),
            "kl_per_token": (logprob - reference) / read,
            "cross_entropy": -reference / read,
            **{name: all_of_them[name] for name in ("eos", "length", "repeat")},
            **{name: as_many[name] for name in ("distinct_2", "unique")},
        }
        found.update({f"seat{seat}/{name}": value for name, value in values.items()})
    return found
