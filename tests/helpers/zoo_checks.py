"""What has to hold of every model of the zoo, or it is refused before anything is computed.

One idea: a check is a function of a model that raises `AssertionError`, and a verdict is what came
of all of them, in words; `docs/models.md` is the table of the verdicts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import zoo

from coevo_agents.learners.policy import ActorCritic, LoRAConfig, make_policies
from coevo_env.errors import ConfigError
from coevo_env.game.kl import full_kl
from coevo_env.game.reference import warp
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import Generation, LanguageModel
from coevo_env.lm.tape import Tape
from coevo_env.lm.tokenizer import TextTokenizer
from coevo_env.testing import tiny_lm

WARP = Sampling(temperature=0.9, min_new_tokens=2, eos_id=0, banned=(3,))
BUDGET = 6


def tokenizer() -> TextTokenizer:
    """Words that are the ids of the zoo."""
    return tiny_lm(zoo.VOCAB).tokenizer


def contexts() -> list[list[int]]:
    """Ragged ones, up to 14 ids, of which some are equal and some hold EOS."""
    draw = np.random.default_rng(0)
    ragged = [draw.integers(0, zoo.VOCAB, size).tolist() for size in (1, 14, 7, 3, 10)]
    return [*ragged, *(row for row in ragged[:3] for _ in range(3))]


def right(lm: LanguageModel, prompts: list[list[int]], drawn: Generation) -> np.ndarray:
    """Log-probs (B, T) that the truth gives the tokens of a generation."""
    result, exact = np.zeros(drawn.tokens.shape), zoo.exact(lm.causal)
    for row, (prompt, length) in enumerate(zip(prompts, drawn.lengths, strict=True)):
        said = drawn.tokens[row, :length].tolist()
        logs = warp(zoo.truth(exact, prompt, said), WARP, np.arange(length))
        result[row, :length] = logs[np.arange(length), said]
    return result


def draw(lm: LanguageModel, prompts: list[list[int]], tape: Tape | None = None) -> Generation:
    """Turns of the zoo's prompts, always with the same noise."""
    noise = np.random.default_rng(1).random((len(prompts), BUDGET))
    return lm.generate(prompts, BUDGET, WARP, noise, tape=tape)


def check_logprobs(lm: LanguageModel) -> None:
    """Sampled == scored == the truth: ragged, shared and alone, at once, token by token, and from a
    tape; and a tape changes no gradient."""
    lm.short, tape = None, Tape(lm.backbone, 1 << 30)
    for prompts in (contexts(), contexts()[:5]):
        drawn = draw(lm, prompts, tape)
        expected = right(lm, prompts, drawn)
        scored = lm.score(prompts, drawn.tokens, drawn.lengths, WARP)
        assert np.abs(drawn.logprobs - expected).max() < 2e-5, "sampled"
        assert np.abs(scored - expected).max() < 2e-5, "scored"
        order = np.random.default_rng(2).permutation(len(prompts))
        asked = [prompts[row] for row in order], drawn.tokens[order], drawn.lengths[order]
        found = []
        for tapes in ([], [tape]):
            lm.module.zero_grad()
            hidden, targets, places = lm.hidden_states(*asked, tapes)
            logprobs = lm.token_logprobs(hidden, targets, places, WARP)
            with lm.active():
                (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
            found.append([logprobs.detach(), *(p.grad.clone() for p in lm.module.parameters() if p.grad is not None)])
        mask = np.arange(drawn.tokens.shape[1]) < asked[2][:, None]
        assert np.abs(found[1][0].numpy() - expected[order][mask]).max() < 2e-5, "from a tape"
        for ours, theirs in zip(*found, strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max())), "gradient from a tape"
    for row in (0, 1, 4):
        alone = lm.score(prompts[row : row + 1], drawn.tokens[row : row + 1], drawn.lengths[row : row + 1], WARP)
        assert np.abs(alone[0] - expected[row]).max() < 2e-5, "alone"
        cursor, skipping = lm.cursor(prompts[row], WARP), lm.cursor(prompts[row], WARP)
        for t in range(drawn.lengths[row]):
            token = int(drawn.tokens[row, t])
            assert abs(cursor.logprobs()[token] - expected[row, t]) < 2e-5, "token by token"
            if t % 3 == 0:  # whoever knows the next tokens pushes several before asking
                assert abs(skipping.logprobs()[token] - expected[row, t]) < 2e-5, "several tokens at once"
            cursor.push(token)
            skipping.push(token)


def targets_of(lm: LanguageModel) -> dict[str, str]:
    """Kinds of targets of adapters, and what they are called in a model."""
    names = {id(layer): path for path, layer in lm.module.named_modules()}
    attention = [
        path.rpartition(".")[2]
        for path, layer in lm.module.named_modules()
        if path.rpartition(".")[2] in ("q_proj", "c_attn", "query_key_value", "qkv_proj", "query", "Wqkv")
    ]
    routers = [
        path.rpartition(".")[2]
        for path, _ in lm.module.named_modules()
        if path.rpartition(".")[2] in ("gate", "router")
    ]
    experts = [path.rpartition(".")[2] for path, _ in lm.module.named_modules() if path.endswith(".experts")]
    kinds = {
        "all-linear": "all-linear",
        "attention": attention[0] if attention else "",
        "head": names[id(lm.head)].rpartition(".")[2],
        "embedding": names[id(lm.causal.get_input_embeddings())].rpartition(".")[2],
        "router": routers[0] if routers else "",
        "experts": experts[0] if experts else "",
    }
    return {kind: name for kind, name in kinds.items() if name}


def learn(one: ActorCritic, reference: LanguageModel, asked: tuple, rate: float) -> None:
    """Three steps that move everything that there is to train."""
    optimizer = torch.optim.Adam(list(one.named_parameters().values()), lr=rate)
    for _ in range(3):
        logprobs, hidden, places = one.lm.score_tensor(*asked)
        with torch.no_grad():
            theirs, _, _ = reference.hidden_states(*asked[:3])
        kl = one.lm.exact_kl(hidden, reference, theirs, places, WARP)
        critic = one.values(hidden.float()).sum() if one.lm.gives_hidden else one.value_head.bias.sum()
        optimizer.zero_grad()
        with one.lm.active():
            (logprobs.sum() + kl.sum() + critic).backward()
        optimizer.step()


def check_training(lm: LanguageModel, targets: str | None, directory: Path) -> None:
    """The reference is the base, whoever was active before and whoever has learned; everything that
    was to be trained moves, is in the state and comes back; what is saved is what was trained.

    Args:
        lm: It is not changed.
        targets: Of adapters, or None for all weights.
        directory: Where the agent is saved.

    Raises:
        ConfigError: Refused at the start.
    """
    lora = None if targets is None else LoRAConfig(rank=2, targets=targets)
    base = lm.clone()
    lm, again = lm.clone(), lm.clone()
    (one, two), reference = make_policies(lm, ["llm1", "llm2"], lora, 0)
    prompts = contexts()[:6]
    drawn = draw(base, prompts)
    asked = prompts, drawn.tokens, drawn.lengths, WARP
    expected = base.score(*asked)
    whole = base.distributions(*asked)
    mask = np.arange(drawn.tokens.shape[1]) < drawn.lengths[:, None]

    def reference_is_base() -> None:
        for policy in (one, two):
            policy.lm.score(*asked)
            assert np.abs(reference.score(*asked) - expected).max() < 2e-5, "reference"
            assert np.abs(np.exp(reference.distributions(*asked)) - np.exp(whole))[mask].max() < 2e-5, "distributions"
            cursor = reference.cursor(prompts[0], WARP)
            assert abs(cursor.logprobs()[drawn.tokens[0, 0]] - expected[0, 0]) < 2e-5, "cursor"
            assert np.abs(draw(reference, prompts).logprobs - expected).max() < 2e-5, "sampling"

    reference_is_base()
    assert np.abs(two.lm.score(*asked) - expected).max() < 2e-5, "an agent begins as the reference"
    before = {name: p.detach().clone() for name, p in one.named_parameters().items()}
    learn(one, reference, asked, 0.05 if lora else 0.005)
    after = {name: p.detach().clone() for name, p in one.named_parameters().items()}
    stayed = [name for name in after if torch.equal(before[name], after[name]) and "vision_tower" not in name]
    stayed = [name for name in stayed if "multi_modal" not in name]  # nobody shows pictures
    assert len(after) > 2 and stayed == ([] if lm.gives_hidden else ["value_head.weight"]), f"stayed: {stayed}"
    reference_is_base()
    assert np.abs(two.lm.score(*asked) - expected).max() < 2e-5, "the other agent"
    learned, exact = one.lm.score(*asked), one.lm.distributions(*asked)
    assert np.abs(learned - expected).max() > 1e-3, "nothing was learned"
    hidden, _, places = one.lm.hidden_states(*asked[:3])
    theirs, _, _ = reference.hidden_states(*asked[:3])
    kl = one.lm.exact_kl(hidden, reference, theirs, places, WARP).detach().numpy()
    assert np.abs(kl - full_kl(exact, whole)[mask]).max() < 1e-4, "exact KL"
    one.save_pretrained(directory)
    try:
        back = LanguageModel.from_pretrained(directory)
    except ConfigError as error:  # too late for a refusal
        raise AssertionError(f"what was saved cannot be loaded: {error}") from error
    assert np.abs(back.score(*asked) - learned).max() < 1e-4, "saved is not what was trained"
    (third, _), _ = make_policies(again, ["llm1", "llm2"], lora, 1)
    third.load_state_dict(one.named_parameters())
    assert np.abs(third.lm.score(*asked) - learned).max() < 2e-5, "a checkpoint does not come back"


def verdict(name: str, directory: Path) -> list[str]:
    """A row of `docs/models.md`: the model, "holds" or "refused", and in which limits or why."""
    try:
        lm = LanguageModel(zoo.module(name), tokenizer())
    except ConfigError as error:
        return [name, "refused", str(error).replace("; expected a transformer", ". Expected a transformer")]
    check_logprobs(lm)
    kinds = targets_of(lm) if lm.is_small else {}
    if lm.is_small:  # the large ones are there for the tapes, and have small sisters
        check_training(lm, None, directory)
    refused = []
    for kind, targets in kinds.items():
        try:
            check_training(lm, targets, directory)
        except ConfigError:
            refused.append(kind)
    limits = []
    if lm.why_positions:
        limits.append(f"{lm.max_positions} of its {zoo.SHAPE['max_position_embeddings']} positions")
    if not lm.gives_hidden:
        limits.append("learners without a critic")
    if refused:
        limits.append(f"no adapters on {', '.join(refused)}")
    return [name, "holds", "; ".join(limits)]
