"""AgileRL's IPPO on the parallel face.

    pip install -c constraints.txt -e '.[agilerl]'
    python docs/examples/agilerl_ippo.py

One idea: the loop is written out, with AgileRL's `get_action` and `learn`, because its
`train_multi_agent_on_policy` hands the learner no end of an episode that ends for all agents at
once, as ours do: advantages would reach from one episode into the next.
"""

from __future__ import annotations

import numpy as np
import torch
from agilerl.algorithms import IPPO

from coevo_agents.adapters.agilerl import parallel_env


def make_ippo(env, **settings) -> IPPO:
    agents = env.possible_agents
    defaults = {
        "net_config": {"latent_dim": 64, "encoder_config": {"hidden_size": [64]}, "head_config": {"hidden_size": [64]}},
        "batch_size": 128,
        "lr": 3e-3,
        "gamma": 1.0,
        "update_epochs": 6,
    }
    return IPPO(
        observation_spaces=[env.observation_space(agent) for agent in agents],
        action_spaces=[env.action_space(agent) for agent in agents],
        agent_ids=agents,
        **{**defaults, **settings},
    )


def collect(ippo: IPPO, envs: list, state: dict, steps: int) -> tuple[tuple, list[float]]:
    """Plays `steps` steps of each environment.

    Args:
        state: Observations and ends to go on from; changed.

    Returns:
        The eight parts that `IPPO.learn` takes, and the returns of the episodes that ended,
        averaged over agents.
    """
    agents = ippo.agent_ids
    states, actions, logprobs, rewards, dones, values = ({agent: [] for agent in agents} for _ in range(6))
    finished = []
    for _ in range(steps):
        action, logprob, _, value = ippo.get_action(obs=state["obs"])
        for agent in agents:
            states[agent].append(state["obs"][agent])
            dones[agent].append(state["done"])
            actions[agent].append(action[agent])
            logprobs[agent].append(logprob[agent])
            values[agent].append(value[agent])
        observations, ends, paid = [], [], []
        for row, env in enumerate(envs):
            observation, reward, terminated, _, _ = env.step({agent: int(action[agent][row]) for agent in agents})
            state["returns"][row] += np.mean(list(reward.values()))
            if over := all(terminated.values()):
                finished.append(state["returns"][row])
                state["returns"][row] = 0.0
                observation, _ = env.reset()
            observations.append(observation)
            ends.append(float(over))
            paid.append(reward)
        for agent in agents:
            rewards[agent].append(np.array([reward[agent] for reward in paid], np.float32))
        state["obs"] = {agent: np.stack([observation[agent] for observation in observations]) for agent in agents}
        state["done"] = np.array(ends)
    next_done = dict.fromkeys(agents, state["done"])
    return (states, actions, logprobs, rewards, dones, values, state["obs"], next_done), finished


def train(iterations: int = 15, envs: int = 8, steps: int = 96, seed: int = 0, **options) -> tuple[IPPO, list[float]]:
    """Trains all agents; returns the algorithm and the mean return of each iteration."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # AgileRL shuffles its minibatches with NumPy's global generator
    games = [parallel_env(seed=1000 * seed + number, **options) for number in range(envs)]
    ippo = make_ippo(games[0])
    ippo.set_training_mode(True)
    first = [game.reset()[0] for game in games]
    obs = {agent: np.stack([row[agent] for row in first]) for agent in ippo.agent_ids}
    state = {"obs": obs, "done": np.zeros(envs), "returns": np.zeros(envs)}
    history = []
    for _ in range(iterations):
        experiences, finished = collect(ippo, games, state, steps)
        ippo.learn(experiences)
        history.append(float(np.mean(finished)))
    return ippo, history


def main() -> None:
    torch.set_num_threads(1)
    _, history = train(task="toy")
    print(f"mean return {history[0]:.2f} -> {history[-1]:.2f}")


if __name__ == "__main__":
    main()
