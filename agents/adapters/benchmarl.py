"""BenchMARL: the parallel face as a task, and a model that reads token ids.

One idea: BenchMARL experiments take a task object and a model configuration; these two are all that
it lacks. All agents are one group, so that a centralised critic (MAPPO) sees every agent; whether
they share parameters is the experiment's own setting. An agent that is not acting has one legal
action, so its steps move no policy, and what it is paid on them reaches its earlier tokens through
the advantages.

    experiment = Experiment(
        task=text_task(task="toy", seed=0), algorithm_config=IppoConfig.get_from_yaml(),
        model_config=token_model(), critic_model_config=token_model(), seed=0, config=...
    )
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable
from dataclasses import make_dataclass
from typing import Any

from coevo_env.errors import ConfigError
from coevo_env.faces.parallel import TextParallelEnv

from . import require

__all__ = ["text_task", "token_model"]

GROUP = "agents"
_LAZY = ("TextTask", "TokenModel", "TokenModelConfig")


def text_task(task: Any = "sentiment", **options: Any) -> Any:
    """A game as a `benchmarl.environments.TaskClass`.

    Args:
        task, options: As in `coevo_env.parallel_env`. Environment k of an experiment plays the
            episodes of `seed + k`, where `seed` is the option or else the experiment's; BenchMARL's
            `parallel_collection` starts processes that all play those of `seed`.

    Raises:
        MissingExtraError, ConfigError: BenchMARL is missing or of another version, or the game
            could not be played.
    """
    require("benchmarl")
    if options.get("mask", "observation") != "observation" or options.get("attention_mask"):
        raise ConfigError(
            "text_task with mask= or attention_mask=; BenchMARL's policies take the mask from the observation. Leave "
            "both out."
        )
    config = {"task": task, **options}
    name = str(getattr(task, "name", task)).replace("/", "_")
    TextParallelEnv(**config)  # options that cannot work are found here and not in the middle of an experiment
    return _classes()["TextTask"](name=name.upper(), config=config)


def token_model(embedding: int = 16, width: int = 64) -> Any:
    """A model configuration for policies and critics: an embedding of each token, then an MLP with
    one hidden layer.

    Args:
        embedding, width: Sizes of the two layers. Where agents do not share parameters each has
            both of its own.
    """
    require("benchmarl")
    return _classes()["TokenModelConfig"](embedding=embedding, width=width)


def __getattr__(name: str) -> Any:
    """The classes by name: BenchMARL pickles them, and they are made when they are first asked
    for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.")
    return _classes()[name]


@functools.cache
def _classes() -> dict[str, Any]:
    import torch
    from benchmarl.environments.common import TaskClass  # pyright: ignore[reportMissingImports]
    from benchmarl.models.common import Model, ModelConfig  # pyright: ignore[reportMissingImports]
    from torch import nn
    from torchrl.data import Composite  # pyright: ignore[reportMissingImports]
    from torchrl.envs import PettingZooWrapper  # pyright: ignore[reportMissingImports]

    class TextTask(TaskClass):
        """See `text_task`."""

        def get_env_fun(
            self, num_envs: int, continuous_actions: bool, seed: int | None, device: Any
        ) -> Callable[[], Any]:
            config, number = dict(self.config), itertools.count()
            first = config.pop("seed", None)
            first = (seed or 0) if first is None else first

            def make() -> Any:
                env = TextParallelEnv(**config, seed=first + next(number))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it names the one version of PettingZoo that its authors test with
                    return PettingZooWrapper(
                        env, group_map={GROUP: env.possible_agents}, categorical_actions=True, device=device
                    )

            return make

        def supports_continuous_actions(self) -> bool:
            return False

        def supports_discrete_actions(self) -> bool:
            return True

        def max_steps(self, env: Any) -> int:
            rules = TextParallelEnv(**self.config).rules
            return rules.num_agents * rules.max_new_tokens

        def has_render(self, env: Any) -> bool:
            return False

        def group_map(self, env: Any) -> dict[str, list[str]]:
            return env.group_map

        def observation_spec(self, env: Any) -> Any:
            return self._only(env, "observation")

        def info_spec(self, env: Any) -> Any:
            return self._only(env, "info")

        def action_mask_spec(self, env: Any) -> Any:
            return self._only(env, "action_mask")

        def state_spec(self, env: Any) -> None:
            return None  # a centralised critic reads what every agent reads

        def action_spec(self, env: Any) -> Any:
            return env.full_action_spec

        @staticmethod
        def env_name() -> str:
            return "coevo"

        @staticmethod
        def _only(env: Any, name: str) -> Any:
            spec = env.observation_spec[GROUP]
            return Composite({GROUP: Composite({name: spec[name].clone()}, shape=spec.shape)})

    class TokenModel(Model):
        """See `token_model`; the shapes are those of `benchmarl.models.Mlp`."""

        def __init__(self, *, embedding: int, width: int, **kwargs: Any):
            super().__init__(**kwargs)
            vocab = self.action_spec[GROUP, "action"].space.n
            features = sum(spec.shape[-1] for spec in self.input_spec.values(True, True))
            self.features = features * (self.n_agents if self.centralised else 1)  # tokens that one network reads
            self.nets = nn.ModuleList(
                nn.Sequential(
                    nn.Embedding(vocab + 1, embedding),  # V is padding
                    nn.Flatten(-2),
                    nn.Linear(embedding * self.features, width),
                    nn.Tanh(),
                    nn.Linear(width, self.output_leaf_spec.shape[-1]),
                )
                for _ in range(1 if self.share_params else self.n_agents)
            ).to(self.device)

        def _perform_checks(self) -> None:
            super()._perform_checks()
            if not self.input_has_agent_dim:
                raise ConfigError(
                    "token_model got an input without agents; expected the observations of all of them, as text_task "
                    "gives them."
                )

        def _forward(self, tensordict: Any) -> Any:
            tokens = torch.cat([tensordict.get(key) for key in self.in_keys], -1).long()  # (..., N, L)
            if self.centralised:
                tokens = tokens.flatten(-2)[..., None, :].expand(*tokens.shape[:-1], self.features)  # (..., N, N L)
            if self.share_params:
                result = self.nets[0](tokens[..., 0, :] if self.centralised else tokens)
            else:
                result = torch.stack([net(tokens[..., index, :]) for index, net in enumerate(self.nets)], -2)
            tensordict.set(self.out_key, result)
            return tensordict

    def associated_class() -> Any:
        return TokenModel

    config = make_dataclass(
        "TokenModelConfig",
        [("embedding", int, 16), ("width", int, 64)],
        bases=(ModelConfig,),
        namespace={
            "associated_class": staticmethod(associated_class),
            "__module__": __name__,
            "__doc__": "See `token_model`.",
        },
    )
    classes = {"TextTask": TextTask, "TokenModel": TokenModel, "TokenModelConfig": config}
    for name, value in classes.items():
        value.__module__, value.__qualname__ = __name__, name
    return classes
