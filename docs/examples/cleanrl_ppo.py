"""PPO in one file, in the spirit of CleanRL: two agents learn from scratch over the batched engine,
each with a network of its own.

One idea: everything is in sight. No trainer, no callbacks, no inheritance: the network, the game,
the advantage and the loss follow one another from top to bottom, and a research idea is a few
changed lines. Nothing here is imported from `coevo_agents`. Run it with

    python docs/examples/cleanrl_ppo.py
    python docs/examples/cleanrl_ppo.py --num-agents 3 --roles rotation --kl-beta 0.05
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical
from torch.nn.functional import mse_loss
from torch.nn.utils.rnn import pad_sequence

import coevo_env


@dataclass
class Args:
    """Every field is an option of the command line."""

    seed: int = 1
    task: str = "toy"
    num_agents: int = 2
    roles: str = "periodic"  # who is the pioneer: periodic, rotation, random, never
    exchange_every: int = 256  # episodes between role exchanges
    iterations: int = 150
    batch_size: int = 64  # episodes of an iteration
    learning_rate: float = 3e-3
    anneal: bool = True  # the learning rate falls linearly to 0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    entropy: float = 0.0  # bonus per nat; the KL to the reference policy already keeps the policy from collapsing
    value_weight: float = 0.5
    max_grad_norm: float = 0.5
    kl_beta: float = 0.1  # reward per nat of KL to the reference policy
    hidden: int = 64
    eval_episodes: int = 256
    log_every: int = 10


class Agent(nn.Module):
    """Embedding, GRU, and two heads: what the agent has read and written so far -> next-token
    logits and value."""

    def __init__(self, vocab: int, hidden: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.actor = nn.Linear(hidden, vocab)
        self.critic = nn.Linear(hidden, 1)
        nn.init.orthogonal_(self.actor.weight, 0.01)
        nn.init.zeros_(self.actor.bias)

    def forward(
        self, contexts: list[list[int]], tokens: torch.Tensor, legal: torch.Tensor
    ) -> tuple[Categorical, torch.Tensor]:
        """The policy and the value at every position of a turn.

        Args:
            contexts: B lists of ids.
            tokens: int64 (B, T), the turn; position t is chosen from the context and tokens[:, :t].
            legal: bool (T, V), which tokens are legal at each position.

        Returns:
            A distribution over (B, T) tokens, and values (B, T).
        """
        steps = tokens.shape[1]
        rows = [torch.cat([torch.tensor(context), row[:-1]]) for context, row in zip(contexts, tokens, strict=True)]
        states, _ = self.gru(self.embedding(pad_sequence(rows, batch_first=True)))
        last = torch.tensor([len(context) - 1 for context in contexts])  # the state that chooses the first token
        index = last[:, None] + torch.arange(steps)
        states = states[torch.arange(len(rows))[:, None], index]  # (B, T, H)
        logits = self.actor(states).masked_fill(~legal, -torch.inf)
        return Categorical(logits=logits, validate_args=False), self.critic(states)[..., 0]


def legal_tokens(game: coevo_env.BatchEnv) -> torch.Tensor:
    """bool (T, V): the game's mask at each position of a turn."""
    rules = game.rules
    return torch.tensor(
        np.stack([rules.sampling.mask(rules.vocab_size, t) for t in range(rules.max_new_tokens)])
    ).bool()


@torch.no_grad()
def play(game: coevo_env.BatchEnv, agents: list[Agent], generator: torch.Generator) -> None:
    """Plays a batch of episodes. In each turn an agent plays the rows in which it sits in the
    current seat."""
    legal, eos = legal_tokens(game), game.rules.eos_id
    while (turn := game.begin_turn()) is not None:
        shape = (len(turn.contexts), turn.max_new_tokens)
        tokens = torch.zeros(shape, dtype=torch.int64)
        logprobs, values = torch.zeros(shape), torch.zeros(shape)
        lengths = torch.full(shape[:1], shape[1])
        for number, agent in enumerate(agents):
            rows = torch.tensor(np.flatnonzero(turn.agents == number))
            if not len(rows):
                continue
            contexts, drawn = [turn.contexts[row] for row in rows], tokens[rows]
            for t in range(shape[1]):
                policy, value = agent(contexts, drawn[:, : t + 1], legal[: t + 1])
                drawn[:, t] = torch.multinomial(policy.probs[:, t], 1, generator=generator)[
                    :, 0
                ]  # also in rows that have ended
                logprobs[rows, t], values[rows, t] = policy.log_prob(drawn[:, : t + 1])[:, t], value[:, t]
            tokens[rows] = drawn
        ended = tokens == eos
        lengths[ended.any(1)] = ended.int().argmax(1)[ended.any(1)] + 1  # what stands behind EOS is ignored
        game.submit_turn(tokens.numpy(), lengths.numpy(), logprobs.numpy(), values=values.numpy())


def advantages_of(rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """GAE over turns (B, T). A turn is an episode of its agent: behind its last token nothing
    follows."""
    advantages, gain = np.zeros(rewards.shape), np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        following = (values[:, t + 1] * mask[:, t + 1]) if t + 1 < rewards.shape[1] else 0.0
        gain = (rewards[:, t] + gamma * following - values[:, t] + gamma * lam * gain) * mask[:, t]
        advantages[:, t] = gain
    return advantages


def update(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    rollout: coevo_env.Rollout,
    legal: torch.Tensor,
    args: Args,
    rng: np.random.Generator,
) -> dict[str, float]:
    """PPO on one agent's turns of one iteration."""
    assert rollout.values is not None
    mask = torch.tensor(rollout.mask)
    gains = advantages_of(rollout.rewards, rollout.values, rollout.mask, args.gamma, args.gae_lambda)
    advantages = torch.tensor(gains, dtype=torch.float32)
    returns = torch.tensor(gains + rollout.values, dtype=torch.float32)
    tokens, old = torch.tensor(rollout.tokens), torch.tensor(rollout.logprobs, dtype=torch.float32)
    legal, losses = legal[: tokens.shape[1]], []
    for _ in range(args.epochs):
        for part in np.array_split(rng.permutation(len(rollout)), min(args.minibatches, len(rollout))):
            policy, values = agent([rollout.contexts[row] for row in part], tokens[part], legal)
            here = mask[part]
            ratio = (policy.log_prob(tokens[part])[here] - old[part][here]).exp()
            advantage = advantages[part][here]
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
            surrogate = torch.min(ratio * advantage, ratio.clamp(1 - args.clip, 1 + args.clip) * advantage).mean()
            value_loss = mse_loss(values[here], returns[part][here])
            entropy = policy.entropy()[here].mean()
            loss = -surrogate - args.entropy * entropy + args.value_weight * value_loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()
            losses.append((value_loss.item(), entropy.item()))
    value_loss, entropy = np.mean(losses, 0)
    return {
        "value_loss": float(value_loss),
        "entropy": float(entropy),
        "return": float(rollout.rewards.sum() / len(rollout)),  # team reward less what KL cost, per episode
        "task_reward": float(rollout.task_reward.mean()),
        "kl": float(rollout.kl.sum(1).mean()),
    }


def evaluate(agent: Agent, args: Args) -> np.ndarray:
    """Task rewards (B,) of an agent alone on held-out prompts; always the same prompts and the same
    noise."""
    game = coevo_env.BatchEnv(args.eval_episodes, args.task, num_agents=1, kl="off", split="test", seed=10_000)
    play(game, [agent], torch.Generator().manual_seed(0))
    return game.rollouts()[0].task_reward


def train(args: Args) -> tuple[list[Agent], list[list[dict[str, float]]]]:
    """Trains all agents; returns them and, for each iteration, the metrics of each agent."""
    kl = coevo_env.KLConfig(mode="reported", beta=args.kl_beta)
    options = {"num_agents": args.num_agents, "roles": args.roles, "exchange_every": args.exchange_every}
    game = coevo_env.BatchEnv(args.batch_size, args.task, kl=kl, seed=args.seed, **options)
    torch.manual_seed(args.seed)
    agents = [Agent(game.rules.vocab_size, args.hidden) for _ in game.agents]
    optimizers = [torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5) for agent in agents]
    generator, rng = torch.Generator().manual_seed(args.seed), np.random.default_rng(args.seed)
    legal, history, start = legal_tokens(game), [], time.time()
    for iteration in range(args.iterations):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = args.learning_rate * (
                1 - iteration / args.iterations if args.anneal else 1
            )
        play(game, agents, generator)
        trained = zip(agents, optimizers, game.rollouts(), strict=True)
        history.append([update(agent, optimizer, rollout, legal, args, rng) for agent, optimizer, rollout in trained])
        game.update_controllers()
        game.reset()
        if args.log_every and (iteration + 1) % args.log_every == 0:
            shown = "  ".join(
                f"{name}: reward {row['task_reward']:.3f} kl {row['kl']:.2f}"
                for name, row in zip(game.agents, history[-1], strict=True)
            )
            print(f"iteration {iteration + 1:4d}  {time.time() - start:5.1f} s  {shown}")
    return agents, history


def parse() -> Args:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    for field in fields(Args):
        kind = {"int": int, "float": float, "str": str, "bool": lambda text: text.lower() in ("1", "true", "yes")}[
            str(field.type)
        ]
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return Args(**vars(parser.parse_args()))


if __name__ == "__main__":
    settings = parse()
    for i, trained_agent in enumerate(train(settings)[0]):
        print(f"llm{i + 1} alone on held-out prompts: {evaluate(trained_agent, settings).mean():.3f}")
