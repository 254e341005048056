"""What an iteration cost: episodes, positions read by purpose, FLOPs, processor seconds.

One idea: models count what they are asked to do (`coevo_env.lm.tally`), so the cost of an iteration
is the difference between two readings, whatever the learner did in between.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from coevo_env.lm.tally import Tally

from ..runs.config import Config
from .assemble import Parts

__all__ = ["metered"]


@contextlib.contextmanager
def metered(config: Config, parts: Parts, metrics: dict[str, float]) -> Iterator[None]:
    """Writes what happens inside into `metrics`, where it ends well: `cost/...` and `time/cpu_s`
    (docs/metrics.md)."""
    playing = _unique([getattr(actor, "lm", actor) for actor in parts.actors()])
    critics = _unique([lm for learner in parts.learners for lm in getattr(learner, "critics", ())])
    before = [_total(group) for group in (playing, critics, [parts.reference])]
    counter: Any = contextlib.nullcontext()
    if config.budget.by == "flops" or config.count_flops:
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
    started = time.process_time()
    with counter:
        yield
    metrics["time/cpu_s"] = time.process_time() - started
    played, judged, compared = (
        _total(group) - old for group, old in zip((playing, critics, [parts.reference]), before, strict=True)
    )
    metrics.update(
        {
            "cost/episodes": float(config.batch_size),
            "cost/prompt_tokens": float(played.prompt),
            "cost/generated_tokens": float(played.generated),
            "cost/reference_tokens": float(compared.scored + compared.prompt + compared.generated),
            "cost/trained_tokens": float(played.trained + played.scored),
            "cost/value_tokens": float(judged.trained + judged.scored),
        }
    )
    if hasattr(counter, "get_total_flops"):
        metrics["cost/flops"] = float(counter.get_total_flops())


def _unique(models: Sequence[Any]) -> list[Any]:
    """Models that count; a policy of one's own need not."""
    return list({id(model): model for model in models if hasattr(model, "tally")}.values())


def _total(models: Sequence[Any]) -> Tally:
    return sum((getattr(model, "tally", Tally()) for model in models), Tally())
