"""TRL's GRPOTrainer on a task of this package, with the embedded model: ordinary RL fine-tuning,
without a partner.

    pip install -c constraints.txt -e '.[trl]'
    python docs/examples/trl_grpo.py

One idea: a task is a data set and reward functions to TRL; the trainer is as its makers ship it.
"""

from __future__ import annotations

import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import coevo_env
from coevo_agents.adapters.trl import dataset, reward_functions, settings
from coevo_env.lm.names import embedded_path


def make_trainer(task: coevo_env.Task, folder: str, steps: int = 40, seed: int = 0, **changes) -> GRPOTrainer:
    defaults = {
        **settings(task),
        "output_dir": folder,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 64,
        "num_generations": 8,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant",
        "beta": 0.05,
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": seed,
    }
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(embedded_path(), dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(embedded_path(), padding_side="left"),
        train_dataset=dataset(task),
        reward_funcs=reward_functions(task),
        args=GRPOConfig(**{**defaults, **changes}),
    )


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(coevo_env.make_task("sentiment"), folder)
        trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    print(f"mean reward {sum(rewards[:5]) / 5:.2f} -> {sum(rewards[-5:]) / 5:.2f}")


if __name__ == "__main__":
    main()
