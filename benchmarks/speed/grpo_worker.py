"""TRL's side of `grpo.py`: GRPOTrainer in an environment of its own, one step whenever it is told
to.

One idea: a callback waits for a line on stdin before each step and answers with the seconds that
the step took. It imports nothing of this repository.

    python grpo_worker.py order.json output_directory
"""

from __future__ import annotations

import json
import os
import sys
import time


def main(order_file: str, folder: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print goes to stderr
    with open(order_file) as file:
        order = json.load(file)

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    clock = time.perf_counter if order["wall"] else time.process_time

    class TakeTurns(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if not sys.stdin.readline():
                sys.exit(0)
            self.started = clock()

        def on_step_end(self, args, state, control, **kwargs):
            answers.write(f"{clock() - self.started}\n")
            answers.flush()

    def variety(prompts, completions, **kwargs):
        return [len(set(text)) / 32 for text in completions]

    adapter = None
    if order["lora"]:
        from peft import LoraConfig

        adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(order["model"], dtype=torch.float32),
        reward_funcs=variety,
        args=settings(order, folder),
        train_dataset=Dataset.from_dict({"prompt": order["prompts"] * order["steps"]}),
        processing_class=AutoTokenizer.from_pretrained(order["model"], padding_side="left"),
        peft_config=adapter,
        callbacks=[TakeTurns()],
    )
    trainer.train()


def settings(order: dict, folder: str):
    """TRL's settings for an order of `grpo.py`."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        **({} if order["shipped"] else {"bf16": False, "gradient_checkpointing": False}),
        per_device_train_batch_size=order["batch"],
        num_generations=order["generations"],
        max_completion_length=order["tokens"],
        generation_kwargs={"min_new_tokens": order["tokens"]},
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        beta=order["beta"],
        num_iterations=1,
        steps_per_generation=1,
        max_steps=order["steps"],
        learning_rate=1e-5,
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
