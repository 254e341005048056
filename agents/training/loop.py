"""The training loop: play a batch, update every learner once, move the betas, and write everything
down.

One idea: the state of a run is (iteration, learners, KL controllers). Prompts, roles and sampling
noise are functions of the seed and the iteration, so a checkpoint is small, a role exchange is
free, and a resumed run is the uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coevo_env.errors import CoevoError, ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.build import build
from coevo_env.game.kl import make_controller
from coevo_env.game.mixing import mixing_matrix
from coevo_env.game.roles import AdaptiveRoles
from coevo_env.game.rollout import Rollout
from coevo_env.game.rules import Rules
from coevo_env.lm.load import load_language_model
from coevo_env.lm.model import LanguageModel
from coevo_env.lm.network import SMALL
from coevo_env.tasks import make_task

from ..learners.learner import checked, find_learner, promised
from ..learners.policy import ActorCritic, make_policies, remembering
from ..methods.communication import communication
from ..methods.elastic_reset import ElasticReset
from ..methods.update_order import drift, importance, order
from ..methods.warm_start import warm_start
from ..runs.checkpoint import (
    CheckpointError,
    checkpoints,
    hint,
    load,
    prune,
    replacing,
    save,
    sweep,
    write_json,
)
from ..runs.config import Config
from ..runs.folder import (
    claim,
    deferred_interrupt,
    extend,
    initial_model,
    repeated,
    save_initial,
    write_config,
)
from ..runs.logbook import Logbook, lock
from .evaluate import Evaluation, describe, evaluate, evaluation_game, play
from .opponents import Opponents

__all__ = ["Interrupted", "Run"]


class Interrupted(CoevoError):
    """The run was stopped by Ctrl-C after it saved itself."""


class Run:
    """A training run in a folder of its own.

    Args:
        config: Settings.
        directory: The run folder; it must not hold a run already.
        resume: Continue the run in `directory` from its newest whole checkpoint.
        report: Called with (iteration, metrics) after each iteration.
        say: Called with a line of text when something happens that a person should know.

    Raises:
        ConfigError: The folder is taken, or has no run to resume; or anything in the config that
            cannot work.
    """

    def __init__(
        self,
        config: Config,
        directory: str | Path,
        *,
        resume: bool = False,
        report: Callable[[int, dict[str, float]], None] = lambda iteration, metrics: None,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.config, self.directory, self.report, self.say = config, Path(directory), report, say
        claim(self.directory, resume)
        task = make_task(config.task, **config.task_options)
        base = load_language_model(
            initial_model(self.directory, config),
            task,
            device=config.device,
            dtype=config.dtype,
            trust_remote_code=config.trust_remote_code,
        )
        if threads := config.threads or (1 if base.module.num_parameters() < SMALL else 0):
            torch.set_num_threads(threads)
        self.agents = agents = [f"llm{i + 1}" for i in range(config.num_agents)]
        rules, _ = build(task, base, **{**config.game(), "task_options": None})
        rules.check_contexts()  # of prompts that may be hours away
        find = find_learner(config.learner)  # a name that is none should be found before anything is computed
        if config.warm_start.steps and not (self.directory / "initial").exists():
            self._made(
                base.clone(), rules, find
            )  # settings that cannot work, and a folder that cannot be made, are told before
            self._make_folder()
            losses = warm_start(base, rules, config.warm_start, config.seed)
            say(f"warm start: {len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f} nats per token")
            save_initial(base, self.directory)
        self.policies, self.reference, self.learners = self._made(base, rules, find)
        self.game = BatchEnv(config.batch_size, rules=rules, reference=self.reference)
        if config.shared:  # one policy has one KL and one coefficient
            self.game.controllers = self.game.controllers[:1] * config.num_agents
        self.held_out = evaluation_game(config, task, self.reference)
        self.held_out.rules.check_contexts()
        if config.elastic.every:
            self.learners = [ElasticReset(learner, config.elastic) for learner in self.learners]
        self.members = [list(range(len(agents)))] if config.shared else [[number] for number in range(len(agents))]
        """Agents that each learner plays, by number."""
        self.opponents = (
            Opponents(config, self.learners, self.members, agents, self.reference)
            if config.population.capacity
            else None
        )
        self.together = (
            evaluation_game(config, task, self.reference, config.num_agents) if config.communication else None
        )
        if config.reset_at_exchange and not all(
            callable(getattr(learner, "forget", None)) for learner in self.learners
        ):
            raise ConfigError(
                f"reset_at_exchange=True needs a learner with a method forget(); {config.learner!r} has none. Leave it "
                "off."
            )
        self.iteration, self.best = 0, (-np.inf, -1)
        self.keys: dict[int, set[str]] = {}  # metrics of each learner's last update
        self.before: dict[str, Any] = {}
        self.latest: dict[str, Evaluation] = {}
        self.pending: dict[str, Any] = {}  # what the iteration just finished still has to write down
        self.whole = True  # whether the weights belong to a finished iteration
        locked = (
            lock(self.directory) if resume else None
        )  # first: restoring tidies up, which would spoil what another process is writing
        try:
            self.offsets = self._restore() if resume else None
            if self.iteration > config.iterations:
                raise ConfigError(
                    f"the run in {self.directory} is at iteration {self.iteration}; expected iterations >= that, got "
                    f"{config.iterations}."
                )
            self._make_folder()
            self.log = Logbook(self.directory, self.offsets, self.iteration, say, locked)
        except BaseException:
            if locked:
                locked.close()
            raise
        write_config(self.directory, config)
        if self.iteration < config.iterations:  # a summary would be that of an earlier, shorter run
            (self.directory / "summary.json").unlink(missing_ok=True)

    def _made(
        self, base: LanguageModel, rules: Rules, find: Callable[..., Any]
    ) -> tuple[list[ActorCritic], LanguageModel, list[Any]]:
        """Policies, reference and learners that begin as `base`."""
        config = self.config
        lora = config.lora if "lora" in config.weights else None
        policies, reference = make_policies(base, self.agents, lora, config.seed, config.shared)
        learners = [
            promised(config.learner, find(policy, reference, config, rules.sampling, config.seed * 1000 + number))
            for number, policy in enumerate(policies[:1] if config.shared else policies)
        ]
        return policies, reference, learners

    def _make_folder(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the run folder {self.directory} could not be made: {error}. Choose another one with --out."
            ) from error

    # ---------------------------------------------------------------- the loop
    def train(self) -> dict[str, Any]:
        """Runs to the last iteration; returns the summary that is also in `summary.json`.

        Raises:
            Interrupted: Ctrl-C was pressed; the run saved itself.
            CoevoError: Something failed; what could be saved was, and the message says where.
        """
        total = self.config.iterations
        try:
            with deferred_interrupt(self.say) as interrupted:
                if not self.before:
                    self.before = self._baseline()
                while self.iteration < total or self.pending:
                    if not self.pending:
                        self._iterate()
                    self._conclude()
                    stop = bool(interrupted) and self.iteration < total  # read once: Ctrl-C may come while we save
                    if stop or self._saves():
                        self._save()
                    if stop:
                        raise Interrupted(
                            f"stopped after iteration {self.iteration} of {total}; everything is saved. "
                            "Continue with: coevo train --resume "
                            f"{self.directory}{repeated(self.config, 'task', 'learner')}"
                        )
                return self._finish()
        except Interrupted:
            raise
        except Exception as error:
            if self.whole and not isinstance(error, CheckpointError):
                with suppress(Exception):  # a state that cannot be had must not hide what stopped the run
                    if self._is_finite():
                        self._save()
            if isinstance(error, CoevoError):
                saved = checkpoints(self.directory / "checkpoints")
                where = f"the newest checkpoint is {saved[-1]}" if saved else "no checkpoint has been written yet"
                extend(error, f"\n(after iteration {self.iteration} of {self.directory}; {where})")
            raise
        finally:
            self.log.close()

    def _iterate(self) -> None:
        """Plays a batch and updates the learners whose turn it is; what there is to write down
        stands in `pending`."""
        started = time.perf_counter()
        self.game.reset(self.iteration * self.config.batch_size)
        if self.config.mixing_anneal:
            weight = self.config.mixing_weight_at(self.iteration)
            self.game.rules.mixing = mixing_matrix("weighted", len(self.agents), weight)
        if self.config.reset_at_exchange:
            self._forget()
        actors = self._actors()
        guest = self.opponents.invite(self.iteration, actors) if self.opponents else None
        with remembering(actors):
            play(self.game, actors)
            sampled = time.perf_counter()
            rollouts = self.game.rollouts()
            playing = [number for number in range(len(self.agents)) if number != guest]
            metrics: dict[str, float] = {}
            for number in playing:
                values, histograms = describe(self.game, rollouts[number])
                metrics.update({f"{self.agents[number]}/{tag}": value for tag, value in values.items()})
                for tag, array in histograms.items():
                    self.log.histogram(self.iteration + 1, f"{self.agents[number]}/histogram/{tag}", array)
            self.whole = False  # from here to the end of the updates the weights belong to no iteration
            updated = self._update(rollouts, playing, metrics)
        self.game.update_controllers(playing)
        self.iteration += 1
        if self.opponents:
            metrics.update(self.opponents.conclude(self.iteration, rollouts))
        metrics["time/rollout_s"], metrics["time/update_s"] = sampled - started, time.perf_counter() - sampled
        self.pending = {"metrics": metrics, "transcripts": self._transcripts(updated)}
        self.whole = True

    def _actors(self) -> list[Any]:
        """Who plays for each agent."""
        return [self._learner(number).policy for number in range(len(self.agents))]

    def _learner(self, agent: int) -> Any:
        """The learner of an agent, by the agent's number."""
        return self.learners[0 if self.config.shared else agent]

    def _update(self, rollouts: list[Rollout], playing: list[int], metrics: dict[str, float]) -> list[int]:
        """Updates the learners whose turn it is, in their order, by what their agents `playing` in
        this iteration did; returns those agents."""
        config, drifted = self.config, np.zeros(self.config.batch_size)
        episodes = self.iteration * config.batch_size + np.arange(config.batch_size)
        turn = order(config.updates, self.iteration, len(self.learners), config.alternate_every, config.seed)
        updated: list[int] = []
        for position, number in enumerate(turn):
            learner, members = self.learners[number], [member for member in self.members[number] if member in playing]
            if not members:
                continue
            rollout = Rollout.merge([rollouts[member] for member in members])
            if config.updates == "sequential":
                rollout = replace(rollout, weights=importance(drifted)[np.searchsorted(episodes, rollout.episodes)])
            stats = checked(self.agents[members[0]], learner.update(rollout), self.keys.get(number))
            self.keys[number] = set(stats)
            if config.updates == "sequential":
                stats["importance"] = float(importance(drifted).mean())
                if position + 1 < len(turn):
                    drifted = drifted + drift(learner.policy, rollout, self.game.rules.sampling, episodes)
            for member in members:
                metrics.update({f"{self.agents[member]}/{tag}": value for tag, value in stats.items()})
            updated += members
        return updated

    def _transcripts(self, updated: list[int]) -> list[dict[str, Any]]:
        """A few episodes of the batch just played, with what the learners that were updated by it
        let people see."""
        shown = range(min(4, self.config.batch_size)) if self._evaluates() else ()
        transcripts = self.game.transcripts(shown)
        for row, transcript in zip(shown, transcripts, strict=True):
            for turn in transcript["turns"]:
                agent = self.agents.index(turn["agent"])
                seen = (
                    getattr(self._learner(agent), "inspection", {})
                    if agent in updated and not self.config.shared
                    else {}
                )
                # row b of a learner's rollout is episode b of the batch, as each agent has one turn
                # in each
                turn.update({key: array[row, : len(turn["tokens"])].tolist() for key, array in seen.items()})
        return transcripts

    def _forget(self) -> None:
        """Where roles have just changed: learners and controllers start anew, with the weights they
        have."""
        roles, first = self.game.rules.roles, self.game.episode
        if first and roles.assignment(first) != roles.assignment(first - self.config.batch_size):
            for learner in self.learners:
                learner.forget()
            self.game.controllers = [make_controller(self.config.kl) for _ in self.members]
            if self.config.shared:
                self.game.controllers *= len(self.agents)

    def _conclude(self) -> None:
        """Evaluation and logs of the iteration just finished. It can fail and be done again after a
        resume."""
        metrics = dict(self.pending["metrics"])
        evaluations: dict[str, Evaluation] = {}
        best = self.best
        if self._evaluates():
            evaluations = self._evaluate()
            for name, evaluation in evaluations.items():
                metrics.update({f"{name}/eval/{tag}": value for tag, value in evaluation.metrics.items()})
            if self.together:
                metrics.update(communication(self.together, self._actors(), self.agents))
            score = float(np.mean([evaluation.metrics["reward"] for evaluation in evaluations.values()]))
            if score > best[0]:
                best = (score, self.iteration)
            self._assign_roles(evaluations)
        self.log.transcripts(self.iteration, self.pending["transcripts"])
        self.log.metrics(self.iteration, metrics)
        self.pending, self.best, self.offsets = {}, best, self.log.offsets()
        self.latest = evaluations
        self.report(self.iteration, metrics)

    def _assign_roles(self, evaluations: dict[str, Evaluation]) -> None:
        """Tells a schedule that decides by scores how good each agent is."""
        roles = self.game.rules.roles
        if isinstance(roles, AdaptiveRoles):
            roles.observe(
                self.iteration * self.config.batch_size, [evaluations[name].metrics["reward"] for name in self.agents]
            )

    def _evaluates(self) -> bool:
        """Whether the iteration just finished ends with an evaluation."""
        every = self.config.eval_every
        return self.iteration == self.config.iterations or bool(every and self.iteration % every == 0)

    def _saves(self) -> bool:
        """Whether the iteration just finished ends with a checkpoint."""
        every = self.config.save_every
        return self.iteration in (self.config.iterations, self.best[1]) or bool(every and self.iteration % every == 0)

    def _evaluate(self) -> dict[str, Evaluation]:
        """Each agent alone; one policy of several agents is evaluated once."""
        results: dict[str, Evaluation] = {}
        for learner, members in zip(self.learners, self.members, strict=True):
            result = evaluate(self.held_out, learner.policy, self.agents[members[0]])
            results.update({self.agents[member]: result for member in members})
        return results

    def _baseline(self) -> dict[str, Any]:
        """The evaluation before training, which is iteration 0 of the curves."""
        evaluations = self._evaluate()
        metrics = {
            f"{name}/eval/{tag}": value for name, result in evaluations.items() for tag, value in result.metrics.items()
        }
        self._assign_roles(evaluations)
        self.log.metrics(0, metrics)
        self.offsets = self.log.offsets()
        self.report(0, metrics)
        return {name: _portrait(result) for name, result in evaluations.items()}

    def _finish(self) -> dict[str, Any]:
        """Saves the agents as plain models and writes the summary."""
        evaluations = self.latest or self._evaluate()
        summary: dict[str, Any] = {"iterations": self.iteration, "task": self.config.task, "agents": {}}
        for number, name in enumerate(self.agents):
            learner = self._learner(number)
            folder = self.directory / "agents" / name
            try:
                with replacing(folder) as partial:
                    learner.policy.save_pretrained(partial)
            except Exception as error:  # safetensors and transformers have errors of their own
                raise CheckpointError(
                    f"agent {name} could not be saved in {folder}: {error}. {hint(error)}, then continue with: coevo "
                    "train --resume "
                    f"{self.directory}"
                ) from error
            after = _portrait(evaluations[name])
            before = self.before[name]
            samples = [
                {
                    "prompt": old["prompt"],
                    "before": old["text"],
                    "after": new["text"],
                    "reward": [old["reward"], new["reward"]],
                }
                for old, new in zip(before["samples"], after["samples"], strict=True)
            ]
            summary["agents"][name] = {"before": before["metrics"], "after": after["metrics"], "samples": samples}
        write_json(self.directory / "summary.json", summary)
        return summary

    # ---------------------------------------------------------------- saving
    def _named_learners(self) -> list[tuple[str, Any]]:
        """Each learner under the name of its first agent."""
        return [
            (self.agents[members[0]], learner) for learner, members in zip(self.learners, self.members, strict=True)
        ]

    def _is_finite(self) -> bool:
        """Whether the weights are worth keeping: those of a policy that diverged would only hide
        the last good checkpoint."""
        values = (
            value
            for learner in self.learners
            for value in learner.state_dict().values()
            if isinstance(value, torch.Tensor)
        )
        return all(bool(torch.isfinite(value).all()) for value in values)

    def _save(self) -> None:
        meta = {
            "controllers": [controller.state_dict() for controller in self.game.controllers],
            "best": list(self.best) if np.isfinite(self.best[0]) else None,
            "before": self.before,
            "pending": self.pending,
            "offsets": self.offsets or {},
        }
        states = {name: learner.state_dict() for name, learner in self._named_learners()}
        if self.opponents:
            states["population"] = self.opponents.population.state_dict()
        if isinstance(self.game.rules.roles, AdaptiveRoles):
            meta["roles"] = self.game.rules.roles.state_dict()
        self.log.sync()
        folder = self.directory / "checkpoints"
        save(folder, self.iteration, states, meta)
        prune(folder, self.iteration, self.config.keep, self.best[1])

    def _restore(self) -> dict[str, int]:
        """Loads the newest checkpoint that is whole; returns the lengths of the logs it knows
        of."""
        folder = self.directory / "checkpoints"
        for place in (folder, self.directory / "agents"):
            sweep(place)
        found = checkpoints(folder)
        for path in reversed(found):
            try:
                states, meta = load(path)
                self._adopt(states, meta)
            except CheckpointError as error:
                self.say(f"skipped: {error}")
                continue
            self.say(f"resumed from {path}")
            return meta["offsets"]
        if found:
            raise CheckpointError(
                f"none of the {len(found)} checkpoints in {folder} is whole, so there is nothing to resume from; start "
                "the run again "
                "in another folder. Its logs are still readable: coevo show " + str(self.directory)
            )
        self.say("no checkpoint had been written yet; starting from iteration 0")
        return {}

    def _adopt(self, states: dict[str, dict[str, Any]], meta: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        try:
            for name, learner in self._named_learners():
                learner.load_state_dict(states[name])
            for controller, state in zip(self.game.controllers, meta["controllers"], strict=True):
                controller.load_state_dict(state)
            if self.opponents:
                self.opponents.population.load_state_dict(states["population"])
            if isinstance(self.game.rules.roles, AdaptiveRoles):
                self.game.rules.roles.load_state_dict(meta["roles"])
            self.iteration, self.before, self.pending = int(meta["iteration"]), meta["before"], meta["pending"]
            self.best = tuple(meta["best"]) if meta["best"] else (-np.inf, -1)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint belongs to another run or version: {type(error).__name__}: {error}"
            ) from error


def _portrait(evaluation: Evaluation) -> dict[str, Any]:
    """What the summary keeps of an evaluation."""
    samples = [
        {"prompt": t["prompt"], "text": t["turns"][0]["text"], "reward": t["turns"][0]["task_reward"]}
        for t in evaluation.transcripts[:5]
    ]
    return {"metrics": evaluation.metrics, "samples": samples}
