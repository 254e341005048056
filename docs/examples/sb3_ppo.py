"""One agent learns with stable-baselines3, its partner is the frozen reference policy.

One idea: the environment and the network are plugged into SB3; the algorithm, its loop and its logs
are SB3's own. Run it with

    python docs/examples/sb3_ppo.py
    python docs/examples/sb3_ppo.py --algorithm a2c
    python docs/examples/sb3_ppo.py --algorithm maskable      # needs pip install 'coevo-env[sb3]'
    python docs/examples/sb3_ppo.py --policy lm               # the network is a causal LM
"""

from __future__ import annotations

import argparse

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecMonitor

import coevo_env
from coevo_agents.adapters import require
from coevo_agents.adapters.sb3 import (
    CausalLMPolicy,
    CoevoVecEnv,
    KLCallback,
    SB3Actor,
    TokenExtractor,
    language_model_kwargs,
    maskable_causal_lm_policy,
)
from coevo_agents.training.play import play
from coevo_env.testing import tiny_lm


def held_out(actor, episodes: int = 256) -> float:
    """Mean task reward of an agent alone on held-out prompts."""
    game = coevo_env.BatchEnv(episodes, task="toy", num_agents=1, kl="off", split="test", seed=99)
    play(game, [actor])
    return float(game.rollouts()[0].task_reward.mean())


def main() -> list[tuple[float, float]]:
    parser = argparse.ArgumentParser(description="stable-baselines3 on the toy task")
    parser.add_argument("--algorithm", choices=["ppo", "a2c", "maskable"], default="ppo")
    parser.add_argument("--policy", choices=["embedding", "lm"], default="embedding")
    parser.add_argument("--timesteps", type=int, default=20_000, help="tokens of the learner")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    # the reference policy: what KL is measured from, and who plays the partner
    reference = tiny_lm(5, seed=3) if args.policy == "lm" else None
    env = VecMonitor(CoevoVecEnv(16, "toy", reference, kl="reference"))

    if args.policy == "lm":
        policy = maskable_causal_lm_policy() if args.algorithm == "maskable" else CausalLMPolicy
        policy_kwargs = language_model_kwargs(env)
    else:
        policy, policy_kwargs = "MultiInputPolicy", {"features_extractor_class": TokenExtractor}
    common = {"policy_kwargs": policy_kwargs, "learning_rate": 2e-3, "gamma": 1.0, "seed": args.seed}
    if args.algorithm == "a2c":
        model = A2C(policy, env, n_steps=8, **common)
    elif args.algorithm == "ppo":
        model = PPO(policy, env, n_steps=32, batch_size=128, n_epochs=4, **common)
    else:
        require("sb3-contrib")
        from sb3_contrib import MaskablePPO

        model = MaskablePPO(policy, env, n_steps=32, batch_size=128, n_epochs=4, **common)

    before = held_out(SB3Actor(model))
    callback = KLCallback()  # adds -beta log pi to the rewards: the environment can only pay +beta log pi_ref
    model.learn(args.timesteps, callback=callback)
    after = held_out(SB3Actor(model))
    kl, _, beta = callback.history[-1]
    print(f"held-out task reward {before:.3f} -> {after:.3f}, KL {kl:.2f} nats per response at beta {beta:.3f}")
    return [(before, after)]


if __name__ == "__main__":
    main()
