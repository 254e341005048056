"""The settings of a run, written once: dataclasses with defaults. The command line, presets and
saved runs are all overrides of them.

One idea: `Config` is the only place where a setting has a name, a type and a default; `apply` sets
any of them by dotted name and says which name was meant when it is misspelt.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coevo_env.errors import ConfigError, real, unknown_name, whole
from coevo_env.game.kl import KLConfig

from ..learners.grpo import GRPOConfig
from ..learners.learner import LEARNERS
from ..learners.mappo import MAPPOConfig
from ..learners.policy import LoRAConfig
from ..learners.ppo import PPOConfig
from ..learners.reinforce import ReinforceConfig
from ..learners.rloo import RLOOConfig
from ..methods.elastic_reset import ElasticConfig
from ..methods.population import PopulationConfig
from ..methods.update_order import check_scheme
from ..methods.warm_start import WarmStartConfig

__all__ = ["PRESETS", "Config", "apply", "from_dict", "names", "preset", "to_dict"]


WEIGHTS = ("separate", "shared", "lora", "shared-lora")
FREE = ("task_options", "learner_options")
"""Settings that hold options by name."""


@dataclass(frozen=True)
class Config:
    """Everything that determines a run, with its seed.

    Attributes:
        task, task_options: See `coevo_env.make_task`.
        model: Initial and reference model: "" (the task's own), "embedded", "smollm2", a directory
            or a hub name.
        num_agents: N; 1 is ordinary single-agent fine-tuning.
        context: What observers see: "all", "previous", "none".
        roles: "periodic", "rotation", "random", "never", or by held-out rewards "bandit" and
            "score" (docs/beyond_two.md).
        exchange_every: Iterations between role exchanges (the paper: 5); 0 exchanges after every
            episode, so that a batch holds all orders.
        reset_at_exchange: Forget optimiser moments, reward statistics and the KL controller's state
            whenever roles change, as the paper's released code does; weights stay. For reproduction
            only.
        mixing, mixing_weight: Reward mixing: "cooperative", "own", "weighted", "competitive";
            lambda of "weighted".
        mixing_weight_end, mixing_anneal: With mixing_anneal > 0, lambda moves linearly to
            mixing_weight_end over that many iterations.
        group_size: G episodes in a row are about the same prompt; batch_size is a multiple of it.
            RLOO and GRPO need at least 2.
        max_new_tokens, min_new_tokens, max_context: Override the task's; 0 keeps them (-1 for
            min_new_tokens).
        temperature: Of sampling, scoring and the reference.
        kl: KL shaping and its controller.
        learner: "ppo", "reinforce", "rloo", "grpo", "mappo", "best_of_n", "frozen", or
            "package.module:Class" of your own.
        learner_options: For a learner of your own to read; learner_options.x is its option x.
        ppo, reinforce, rloo, grpo, mappo: Settings of each learner.
        best_of: n of best-of-n.
        elastic: Elastic Reset, around any learner.
        warm_start: Supervised training before anything else.
        updates, alternate_every: Who learns when: "simultaneous", "alternating" (one learner at a
            time, for alternate_every iterations) or "sequential" (one after the other from the same
            batch).
        weights: "separate" (a copy of the model each), "shared" (one copy for all agents), "lora"
            (an adapter each on one frozen base) or "shared-lora" (one adapter for all agents).
        lora: Settings of the adapters.
        population: Play against earlier selves.
        communication: Measure at every evaluation what agents make of each other's answers
            (docs/beyond_two.md).
        batch_size: Episodes per iteration.
        iterations: Length of the run.
        seed: Of everything.
        eval_every: Iterations between evaluations on held-out prompts; 0 evaluates only at the
            start and the end.
        eval_prompts: Held-out prompts per evaluation.
        save_every: Iterations between checkpoints; 0 saves only at the end.
        keep: Checkpoints kept (the best one is kept besides).
        device, dtype: "cpu", "cuda", "auto"; "float32", "bfloat16".
        threads: CPU threads of torch; 0 means 1 for a model under 10 M parameters, whose threads
            would only wait for each other, else torch's own choice.
        trust_remote_code: Lets transformers run code that comes with a hub model.
    """

    task: str = "sentiment"
    task_options: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    num_agents: int = 2
    context: str = "all"
    roles: str = "periodic"
    exchange_every: int = 5
    reset_at_exchange: bool = False
    mixing: str = "cooperative"
    mixing_weight: float = 1.0
    mixing_weight_end: float = 1.0
    mixing_anneal: int = 0
    group_size: int = 1
    max_new_tokens: int = 0
    min_new_tokens: int = -1
    max_context: int = 0
    temperature: float = 1.0
    kl: KLConfig = field(default_factory=lambda: KLConfig(beta=0.2))
    learner: str = "ppo"
    learner_options: dict[str, Any] = field(default_factory=dict)
    ppo: PPOConfig = field(default_factory=lambda: PPOConfig(learning_rate=3e-4))
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    rloo: RLOOConfig = field(default_factory=RLOOConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    mappo: MAPPOConfig = field(default_factory=MAPPOConfig)
    best_of: int = 4
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    updates: str = "simultaneous"
    alternate_every: int = 1
    weights: str = "separate"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    population: PopulationConfig = field(default_factory=PopulationConfig)
    communication: bool = False
    batch_size: int = 64
    iterations: int = 120
    seed: int = 0
    eval_every: int = 10
    eval_prompts: int = 128
    save_every: int = 10
    keep: int = 2
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 0
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name, low in (
            ("batch_size", 1),
            ("iterations", 1),
            ("eval_prompts", 1),
            ("num_agents", 1),
            ("keep", 1),
            ("group_size", 1),
            ("alternate_every", 1),
        ):
            whole(name, getattr(self, name), low)
        for name in (
            "exchange_every",
            "eval_every",
            "save_every",
            "threads",
            "seed",
            "max_new_tokens",
            "max_context",
            "mixing_anneal",
        ):
            whole(name, getattr(self, name), 0)
        if self.seed >= 2**63:
            raise ConfigError(f"seed={self.seed}; expected a whole number below 2**63.")
        if self.weights not in WEIGHTS:
            raise unknown_name("weights", self.weights, WEIGHTS)
        check_scheme(self.updates)
        for name in ("mixing_weight", "mixing_weight_end"):
            real(name, getattr(self, name))
        if self.mixing_anneal and self.mixing != "weighted":
            raise ConfigError(
                f"mixing_anneal={self.mixing_anneal} with mixing={self.mixing!r}; only 'weighted' has a lambda to move."
            )
        if self.batch_size % self.group_size:
            raise ConfigError(
                f"batch_size={self.batch_size} is not a multiple of group_size={self.group_size}; a group must not be "
                "cut."
            )
        if self.num_agents < 2 and (self.population.capacity or self.communication):
            raise ConfigError(
                f"num_agents={self.num_agents} with population.capacity={self.population.capacity}, "
                f"communication={self.communication}; expected "
                "at least 2 agents: a population of one has nobody to play against or to talk to."
            )
        if self.roles in ("bandit", "score") and self.num_agents > 1 and not self.eval_every:
            raise ConfigError(
                f"roles={self.roles!r} with eval_every=0; these roles move by held-out rewards, of which there would "
                "be none before the end. "
                "Set eval_every >= 1, or roles='never'."
            )
        if self.communication and self.context == "none":
            raise ConfigError(
                "communication=True with context='none'; nobody reads anybody there. Leave the measurement off."
            )
        if self.updates == "sequential" and self.shared:
            raise ConfigError(
                f"updates='sequential' with weights={self.weights!r}; with one set of weights there is nothing to "
                "update in turn."
            )
        if self.kl.mode not in ("reported", "loss"):
            raise ConfigError(
                f"kl.mode={self.kl.mode!r}: the training loop reports every log-prob; expected 'reported' (KL in the "
                "reward) or 'loss' "
                "(exact KL in the loss). For no KL at all use kl.beta=0."
            )
        minibatch = getattr(getattr(self, self.learner, None), "minibatch_size", 0) if self.learner in LEARNERS else 0
        size = self.batch_size * (self.num_agents if self.shared else 1)
        if minibatch and size % minibatch:
            raise ConfigError(
                f"batch_size={self.batch_size} does not divide into minibatches of "
                f"{self.learner}.minibatch_size={minibatch}; choose a divisor "
                f"of {size}, the responses of a learner in an iteration."
            )

    @property
    def shared(self) -> bool:
        """Whether all agents have the same weights."""
        return self.weights.startswith("shared")

    def mixing_weight_at(self, iteration: int) -> float:
        """lambda in an iteration."""
        if not self.mixing_anneal:
            return self.mixing_weight
        share = min(1.0, iteration / self.mixing_anneal)
        return (1 - share) * self.mixing_weight + share * self.mixing_weight_end

    def game(self) -> dict[str, Any]:
        """Keywords for `coevo_env.faces.build.build`, without task and model."""
        options: dict[str, Any] = {
            "num_agents": self.num_agents,
            "context": self.context,
            "roles": self.roles,
            "exchange_every": max(1, self.exchange_every * self.batch_size),
            "group_size": self.group_size,
            "mixing": self.mixing,
            "mixing_weight": self.mixing_weight,
            "temperature": self.temperature,
            "kl": self.kl,
            "seed": self.seed,
            "task_options": self.task_options or None,
        }
        if self.max_new_tokens:
            options["max_new_tokens"] = self.max_new_tokens
        if self.min_new_tokens >= 0:
            options["min_new_tokens"] = self.min_new_tokens
        if self.max_context:
            options["max_context"] = self.max_context
        return options


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "smollm2-imdb": {
        "task": "imdb",
        "task_options": {"source": "package", "output": "signed", "centred": True},
        "model": "smollm2",
        "weights": "lora",
        "ppo.learning_rate": 5e-4,
        "ppo.epochs": 2,
        "kl.beta": 0.02,
        "batch_size": 32,
        "iterations": 30,
        "eval_every": 5,
        "eval_prompts": 64,
        "save_every": 5,
    },
    "smollm2-addition": {
        "task": "arithmetic",
        "task_options": {"shots": 3},
        "model": "smollm2",
        "weights": "lora",
        "ppo.learning_rate": 3e-4,
        "ppo.epochs": 2,
        "kl.beta": 0.01,
        "batch_size": 32,
        "iterations": 15,
        "eval_every": 5,
        "eval_prompts": 64,
        "save_every": 5,
    },
    "paper-imdb": {
        "task": "imdb",
        "model": "gpt2-large",
        "kl.beta": 0.3,
        "kl.estimator": "full",
        "kl.controller": "adaptive",
        "ppo.learning_rate": 1.41e-5,
        "batch_size": 256,
        "iterations": 100,
        "device": "auto",
    },
    "paper-gsm8k": {
        "task": "gsm8k",
        "model": "meta-llama/Llama-2-7b-chat-hf",
        "weights": "lora",
        "dtype": "bfloat16",
        "kl.beta": 0.01,
        "ppo.learning_rate": 1e-4,
        "ppo.minibatch_size": 32,
        "ppo.micro_batch_size": 2,
        "batch_size": 32,
        "iterations": 100,
        "device": "auto",
    },
}
"""Named sets of overrides; docs/reproducing.md says what of the paper's settings each one is."""


def names(config: Any = Config, prefix: str = "") -> dict[str, Any]:
    """Every setting by dotted name, with its type."""
    hints = typing.get_type_hints(config)
    result: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            result.update(names(hint, f"{prefix}{item.name}."))
        else:
            result[prefix + item.name] = hint
    return result


def apply(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A config with some settings replaced.

    Args:
        config: Where to start.
        overrides: Dotted name -> value; a string is read as the type of the setting.
            `task_options.x` and `learner_options.x` set one option.

    Raises:
        ConfigError: An unknown name (the nearest is suggested), or a value of another type.
    """
    known = names()
    nested: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        parent, _, option = name.partition(".")
        if parent in FREE and option:
            nested.setdefault("", {}).setdefault(parent, dict(getattr(config, parent)))[option] = _guess(value)
            continue
        if name not in known:
            near = [other for other in known if other.endswith(f".{name}")] or difflib.get_close_matches(
                name, known, n=1, cutoff=0.5
            )
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown setting {name!r}: expected one that `coevo train --list-settings` lists.{hint}")
        parent, _, leaf = name.rpartition(".")
        nested.setdefault(parent, {})[leaf] = _convert(name, known[name], value)
    top = nested.pop("", {})
    for parent, values in nested.items():
        top[parent] = dataclasses.replace(getattr(config, parent), **values)
    return dataclasses.replace(config, **top)


def preset(name: str) -> Config:
    """The config of a preset."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return apply(Config(), PRESETS[name])


def to_dict(config: Config) -> dict[str, Any]:
    """Plain data for JSON."""
    return dataclasses.asdict(config)


def from_dict(data: Mapping[str, Any]) -> Config:
    """The config that `to_dict` wrote, also by an earlier version with fewer settings."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and name not in FREE:
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return apply(Config(), flat)


def _convert(name: str, hint: Any, value: Any) -> Any:
    kind = typing.get_origin(hint) or hint
    if kind in (typing.Union, types.UnionType) or kind is typing.Literal:
        return value
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        if kind is dict:
            if not isinstance(value, Mapping):
                raise ValueError
            return dict(value)
        if kind is int and not isinstance(value, int):
            try:
                return int(value) if isinstance(value, str) else _whole(float(value))
            except ValueError:
                return _whole(float(value))  # "1e3"
        return kind(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ConfigError(f"setting {name}={value!r}; expected a value of type {kind.__name__}.") from None


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError
    return int(value)


def _guess(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    import json

    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
