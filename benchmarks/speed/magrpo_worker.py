"""CoMLRL's side of `magrpo.py`: MAGRPOTrainer in an environment of its own, one iteration whenever
it is told to.

One idea: an iteration is as many prompts as fill the trainer's rollout buffer; before its first a
line on stdin is waited for, and after its last the seconds are answered. It imports nothing of this
repository.

    python magrpo_worker.py order.json output_directory
"""

from __future__ import annotations

import json
import os
import sys
import time


def main(order_file: str, _folder: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print goes to stderr
    with open(order_file) as file:
        order = json.load(file)

    import torch
    from comlrl.trainers.reinforce import MAGRPOTrainer
    from datasets import Dataset
    from transformers import AutoTokenizer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    clock = time.perf_counter if order["wall"] else time.process_time
    prompts = order["prompts"]

    class TakesTurns(MAGRPOTrainer):
        seen = 0

        def _train_step_returns(self, batch_item, **kwargs):
            if self.seen % len(prompts) == 0:
                if not sys.stdin.readline():
                    sys.exit(0)
                self.started = clock()
            super()._train_step_returns(batch_item, **kwargs)
            self.seen += 1
            if self.seen % len(prompts) == 0:
                assert not any(self.rollout_buffers), "an iteration ends with the update"
                answers.write(f"{clock() - self.started}\n")
                answers.flush()

        def _generate_completions(self, *args, **kwargs):
            said = super()._generate_completions(*args, **kwargs)
            assert said["response_lens"] == [order["tokens"]] * order["generations"], "the work is another"
            return said

    def variety(*completions, **_):
        return [sum(len(set(text)) / 32 for text in joint) for joint in zip(*completions, strict=True)]

    tokenizer = AutoTokenizer.from_pretrained(order["model"])
    if tokenizer.pad_token is None:  # CoMLRL would take EOS, and cut prompts there that begin with it
        tokenizer.add_special_tokens({"pad_token": "<nothing is padded>"})
    trainer = TakesTurns(
        agent_model=order["model"],
        num_agents=order["agents"],
        tokenizer=tokenizer,
        model_config={"torch_dtype": torch.float32},
        train_dataset=Dataset.from_dict({"prompt": prompts * order["steps"]}),
        reward_func=variety,
        args=settings(order),
    )
    trainer.verbose = False  # no progress bar
    trainer.train(min_new_tokens=order["tokens"])


def settings(order: dict):
    """CoMLRL's settings for an order of `magrpo.py`."""
    from comlrl.trainers.reinforce import MAGRPOConfig

    return MAGRPOConfig(
        num_train_epochs=1,
        num_agents=order["agents"],
        num_generations=order["generations"],
        max_new_tokens=order["tokens"],
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        num_turns=1,
        joint_mode="aligned",
        eval_interval=0,
        rollout_buffer_size=len(order["prompts"]),
        train_batch_size=len(order["prompts"]),
        reference_kl_enabled=True,
        reference_kl_coef=order["beta"],
        agent_learning_rate=1e-5,
        agent_devices="cpu",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
