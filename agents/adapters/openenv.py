"""OpenEnv: the game served as an environment of texts, one response an action.

One idea: a client of OpenEnv reads a text and answers with one, so a step is a whole turn: the text
is tokenized, played token by token, and closed with EOS. The client answers for every agent in
turn; an observation says for whom. `reward` is what the step paid the agent that answered,
`rewards` what it paid everybody: the others are paid at the last step.

    app = create_fastapi_app(lambda: text_environment("sentiment"), *models())  # of
    openenv.core.env_server
"""

from __future__ import annotations

import functools
from typing import Any

from coevo_env.errors import ConfigError
from coevo_env.faces.aec import raw_env
from coevo_env.game.task import Conversation

from . import require

__all__ = ["models", "text_environment"]


def text_environment(task: Any = "sentiment", **options: Any) -> Any:
    """A game as an `openenv` environment.

    Args:
        task, options: As in `coevo_env.faces.aec.raw_env`; `num_agents=1` is a single model that
            answers prompts. KL can be "off" or "reference", because a client reports no log-probs.

    Raises:
        MissingExtraError, ConfigError: OpenEnv is missing or of another version, or the game could
            not be played.
    """
    require("openenv")
    return _classes()[2](raw_env(task=task, **options))


def models() -> tuple[Any, Any]:
    """The classes of an action (`text`) and of an observation (`agent`, `text`, `rewards`), which a
    server has to know."""
    require("openenv")
    return _classes()[:2]


@functools.cache
def _classes() -> tuple[Any, Any, Any]:
    from openenv.core.env_server.interfaces import Environment  # pyright: ignore[reportMissingImports]
    from openenv.core.env_server.types import Action, Observation, State  # pyright: ignore[reportMissingImports]

    class TextAction(Action):
        text: str

    class TextObservation(Observation):
        agent: str
        """Who answers next; "" at the end."""
        text: str
        """What it reads; of a chat the last message."""
        messages: list[dict[str, str]] = []  # noqa: RUF012  # pydantic copies it
        """Of a chat all messages, the last one included; empty where it is none."""
        rewards: dict[str, float] = {}  # noqa: RUF012  # pydantic copies it
        """What the step paid each agent."""

    class TextEnvironment(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self, game: Any):
            super().__init__()
            if game.game.reports:
                raise ConfigError(
                    f"KL mode {game.rules.kl.mode!r} with OpenEnv, whose clients report no log-probs. Use "
                    "kl='reference' or kl='off'."
                )
            self.env, self._steps = game, 0

        def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Any:
            """The next episode, number 0 of `seed`, or with `episode=17` number 17."""
            self.env.reset(seed=seed, options=kwargs)
            self._steps = 0
            return self._see({})

        def step(self, action: Any, timeout_s: float | None = None, **kwargs: Any) -> Any:
            """Plays a whole turn; what does not fit into its budget is cut off."""
            env, rules = self.env, self.env.rules
            if not env.agents or env.game.actor < 0:
                raise ConfigError("step() while no episode is being played; call reset() first.")
            actor, rewards = env.agent_selection, dict.fromkeys(env.possible_agents, 0.0)
            turn = env.game.episode.turn
            for token in [*rules.tokenizer.encode(action.text), rules.eos_id]:
                env.step(token)
                for agent, reward in env.rewards.items():
                    rewards[agent] += reward
                if turn.done:
                    break
            self._steps += 1
            return self._see(rewards, rewards[actor])

        def _see(self, rewards: dict[str, float], reward: float = 0.0) -> Any:
            game, rules = self.env.game, self.env.rules
            if game.actor < 0:
                return TextObservation(agent="", text="", rewards=rewards, reward=reward, done=True)
            episode = game.episode
            said = [turn.text for turn in episode.turns[:-1]]
            seen = {"all": said, "previous": said[-1:], "none": [], "empty": said and [""]}[rules.context]
            text = rules.task.render(rules.task.prompt(rules.split, episode.prompt_index), seen or None)
            chat = [dict(message) for message in text.messages] if isinstance(text, Conversation) else []
            return TextObservation(
                agent=self.env.agent_selection,
                text=str(text),
                messages=chat,
                rewards=rewards,
                reward=reward,
                done=False,
            )

        @property
        def state(self) -> Any:
            episode = self.env.game.episode
            return State(episode_id=None if episode is None else str(episode.index), step_count=self._steps)

    return TextAction, TextObservation, TextEnvironment
