"""The game as a native `VecEnv` of stable-baselines3: one agent learns, its partners' turns are
generated in batches.

One idea: every row is an episode of its own, and whatever costs a model or a reward function is
done for all rows that need it in one call. SB3 wants an action of every row at every step, while
the turns of a batch are ragged; so rows do not wait for each other as in `coevo_env.BatchEnv`. A
row whose learner has just ended its turn has its partners' remaining turns, its reward and the
partners' first turns of its next episode played within the same step, together with the other rows
that ended theirs. Hence every step of every row is one token of the learner, paid at once and in
full: its KL shaping, and on the last token of the turn the team reward as well.

Observations, infos and rewards of a row are those of `coevo_env.GymEnv`; the tests in
tests/adapters/sb3 play both.

    >>> env = CoevoVecEnv(4, task="toy", kl="reference", seed=0)
    >>> observations = env.reset()
    >>> observations, rewards, dones, infos = env.step(np.zeros(4, int))  # everybody says EOS
    >>> bool(dones.all()), infos[0]["length"]
    (True, 1)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import tile_images

from coevo_env.errors import ConfigError, NonFiniteError, unknown_name, whole
from coevo_env.faces.build import agent_names
from coevo_env.faces.face import check_render_mode, shown
from coevo_env.faces.token_game import TokenGame
from coevo_env.game.kl import MIN_LOGPROB, Controller
from coevo_env.game.reference import ReferencePolicy
from coevo_env.game.rules import Rules
from coevo_env.game.scoring import score
from coevo_env.rng import uniforms

from .sb3_policy import CursorActor, SB3Actor

__all__ = ["CoevoVecEnv"]


class CoevoVecEnv(VecEnv):
    """B episodes as a vector environment: one agent learns, its partners' turns are generated in
    batches.

    Each row takes the next episode number when it starts an episode, so the rows together play the
    episodes 0, 1, 2, ... of the seed, each once. A row resets itself as SB3 expects: the
    observation that comes with `done` is the first of the next episode, and that of the episode
    that ended is `infos[row]["terminal_observation"]`. Nothing is ever truncated
    (`TimeLimit.truncated` is False): a turn that its budget cut is a termination, because the cut
    text is what is scored.

    Args:
        num_envs: B.
        task, model, num_agents, learner, render_mode, options: As in `coevo_env.GymEnv`. KL mode
            "reference" or "off"; with "reference" use `KLCallback`, which adds the learner's half.
        partner: Who plays the partners, see `set_partner`; None is the reference policy where KL is
            on.

    Attributes:
        learner: Name of the agent that learns.
        rules, reference: The game and its reference policy (None with KL off).
        controllers: One KL controller per agent, by name; only the learner's is used.

    Raises:
        ConfigError: Anything that could not be played.
    """

    def __init__(
        self,
        num_envs: int,
        task: Any = "sentiment",
        model: Any = None,
        *,
        num_agents: int = 2,
        learner: str = "llm1",
        partner: Any = None,
        render_mode: str | None = None,
        **options: Any,
    ):
        whole("num_envs", num_envs, 1)
        check_render_mode(render_mode)
        first = _Row(task, model, num_agents=num_agents, **options)
        mode = first.rules.kl.mode
        if mode not in ("reference", "off"):
            raise ConfigError(
                f"CoevoVecEnv with KL mode {mode!r}; expected 'reference' or 'off', because stable-baselines3 hands an "
                "environment no log-probs. "
                "kl='reference' together with KLCallback pays exactly what 'reported' with the estimator k1 does."
            )
        self.possible_agents = agent_names(num_agents)
        if learner not in self.possible_agents:
            raise unknown_name("learner", learner, self.possible_agents)
        self.learner, self._learner = learner, self.possible_agents.index(learner)
        # copies share rules, reference, controllers and spaces; what belongs to an episode is made
        # anew by each reset
        self._games = [first, *(copy.copy(first) for _ in range(num_envs - 1))]
        self._views = [_RowView(self, row, render_mode) for row in range(num_envs)]
        self._next = 0
        self._actions: np.ndarray | None = None
        self.controllers: dict[str, Controller] = dict(zip(self.possible_agents, first.controllers, strict=True))
        self._partners: dict[int, Any] = {agent: None for agent in range(num_agents) if agent != self._learner}
        super().__init__(int(num_envs), first.observation_space, first.action_space)
        if partner is None and self.reference is not None:
            partner = self.reference
        if partner is not None:
            self.set_partner(partner)

    @property
    def rules(self) -> Rules:
        """The `coevo_env.Rules` being played."""
        return self._games[0].rules

    @property
    def reference(self) -> ReferencePolicy | None:
        """The reference policy, None with KL off."""
        return self._games[0].reference

    def set_partner(self, policy: Any, agent: str | None = None) -> None:
        """Chooses who plays the partners from their next turn on.

        Args:
            policy: An SB3 model; anything with `generate(contexts, max_new_tokens, sampling,
                uniforms) -> Generation` (see `coevo_agents.learners.learner.Actor`) or with the
                `cursor` of a reference policy; or "chance", which plays legal tokens uniformly.
            agent: Which partner; None means all.

        Raises:
            ConfigError: No such partner, or a policy that cannot play this game.
        """
        vocab, given = self.rules.vocab_size, policy
        names = {self.possible_agents[i]: i for i in self._partners}
        if agent is not None and agent not in names:
            raise unknown_name("partner", agent, names)
        if isinstance(policy, str) and policy == "chance":
            policy = CursorActor(None, vocab)
        elif isinstance(policy, OnPolicyAlgorithm):
            policy = SB3Actor(policy)
        elif not callable(getattr(policy, "generate", None)):
            if not callable(getattr(policy, "cursor", None)):
                raise ConfigError(
                    f"partner {policy!r} is a {type(policy).__name__}; expected an SB3 model, an object with "
                    "`generate(contexts, max_new_tokens, "
                    "sampling, uniforms)` or with `cursor(context, sampling)`, or 'chance'."
                )
            policy = CursorActor(given, given.vocab_size)
        size = getattr(policy, "vocab_size", getattr(getattr(policy, "lm", None), "vocab_size", None))
        if size is not None and size != vocab:
            raise ConfigError(
                f"a partner with a vocabulary of {size} tokens; the game has {vocab}. Partners exchange token ids, so "
                "give one that was made for "
                "this task and model."
            )
        for i in self._partners if agent is None else [names[agent]]:
            self._partners[i] = policy

    def end_iteration(self, kl: float, episodes: int) -> float:
        """Hands the learner's mean KL (nats per response) of `episodes` episodes to its controller;
        returns its new coefficient."""
        self.controllers[self.learner].update(float(kl), episodes)
        return self.controllers[self.learner].beta

    # ---------------------------------------------------------------- VecEnv
    def reset(self) -> dict[str, np.ndarray] | np.ndarray:
        """Starts the next episode in every row; after `seed(s)` episode 0 of s and those that
        follow, after `set_options({"episode": n})` (or a list, one for each row) episode n."""
        missing = [self.possible_agents[agent] for agent, policy in self._partners.items() if policy is None]
        if missing:
            raise ConfigError(
                f"nobody plays {', '.join(missing)}: with KL off there is no reference policy to take its place. Pass "
                "partner=..., or call "
                "set_partner(...) before reset() or learn(); set_partner('chance') plays legal tokens uniformly."
            )
        seed = self._seeds[0]
        if seed is not None:
            rules, self._next = self.rules.reseeded(seed), 0
            for game in self._games:
                game.rules = rules
        for game, options in zip(self._games, self._options, strict=True):
            self._start(game, (options or {}).get("episode"))
        self._reset_seeds()
        self._reset_options()
        self._play_partners(self._games)
        self.reset_infos = [game.info(self._learner) for game in self._games]
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.asarray(actions)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Plays one token of the learner in every row.

        Returns:
            Observations; rewards, float32 (B,); dones, bool (B,); infos, those of
            `coevo_env.faces.aec` and what SB3 adds.
        """
        tokens, vocab = self._actions, self.rules.vocab_size
        if self._games[0].episode is None:
            raise ConfigError("step() before the first reset(); call reset() first.")
        if tokens is None or tokens.shape != (self.num_envs,) or tokens.dtype.kind not in "iu":
            got = "none" if tokens is None else f"shape {tokens.shape} and type {tokens.dtype}"
            raise ConfigError(
                f"step got actions of {got}; expected one token id for each row, integers of shape ({self.num_envs},)."
            )
        if tokens.min() < 0 or tokens.max() >= vocab:
            raise ConfigError(
                f"step got actions from {tokens.min()} to {tokens.max()}; expected token ids in [0, {vocab})."
            )
        self._actions = None
        paid = np.zeros(self.num_envs)
        for row, (game, token, ref) in enumerate(
            zip(self._games, tokens.tolist(), self._ref_logprobs(tokens), strict=True)
        ):
            paid[row] = game.push(token, ref)
        self._play_partners(self._games)
        dones = np.array([game.actor < 0 for game in self._games])
        over = np.flatnonzero(dones).tolist()
        if over:
            # played, so not None
            scores = score(self.rules, [self._games[row].episode for row in over])  # type: ignore[misc]
            for index, row in enumerate(over):
                paid[row] += self._games[row].settle(scores.of(index))[self._learner]
        infos = [{**game.info(self._learner), "TimeLimit.truncated": False} for game in self._games]
        for row in over:
            infos[row]["terminal_observation"] = self._games[row].observation(self._learner)
            self._start(self._games[row])
        self._play_partners([self._games[row] for row in over])
        for row in over:
            self.reset_infos[row] = self._games[row].info(self._learner)
        return self._observe(), paid.astype(np.float32), dones, infos

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Sets the seed of prompts, roles and partners from the next reset on, the same for all
        rows: they share one sequence of episodes. A model made with `seed=` calls this. None takes
        one from the operating system."""
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
        self._seeds = [seed] * self.num_envs
        return self._seeds

    def close(self) -> None:
        """Nothing to release."""

    def render(self, mode: str | None = None) -> Any:
        """The transcripts of all rows: returned as one text (render_mode "ansi"), printed
        ("human"), or as one picture ("rgb_array")."""
        views = [view.render() for view in self._views]
        if self.render_mode == "rgb_array":
            return tile_images(views)
        return None if self.render_mode == "human" else "\n".join(map(str, views))

    def get_images(self) -> list[Any]:
        """A picture of each row, for `VecVideoRecorder`."""
        return [view.render() for view in self._views] if self.render_mode == "rgb_array" else []

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of rows: their own (`episode`, `render_mode`), or one of this environment
        (`rules`, `learner`, ...)."""
        return [getattr(view, attr_name) for view in self._of(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of rows. What all rows share cannot be set through one of them."""
        if hasattr(self, attr_name) or hasattr(_RowView, attr_name):
            raise ConfigError(
                f"set_attr({attr_name!r}): rows share it; make another environment, or for partners call "
                "set_partner(...)."
            )
        for view in self._of(indices):
            setattr(view, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls a method of rows: `action_masks`, `transcript`, `render`, or one of this
        environment."""
        return [getattr(view, method_name)(*method_args, **method_kwargs) for view in self._of(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Rows are no gymnasium environments, so nothing wraps them."""
        return [False for _ in self._of(indices)]

    # ---------------------------------------------------------------- internals
    def _of(self, indices: Any) -> list[_RowView]:
        return [self._views[index] for index in self._get_indices(indices)]

    def _start(self, game: _Row, number: int | None = None) -> None:
        number = self._next if number is None else number
        game.reset(options={"episode": number})
        self._next = max(self._next, number + 1)

    def _observe(self) -> Any:
        seen = [game.observation(self._learner) for game in self._games]
        if isinstance(seen[0], dict):
            return {key: np.stack([row[key] for row in seen]) for key in seen[0]}
        return np.stack(seen)

    def _play_partners(self, games: Sequence[_Row]) -> None:
        """Plays until it is the learner's turn, or the end, in each of the rows: per pass one
        `generate` for each policy that is waited for."""
        rules, budget = self.rules, self.rules.max_new_tokens
        while waiting := [game for game in games if game.actor not in (self._learner, -1)]:
            groups: dict[int, list[_Row]] = {}
            for game in waiting:
                groups.setdefault(id(self._partners[game.actor]), []).append(game)
            for group in groups.values():
                policy = self._partners[group[0].actor]
                turns = [game.current for game in group]
                noise = [
                    uniforms(rules.seed, [game.number], turn.seat, budget)
                    for game, turn in zip(group, turns, strict=True)
                ]
                drawn = policy.generate([turn.context for turn in turns], budget, rules.sampling, np.concatenate(noise))
                if len(drawn.tokens) != len(group) or len(drawn.lengths) != len(group):
                    raise ConfigError(
                        f"{type(policy).__name__}.generate returned {len(drawn.tokens)} turns for {len(group)} "
                        "contexts; expected one for each."
                    )
                for game, turn, tokens, length in zip(
                    group, turns, drawn.tokens.tolist(), drawn.lengths.tolist(), strict=True
                ):
                    game.take(tokens[: min(length, turn.budget)])

    def _ref_logprobs(self, tokens: np.ndarray) -> list[float | None]:
        """log pi_ref of the learner's next token in each row; None with KL off."""
        if self.reference is None:
            return [None] * self.num_envs
        sampling, result = self.rules.sampling, np.zeros(self.num_envs)
        turns = [game.current for game in self._games]
        early = np.array([len(turn.tokens) < sampling.min_new_tokens for turn in turns])
        for phase in (True, False):
            rows = np.flatnonzero(early == phase)
            if not len(rows):
                continue
            # what was said so far counts as context: one position is scored instead of a turn, and
            # rows at different positions go together
            contexts = [[*turns[row].context, *turns[row].tokens] for row in rows]
            warp = replace(sampling, min_new_tokens=int(phase))
            result[rows] = self.reference.score(contexts, tokens[rows, None], np.ones(len(rows), np.int64), warp)[:, 0]
        if np.isnan(result).any():
            row = int(np.argmax(np.isnan(result)))
            raise NonFiniteError(
                f"the reference policy gave log-prob nan for token {tokens[row]} of episode {self._games[row].number}; "
                "expected a number."
            )
        return np.maximum(result, MIN_LOGPROB).tolist()


class _Row(TokenGame):
    """The game of one row, whose models and reward function are asked by `CoevoVecEnv` for all rows
    at once."""

    @property
    def number(self) -> int:
        return self.episode.index  # type: ignore[union-attr]  # after reset

    @property
    def current(self) -> Any:
        return self.episode.turn  # type: ignore[union-attr]


class _RowView:
    """What SB3 takes for one of many environments: the methods it may call on a row, and the
    attributes that all rows share."""

    def __init__(self, env: CoevoVecEnv, row: int, render_mode: str | None):
        self._env, self._row, self.render_mode = env, row, render_mode

    @property
    def episode(self) -> Any:
        """The `coevo_env.Episode` being played."""
        return self._env._games[self._row].episode

    def action_masks(self) -> np.ndarray:
        """Legal tokens now, bool (V,), as sb3-contrib's MaskablePPO asks for them."""
        return self._env._games[self._row].action_mask(self._env._learner).astype(bool)

    def transcript(self) -> dict[str, Any]:
        """The episode so far as plain data, see `coevo_env.game.transcript`."""
        return self._env._games[self._row].transcript(self._env.possible_agents)

    def render(self) -> Any:
        return shown(self.transcript(), self.render_mode)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also asked for while copying, when there is no environment yet
            raise AttributeError(name)
        return getattr(self._env, name)
