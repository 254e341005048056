"""The training loop: play a batch, update every learner once, move the betas, and write everything down.

One idea: the state of a run is (iteration, learners, KL controllers). Prompts, roles and sampling noise are functions of the seed and
the iteration, so a checkpoint is small, a role exchange is free, and a resumed run is the uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coevo_env.batch import BatchEnv
from coevo_env.build import build
from coevo_env.errors import CoevoError, ConfigError
from coevo_env.kl import make_controller
from coevo_env.lm import LanguageModel
from coevo_env.metrics import summarize
from coevo_env.task import make_task

from .checkpoint import CheckpointError, checkpoints, hint, load, prune, replacing, save, sweep, write_json
from .config import Config, from_dict, to_dict
from .evaluate import Evaluation, evaluate, evaluation_game, measure, play
from .learner import find_learner
from .logbook import Logbook
from .policy import make_policies

SMALL = 10_000_000
"""Parameters below which a second CPU thread costs more than it brings."""

__all__ = ["Interrupted", "Run", "read_config"]


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
        ConfigError: The folder is taken, or has no run to resume; or anything in the config that cannot work.
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
        _claim(self.directory, resume)
        task = make_task(config.task, **config.task_options)
        base = LanguageModel.from_pretrained(
            config.model or task.model, device=config.device, dtype=config.dtype, trust_remote_code=config.trust_remote_code
        )
        if threads := config.threads or (1 if base.module.num_parameters() < SMALL else 0):
            torch.set_num_threads(threads)
        agents = [f"llm{i + 1}" for i in range(config.num_agents)]
        policies, self.reference = make_policies(base, agents, config.lora if config.weights == "lora" else None, config.seed)
        options = {**config.game(), "task_options": None}
        rules, _ = build(task, self.reference, **options)
        self.game = BatchEnv(config.batch_size, rules=rules, reference=self.reference)
        self.held_out = evaluation_game(config, task, self.reference)
        factory = find_learner(config.learner)
        self.learners = [
            factory(policy, self.reference, config, rules.sampling, config.seed * 1000 + number) for number, policy in enumerate(policies)
        ]
        if config.reset_at_exchange and not all(callable(getattr(learner, "forget", None)) for learner in self.learners):
            raise ConfigError(f"reset_at_exchange=True needs a learner with a method forget(); {config.learner!r} has none. Leave it off.")
        self.agents, self.iteration, self.best = agents, 0, (-np.inf, -1)
        self.before: dict[str, Any] = {}
        self.latest: dict[str, Evaluation] = {}
        self.pending: dict[str, Any] = {}  # what the iteration just finished still has to write down
        self.whole = True  # whether the weights belong to a finished iteration
        self.offsets = self._restore() if resume else None
        if self.iteration > config.iterations:
            raise ConfigError(
                f"the run in {self.directory} is at iteration {self.iteration}; expected iterations >= that, got {config.iterations}."
            )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the run folder {self.directory} could not be made: {error}. Choose another one with --out.") from error
        self.log = Logbook(self.directory, self.offsets, self.iteration, say)
        self._write_config()

    # ---------------------------------------------------------------- the loop
    def train(self) -> dict[str, Any]:
        """Runs to the last iteration; returns the summary that is also in `summary.json`.

        Raises:
            Interrupted: Ctrl-C was pressed; the run saved itself.
            CoevoError: Something failed; what could be saved was, and the message says where.
        """
        total = self.config.iterations
        try:
            with _deferred_interrupt(self.say) as interrupted:
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
                            f"Continue with: coevo train --resume {self.directory}"
                        )
                return self._finish()
        except Interrupted:
            raise
        except Exception as error:
            if self.whole and self._is_finite() and not isinstance(error, CheckpointError):
                with suppress(CoevoError):
                    self._save()
            if isinstance(error, CoevoError):
                saved = checkpoints(self.directory / "checkpoints")
                where = f"the newest checkpoint is {saved[-1]}" if saved else "no checkpoint has been written yet"
                _extend(error, f"\n(after iteration {self.iteration} of {self.directory}; {where})")
            raise
        finally:
            self.log.close()

    def _iterate(self) -> None:
        """Plays a batch and updates every learner once; what there is to write down stands in `pending`."""
        started = time.perf_counter()
        self.game.reset(self.iteration * self.config.batch_size)
        if self.config.reset_at_exchange:
            self._forget()
        play(self.game, [learner.policy for learner in self.learners])
        sampled = time.perf_counter()
        metrics = self._measure()
        self.whole = False  # from here to the end of the updates the weights belong to no iteration
        for name, learner, rollout in zip(self.agents, self.learners, self.game.rollouts(), strict=True):
            metrics.update({f"{name}/{tag}": value for tag, value in learner.update(rollout).items()})
        self.game.update_controllers()
        self.iteration += 1
        metrics["time/rollout_s"], metrics["time/update_s"] = sampled - started, time.perf_counter() - sampled
        shown = range(min(4, self.config.batch_size)) if self._evaluates() else ()
        transcripts = self.game.transcripts(shown)
        for row, transcript in zip(shown, transcripts, strict=True):  # row b of every rollout is episode b of the batch
            for turn in transcript["turns"]:
                seen = getattr(self.learners[self.agents.index(turn["agent"])], "inspection", {})
                turn.update({key: array[row, : len(turn["tokens"])].tolist() for key, array in seen.items()})
        self.pending = {"metrics": metrics, "transcripts": transcripts}
        self.whole = True

    def _forget(self) -> None:
        """Where roles have just changed: learners and controllers start anew, with the weights they have."""
        roles, first = self.game.rules.roles, self.game.episode
        if first and roles.assignment(first) != roles.assignment(first - self.config.batch_size):
            for learner in self.learners:
                learner.forget()
            self.game.controllers = [make_controller(self.config.kl) for _ in self.agents]

    def _conclude(self) -> None:
        """Evaluation and logs of the iteration just finished. It can fail and be done again after a resume."""
        metrics = dict(self.pending["metrics"])
        evaluations: dict[str, Evaluation] = {}
        best = self.best
        if self._evaluates():
            evaluations = self._evaluate()
            for name, evaluation in evaluations.items():
                metrics.update({f"{name}/eval/{tag}": value for tag, value in evaluation.metrics.items()})
            score = float(np.mean([evaluation.metrics["reward"] for evaluation in evaluations.values()]))
            if score > best[0]:
                best = (score, self.iteration)
        self.log.transcripts(self.iteration, self.pending["transcripts"])
        self.log.metrics(self.iteration, metrics)
        self.pending, self.best, self.offsets = {}, best, self.log.offsets()
        self.latest = evaluations
        self.report(self.iteration, metrics)

    def _evaluates(self) -> bool:
        """Whether the iteration just finished ends with an evaluation."""
        every = self.config.eval_every
        return self.iteration == self.config.iterations or bool(every and self.iteration % every == 0)

    def _saves(self) -> bool:
        """Whether the iteration just finished ends with a checkpoint."""
        every = self.config.save_every
        return self.iteration in (self.config.iterations, self.best[1]) or bool(every and self.iteration % every == 0)

    def _measure(self) -> dict[str, float]:
        """Metrics of the batch just played, per agent, and its histograms."""
        game, metrics = self.game, {}
        assert game.scores is not None
        for name, rollout in zip(self.agents, game.rollouts(), strict=True):
            rows = np.arange(len(game.episodes))
            texts = [game.episodes[row].turns[seat].text for row, seat in zip(rows, rollout.seats, strict=True)]
            cut = [game.episodes[row].turns[seat].cut for row, seat in zip(rows, rollout.seats, strict=True)]
            diversity = summarize(texts, rollout.token_lists(), game.rules.eos_id)
            values = {
                "reward/task": rollout.task_reward.mean(),
                "reward/team": rollout.team_reward.mean(),
                "reward/shaped": rollout.rewards.sum(1).mean(),
                **{f"reward/{term}": array[rows, rollout.seats].mean() for term, array in game.scores.terms.items()},
                **measure(rollout),
                "kl_coef": rollout.beta,
                "seat": rollout.seats.mean(),
                "cut": np.mean(cut),
                "length": rollout.lengths.mean(),
                "distinct_2": diversity["distinct_2"],
                "unique": diversity["unique"],
            }
            metrics.update({f"{name}/{tag}": float(value) for tag, value in values.items()})
            for tag, array in (("task_reward", rollout.task_reward), ("kl", rollout.kl.sum(1)), ("length", rollout.lengths)):
                self.log.histogram(self.iteration + 1, f"{name}/histogram/{tag}", array)
        return metrics

    def _evaluate(self) -> dict[str, Evaluation]:
        return {name: evaluate(self.held_out, learner.policy, name) for name, learner in zip(self.agents, self.learners, strict=True)}

    def _baseline(self) -> dict[str, Any]:
        """The evaluation before training, which is iteration 0 of the curves."""
        evaluations = self._evaluate()
        metrics = {f"{name}/eval/{tag}": value for name, result in evaluations.items() for tag, value in result.metrics.items()}
        self.log.metrics(0, metrics)
        self.offsets = self.log.offsets()
        self.report(0, metrics)
        return {name: _portrait(result) for name, result in evaluations.items()}

    def _finish(self) -> dict[str, Any]:
        """Saves the agents as plain models and writes the summary."""
        evaluations = self.latest or self._evaluate()
        summary: dict[str, Any] = {"iterations": self.iteration, "task": self.config.task, "agents": {}}
        for name, learner in zip(self.agents, self.learners, strict=True):
            folder = self.directory / "agents" / name
            try:
                with replacing(folder) as partial:
                    learner.policy.save_pretrained(partial)
            except Exception as error:  # safetensors and transformers have errors of their own
                raise CheckpointError(
                    f"agent {name} could not be saved in {folder}: {error}. {hint(error)}, then continue with: coevo train --resume "
                    f"{self.directory}"
                ) from error
            after = _portrait(evaluations[name])
            before = self.before[name]
            samples = [
                {"prompt": old["prompt"], "before": old["text"], "after": new["text"], "reward": [old["reward"], new["reward"]]}
                for old, new in zip(before["samples"], after["samples"], strict=True)
            ]
            summary["agents"][name] = {"before": before["metrics"], "after": after["metrics"], "samples": samples}
        write_json(self.directory / "summary.json", summary)
        return summary

    # ---------------------------------------------------------------- saving
    def _is_finite(self) -> bool:
        """Whether the weights are worth keeping: those of a policy that diverged would only hide the last good checkpoint."""
        values = (value for learner in self.learners for value in learner.state_dict().values() if isinstance(value, torch.Tensor))
        return all(bool(torch.isfinite(value).all()) for value in values)

    def _save(self) -> None:
        meta = {
            "controllers": [controller.state_dict() for controller in self.game.controllers],
            "best": list(self.best) if np.isfinite(self.best[0]) else None,
            "before": self.before,
            "pending": self.pending,
            "offsets": self.offsets or {},
        }
        self.log.sync()
        folder = self.directory / "checkpoints"
        save(folder, self.iteration, {name: learner.state_dict() for name, learner in zip(self.agents, self.learners, strict=True)}, meta)
        prune(folder, self.iteration, self.config.keep, self.best[1])

    def _restore(self) -> dict[str, int]:
        """Loads the newest checkpoint that is whole; returns the lengths of the logs it knows of."""
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
                f"none of the {len(found)} checkpoints in {folder} is whole, so there is nothing to resume from; start the run again "
                "in another folder. Its logs are still readable: coevo show " + str(self.directory)
            )
        self.say("no checkpoint had been written yet; starting from iteration 0")
        return {}

    def _adopt(self, states: dict[str, dict[str, Any]], meta: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        try:
            for name, learner in zip(self.agents, self.learners, strict=True):
                learner.load_state_dict(states[name])
            for controller, state in zip(self.game.controllers, meta["controllers"], strict=True):
                controller.load_state_dict(state)
            self.iteration, self.before, self.pending = int(meta["iteration"]), meta["before"], meta["pending"]
            self.best = tuple(meta["best"]) if meta["best"] else (-np.inf, -1)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint belongs to another run or version: {type(error).__name__}: {error}") from error

    def _write_config(self) -> None:
        """The resolved settings, as they are now, and where the run was started."""
        path, record = self.directory / "config.json", {"config": to_dict(self.config), "provenance": provenance()}
        if path.exists():  # resumed, perhaps with more iterations
            record["provenance"] = json.loads(path.read_text(encoding="utf-8")).get("provenance", record["provenance"])
        write_json(path, record)
        if self.iteration < self.config.iterations:  # a summary would be that of an earlier, shorter run
            (self.directory / "summary.json").unlink(missing_ok=True)


def read_config(directory: str | Path) -> Config:
    """The config of a run folder. What it says of `trust_remote_code` is not taken over: only a person can say that.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    path = Path(directory) / "config.json"
    try:
        config = from_dict(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{directory} is no run folder: it has no config.json. Give the folder that `coevo train` printed.") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error} Was it edited?") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not readable ({type(error).__name__}: {error}); expected the JSON that `coevo train` wrote. Was it edited or cut "
            "short? Copy the config.json of a run with the same settings over it."
        ) from error
    return replace(config, trust_remote_code=False)


def provenance() -> dict[str, Any]:
    """Versions, platform and commit, for the record."""
    versions = {"python": platform.python_version()}
    for name in ("coevo-env", "torch", "transformers", "numpy", "pettingzoo", "gymnasium", "peft", "safetensors"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    commit = None
    with suppress(OSError, subprocess.SubprocessError):
        here = Path(__file__).resolve().parent
        done = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
        commit = done.stdout.strip() or None
    return {"versions": versions, "platform": platform.platform(), "threads": torch.get_num_threads(), "git_commit": commit}


def _claim(directory: Path, resume: bool) -> None:
    """A new run needs a folder without one, and a resumed run a folder with one."""
    try:
        taken = (directory / "config.json").exists()
        traces = taken or bool(checkpoints(directory / "checkpoints"))
    except OSError as error:
        raise ConfigError(f"the run folder {directory} could not be read: {error}. Choose another one with --out.") from error
    if traces and not resume:
        raise ConfigError(
            f"{directory} already holds a run. Choose another folder with --out, or continue it with: coevo train --resume {directory}"
        )
    if resume and not taken:
        raise ConfigError(f"{directory} holds no run to resume (no config.json). Start one with: coevo train --out {directory}")


def _extend(error: CoevoError, text: str) -> None:
    """Adds a sentence to the message of an error that is on its way, whatever its class."""
    error.args = (f"{error}{text}",)
    if isinstance(error, ImportError):
        error.msg = error.args[0]


def _portrait(evaluation: Evaluation) -> dict[str, Any]:
    """What the summary keeps of an evaluation."""
    samples = [
        {"prompt": t["prompt"], "text": t["turns"][0]["text"], "reward": t["turns"][0]["task_reward"]} for t in evaluation.transcripts[:5]
    ]
    return {"metrics": evaluation.metrics, "samples": samples}


@contextmanager
def _deferred_interrupt(say: Callable[[str], None]) -> Iterator[list[bool]]:
    """Turns the first Ctrl-C into a note that the loop reads at the end of an iteration; the second one stops at once."""
    noted: list[bool] = []

    def note(number: int, frame: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(True)
        say("finishing this iteration, then saving (press Ctrl-C again to stop at once)")

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: whoever owns it decides
        yield noted
        return
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, previous)
