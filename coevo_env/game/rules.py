"""The rules of an episode: one prompt, one turn per seat, then everybody is paid.

One idea: an episode is determined by (rules, episode index, the tokens of each turn). All faces
(AEC, parallel, gymnasium, batched) hold `Episode` objects and ask them the same questions; none has
rules of its own. This module imports neither pettingzoo nor torch, holds no model and never
samples: whatever acts hands it token ids.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from inspect import signature

import numpy as np

from ..errors import ConfigError, real, unknown_name, whole
from ..rng import rng
from .budgets import Budgets
from .kl import KLConfig
from .mixing import mixing_matrix
from .roles import RoleSchedule, make_schedule
from .sampling import Sampling
from .task import Conversation, Prompt, Task, Tokenizer

__all__ = ["CONTROLS", "HEARD", "Episode", "Rules", "Turn"]

VISIBILITY = ("all", "previous", "none", "empty", "shuffled", "own")
CONTROLS = ("empty", "shuffled", "own")
"""What a seat reads that does not hear its partners, through the template of one that does."""
HEARD = ("shuffled", "own")
"""Where a seat reads what no episode knows by itself: whoever plays says it, by `Episode.hear`."""


class Turn:
    """The consecutive tokens of one agent.

    Attributes:
        seat: Order of play, 0 is the pioneer.
        agent: Index of the agent in this seat.
        budget: Tokens that it may have.
        context: Ids the agent conditions on; [] while it has to hear something first.
        tokens: Ids emitted so far, EOS included.
        done: Whether EOS or the token budget ended the turn.
        cut: Whether the budget ended it.
        text: The decoded response, once done.
    """

    __slots__ = ("agent", "budget", "context", "cut", "done", "seat", "text", "tokens")

    def __init__(self, seat: int, agent: int, context: list[int], budget: int):
        self.seat, self.agent, self.context, self.budget = seat, agent, context, budget
        self.tokens: list[int] = []
        self.done = self.cut = False
        self.text = ""


class Rules:
    """Everything about the game that does not change between episodes.

    Args:
        task: Prompts, templates and rewards.
        tokenizer: Text <-> ids.
        num_agents: N >= 1.
        context: What an observer sees of the earlier responses: "all", "previous", or "none" (it
            reads the pioneer's template: the paper's "no knowledge transfer" ablation). As controls
            it reads in its own template "empty", no text; "shuffled", what was said about another
            prompt of the batch; or "own", what it would say itself as the pioneer. The last two
            are played by `coevo_env.BatchEnv` alone.
        roles: A `RoleSchedule`, or a name of `roles.SCHEDULES`.
        exchange_every: Episodes between role exchanges, for schedules given by name.
        group_size: G >= 1 consecutive episodes are about the same prompt, with sampling noise of
            their own.
        mixing: A mode of `mixing.MODES` or an (N, N) matrix in order of play.
        mixing_weight: lambda of the mode "weighted".
        kl: How KL is paid.
        seed: Seed of prompts and roles.
        split: "train", "validation" or "test".
        max_new_tokens, min_new_tokens, max_context: Override the task's; max_new_tokens is the
            token budget of a turn.
        max_new_tokens_low, budget_every: With a low end, the budgets of the turns of `budget_every`
            episodes in a row are drawn, uniformly from it to max_new_tokens, one for each seat.
        temperature: Of behaviour and reference policies alike.
        banned: Ids that are never legal.

    Raises:
        ConfigError: Anything that could not be played.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        *,
        num_agents: int = 2,
        context: str = "all",
        roles: str | RoleSchedule = "periodic",
        exchange_every: int = 1,
        group_size: int = 1,
        mixing: str | np.ndarray = "cooperative",
        mixing_weight: float = 1.0,
        kl: KLConfig | None = None,
        seed: int = 0,
        split: str = "train",
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        max_context: int | None = None,
        max_new_tokens_low: int | None = None,
        budget_every: int = 1,
        temperature: float = 1.0,
        banned: Sequence[int] = (),
    ):
        num_agents = whole("num_agents", num_agents, 1, "1 is ordinary RL fine-tuning")
        if context not in VISIBILITY:
            raise unknown_name("context", context, VISIBILITY)
        if tokenizer.eos_id is None or not 0 <= tokenizer.eos_id < tokenizer.vocab_size:
            raise ConfigError(
                f"the tokenizer's EOS id is {tokenizer.eos_id!r} (vocabulary {tokenizer.vocab_size}); a turn ends with "
                "EOS, so one is needed. "
                "Set `tokenizer.eos_token` before you pass it."
            )
        self.group_size = whole("group_size", group_size, 1, "episodes with the same prompt")
        self.task, self.tokenizer, self.num_agents, self.context = task, tokenizer, num_agents, context
        self.seed = whole("seed", seed, 0)
        self._schedule = (roles, exchange_every)
        self.roles, self._orders = make_schedule(roles, num_agents, exchange_every, self.seed), set[Sequence[int]]()
        self.mixing = mixing_matrix(mixing, self.num_agents, mixing_weight)
        self.kl = kl or KLConfig()
        self.split, self.prompts = split, task.prompts(split)
        self.max_new_tokens = (
            task.max_new_tokens if max_new_tokens is None else whole("max_new_tokens", max_new_tokens, 1)
        )
        self.max_context = task.max_context if max_context is None else whole("max_context", max_context, 1)
        self.vocab_size, self.eos_id = int(tokenizer.vocab_size), int(tokenizer.eos_id)
        self.eos_ids = tuple(int(end) for end in getattr(tokenizer, "eos_ids", (self.eos_id,)))
        self._ends = frozenset(self.eos_ids)
        decode = tokenizer.decode
        self._continues = hasattr(decode, "__code__") and "context" in signature(decode).parameters
        self.sampling = self._sampling(min_new_tokens, temperature, banned)
        low = self.max_new_tokens if max_new_tokens_low is None else max_new_tokens_low
        self.budgets = Budgets(self.max_new_tokens, low, budget_every, self.sampling.min_new_tokens)
        self.terms = {name: value if isinstance(value, tuple) else (1.0, value) for name, value in task.rewards.items()}
        self.joint_terms = {
            name: value if isinstance(value, tuple) else (1.0, value) for name, value in task.joint_rewards.items()
        }
        self._pioneer_contexts: dict[int, list[int]] = {}
        self._block, self._order = -1, np.arange(0)
        self.check_contexts(64)

    def check_contexts(self, count: int | None = None) -> None:
        """Whether the first `count` prompts of the split fit, or all of them. The constructor asks
        for the first 64; who is about to compute for hours asks for all.

        Raises:
            ConfigError: The context of an agent is empty or longer than `max_context` before
                anybody has said anything.
        """
        for index in range(len(self.prompts))[:count]:
            prompt = self.task.prompt(self.split, index)
            self._pioneer_context(index, prompt)
            if self.num_agents > 1 and self.context != "none":
                self._observer_context(prompt, [""])

    def check_alone(self) -> None:
        """Whether an episode can be played by itself, without others of a batch and their players.

        Raises:
            ConfigError: An observer reads what no episode holds.
        """
        if self.context in HEARD and self.num_agents > 1:
            raise ConfigError(
                f"context={self.context!r}: an observer then reads what no episode holds by itself, and here one is "
                "played at a time; expected 'all', 'previous', 'none' or 'empty'. Use coevo_env.BatchEnv for it."
            )

    # ---------------------------------------------------------------- the game
    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of all reward terms, joint ones last."""
        return (*self.terms, *self.joint_terms)

    def prompt_index(self, episode: int) -> int:
        """Which prompt an episode is about: each epoch is its own permutation of the split, drawn
        from the seed and the epoch's number.

        A split of a few prompts has the permutations of several epochs drawn at once, because
        making a generator takes longer.
        """
        size = len(self.prompts)
        epochs = max(1, 64 // size)
        block, position = divmod(int(episode) // self.group_size, epochs * size)
        if block != self._block:
            generator = rng(self.seed, block, stream="prompts")
            self._block, self._order = block, np.concatenate([generator.permutation(size) for _ in range(epochs)])
        return int(self._order[position])

    def reseeded(self, seed: int) -> Rules:
        """The same rules with another seed of prompts and roles. A `RoleSchedule` that was given as
        an object stays as it is; one that was given by name begins anew, without what it has
        observed."""
        rules = copy.copy(self)
        rules.seed, rules._block, rules._order = whole("seed", seed, 0), -1, np.arange(0)
        rules.roles = make_schedule(self._schedule[0], self.num_agents, self._schedule[1], rules.seed)
        return rules

    def seats(self, episode: int) -> Sequence[int]:
        """The agent in each seat, by the role schedule.

        Raises:
            ConfigError: A schedule of one's own gave something else than each agent one seat.
        """
        seats = self.roles.assignment(episode)
        try:
            if seats in self._orders:
                return seats
            if sorted(seats) == list(range(self.num_agents)):
                self._orders.add(seats)
                return seats
        except TypeError:  # neither a tuple nor sortable
            pass
        raise ConfigError(
            f"role schedule {type(self.roles).__name__}: assignment({episode}) returned {seats!r}; expected a tuple "
            "with each of the agents "
            f"0 to {self.num_agents - 1} once, in order of play."
        )

    def start(self, episode: int) -> Episode:
        """Episode number `episode`, with the pioneer's turn begun."""
        return Episode(self, whole("episode", episode, 0))

    def turn_context(self, prompt_index: int, prompt: Prompt, responses: Sequence[str]) -> list[int]:
        """Ids that the next seat reads, given the responses so far, or with context "shuffled" and
        "own" the texts that it hears in their place. The caller must not change the list."""
        if not responses or self.context == "none":
            return self._pioneer_context(prompt_index, prompt)
        seen = {"previous": responses[-1:], "empty": [""]}.get(self.context, responses)
        return self._observer_context(prompt, seen)

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered template as an agent reads it: with the BOS before it that some
        tokenizers want, or as a message of a chat (see `TextTokenizer.render`). A `Conversation`
        goes through the chat template of the model.

        Raises:
            ConfigError: It is a chat, and the tokenizer has no template for one.
        """
        if isinstance(text, Conversation):
            if (encode := getattr(self.tokenizer, "encode_chat", None)) is None:
                raise ConfigError(
                    f"task {self.task.name!r}: its prompts are chat messages, and the tokenizer "
                    f"{type(self.tokenizer).__name__} renders none; expected a language model with a chat template."
                )
            return encode(text.messages)
        return getattr(self.tokenizer, "render", self.tokenizer.encode)(text)

    def text(self, tokens: Sequence[int], context: Sequence[int] = ()) -> str:
        """The text of a response to `context`: what stands before EOS."""
        said = tokens[:-1] if len(tokens) and tokens[-1] in self.eos_ids else tokens
        decode: Callable[..., str] = self.tokenizer.decode
        return self.task.clean(decode(said, context) if self._continues else decode(said))

    # ---------------------------------------------------------------- internals
    def _sampling(self, min_new_tokens: int | None, temperature: float, banned: Sequence[int]) -> Sampling:
        """The warp of the game, under which some token is legal."""
        least = (
            min(self.task.min_new_tokens, self.max_new_tokens)
            if min_new_tokens is None
            else whole("min_new_tokens", min_new_tokens, 0)
        )
        if least > self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens={least}, max_new_tokens={self.max_new_tokens}; expected min_new_tokens <= "
                "max_new_tokens."
            )
        if (temperature := real("temperature", temperature)) <= 0:
            raise ConfigError(
                f"temperature={temperature!r}; expected a number > 0 (greedy decoding has no log-probs to learn from)."
            )
        banned = tuple(whole("banned token", token, 0) for token in banned)
        if banned and max(banned) >= self.vocab_size:
            raise ConfigError(f"banned token {max(banned)}; expected ids in [0, {self.vocab_size}), the vocabulary.")
        sampling = Sampling(temperature, 0, 1.0, least, self.eos_id, banned, self.eos_ids)
        if not sampling.mask(self.vocab_size, 0).any():
            raise ConfigError(
                f"no token of {self.vocab_size} is legal at the start of a response (banned: "
                f"{len(sampling.banned)}, "
                f"min_new_tokens={least}); lower min_new_tokens or ban fewer tokens."
            )
        return sampling

    def _pioneer_context(self, index: int, prompt: Prompt) -> list[int]:
        if index not in self._pioneer_contexts:
            ids = self.encode(self.task.render(prompt))
            if not 0 < len(ids) <= self.max_context:
                raise self._does_not_fit("pioneer", index, prompt, len(ids))
            self._pioneer_contexts[index] = ids
        return self._pioneer_contexts[index]

    def _observer_context(self, prompt: Prompt, responses: Sequence[str]) -> list[int]:
        ids = self.encode(self.task.render(prompt, responses))
        if len(ids) <= self.max_context:
            return ids
        said, last = list(responses), self.tokenizer.encode(responses[-1])
        while (
            len(ids) > self.max_context
        ):  # the end of the partners' text gives way, the last response first, never the prompt
            if last:
                last = last[: max(0, len(last) - (len(ids) - self.max_context))]
                said[-1] = _beginning(said[-1], self.tokenizer.decode(last))
            elif len(said) > 1:
                last = self.tokenizer.encode(said[-2])
                said.pop()
            else:
                raise self._does_not_fit("observer", None, prompt, len(ids))
            ids = self.encode(self.task.render(prompt, said))
        return ids

    def _does_not_fit(self, role: str, index: int | None, prompt: Prompt, length: int) -> ConfigError:
        which = "" if index is None else f" {index}"
        return ConfigError(
            f"task {self.task.name!r}: the {role}'s context for prompt{which} {str(prompt)[:60]!r} has {length} tokens "
            "without any response; "
            f"expected 1 to max_context={self.max_context}. Raise max_context or shorten the prompt."
        )


def _list(ids: Sequence[int]) -> str:
    return " or ".join(map(str, ids))


def _beginning(text: str, decoded: str) -> str:
    """What is left of a text when only its first ids are, which were decoded without what stood
    before them: some tokenizers then leave out the space in front."""
    space = text[: len(text) - len(text.lstrip())]
    return decoded if text.startswith(decoded) or not text.startswith(space + decoded) else space + decoded


class Episode:
    """One prompt and every agent's turn. Seats play in order; `append` one token at a time or
    `take` a whole turn.

    Attributes:
        index: The episode number.
        prompt_index, prompt: What the episode is about.
        seats: `seats[k]` is the agent in seat k.
        turns: Begun turns, in order of play; the last one is current until `done`.
        done: Whether every turn has ended.
    """

    __slots__ = ("done", "index", "prompt", "prompt_index", "rules", "seats", "turns")

    def __init__(self, rules: Rules, index: int):
        self.rules, self.index = rules, index
        self.prompt_index = rules.prompt_index(index)
        self.prompt = rules.task.prompt(rules.split, self.prompt_index)
        self.seats = rules.seats(index)
        self.turns: list[Turn] = []
        self.done = False
        self._begin()

    @property
    def turn(self) -> Turn:
        """The current turn (the last one when the episode is done)."""
        return self.turns[-1]

    @property
    def responses(self) -> list[str]:
        """Texts of the finished turns."""
        return [turn.text for turn in self.turns if turn.done]

    def append(self, token: int) -> bool:
        """Plays one token; returns whether it ended the turn (the next turn is begun then, or the
        episode is done)."""
        turn = self.turns[-1]
        turn.tokens.append(token)
        ended = token in self.rules.eos_ids
        if not ended and len(turn.tokens) < turn.budget:
            return False
        self._end(turn, cut=not ended)
        return True

    def take(self, tokens: list[int]) -> None:
        """Plays a whole turn: 1 to `budget` ids, of which only the last may be EOS, and is
        unless the budget is full.

        Raises:
            ConfigError: The tokens are not one whole turn.
        """
        rules, length, eos = self.rules, len(tokens), self.rules.eos_ids
        turn = self.turns[-1]
        ended = length > 0 and tokens[-1] in eos
        if turn.tokens or self.done or not 0 < length <= turn.budget or not (ended or length == turn.budget):
            raise ConfigError(
                f"episode {self.index}, seat {turn.seat}: got a turn of {length} "
                f"tokens{'' if ended else ' without EOS'}; expected 1 to "
                f"{turn.budget} tokens that end with EOS ({_list(eos)}) or fill the budget, at the start of a "
                "turn."
            )
        if not rules._ends.isdisjoint(tokens[:-1]) or min(tokens) < 0 or max(tokens) >= rules.vocab_size:
            raise ConfigError(
                f"episode {self.index}, seat {turn.seat}: got tokens {tokens}; expected ids in [0, {rules.vocab_size}) "
                f"with EOS ({_list(eos)}) "
                "only at the end."
            )
        turn.tokens = tokens
        self._end(turn, cut=not ended)

    def hear(self, texts: Sequence[str]) -> None:
        """Says what the current turn reads where that is not the responses before it: with context
        "shuffled" those of another episode, with "own" what the agent would say itself.

        Raises:
            ConfigError: The turn reads something else, or has begun.
        """
        turn = self.turns[-1]
        if self.rules.context not in HEARD or not turn.seat or turn.tokens or self.done:
            raise ConfigError(
                f"episode {self.index}, seat {turn.seat}: was told what to read; expected that before the first token "
                f"of an observer, with context {' or '.join(map(repr, HEARD))}; it is {self.rules.context!r}."
            )
        turn.context = self.rules.turn_context(self.prompt_index, self.prompt, texts)

    def rewind(self, seat: int) -> None:
        """Goes back to the start of a turn that was begun, as if nothing had been played since."""
        turn = self.turns[seat]
        self.turns = [*self.turns[:seat], Turn(seat, turn.agent, turn.context, turn.budget)]
        self.done = False

    def _begin(self) -> None:
        seat, rules = len(self.turns), self.rules
        context: list[int] = []
        if not seat or rules.context not in HEARD:
            context = rules.turn_context(self.prompt_index, self.prompt, [turn.text for turn in self.turns])
        self.turns.append(Turn(seat, self.seats[seat], context, rules.budgets.of(rules.seed, self.index, seat)))

    def _end(self, turn: Turn, cut: bool) -> None:
        turn.done, turn.cut, turn.text = True, cut, self.rules.text(turn.tokens, turn.context)
        if turn.seat + 1 < self.rules.num_agents:
            self._begin()
        else:
            self.done = True
