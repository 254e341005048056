"""Two stable-baselines3 learners train each other, and exchange roles on the way.

One idea: each learner has an environment of its own in which the other one is the partner; who is
the pioneer follows the schedule of the game, so over time both have read the other's answers and
both have been read. Run it with

    python docs/examples/sb3_cotrain.py
"""

from __future__ import annotations

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import coevo_env
from coevo_agents.adapters.sb3 import CoevoVecEnv, KLCallback, SB3Actor, TokenExtractor, cotrain
from coevo_agents.training.play import play


def held_out(actor, episodes: int = 256) -> float:
    """Mean task reward of an agent alone on held-out prompts."""
    game = coevo_env.BatchEnv(episodes, task="toy", num_agents=1, kl="off", split="test", seed=99)
    play(game, [actor])
    return float(game.rollouts()[0].task_reward.mean())


def main() -> list[tuple[float, float]]:
    parser = argparse.ArgumentParser(description="two SB3 learners as each other's partners")
    parser.add_argument("--timesteps", type=int, default=15_000, help="tokens of each learner")
    parser.add_argument("--exchange-every", type=int, default=64, help="episodes between role exchanges")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    models = {}
    for number, name in enumerate(["llm1", "llm2"]):
        env = VecMonitor(CoevoVecEnv(16, "toy", kl="reference", learner=name, exchange_every=args.exchange_every))
        models[name] = PPO(
            "MultiInputPolicy",
            env,
            n_steps=32,
            batch_size=128,
            n_epochs=4,
            learning_rate=2e-3,
            gamma=1.0,
            seed=args.seed + number,  # other initial weights for each
            policy_kwargs={"features_extractor_class": TokenExtractor},
        )
        env.seed(args.seed)  # but the same prompts and roles
    before = {name: held_out(SB3Actor(model)) for name, model in models.items()}
    callbacks = {name: KLCallback() for name in models}
    cotrain(models, args.timesteps, callbacks)
    after = {name: held_out(SB3Actor(model)) for name, model in models.items()}
    for name, callback in callbacks.items():
        print(
            f"{name}: held-out task reward {before[name]:.3f} -> {after[name]:.3f}, KL {callback.history[-1][0]:.2f} "
            "nats per response"
        )
    return [(before[name], after[name]) for name in models]


if __name__ == "__main__":
    main()
