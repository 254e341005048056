"""stable-baselines3: everything that its users need, and the two things that happen around its
training loop.

One idea: SB3's own algorithms stay as they are. The environment (`sb3_env`) and the networks
(`sb3_policy`) are plugged in; what is left to do between collecting a rollout and learning from it
is adding the learner's half of KL shaping, and taking turns where several models learn.

    >>> from stable_baselines3 import PPO
    >>> env = CoevoVecEnv(4, task="toy", kl="reference", seed=0)
    >>> model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=32,
    ...             policy_kwargs={"features_extractor_class": TokenExtractor})
    >>> model.learn(32, callback=KLCallback()).num_timesteps
    32
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_wrapper

from coevo_env.errors import ConfigError

from . import require
from .sb3_env import CoevoVecEnv
from .sb3_policy import (
    CausalLMPolicy,
    CursorActor,
    SB3Actor,
    TokenExtractor,
    language_model_kwargs,
    maskable_causal_lm_policy,
)

__all__ = [
    "CausalLMPolicy",
    "CoevoVecEnv",
    "CursorActor",
    "KLCallback",
    "SB3Actor",
    "TokenExtractor",
    "cotrain",
    "language_model_kwargs",
    "maskable_causal_lm_policy",
]

require("stable-baselines3")


class KLCallback(BaseCallback):
    """The learner's half of KL shaping: adds -beta log pi(a|s) to the rewards of each rollout
    before SB3 learns from it.

    An environment with kl="reference" pays +beta log pi_ref(a|s); the sum of both is what
    kl="reported" pays. Works with PPO, A2C and MaskablePPO, on `CoevoVecEnv` and on
    `coevo_env.GymEnv`. What VecMonitor and `ep_rew_mean` show is the environment's half alone. At
    the end of each rollout the mean KL of the responses finished in it goes to the environment's KL
    controller; `coevo/kl` (nats per response), `coevo/beta`, `coevo/task_reward` and
    `coevo/team_reward` go to SB3's logger.

    Args:
        control: Whether to move beta by the environment's controller.

    Attributes:
        history: For each rollout in which a response was finished, (mean KL, responses, beta
            afterwards).

    Raises:
        ConfigError: When training starts: no on-policy model, no KL in mode "reference", a language
            model at another temperature than the game's, or rewards that VecNormalize rescales.
    """

    def __init__(self, control: bool = True, verbose: int = 0):
        super().__init__(verbose)
        self.control = control
        self.history: list[tuple[float, int, float]] = []

    def _init_callback(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise ConfigError(
                f"KLCallback on a {type(self.model).__name__}; expected an on-policy model such as PPO or A2C."
            )
        env = self.training_env
        try:
            mode = env.get_attr("rules")[0].kl.mode
        except AttributeError:
            raise ConfigError(
                "KLCallback on an environment without `rules`; expected a CoevoVecEnv or coevo_env.GymEnv."
            ) from None
        if mode != "reference":
            raise ConfigError(
                f"KLCallback on a game with KL mode {mode!r}; expected 'reference'. Make the environment with "
                "kl='reference'."
            )
        warmth, wanted = getattr(self.model.policy, "temperature", None), env.get_attr("rules")[0].sampling.temperature
        if warmth is not None and warmth != wanted:
            raise ConfigError(
                f"KLCallback on a policy with temperature {warmth}; the game has {wanted}, under which the reference "
                "policy is scored. "
                "Make the policy with policy_kwargs=language_model_kwargs(env)."
            )
        normalize = unwrap_vec_wrapper(env, VecNormalize)
        if normalize is not None and normalize.norm_reward:
            raise ConfigError(
                "KLCallback behind VecNormalize(norm_reward=True): two halves in different units; use "
                "norm_reward=False."
            )
        self._sums = np.zeros(env.num_envs)  # KL of the turns being played, which go on from one rollout to the next

    def _on_rollout_start(self) -> None:
        self._infos: list[list[dict[str, Any]]] = []
        self._dones: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self._infos.append(self.locals["infos"])
        self._dones.append(np.array(self.locals["dones"]))
        return True

    def _on_rollout_end(self) -> None:
        buffer: RolloutBuffer = self.model.rollout_buffer  # type: ignore[attr-defined]  # checked in _init_callback
        beta, ref, length = (
            np.array([[info[key] for info in row] for row in self._infos]) for key in ("beta", "ref_logprob", "length")
        )
        finished: list[float] = []
        for kl, first, done in zip(buffer.log_probs - ref, length == 1, self._dones, strict=True):  # each (B,)
            self._sums = np.where(first, 0.0, self._sums) + kl
            finished += self._sums[done].tolist()
        extra = -beta * buffer.log_probs  # (T, B)
        buffer.rewards += extra.astype(np.float32)
        # returns and advantages are linear in the rewards, so those of `extra` are added; the
        # critic is not asked again
        gain = np.zeros(extra.shape[1])
        for t in reversed(range(len(extra))):
            going = 1.0 - buffer.episode_starts[t + 1] if t + 1 < len(extra) else 0.0
            gain = extra[t] + buffer.gamma * buffer.gae_lambda * going * gain
            buffer.advantages[t] += gain
        buffer.returns = buffer.advantages + buffer.values
        if finished:
            self._end_iteration(float(np.mean(finished)), len(finished), float(beta[-1].mean()))

    def _end_iteration(self, kl: float, episodes: int, beta: float) -> None:
        if self.control:
            env = self.training_env
            shared = isinstance(
                env.unwrapped, CoevoVecEnv
            )  # its rows have one controller; of other environments each has its own
            beta = env.env_method("end_iteration", kl, episodes, indices=0 if shared else None)[0]
        self.history.append((kl, episodes, beta))
        self.logger.record("coevo/kl", kl)
        self.logger.record("coevo/beta", beta)
        ends = [
            info
            for row, done in zip(self._infos, self._dones, strict=True)
            for info, d in zip(row, done, strict=True)
            if d
        ]
        for key in ("task_reward", "team_reward"):
            self.logger.record(f"coevo/{key}", float(np.mean([info[key] for info in ends])))


def cotrain(
    models: Mapping[str, OnPolicyAlgorithm],
    total_timesteps: int,
    callbacks: Mapping[str, Any] | None = None,
    log_interval: int = 1,
) -> None:
    """Trains several SB3 models that are each other's partners. All collect a rollout with the
    policies as they are, then all update.

    Args:
        models: Agent name -> a model on a `CoevoVecEnv` whose learner has that name, one for every
            agent of the game.
        total_timesteps: Tokens of each learner.
        callbacks: Agent name -> callback, for example `KLCallback()`.
        log_interval: Iterations between lines in the logs.

    Raises:
        ConfigError: Models and learners do not match.
    """
    for name, model in models.items():
        env = model.get_env()
        game = None if env is None else env.unwrapped
        if not isinstance(game, CoevoVecEnv) or game.learner != name or set(game.possible_agents) != set(models):
            got = (
                f"the learner {game.learner!r} of {game.possible_agents}"
                if isinstance(game, CoevoVecEnv)
                else f"a {type(game).__name__}"
            )
            raise ConfigError(
                f"cotrain: model {name!r} of {sorted(models)} has {got}; expected a CoevoVecEnv of these agents with "
                f"learner={name!r}."
            )
        for partner, other in models.items():
            if partner != name:
                game.set_partner(other, agent=partner)
    running = []
    for name, model in models.items():
        total, callback = model._setup_learn(total_timesteps, (callbacks or {}).get(name), False, name)
        callback.on_training_start({"total_timesteps": total}, {})
        running.append((model, total, callback))
    iteration, going = 0, True
    while going and all(model.num_timesteps < total for model, total, _ in running):
        iteration += 1
        for model, _, callback in running:
            assert model.env is not None
            going = (
                model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps)
                and going
            )
        for model, total, _ in running if going else ():
            model._update_current_progress_remaining(model.num_timesteps, total)
            if iteration % log_interval == 0:
                model.dump_logs(iteration)
            model.train()
    for _, _, callback in running:
        callback.on_training_end()
