"""What a model has been asked to do: positions that went through it, by purpose.

One idea: every pass goes through `sample` or `hidden_states`, so that counting there counts the
work of any learner, also of one that nobody has written yet. What is counted is what was asked for:
equal contexts that are read once, and states that are remembered, are savings of this
implementation and change no count.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tally"]


@dataclass
class Tally:
    """Positions, since the model was made.

    Attributes:
        prompt: Read before the first token of a turn that was sampled.
        generated: Sampled, EOS included.
        scored: Read, prompts included, in passes without gradients.
        trained: Read, prompts included, in passes with gradients.
    """

    prompt: int = 0
    generated: int = 0
    scored: int = 0
    trained: int = 0

    def __sub__(self, earlier: Tally) -> Tally:
        return Tally(*(getattr(self, name) - getattr(earlier, name) for name in self.__dataclass_fields__))

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))
