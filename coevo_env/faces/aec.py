"""Text generation as a turn-based game of language models (PettingZoo AEC).

One idea: one step is one token. The agents take turns; a turn ends with EOS or when its token
budget is used up; when the last turn has ended the responses are scored as text and everybody is
paid. This module arranges `coevo_env.faces.token_game` in the shape of `pettingzoo.AECEnv` and has
no rules of its own; fast learners drive `coevo_env.faces.batch` instead, which plays the same game
by whole turns.

| Import | `import coevo_env; coevo_env.env(...)` |
|---|---|
| Agents | `llm1`, ..., `llmN`; by role `pioneer`, `observer` (N = 2), `observer1`, ... (N > 2) |
| Parallel API | `coevo_env.faces.parallel` (all act, only the acting agent's action counts) |
| Action | `Discrete(V)`: a token id |
| Observation | `Dict(observation: Box(0, V, (L,), int64), action_mask: Box(0, 1, (V,), int8))` |
| L | max_context + max_new_tokens |
| State | `Box(0, V, (N, L), int64)`: what each seat reads and writes, in order of play |

### Observation What an agent reads in its role, followed by the tokens of its own turn, padded on
the right with V, which is no token. Before its turn an agent sees the prompt; within a turn the
observation only grows. Every agent can be observed at any time. `mask="info"` moves the mask of
legal tokens to the infos and `mask="none"` drops it; `token_dtype="float32"` and
`attention_mask=True` suit libraries that want them. With the tokens alone, the observation is the
Box itself and not a Dict.

### Action A token id. EOS ends the turn. The mask forbids EOS before `min_new_tokens` tokens and
ids that are no text (padding, unused rows); a forbidden id in [0, V) is nevertheless played as it
is, and its reference log-prob is `coevo_env.game.kl.MIN_LOGPROB` (about -103.3). An agent that is
not acting has a mask with EOS alone, the no-op; in the AEC API it is never asked.

### Reward Every token pays its actor the KL shaping of docs/rewards_and_kl.md: nothing (`kl="off"`,
the default, which needs no model), `+beta log pi_ref(a|s)` (`kl="reference"`; the learner adds its
entropy), or `-beta` times an estimate of the KL (`kl="reported"`; call
`env.unwrapped.report(logprob)` before each step, also reachable as `env.report`). The last token of
the last turn also pays every agent its team reward: the task rewards of all responses, mixed
(`mixing="cooperative"`: their sum).

### End All agents live to the end and terminate together, so that the pioneer too is paid; then
each takes one dead step with action None. A turn cut by its budget is a termination as well,
because the cut text is what is scored; `cut` in the infos tells. Nothing is ever truncated.

### Infos The same numbers at every step: `episode_index`, `prompt_index`, `seat` (0 is the
pioneer), `acting` (0 or 1), `length` (tokens of this agent's turn), `cut` (0 or 1), `beta`, `kl`
(nats of this agent's turn so far, where reported, else 0), `ref_logprob` (of this agent's last
token, nats; 0 with KL off), `task_reward`, `team_reward` and each raw term `reward/<name>` (of this
agent's response; 0 until the end of the episode).

### Episodes `reset(seed=s)` starts episode 0 of seed s, `reset()` the next episode,
`reset(options={"episode": 17})` episode 17: prompt and roles depend on (seed, episode) and on
nothing else. With seed None at construction the operating system gives one
(`env.unwrapped.rules.seed`).

### Version history
* v0: initial version (0.1.0)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv
from pettingzoo.utils import wrappers

from ..errors import ConfigError, unknown_name
from ..game.kl import Controller, KLConfig
from ..game.task import Task
from .build import agent_names
from .face import RENDER_MODES, Face, check_max_cycles, check_render_mode, role_options
from .token_game import TokenGame

__all__ = ["env", "parallel_env", "raw_env"]


def env(**kwargs: Any) -> AECEnv:
    """The wrapped environment: out-of-range actions and calls out of order are errors. Keywords as
    in `raw_env`."""
    wrapped: AECEnv = raw_env(**kwargs)
    wrapped = wrappers.AssertOutOfBoundsWrapper(wrapped)
    return wrappers.OrderEnforcingWrapper(wrapped)


class raw_env(Face, AECEnv):
    """The environment itself, without wrappers.

    Args:
        task: A `Task` or the name of one.
        model: The reference policy, see `coevo_env.faces.build.build`; loaded only when KL is on.
        num_agents: N >= 1.
        agent_ids: "agent": agents are learners and change roles with the schedule; "role": agents
            are roles and keep their seats.
        kl: None or "off" (default), "reference", "reported", or a `KLConfig`.
        render_mode: None, "ansi" (`render` returns text), "human" (it prints) or "rgb_array" (it
            returns a picture).
        mask: Where the mask of legal tokens goes: "observation", "info" or "none".
        token_dtype: "int64" or "float32".
        attention_mask: Whether observations also have `attention_mask`, int8 of shape (L,), 1 where
            there is a token.
        seed: Seed of prompts and roles; None takes one from the operating system.
        max_cycles: Accepted for `pettingzoo.make`; without effect, because every turn has a budget.
        options: The other options of `coevo_env.faces.build.build` and `coevo_env.Rules`.

    Attributes:
        rules, reference: The game and its reference policy (None with KL off).
        controllers: One KL controller per agent, by name.

    Raises:
        ConfigError: Anything that could not be played.
    """

    # PettingZoo's way
    metadata = {  # noqa: RUF012
        "name": "coevo_text_v0",
        "render_modes": list(RENDER_MODES),
        "is_parallelizable": False,
        "render_fps": 4,
    }

    def __init__(
        self,
        task: str | Task = "sentiment",
        model: Any = None,
        *,
        num_agents: int = 2,
        agent_ids: str = "agent",
        kl: KLConfig | str | None = None,
        render_mode: str | None = None,
        mask: str = "observation",
        token_dtype: str = "int64",
        attention_mask: bool = False,
        seed: int | None = None,
        max_cycles: int | None = None,
        **options: Any,
    ):
        super().__init__()
        check_max_cycles(max_cycles)
        check_render_mode(render_mode)
        self.game = TokenGame(
            task,
            model,
            kl=kl,
            mask=mask,
            token_dtype=token_dtype,
            attention_mask=attention_mask,
            seed=seed,
            num_agents=num_agents,
            **role_options(agent_ids, options),
        )
        self.render_mode = render_mode
        self.possible_agents = agent_names(num_agents, agent_ids)
        self.agents = []
        self._index = {name: i for i, name in enumerate(self.possible_agents)}
        self.observation_spaces = dict.fromkeys(self.possible_agents, self.game.observation_space)
        self.action_spaces = dict.fromkeys(self.possible_agents, self.game.action_space)
        self.state_space = self.game.state_space
        self.controllers: dict[str, Controller] = dict(zip(self.possible_agents, self.game.controllers, strict=True))

    # ---------------------------------------------------------------- PettingZoo
    def observation_space(self, agent: str) -> spaces.Space:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Starts an episode: number 0 of `seed`, number `options["episode"]`, or the next one.
        Other options are ignored."""
        game = self.game
        game.reset(seed, options)
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {name: game.info(i) for i, name in enumerate(self.agents)}
        self._skip_agent_selection = None  # of PettingZoo's dead steps; an episode may have been abandoned among them
        self._actor = game.actor
        self.agent_selection = self.agents[game.actor]

    def step(self, action: Any) -> None:
        """Plays one token of the selected agent, or with None its dead step."""
        game, actor = self.game, self._actor if self.agents else -1
        if actor < 0 and self.agents:
            self._was_dead_step(action)
            return
        paid = game.play(action)
        names = self.possible_agents
        self.rewards = dict(zip(names, paid))  # noqa: B905  # `strict` costs, and the lengths are ours
        cumulative = self._cumulative_rewards
        cumulative[names[actor]] = 0.0
        now = self._actor = game.actor
        if now == actor:  # within a turn nobody else is paid
            cumulative[names[actor]] = paid[actor]
            self.infos[names[actor]] = game.info(actor)
            return
        self._accumulate_rewards()
        if now >= 0:
            self.infos[names[actor]], self.infos[names[now]] = game.info(actor), game.info(now)
            self.agent_selection = names[now]
            return
        self.infos = {name: game.info(i) for i, name in enumerate(names)}
        self.terminations = dict.fromkeys(names, True)
        self.agent_selection = names[0]

    def _clear_rewards(self) -> None:
        self.rewards = dict.fromkeys(self.rewards, 0.0)  # PettingZoo's dead steps would leave integers

    def observe(self, agent: str) -> Any:
        """What `agent` sees now, in fresh arrays."""
        if agent not in self._index:
            raise unknown_name("agent", agent, self.possible_agents)
        return self.game.observation(self._index[agent])

    def state(self) -> np.ndarray:
        """int64 (N, L): what each seat has read and written, in order of play, V where there is
        nothing."""
        return self.game.state()

    def report(self, logprob: float, distribution: Any = None) -> None:
        """See `Face.report`; dead steps need none."""
        if not self.agents or self._actor < 0:
            raise ConfigError("report() while no agent is to act; expected it before a step that plays a token.")
        super().report(logprob, distribution)


def parallel_env(**kwargs: Any):
    """The parallel view, see `coevo_env.faces.parallel`."""
    from .parallel import parallel_env as make

    return make(**kwargs)
