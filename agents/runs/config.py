"""The settings of a run: one dataclass with defaults. The command line, files, presets and saved
runs are all overrides of it (`coevo_agents.runs.settings`).

One idea: `Config` is the only place where a setting of the run has a name, a type and a default;
those of a learner stand in the learner's own file, in its class `Settings`, and are kept here by
name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from coevo_env.errors import ConfigError, real, unknown_name, whole
from coevo_env.faces.build import agent_names
from coevo_env.game.kl import KLConfig
from coevo_env.game.rules import CONTROLS

from ..learners.learner import LEARNERS, find_learner, learner_name, settings_class
from ..learners.policy import LoRAConfig
from ..methods.audit import AuditConfig
from ..methods.elastic_reset import ElasticConfig
from ..methods.population import PopulationConfig
from ..methods.update_order import check_scheme
from ..methods.warm_start import WarmStartConfig
from .budget import BudgetConfig

__all__ = ["Config", "made", "settings_label"]

OWN = ("learner", "learner_settings")
"""What an agent may have for itself."""
FINAL = ("test", "validation")
STOP_ON = ("never", "collapse")
WEIGHTS = ("separate", "shared", "lora", "shared-lora")
POSITIVE = (
    *("batch_size", "iterations", "eval_prompts", "eval_draws", "num_agents", "keep", "group_size"),
    "alternate_every",
)
NOT_NEGATIVE = (
    *("exchange_every", "eval_every", "save_every", "threads", "seed"),
    *("max_new_tokens", "max_new_tokens_low", "max_context", "mixing_anneal"),
)
"""Settings that are whole numbers of at least 1, and of at least 0."""

MOST = {
    "num_agents": (1024, "each is a policy, and reads those before it"),
    "batch_size": (10**6, "a batch of episodes is in memory at once"),
    "group_size": (10**6, "a batch of episodes is in memory at once"),
    "eval_prompts": (10**6, "they are answered at once"),
    "eval_draws": (10**4, "they are answered at once"),
    "iterations": (10**9, "one a second would take 30 years"),
    "max_new_tokens": (10**6, "a turn is in memory at once"),
    "max_new_tokens_low": (10**6, "a turn is in memory at once"),
    "max_context": (10**7, "a context is in memory at once"),
    "threads": (4096, "more than machines have"),
    "seed": (2**63 - 1, "random numbers are keyed by it, below 2**63"),
    **dict.fromkeys(
        ("exchange_every", "eval_every", "save_every", "alternate_every", "mixing_anneal", "keep"),
        (10**9, "more iterations than a run can have"),
    ),
}
"""The most that a setting may be, and why: what is beyond can only be a mistake, and would end in a
hang or without memory."""

TURNS = 10**7
"""Turns of an iteration at most: agents times episodes, all in memory at once."""


@dataclass(frozen=True)
class Config:
    """Everything that determines a run, with its seed.

    Attributes:
        task, task_options: See `coevo_env.make_task`.
        model: Initial and reference model: "" (the task's own), "embedded", "smollm2", a directory
            or a hub name.
        num_agents: N; 1 is ordinary single-agent fine-tuning.
        context: What observers see in training: "all", "previous", "none"; as controls, in their
            own template, "empty" (no text), "shuffled" (what was said about another prompt) or
            "own" (what they would say themselves).
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
        max_new_tokens_low: In training the token budget of each batch and seat is drawn, uniformly
            from this to max_new_tokens; 0 draws none.
        chat: Whether contexts are rendered as messages by the model's chat template: true, false,
            or "auto", where it has one.
        temperature: Of sampling, scoring and the reference.
        kl: KL shaping and its controller.
        learner: "ppo", "reinforce", "rloo", "grpo", "mappo", "best_of_n", "frozen", or
            "package.module:Class" of your own.
        learner_settings: Values of the fields of the learner's class `Settings`. Those of a learner
            of ours are complete and checked; of a learner of your own, once it has been imported
            (`complete`).
        agents: What an agent has for itself, by its name (`agents.llm2`): another `learner`, and
            `learner_settings`, which go before those of the run where the learner is the same.
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
        iterations: Length of the run, at most.
        budget: What the run may cost, where that ends it before.
        audit: Limits of the collapse audit (docs/collapse_audit.md).
        stop_on: "collapse" ends the run with the first alarm of the audit; "never" goes on.
        count_flops: Whether FLOPs are counted, which slows a small model down.
        seed: Of everything.
        eval_every: Iterations between evaluations on the validation split; 0 evaluates only at the
            start and the end.
        eval_prompts: Prompts per evaluation, of the validation split and at the end of the test
            split.
        eval_draws: Answers to each prompt at the end.
        final_split: What the numbers at the end are of: "test"; or "validation" in runs that are
            there to choose settings by, which leave the test split unread.
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
    max_new_tokens_low: int = 0
    min_new_tokens: int = -1
    max_context: int = 0
    chat: bool | str = False
    temperature: float = 1.0
    kl: KLConfig = field(default_factory=lambda: KLConfig(beta=0.2))
    learner: str = "ppo"
    learner_settings: Mapping[str, Any] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    stop_on: str = "never"
    count_flops: bool = False
    seed: int = 0
    eval_every: int = 10
    eval_prompts: int = 128
    eval_draws: int = 8
    final_split: str = "test"
    save_every: int = 10
    keep: int = 2
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 0
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name, low in {**dict.fromkeys(POSITIVE, 1), **dict.fromkeys(NOT_NEGATIVE, 0)}.items():
            value = whole(name, getattr(self, name), low)
            if value > MOST[name][0]:
                whole(name, value, low, MOST[name][1], most=MOST[name][0])
        if (turns := self.num_agents * max(self.batch_size, self.eval_prompts)) > TURNS:
            raise ConfigError(
                f"num_agents={self.num_agents} with batch_size={self.batch_size} and eval_prompts={self.eval_prompts} "
                f"makes {turns} turns, all in memory at once; expected at most {TURNS}."
            )
        if self.chat not in (True, False, "auto"):
            raise unknown_name("chat", self.chat, ("auto", "true", "false"))
        if self.final_split not in FINAL:
            raise unknown_name("final_split", self.final_split, FINAL)
        if self.stop_on not in STOP_ON:
            raise unknown_name("stop_on", self.stop_on, STOP_ON)
        if self.weights not in WEIGHTS:
            raise unknown_name("weights", self.weights, WEIGHTS)
        check_scheme(self.updates)
        for name in ("mixing_weight", "mixing_weight_end"):
            real(name, getattr(self, name))
        self._check_combinations()
        object.__setattr__(self, "learner", learner_name(self.learner))
        if not isinstance(self.learner_settings, Mapping):
            raise ConfigError(f"learner_settings={self.learner_settings!r}; expected values by name.")
        self._check_agents()
        if self.learner in LEARNERS:
            self._complete()

    def _check_agents(self) -> None:
        """What agents have for themselves, as far as that can be said without their learners."""
        known = agent_names(self.num_agents)
        tables = [self.agents, *self.agents.values()] if isinstance(self.agents, Mapping) else [self.agents]
        tables += [
            own["learner_settings"] for own in tables[1:] if isinstance(own, Mapping) and "learner_settings" in own
        ]
        if not all(isinstance(table, Mapping) for table in tables):
            raise ConfigError(f"agents={self.agents!r}; expected settings by name, by name of an agent.")
        for name, own in self.agents.items():
            if name not in known:
                raise unknown_name("agent", f"agents.{name}", [f"agents.{one}" for one in known])
            for key in own:
                if key not in OWN:
                    raise unknown_name(
                        "setting of an agent", f"agents.{name}.{key}", [f"agents.{name}.{k}" for k in OWN]
                    )
            learner = own.get("learner", self.learner)
            if learner not in LEARNERS and learner != self.learner:
                raise unknown_name(f"agents.{name}.learner", learner, dict.fromkeys([*LEARNERS, self.learner]))
        if self.agents and self.shared:
            raise ConfigError(
                f"agents.{next(iter(self.agents))} with weights={self.weights!r}; one set of weights has one learner, "
                "so an agent can have none of its own. Use weights='separate' or 'lora'."
            )
        if self.agents and self.population.capacity:
            raise ConfigError(
                f"agents.{next(iter(self.agents))} with population.capacity={self.population.capacity}; earlier selves "
                "take the places of agents that all learn alike. Switch the population off."
            )

    def _check_combinations(self) -> None:
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

    def _complete(self) -> None:
        """Fills in and checks the settings of the learner, and what it asks of the run."""
        settings = made(self.learner, self.learner_settings)
        object.__setattr__(self, "learner_settings", dataclasses.asdict(settings))
        self._check_learner(self.learner, settings)
        for name in self.agents:
            try:
                learner, settings = self.learner_of(name)
                self._check_learner(learner, settings)
            except ConfigError as error:
                raise ConfigError(f"agents.{name}: {error}") from error
            if self.updates == "alternating" and not getattr(find_learner(learner), "learns", True):
                raise ConfigError(
                    f"agents.{name}.learner={learner!r} with updates='alternating'; nobody would learn in its turns. "
                    "Use updates='simultaneous'."
                )

    def _check_learner(self, learner: str, settings: Any) -> None:
        """What a learner with these settings asks of the run."""
        if getattr(find_learner(learner), "compares", False) and self.group_size < 2:
            raise ConfigError(
                f"group_size={self.group_size} with learner={learner!r}, which compares responses to one prompt; "
                "expected at least 2."
            )
        size = self.batch_size * (self.num_agents if self.shared else 1)
        minibatch = getattr(settings, "minibatch_size", 0)
        if minibatch and size % minibatch:
            raise ConfigError(
                f"batch_size={self.batch_size} does not divide into minibatches of {learner}.minibatch_size="
                f"{minibatch}; choose a divisor of {size}, the responses of a learner in an iteration."
            )

    def complete(self) -> Config:
        """The same config with all settings of the learner filled in and checked; this imports a
        learner of one's own.

        Raises:
            ConfigError: There is no such learner, or its settings do not fit.
        """
        config = dataclasses.replace(self)
        config._complete()
        return config

    @cached_property
    def settings(self) -> Any:
        """The learner's `Settings`."""
        return made(self.learner, self.learner_settings)

    def learner_of(self, agent: str) -> tuple[str, Any]:
        """The learner of an agent, by the agent's name, and its `Settings`."""
        own = self.agents.get(agent, {})
        learner = own.get("learner", self.learner)
        common = self.learner_settings if learner == self.learner else {}
        return learner, made(learner, {**common, **own.get("learner_settings", {})})

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

    def game(self, control: bool = True) -> dict[str, Any]:
        """Keywords for `coevo_env.faces.build.build`, without task and model.

        Args:
            control: False for a game that shows or measures what agents make of each other's texts:
                a control of what they read in training is not played there, and no budget is drawn.
        """
        options: dict[str, Any] = {
            "num_agents": self.num_agents,
            "context": self.context if control or self.context not in CONTROLS else "all",
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
        if self.chat:
            options["chat"] = self.chat
        if self.max_new_tokens:
            options["max_new_tokens"] = self.max_new_tokens
        if self.min_new_tokens >= 0:
            options["min_new_tokens"] = self.min_new_tokens
        if self.max_new_tokens_low and control:
            options.update(max_new_tokens_low=self.max_new_tokens_low, budget_every=self.batch_size)
        if self.max_context:
            options["max_context"] = self.max_context
        return options


def made(learner: str, values: Mapping[str, Any]) -> Any:
    """The `Settings` of a learner from values by name.

    Raises:
        ConfigError: It has no setting of that name, or refuses a value.
    """
    cls, label = settings_class(learner), settings_label(learner)
    fields = [item.name for item in dataclasses.fields(cls) if item.init]
    if unknown := [name for name in values if name not in fields]:
        raise unknown_name(
            f"setting of the learner {learner!r}", f"{label}.{unknown[0]}", [f"{label}.{f}" for f in fields]
        )
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{label}.{error}") from error
    except (TypeError, ValueError) as error:  # of a class of one's own
        raise ConfigError(f"the settings {dict(values)} of the learner {learner!r} are refused: {error}") from error


def settings_label(learner: str) -> str:
    """What the settings of a learner are called in front of the dot: its name, or
    `learner_settings` for one of one's own."""
    return learner if learner in LEARNERS else "learner_settings"
