"""The parts of a run, made from its settings: models, learners, games.

One idea: everything that a run consists of is made here, once, in an order in which whatever cannot
work is told before anything is computed. The loop is handed finished parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.build import agent_names, build
from coevo_env.game.rules import Rules
from coevo_env.game.task import Task
from coevo_env.lm.load import load_language_model
from coevo_env.lm.model import LanguageModel
from coevo_env.lm.network import SMALL
from coevo_env.tasks import make_task

from ..learners.learner import find_learner, promised
from ..learners.policy import ActorCritic, make_policies
from ..methods.elastic_reset import ElasticReset
from ..methods.warm_start import warm_start
from ..runs.config import Config
from ..runs.folder import initial_model, make_folder, save_initial
from ..runs.inputs import inputs
from ..runs.settings import to_dict
from .evaluate import evaluation_game
from .opponents import Opponents

__all__ = ["Parts", "assemble", "use_threads"]


@dataclass
class Parts:
    """What a run consists of.

    Attributes:
        agents: Names, `llm1` to `llmN`.
        policies: Of each agent; N times the same one where weights are shared.
        reference: The initial model, frozen.
        learners: One for each agent, or a single one where weights are shared.
        members: For each learner the numbers of its agents.
        game: Training episodes.
        held_out: One agent alone on the validation split, while the run goes.
        final: One agent alone on the test split, when training is over.
        together: All agents on the validation split, where communication is measured.
        opponents: Earlier selves, where there is a population.
        rests_on: Digests of initial model, task and settings.
    """

    agents: list[str]
    policies: list[ActorCritic]
    reference: LanguageModel
    learners: list[Any]
    members: list[list[int]]
    game: BatchEnv
    held_out: BatchEnv
    final: BatchEnv
    together: BatchEnv | None
    opponents: Opponents | None
    rests_on: dict[str, Any]

    def learner(self, agent: int) -> Any:
        """The learner of an agent, by the agent's number."""
        return next(one for one, members in zip(self.learners, self.members, strict=True) if agent in members)

    def actors(self) -> list[Any]:
        """Who plays for each agent."""
        return [self.learner(number).policy for number in range(len(self.agents))]

    def named_learners(self) -> list[tuple[str, Any]]:
        """Each learner under the name of its first agent."""
        return [(self.agents[members[0]], one) for one, members in zip(self.learners, self.members, strict=True)]


def assemble(config: Config, directory: Path, say: Callable[[str], None]) -> Parts:
    """Makes the parts of a run. A warm start is computed here, if the folder does not hold its
    result already.

    Args:
        config: Settings.
        directory: The run folder.
        say: Called with what a person should know.

    Raises:
        ConfigError: Anything in the settings that cannot work.
    """
    task = make_task(config.task, **config.task_options)
    base = load_language_model(
        initial_model(directory, config),
        task,
        device=config.device,
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
    )
    use_threads(config, base)
    agents = agent_names(config.num_agents)
    rules, _ = build(task, base, **{**config.game(), "task_options": None})
    rules.check_contexts()  # of prompts that may be hours away
    if config.warm_start.steps and not (directory / "initial").exists():
        _learning(config, agents, base.clone(), rules)  # settings that cannot work, and a folder that cannot be
        make_folder(directory)  # made, are told before
        losses = warm_start(base, rules, config.warm_start, config.seed)
        say(f"warm start: {len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f} nats per token")
        save_initial(base, directory)
    rests_on = inputs(to_dict(config), base, task)  # before adapters are put into the model
    policies, reference, learners = _learning(config, agents, base, rules)
    members = [list(range(len(agents)))] if config.shared else [[number] for number in range(len(agents))]
    game = BatchEnv(config.batch_size, rules=rules, reference=reference)
    if config.shared:  # one policy has one KL and one coefficient
        game.controllers = game.controllers[:1] * config.num_agents
    held_out = evaluation_game(config, task, reference)
    final = evaluation_game(config, task, reference, split=config.final_split, draws=config.eval_draws)
    for evaluation in (held_out, final):
        evaluation.rules.check_contexts()
    if not (directory / "config.json").exists():  # who resumes a run has read it
        _tell(config, task, (held_out, final), say)
    if config.elastic.every:
        learners = [ElasticReset(one, config.elastic) if _learns(config, one) else one for one in learners]
    opponents = Opponents(config, learners, members, agents, reference) if config.population.capacity else None
    together = evaluation_game(config, task, reference, config.num_agents) if config.communication else None
    if config.reset_at_exchange and not all(callable(getattr(learner, "forget", None)) for learner in learners):
        raise ConfigError(
            f"reset_at_exchange=True needs a learner with a method forget(); {config.learner!r} has none. Leave it off."
        )
    return Parts(agents, policies, reference, learners, members, game, held_out, final, together, opponents, rests_on)


def _learns(config: Config, learner: Any) -> bool:
    """Whether a learner is one that learns, among agents that have learners of their own."""
    return not config.agents or getattr(learner, "learns", True)


def _tell(config: Config, task: Task, evaluations: Sequence[BatchEnv], say: Callable[[str], None]) -> None:
    """What a person should read before training: what the task did to its data, and evaluations on
    fewer prompts than were asked for."""
    for line in task.notes:
        say(f"note: {line}")
    for game in evaluations:
        if game.batch_size < config.eval_prompts:
            say(
                f"note: evaluation on {game.batch_size} prompts of the {game.rules.split} split; "
                f"eval_prompts={config.eval_prompts} asks for more than there are"
            )


def use_threads(config: Config, base: LanguageModel) -> None:
    """Tells torch how many threads a run with this model has; its numbers depend on that in the
    last bits."""
    if threads := config.threads or (1 if base.module.num_parameters() < SMALL else 0):
        torch.set_num_threads(threads)


def _learning(
    config: Config, agents: list[str], base: LanguageModel, rules: Rules
) -> tuple[list[ActorCritic], LanguageModel, list[Any]]:
    """Policies, reference and learners that begin as `base`."""
    lora = config.lora if "lora" in config.weights else None
    policies, reference = make_policies(base, agents, lora, config.seed, config.shared)
    learners = []
    for number, policy in enumerate(policies[:1] if config.shared else policies):
        learner, settings = config.learner_of(agents[number])
        made = find_learner(learner)(policy, reference, settings, rules.sampling, config.seed * 1000 + number)
        learners.append(promised(learner, made))
    return policies, reference, learners
