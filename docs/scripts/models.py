"""Which models and tokenizers hold, and which are refused and why: the tables of docs/models.md.

    python docs/scripts/models.py

One idea: the page is what the tests find. It is made of the checks of `tests/helpers/zoo_checks.py`
and `tests/helpers/zoo_tokenizers.py`, and `tests/lm/test_zoo.py` keeps the two equal. Takes some
minutes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

HEAD = """# Models and tokenizers

Made by `python docs/scripts/models.py` from the checks of `tests/lm/test_zoo.py`, which keeps the page true.

There is no list of models in the code. A model is tried on a few ids when it is loaded, in all the ways in which it is
going to be asked, and what it says is compared with its own plain forward pass; what cannot be right is refused, with
the reason, before anything is computed. The tables say what came of the models and tokenizers that we tried.

## Models

Tiny random models, a few kilobytes each, made from the configurations of transformers {version}. That a model *holds*
means:

- What `generate` reports, what `score` says and what `cursor` says of a token is the log-prob of a plain float64
  forward pass over one row, to 2e-5: in batches of rows of different lengths, of equal contexts, alone, on a KV cache
  or not, and with what was recorded while sampling (`reuse_mib`), whose gradients are those of an ordinary pass.
- No padding, no later token and no other row of the batch changes a state: the derivative is exactly 0.
- With whole copies of the weights and with LoRA on all linear layers, on attention, on the output layer and on the
  embedding, tied or not: the reference policy says what the initial model says, whoever was active before and whoever
  has learned; all that was to be trained moves and comes back from a checkpoint; and what is saved, loaded by
  transformers alone, says what the live agent says.

Lengths past a switch of rotary factors ("longrope") are refused: beyond it a row's log-probs depend on how long its
neighbours are. Models without a KV cache of keys and values (state spaces, recurrences) are refused.

| model | verdict | limits, or why not |
|---|---|---|
"""

TOKENIZERS = """
A model is loaded whole or not at all: weights that are missing, have another shape, or belong to layers that the
configuration does not count are named in an error. A value head beside a complete model is no harm.

## Tokenizers

That a tokenizer *holds* means: contexts begin with what it puts before a text by itself; a turn ends with its EOS, with
each id of `eos_token_id` in the model's generation and architecture configurations, and with the special token that
closes an answer in its chat template, token by token and turn by turn; what may be drawn is what it knows, but for
padding, `<unk>` and what opens a text; and a partner reads exactly what was said, also where a word's space is lost
when it is decoded alone. `chat="auto"` (or `True`) of `coevo_env.env` and its like renders contexts as a message of the
user by the chat template.

| tokenizer | verdict | what it does, or why not |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    import transformers
    import zoo
    import zoo_checks
    import zoo_tokenizers

    with tempfile.TemporaryDirectory() as folder:
        models = [zoo_checks.verdict(name, Path(folder, str(number))) for number, name in enumerate(zoo.ANIMALS)]
    return (
        HEAD.format(version=transformers.__version__)
        + "".join(f"| {' | '.join(row)} |\n" for row in models)
        + TOKENIZERS
        + "".join(f"| {' | '.join(row)} |\n" for row in zoo_tokenizers.verdicts())
    )


if __name__ == "__main__":
    (ROOT / "docs/models.md").write_text(page(), encoding="utf-8")
