"""One training iteration of two agents against the bare model calls that it needs.

One idea: the real training loop runs, logs included, and after each of its iterations a plain
PyTorch loop does the model work of the same iteration once more: it samples as many tokens from the
same contexts, scores them once under the reference, and makes as many gradient passes over them.
Their ratio is what the package costs on top of the models.

The bare side is what one would write by hand: cached sampling with softmax and multinomial, logits
of the response only, padding only where prompts are ragged, fused Adam. It has no value head, no
advantages, no rewards, no text, no clipping of gradients, no checks and no logs. Responses have the
full length on both sides. The embedded model trains all its weights, with 4 epochs; SmolLM2-135M
trains LoRA adapters (rank 8, all linear layers) with 1 epoch, the reference being the same model
with its adapters off, as in the preset.
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .models import BATCH, TOKENS, config, label, missing
from .results import Item, Row
from .timing import clock_for, median_of, ratio_of


def run(settings: Any) -> Item:
    item = Item()
    cases = [("embedded", "separate", 4, 4 if settings.quick else 40)]
    if not settings.quick:
        cases.append(("smollm2", "lora", 1, 4))
    for model, weights, epochs, repeats in cases:
        if reason := missing(model):
            item.skipped.append(reason)
            continue
        ours, bare = _interleaved(model, weights, epochs, repeats, settings.threads)
        trained = "LoRA" if weights == "lora" else "all weights"
        what = f"{label(model)}, {trained}, {epochs} epoch{'s' if epochs > 1 else ''}"
        note = (
            f"2 agents, batch {BATCH}, {TOKENS} tokens; {np.median(ours):.3g} s an iteration, rewards and logs "
            "included, against "
            f"{np.median(bare):.3g} s of bare model calls"
        )
        item.rows.append(Row.of(f"iteration / bare model calls: {what}", ratio_of(ours, bare), bar=1.15, note=note))
        item.rows.append(Row.of(f"samples per second: {what}", median_of(2 * BATCH / ours), unit="/s", sense=">="))
    return item


def _interleaved(model: str, weights: str, epochs: int, repeats: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of iterations of the loop, and of the bare calls after each."""
    from coevo_agents.training.loop import Run

    warmup, clock = 2, clock_for(threads)
    settings = config(model, weights=weights, iterations=warmup + repeats + 1, **{"ppo.epochs": epochs})
    ours: list[float] = []
    bare_seconds: list[float] = []
    mark = 0.0

    def after(iteration: int, _metrics: dict[str, float]) -> None:
        nonlocal mark
        elapsed = clock() - mark
        if (
            1 <= iteration <= warmup + repeats
        ):  # 0 is the evaluation before training, and the last one evaluates as well
            rollouts = loop.parts.game.rollouts()
            started = clock()
            bare.iteration([(rollout.contexts, int(rollout.seats[0])) for rollout in rollouts])
            if iteration > warmup:
                ours.append(elapsed)
                bare_seconds.append(clock() - started)
        mark = clock()

    with tempfile.TemporaryDirectory() as folder:
        loop = Run(settings, folder, report=after)
        bare = Bare(loop.parts.reference.tokenizer.eos_id, loop.parts.reference.tokenizer.banned, settings)
        loop.train()
    return np.array(ours), np.array(bare_seconds)


class Bare:
    """The model calls of an iteration by plain transformers, peft and torch; it shares no code with
    the package."""

    def __init__(self, eos: int, banned: Sequence[int], settings: Any):
        from transformers import AutoModelForCausalLM

        from coevo_env.lm.names import resolve

        path = resolve(settings.model)
        self.eos, self.epochs = eos, settings.settings.epochs
        self.forbidden = torch.tensor([eos, *banned])
        self.reference = AutoModelForCausalLM.from_pretrained(path).eval()
        self.lora = settings.weights == "lora"
        if self.lora:
            from peft import LoraConfig, get_peft_model

            adapter = LoraConfig(
                r=settings.lora.rank, lora_alpha=settings.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            )
            shared = get_peft_model(self.reference, adapter, adapter_name="a0")
            shared.add_adapter("a1", adapter)
            self.reference, self.models = shared.eval(), [shared, shared]
            trained = [[p for n, p in shared.named_parameters() if f".a{i}." in n] for i in range(2)]
        else:
            self.models = [AutoModelForCausalLM.from_pretrained(path).eval() for _ in range(2)]
            trained = [list(model.parameters()) for model in self.models]
        self.optimizers = [torch.optim.Adam(parameters, lr=1e-5, fused=True) for parameters in trained]

    def iteration(self, turns: Sequence[tuple[list[list[int]], int]]) -> None:
        """Plays and learns; for each agent the contexts it reads and its seat."""
        played = {}
        for agent in sorted(range(len(turns)), key=lambda agent: turns[agent][1]):
            contexts = turns[agent][0]
            with torch.no_grad():
                self._select(agent)
                tokens, logprobs = self._sample(self.models[agent], contexts)
                with self.reference.disable_adapter() if self.lora else contextlib.nullcontext():
                    theirs = self._score(self.reference, contexts, tokens)
            played[agent] = (contexts, tokens, logprobs, -0.1 * (logprobs - theirs))
        for agent, (contexts, tokens, old, advantage) in played.items():
            self._select(agent)
            for _ in range(self.epochs):
                self.optimizers[agent].zero_grad()
                ratio = (self._score(self.models[agent], contexts, tokens) - old).exp()
                loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
                loss.backward()
                self.optimizers[agent].step()

    def _select(self, agent: int) -> None:
        if self.lora:
            self.models[agent].set_adapter(f"a{agent}")

    def _sample(self, model: Any, contexts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        from transformers import DynamicCache

        ids, mask = self._pad(contexts)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        tokens, logprobs = [], []
        causal = model.get_base_model() if self.lora else model
        name = (
            "cache" if "cache" in inspect.signature(causal.forward).parameters else "past_key_values"
        )  # of newer and older transformers
        cache = {name: DynamicCache()}
        for _ in range(TOKENS):
            out = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1, **cache
            )
            logits = out.logits[:, -1].index_fill(1, self.forbidden, -torch.inf)
            probabilities = logits.softmax(-1)
            ids = torch.multinomial(probabilities, 1)
            tokens.append(ids)
            logprobs.append(probabilities.gather(1, ids).log())
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            positions = positions[:, -1:] + 1
        return torch.cat(tokens, 1), torch.cat(logprobs, 1)

    def _score(self, model: Any, contexts: list[list[int]], tokens: torch.Tensor) -> torch.Tensor:
        ids, mask = self._pad([[*context, *row] for context, row in zip(contexts, tokens.tolist(), strict=True)])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=TOKENS + 1
        ).logits
        logits = logits[:, :-1].index_fill(2, self.forbidden, -torch.inf)
        return logits.gather(2, tokens[..., None])[..., 0] - logits.logsumexp(-1)

    def _pad(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, rows))
        ids = torch.tensor([[self.eos] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return ids, mask
