"""TorchRL: the batched engine as a native environment of N rows.

One idea: the layout is that of `torchrl.envs.PettingZooWrapper` with one group for each agent, so
that code written for the wrapped AEC face (which needs nothing from here) trains on N episodes at
once without a change. An agent that is not acting has `mask` False and a legal action without
effect; what it is paid meanwhile stands on those steps, so advantages are computed on all steps and
losses on those of the mask.

| key | shape | content |
|---|---|---|
| `(agent, "observation", "observation")` | int64 (N, 1, L) | as in `coevo_env.faces.aec` |
| `(agent, "action_mask")` | bool (N, 1, V) | legal tokens; EOS alone where it is not acting |
| `(agent, "mask")` | bool (N, 1) | whether the agent acts at this step |
| `(agent, "action")` | int64 (N, 1) | a token id |
| `(agent, "reward")` | float32 (N, 1, 1) | what this step paid the agent |
| `(agent, "done")`, `"terminated"`, `"truncated"` | bool (N, 1, 1) | the root's, for all |

All rows end at the same step: a row whose turn is over waits with every `mask` False until the
others have finished theirs.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.game.kl import STRICT

from . import require

__all__ = ["batch_env"]


def batch_env(
    batch_size: int, task: Any = "sentiment", model: Any = None, *, logprob_key: str = "action_log_prob", **options: Any
) -> Any:
    """The batched engine as a `torchrl.envs.EnvBase` with `batch_size=[N]`.

    Args:
        batch_size: N, how many episodes are played at once.
        task, model, options: As in `coevo_env.BatchEnv`; KL is "off" unless `kl` says otherwise, as
            in the faces that take one token at a time.
        logprob_key: In KL modes "reported" and "loss", the entry of each agent's group that holds
            log pi of its action; the default is what `ProbabilisticActor(return_log_prob=True)`
            writes with that `log_prob_key`.

    Returns:
        The environment; its attribute `game` is the `coevo_env.BatchEnv` that it plays.

    Raises:
        MissingExtraError, ConfigError: TorchRL is missing or of another version, or the game could
            not be played.
    """
    require("torchrl")
    return _class()(BatchEnv(batch_size, task, model, **{"kl": "off", **options}), logprob_key)


@functools.cache
def _class() -> Any:
    """The class is made at the first call, so that this module can be imported without TorchRL."""
    import torch
    from tensordict import TensorDict  # pyright: ignore[reportMissingImports]
    from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded  # pyright: ignore[reportMissingImports]
    from torchrl.envs import EnvBase  # pyright: ignore[reportMissingImports]

    class TextBatchEnv(EnvBase):
        """See `batch_env`."""

        def __init__(self, game: BatchEnv, logprob_key: str):
            super().__init__(batch_size=torch.Size([game.batch_size]))
            self.game, self.logprob_key = game, logprob_key
            self.group_map = {agent: [agent] for agent in game.agents}
            rules = game.rules
            self._length = rules.max_context + rules.max_new_tokens
            self._played = False  # whether the current batch has been begun
            size, vocab = game.batch_size, rules.vocab_size
            self._early, self._late = (
                torch.from_numpy(rules.sampling.mask(vocab, at)).bool() for at in (0, rules.max_new_tokens)
            )  # (V,)
            self._noop = torch.zeros(vocab, dtype=torch.bool)
            self._noop[rules.eos_id] = True

            def flag(*shape: int) -> Any:
                return Binary(shape=(size, *shape), dtype=torch.bool)

            def composite(entries: dict[str, Any]) -> Any:
                return Composite(entries, shape=(size,))

            def ends(*shape: int) -> dict[str, Any]:
                return {name: flag(*shape) for name in ("done", "terminated", "truncated")}

            tokens = Bounded(0, vocab, shape=(size, 1, self._length), dtype=torch.int64)
            agents = game.agents
            self.observation_spec = composite(
                {
                    agent: composite(
                        {
                            "observation": composite({"observation": tokens.clone()}),
                            "action_mask": flag(1, vocab),
                            "mask": flag(1),
                        }
                    )
                    for agent in agents
                }
            )
            self.action_spec = composite(
                {agent: composite({"action": Categorical(vocab, shape=(size, 1))}) for agent in agents}
            )
            self.reward_spec = composite(
                {agent: composite({"reward": Unbounded(shape=(size, 1, 1))}) for agent in agents}
            )
            self.done_spec = composite({**ends(1), **{agent: composite(ends(1, 1)) for agent in agents}})

        # ---------------------------------------------------------------- TorchRL
        def _set_seed(self, seed: int | None) -> None:
            """The episodes of `seed` from number 0 on; None leaves them as they are."""
            if seed is not None:
                self.game.rules = self.game.rules.reseeded(seed)
                self.game.reset(0)
                self._played = False

        def _reset(self, tensordict: Any = None, **kwargs: Any) -> Any:
            wanted = None if tensordict is None else tensordict.get("_reset", None)
            if wanted is not None and not wanted.all():
                raise ConfigError(
                    f"reset of {int(wanted.sum())} of {wanted.numel()} rows; expected all of them, because the rows of "
                    "a batch begin and end together."
                )
            game = self.game
            if self._played:
                game.reset()
            self._played = True
            size, count = game.batch_size, len(game.agents)
            self._seat_of = np.zeros((size, count), np.int64)  # (N, A)
            for row, episode in enumerate(game.episodes):
                for seat, agent in enumerate(episode.seats):
                    self._seat_of[row, agent] = seat
            self._rows = np.full(
                (size, count, self._length), game.rules.vocab_size, np.int64
            )  # (N, A, L), seats in order of play
            self._sizes = np.zeros((size, count), np.int64)
            self._seat = -1
            self._begin_turn()
            self._prompts = self._rows[:, 0].copy()  # (N, L): what an agent sees before its turn
            return self._see({})

        def _step(self, tensordict: Any) -> Any:
            game, size = self.game, self.game.batch_size
            turn = game.begin_turn()
            if turn is None:
                raise ConfigError("step() after the last turn of the batch; call reset() to start the next one.")
            every, actor, active = np.arange(size), turn.agents, game.active
            tokens = self._chosen(tensordict, "action")[every, actor]  # (N,)
            logprobs = None
            if game.rules.kl.mode in STRICT:
                logprobs = self._chosen(tensordict, self.logprob_key)[every, actor]
            paid = game.step(tokens, logprobs)  # (N,)
            rewards = np.zeros((size, len(game.agents)))
            rewards[every, actor] = paid
            if game.scores is not None:  # the other seats' team rewards
                earned = game.scores.team[every[:, None], self._seat_of]  # (N, A)
                rewards = np.where(self._seat_of == turn.seat, rewards, earned)
            rows = np.flatnonzero(active)
            self._rows[rows, turn.seat, self._sizes[rows, turn.seat]] = tokens[rows]
            self._sizes[rows, turn.seat] += 1
            if not game.done:
                self._begin_turn()

            def ends(*shape: int) -> dict[str, Any]:
                return {
                    name: torch.full((size, *shape), game.done and name != "truncated")
                    for name in ("done", "terminated", "truncated")
                }

            result = ends(1)
            for agent, column in zip(game.agents, rewards.T, strict=True):
                result[agent] = {"reward": torch.as_tensor(column, dtype=torch.float32)[:, None, None], **ends(1, 1)}
            return self._see(result)

        # ---------------------------------------------------------------- internals
        def _chosen(self, tensordict: Any, name: str) -> np.ndarray:
            """(N, A): an entry of every agent's group."""
            columns = []
            for agent in self.game.agents:
                value = tensordict.get((agent, name), None)
                if value is None:
                    raise ConfigError(
                        f"step() without {(agent, name)!r}; KL mode {self.game.rules.kl.mode!r} needs log pi of every "
                        "action. Make the policy write "
                        "it (return_log_prob=True), name its key with logprob_key=, or use kl='reference' or kl='off'."
                    )
                columns.append(value.detach().reshape(self.game.batch_size).cpu().numpy())
            return np.stack(columns, 1)

        def _begin_turn(self) -> None:
            """Writes the contexts of a turn that has just begun."""
            turn = self.game.begin_turn()
            if turn is None or turn.seat == self._seat:
                return
            self._seat = turn.seat
            for row, context in enumerate(turn.contexts):
                self._rows[row, turn.seat, : len(context)] = context
                self._sizes[row, turn.seat] = len(context)

        def _see(self, extra: dict[str, Any]) -> Any:
            """What every agent sees now, in fresh tensors, together with rewards and ends."""
            game, size = self.game, self.game.batch_size
            turn, active = game.begin_turn(), game.active
            late = turn is not None and self._position() >= game.rules.sampling.min_new_tokens
            result = dict(extra)
            for index, agent in enumerate(game.agents):
                seats = self._seat_of[:, index]
                begun = (seats <= self._seat)[:, None]
                tokens = np.where(begun, self._rows[np.arange(size), seats], self._prompts)
                acts = (
                    torch.from_numpy(active & (turn.agents == index))
                    if turn is not None
                    else torch.zeros(size, dtype=torch.bool)
                )
                legal = torch.where(acts[:, None], self._late if late else self._early, self._noop)[
                    :, None
                ]  # (N, 1, V)
                result[agent] = {
                    **extra.get(agent, {}),
                    "observation": {"observation": torch.from_numpy(tokens)[:, None]},
                    "action_mask": legal,
                    "mask": acts[:, None],
                }
                self.full_action_spec[agent, "action"].update_mask(legal)  # random actions are legal ones
            return TensorDict(result, batch_size=self.batch_size)

        def _position(self) -> int:
            """How many tokens the rows that are still playing have played of this turn: the same in
            all of them."""
            row = int(np.argmax(self.game.active))
            return len(self.game.episodes[row].turns[self._seat].tokens)

    return TextBatchEnv
