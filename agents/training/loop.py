"""The training loop: play a batch, update every learner once, move the betas, and write everything
down.

One idea: the state of a run is (iteration, learners, KL controllers). Prompts, roles and sampling
noise are functions of the seed and the iteration, so a checkpoint is small, a role exchange is
free, and a resumed run is the uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from coevo_env.errors import CoevoError, ConfigError, short_of_memory
from coevo_env.game.mixing import mixing_matrix
from coevo_env.game.roles import AdaptiveRoles
from coevo_env.game.rollout import Rollout

from ..learners.learner import checked
from ..learners.policy import remembering
from ..methods.audit import sentence
from ..methods.communication import communication
from ..methods.update_order import drift, importance, order
from ..runs.board import board_settings
from ..runs.checkpoint import CheckpointError, checkpoints
from ..runs.config import Config
from ..runs.folder import (
    Interrupted,
    OutOfMemory,
    check_inputs,
    claim,
    deferred_interrupt,
    extend,
    lacking,
    make_folder,
    stopped,
    write_config,
)
from ..runs.logbook import Logbook, lock
from ..runs.saved import check_saved
from .assemble import assemble
from .assess import assess_run
from .cost import metered
from .evaluate import Evaluation, describe
from .outcome import evaluate_agents, save_agents, transcripts, write_summary
from .play import play
from .state import State, forget, is_finite, restore, save_state
from .watch import alarming, best_of, conclude

__all__ = ["Interrupted", "Run"]


class Run:
    """A training run in a folder of its own. `train` takes it to its end; or drive it by hand:

        with Run(config, "runs/mine") as run:
            while not run.ended:
                metrics = run.iterate()
            summary = run.finish()

    Leaving the block closes the logs; an error that leaves it saves first what can be saved.

    Args:
        config: Settings.
        directory: The run folder; it must not hold a run already.
        resume: Continue the run in `directory` from its newest whole checkpoint.
        report: Called with (iteration, metrics) after each iteration.
        say: Called with a line of text when something happens that a person should know.

    Attributes:
        parts: What the run consists of: learners, games, the reference.
        state: Where it is.

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
        self.config, self.directory, self.report, self.say = config.complete(), Path(directory), report, say
        claim(self.directory, resume)
        self.parts = assemble(self.config, self.directory, say)
        if resume:
            self.parts.rests_on["run"] = check_inputs(self.directory, self.config, self.parts.rests_on, say)
            check_saved(self.directory / "agents" / name for name in self.parts.agents)
        self.keys: dict[int, set[str]] = {}  # metrics of each learner's last update
        self.whole = True  # whether the weights belong to a finished iteration
        self.saved = -1  # iteration of the last checkpoint that was written here
        locked = (
            lock(self.directory) if resume else None
        )  # first: restoring tidies up what another process may be writing
        try:
            self.state = restore(self.directory, self.parts, say, config.keep) if resume else State()
            if self.iteration > config.iterations:
                raise ConfigError(
                    f"the run in {self.directory} is at iteration {self.iteration}; expected iterations >= that, got "
                    f"{config.iterations}."
                )
            make_folder(self.directory)
            self.log = Logbook(self.directory, self.state.offsets if resume else None, self.iteration, say, locked)
        except BaseException:
            if locked:
                locked.close()
            raise
        write_config(self.directory, self.config, self.parts.rests_on)
        if not self.ended:  # a summary would be that of an earlier, shorter run
            (self.directory / "summary.json").unlink(missing_ok=True)

    @property
    def iteration(self) -> int:
        """Finished iterations."""
        return self.state.iteration

    @property
    def ended(self) -> bool:
        """Whether the last iteration is finished, the budget is spent, or an alarm is to end it."""
        spent = self.config.budget.is_spent(*self.state.spent)
        return self.iteration >= self.config.iterations or spent or self.alarmed

    @property
    def alarmed(self) -> bool:
        """Whether the collapse audit has given an alarm, and that is to end the run."""
        given = self.state.alarms or self.state.pending.get("examples")
        return self.config.stop_on == "collapse" and bool(given)

    # ---------------------------------------------------------------- the loop
    def train(self) -> dict[str, Any]:
        """Runs to the last iteration; returns the summary that is also in `summary.json`.

        Raises:
            Interrupted: Ctrl-C was pressed, or SIGTERM or SIGHUP came; the run saved itself.
            CoevoError: Something failed; what could be saved was, and the message says where.
        """
        with self, deferred_interrupt(self.say) as interrupted:
            self.begin()
            while not self.ended or self.state.pending:
                self.iterate()
                if interrupted and not self.ended:
                    self.save()
                    raise stopped(self.directory, self.config, self.iteration, interrupted[0])
            return self.finish()

    def begin(self) -> None:
        """The evaluation before training, which is iteration 0 of the curves; once in a run."""
        if self.state.before:
            return
        evaluations = evaluate_agents(self.parts)
        metrics = {
            f"{name}/eval/{tag}": value for name, result in evaluations.items() for tag, value in result.metrics.items()
        }
        self._assign_roles(evaluations)
        self.state.audit, _ = conclude(self.config.audit, State(), metrics, evaluations, {})
        self.log.lay_out(self.parts.agents, board_settings(self.config))
        self.log.metrics(0, metrics)
        self.state.offsets = self.log.offsets()
        self.report(0, metrics)
        self.state.before = {name: {"metrics": result.metrics} for name, result in evaluations.items()}

    def iterate(self) -> dict[str, float]:
        """One iteration: plays, updates, and where they are due evaluates and saves. Returns its
        metrics (docs/metrics.md), as they are in `metrics.jsonl`.

        Raises:
            CoevoError: Something failed.
        """
        self.begin()
        if not self.state.pending:
            self._advance()
        metrics = self._conclude()
        if self._saves():
            self.save()
        return metrics

    def finish(self) -> dict[str, Any]:
        """Saves the run and its agents as plain models, reads the test split, and returns the
        summary that it writes. A run that ends before its last iteration can be resumed."""
        if self.saved < self.iteration and not self._saves():
            self.save()
        files = save_agents(self.directory, self.parts)
        assessed = assess_run(self.config, self.directory, self.parts)
        run = self.parts.rests_on["run"]
        return write_summary(self.directory, self.iteration, self.config.task, assessed, files, run)

    def save(self) -> None:
        """Writes a checkpoint of the iteration just finished, once."""
        if self.saved != self.iteration:
            self.log.sync()
            save_state(self.directory, self.state, self.parts, self.config.keep)
            self.saved = self.iteration

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if not isinstance(error, Exception) or isinstance(error, Interrupted):
                return
            short = short_of_memory(error)
            if short:  # what the failed computation still holds
                traceback.clear_frames(trace)
            if self.whole and not isinstance(error, CheckpointError):
                with suppress(Exception):  # a state that cannot be had must not hide what stopped the run
                    if is_finite(self.parts.learners):
                        self.saved = -1  # also what an iteration still has to write down
                        self.save()
            saved = checkpoints(self.directory / "checkpoints")
            where = f"the newest checkpoint is {saved[-1]}" if saved else "no checkpoint has been written yet"
            where = f"\n(after iteration {self.iteration} of {self.directory}; {where})"
            if isinstance(error, CoevoError):
                extend(error, where)
            elif short:
                raise OutOfMemory(f"{lacking(self.directory, self.config, error)}{where}") from None
        finally:
            self.log.close()

    # ---------------------------------------------------------------- an iteration
    def _advance(self) -> None:
        """Plays a batch and updates the learners whose turn it is; what there is to write down is
        then pending."""
        started, parts, config = time.perf_counter(), self.parts, self.config
        game, agents = parts.game, parts.agents
        game.reset(self.iteration * config.batch_size)
        if config.mixing_anneal:
            weight = config.mixing_weight_at(self.iteration)
            game.rules.mixing = mixing_matrix("weighted", len(agents), weight)
        if config.reset_at_exchange:
            forget(parts, config)
        actors = parts.actors()
        guest = parts.opponents.invite(self.iteration, actors) if parts.opponents else None
        metrics: dict[str, float] = {}
        with metered(config, parts, metrics), remembering(actors):
            play(game, actors)
            sampled = time.perf_counter()
            rollouts = game.rollouts()
            playing = [number for number in range(len(agents)) if number != guest]
            for number in playing:
                values, histograms = describe(game, rollouts[number])
                metrics.update({f"{agents[number]}/{tag}": value for tag, value in values.items()})
                for tag, array in histograms.items():
                    self.log.histogram(self.iteration + 1, f"{agents[number]}/histogram/{tag}", array)
            self.whole = False  # from here to the end of the updates the weights belong to no iteration
            updated = self._update(rollouts, playing, metrics)
        game.update_controllers(playing)
        self.state.iteration += 1
        cost = config.budget.spends(metrics)
        self.state.spent = (self.state.spent[0] + cost, cost)
        if parts.opponents:
            metrics.update(parts.opponents.conclude(self.iteration, rollouts))
        metrics["time/rollout_s"], metrics["time/update_s"] = sampled - started, time.perf_counter() - sampled
        examples = alarming(config.audit, self.state, metrics, game, rollouts)
        self.state.pending = {"metrics": metrics, "transcripts": [], "examples": examples}
        self.state.pending["transcripts"] = self._shown(updated)
        self.whole = True

    def _update(self, rollouts: list[Rollout], playing: list[int], metrics: dict[str, float]) -> list[int]:
        """Updates the learners whose turn it is, in their order, by what their agents `playing` in
        this iteration did; returns those agents."""
        config, parts, drifted = self.config, self.parts, np.zeros(self.config.batch_size)
        episodes = self.iteration * config.batch_size + np.arange(config.batch_size)
        turn = order(config.updates, self.iteration, len(parts.learners), config.alternate_every, config.seed)
        updated: list[int] = []
        for position, number in enumerate(turn):
            learner, members = parts.learners[number], [m for m in parts.members[number] if m in playing]
            if not members:
                continue
            rollout = Rollout.merge([rollouts[member] for member in members])
            if config.updates == "sequential":
                rollout = replace(rollout, weights=importance(drifted)[np.searchsorted(episodes, rollout.episodes)])
            stats = checked(parts.agents[members[0]], learner.update(rollout), self.keys.get(number))
            self.keys[number] = set(stats)
            if config.updates == "sequential":
                stats["importance"] = float(importance(drifted).mean())
                if position + 1 < len(turn):
                    drifted = drifted + drift(learner.policy, rollout, parts.game.rules.sampling, episodes)
            for member in members:
                metrics.update({f"{parts.agents[member]}/{tag}": value for tag, value in stats.items()})
            updated += members
        return updated

    def _shown(self, updated: list[int]) -> list[dict[str, Any]]:
        """A few episodes of the batch just played, where an evaluation stands beside them."""
        rows = range(min(4, self.config.batch_size)) if self._evaluates() else range(0)
        return transcripts(self.parts, rows, [] if self.config.shared else updated, self.iteration - 1)

    def _conclude(self) -> dict[str, float]:
        """Evaluation and logs of the iteration just finished. It can fail and be done again after a
        resume."""
        state, metrics = self.state, dict(self.state.pending["metrics"])
        evaluations: dict[str, Evaluation] = {}
        best, former = state.best, state.former
        if self._evaluates():
            evaluations = evaluate_agents(self.parts)
            for name, evaluation in evaluations.items():
                metrics.update({f"{name}/eval/{tag}": value for tag, value in evaluation.metrics.items()})
            if self.parts.together:
                metrics.update(communication(self.parts.together, self.parts.actors(), self.parts.agents))
            self._assign_roles(evaluations)
        audit, alarms = conclude(self.config.audit, state, metrics, evaluations, state.pending.get("examples", {}))
        sound, best, former = best_of(best, former, audit, alarms)
        if evaluations and sound:
            score = float(np.mean([evaluation.metrics["reward"] for evaluation in evaluations.values()]))
            if score > best[0]:
                best, former = (score, self.iteration), best
        self.log.transcripts(self.iteration, state.pending["transcripts"])
        self.log.alarms(alarms)
        self.log.metrics(self.iteration, metrics)
        state.pending, state.best, state.former, state.offsets = {}, best, former, self.log.offsets()
        state.audit, state.alarms = audit, state.alarms + len(alarms)
        for alarm in alarms:
            self.say(sentence(alarm))
        self.report(self.iteration, metrics)
        return metrics

    def _assign_roles(self, evaluations: dict[str, Evaluation]) -> None:
        """Tells a schedule that decides by scores how good each agent is."""
        roles = self.parts.game.rules.roles
        if isinstance(roles, AdaptiveRoles):
            scores = [evaluations[name].metrics["reward"] for name in self.parts.agents]
            roles.observe(self.iteration * self.config.batch_size, scores)

    def _evaluates(self) -> bool:
        """Whether the iteration just finished ends with an evaluation."""
        every = self.config.eval_every
        return self.ended or bool(every and self.iteration % every == 0)

    def _saves(self) -> bool:
        """Whether the iteration just finished ends with a checkpoint."""
        every = self.config.save_every
        due = self.iteration in (self.config.iterations, self.state.best[1])
        return due or bool(every and self.iteration % every == 0)
