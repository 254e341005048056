"""Text generation as a game for N language models: a PettingZoo environment for multi-agent
reinforcement learning.

    >>> import coevo_env
    >>> env = coevo_env.env(task="toy", seed=0)
    >>> env.reset()
    >>> env.agents
    ['llm1', 'llm2']

One idea: this module only names things. Everything is imported when it is first used, so `import
coevo_env` is quick and pulls in neither torch nor transformers. The environments are registered
with gymnasium (`gymnasium.make("coevo/Text-v0")`) and, where it has a registry, with pettingzoo
(`pettingzoo.make("aec", "coevo/text_v0")`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "BatchEnv": "faces.batch",
    "CoevoError": "errors",
    "ConfigError": "errors",
    "Episode": "game.rules",
    "GymEnv": "faces.gym_env",
    "KLConfig": "game.kl",
    "LanguageModel": "lm.model",
    "MissingExtraError": "errors",
    "NonFiniteError": "errors",
    "Prompt": "game.task",
    "RewardError": "errors",
    "Rollout": "game.rollout",
    "Rules": "game.rules",
    "Sampling": "game.sampling",
    "TableModel": "game.reference",
    "Task": "game.task",
    "TextTokenizer": "lm.tokenizer",
    "env": "faces.aec",
    "make_task": "tasks",
    "parallel_env": "faces.parallel",
    "raw_env": "faces.aec",
}
"""Public name -> the module that has it."""

__all__ = [
    "__version__",
    "BatchEnv",
    "CoevoError",
    "ConfigError",
    "Episode",
    "GymEnv",
    "KLConfig",
    "LanguageModel",
    "MissingExtraError",
    "NonFiniteError",
    "Prompt",
    "RewardError",
    "Rollout",
    "Rules",
    "Sampling",
    "TableModel",
    "Task",
    "TextTokenizer",
    "env",
    "make_task",
    "parallel_env",
    "raw_env",
]

if TYPE_CHECKING:
    from .errors import CoevoError as CoevoError
    from .errors import ConfigError as ConfigError
    from .errors import MissingExtraError as MissingExtraError
    from .errors import NonFiniteError as NonFiniteError
    from .errors import RewardError as RewardError
    from .faces.aec import env as env
    from .faces.aec import raw_env as raw_env
    from .faces.batch import BatchEnv as BatchEnv
    from .faces.gym_env import GymEnv as GymEnv
    from .faces.parallel import parallel_env as parallel_env
    from .game.kl import KLConfig as KLConfig
    from .game.reference import TableModel as TableModel
    from .game.rollout import Rollout as Rollout
    from .game.rules import Episode as Episode
    from .game.rules import Rules as Rules
    from .game.sampling import Sampling as Sampling
    from .game.task import Prompt as Prompt
    from .game.task import Task as Task
    from .lm.model import LanguageModel as LanguageModel
    from .lm.tokenizer import TextTokenizer as TextTokenizer
    from .tasks import make_task as make_task


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOME))}.")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def _register() -> None:
    """Tells gymnasium and pettingzoo where the environments are, by name, so that nothing is
    imported before it is made."""
    import gymnasium

    if "coevo/Text-v0" not in gymnasium.registry:
        gymnasium.register("coevo/Text-v0", entry_point="coevo_env.faces.gym_env:GymEnv")
    import pettingzoo

    register, known = getattr(pettingzoo, "register", None), getattr(pettingzoo, "aec_registry", {})
    if register is not None and "coevo/text-v0" not in known:  # pettingzoo 1.27 and later
        register("aec", "coevo/text_v0", entry_point="coevo_env.faces.aec:env")
        register("parallel", "coevo/text_v0", entry_point="coevo_env.faces.parallel:parallel_env")


_register()
