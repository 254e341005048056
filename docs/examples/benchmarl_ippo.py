"""BenchMARL's IPPO and MAPPO on the parallel face.

    pip install -c constraints.txt -e '.[benchmarl]'
    python docs/examples/benchmarl_ippo.py

One idea: a task object and a model that reads token ids are all that an experiment lacks;
everything else is BenchMARL's own.
"""

from __future__ import annotations

import tempfile

import torch
from benchmarl.algorithms import IppoConfig, MappoConfig
from benchmarl.experiment import Callback, Experiment, ExperimentConfig

from coevo_agents.adapters.benchmarl import text_task, token_model


class Returns(Callback):
    """Notes the mean return of each iteration's finished episodes."""

    def __init__(self):
        super().__init__()
        self.history: list[float] = []

    def on_batch_collected(self, batch) -> None:
        rewards = batch["next", "agents", "reward"].sum(-3).mean()  # per environment and agent, over the batch
        self.history.append(float(rewards * batch.shape[0] / max(1, int(batch["next", "done"].sum()))))


def make_experiment(
    algorithm, folder: str, iterations: int = 12, frames: int = 640, seed: int = 0, callbacks=(), **options
) -> Experiment:
    """An experiment; `options` go to the game."""
    config = ExperimentConfig.get_from_yaml()
    config.share_policy_params = False
    config.gamma, config.lr, config.clip_grad_val = 1.0, 3e-3, 1.0
    config.max_n_iters, config.max_n_frames = iterations, None
    config.on_policy_collected_frames_per_batch, config.on_policy_n_envs_per_worker = frames, 4
    config.on_policy_minibatch_size, config.on_policy_n_minibatch_iters = 160, 6
    config.loggers, config.create_json, config.evaluation, config.render = [], False, False, False
    config.save_folder = folder
    return Experiment(
        task=text_task(**options),
        algorithm_config=algorithm,
        model_config=token_model(),
        critic_model_config=token_model(),
        seed=seed,
        config=config,
        callbacks=list(callbacks),
    )


def algorithms() -> dict[str, IppoConfig | MappoConfig]:
    found = {"IPPO": IppoConfig.get_from_yaml(), "MAPPO": MappoConfig.get_from_yaml()}
    for config in found.values():
        config.entropy_coef = 0.01
    return found


def main() -> None:
    torch.set_num_threads(1)
    for name, algorithm in algorithms().items():
        returns = Returns()
        with tempfile.TemporaryDirectory() as folder:
            make_experiment(algorithm, folder, callbacks=[returns], task="toy").run()
        print(f"{name}: mean return {returns.history[0]:.2f} -> {returns.history[-1]:.2f}")


if __name__ == "__main__":
    main()
