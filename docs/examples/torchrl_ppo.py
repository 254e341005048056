"""TorchRL's PPO, one learner for each agent, on the wrapped AEC face and on the batched engine.

    pip install -c constraints.txt -e '.[torchrl]'
    python docs/examples/torchrl_ppo.py

One idea: both environments have the same keys, so one `train` serves both. An agent is also paid
while it is idle (the pioneer at the very end), so advantages are computed on all steps, and the
loss on those where the agent acts.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, PettingZooWrapper
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import coevo_env
from coevo_agents.adapters.torchrl import batch_env


def aec_env(**options) -> EnvBase:
    """One episode at a time, through TorchRL's own wrapper."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it names the one version of PettingZoo that its authors test with
        return PettingZooWrapper(coevo_env.env(**options), use_mask=True)


class Reader(nn.Module):
    """Token ids are names and not magnitudes: an embedding of each, then an MLP. (..., L) -> (...,
    outputs)."""

    def __init__(self, vocab_size: int, length: int, outputs: int, width: int = 64):
        super().__init__()
        self.embed = nn.Embedding(vocab_size + 1, 16)  # V is padding
        self.body = nn.Sequential(nn.Linear(16 * length, width), nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.body(self.embed(tokens).flatten(-2))


def make_agent(env: EnvBase, agent: str) -> tuple[ProbabilisticActor, ValueOperator]:
    """Policy and value function of one agent."""
    read = (agent, "observation", "observation")
    length, vocab = env.observation_spec[read].shape[-1], env.full_action_spec[agent, "action"].n
    actor = ProbabilisticActor(
        TensorDictModule(Reader(vocab, length, vocab), in_keys=[read], out_keys=[(agent, "logits")]),
        in_keys={"logits": (agent, "logits"), "mask": (agent, "action_mask")},
        out_keys=[(agent, "action")],
        distribution_class=MaskedCategorical,
        return_log_prob=True,
        log_prob_key=(agent, "action_log_prob"),
    )
    return actor, ValueOperator(Reader(vocab, length, 1), in_keys=[read], out_keys=[(agent, "state_value")])


def make_loss(agent: str, actor: ProbabilisticActor, critic: ValueOperator) -> tuple[ClipPPOLoss, GAE]:
    """TorchRL's loss and advantages, told where the entries of this agent are."""
    group = {name: (agent, name) for name in ("reward", "done", "terminated", "advantage", "value_target")}
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01)
    loss.set_keys(
        **group, action=(agent, "action"), sample_log_prob=(agent, "action_log_prob"), value=(agent, "state_value")
    )
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    advantage.set_keys(**group, value=(agent, "state_value"))
    return loss, advantage


def train(
    env: EnvBase,
    iterations: int = 15,
    frames: int = 512,
    epochs: int = 6,
    seed: int = 0,
    on_batch: Callable | None = None,
) -> list[float]:
    """Trains every agent of `env`.

    Args:
        frames: Steps per iteration, over all rows.
        on_batch: Gets the collected tensordict of each iteration.

    Returns:
        The mean return of each iteration's finished episodes, averaged over agents.
    """
    torch.manual_seed(seed)
    names = list(env.group_map)
    agents = {name: make_agent(env, name) for name in names}
    losses = {name: make_loss(name, *agents[name]) for name in names}
    optimizers = {name: torch.optim.Adam(losses[name][0].parameters(), lr=3e-3) for name in names}
    policy = TensorDictSequential(*(actor for actor, _ in agents.values()))
    collector = Collector(env, policy, frames_per_batch=frames, total_frames=frames * iterations)
    history = []
    for data in collector:
        if on_batch is not None:
            on_batch(data)
        for name in names:
            loss, advantage = losses[name]
            with torch.no_grad():
                advantage(data)
            acted = data[data[name, "mask"].squeeze(-1)]  # the steps at which this agent acted
            for _ in range(epochs):
                values = loss(acted)
                total = values["loss_objective"] + values["loss_critic"] + values["loss_entropy"]
                optimizers[name].zero_grad()
                total.backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
                optimizers[name].step()
        paid = sum(float(data["next", name, "reward"].sum()) for name in names) / len(names)
        history.append(paid / max(1, int(data["next", "done"].sum())))
    collector.shutdown(close_env=False)
    return history


def main() -> None:
    torch.set_num_threads(1)
    for name, env in {"AEC": aec_env(task="toy", seed=0), "batched": batch_env(16, task="toy", seed=0)}.items():
        history = train(env, on_batch=lambda data: print(".", end="", file=sys.stderr, flush=True))
        print(f"\n{name}: mean return {history[0]:.2f} -> {history[-1]:.2f}")


if __name__ == "__main__":
    main()
