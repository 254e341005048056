"""Properties of the rules that hold for every game, seed and sequence of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_env.errors import ConfigError, NonFiniteError, RewardError
from coevo_env.game.kl import KLConfig
from coevo_env.game.reference import IntTokenizer
from coevo_env.game.rules import Rules
from coevo_env.game.sampling import Sampling
from coevo_env.game.scoring import score
from coevo_env.game.task import Prompt, Task
from coevo_env.rng import rng, uniforms
from coevo_env.tasks import make_task

V, T = 5, 4


def words(prompts, responses):
    return [float(len(response.split())) for response in responses]


def total(prompts, responses):
    return [
        float(sum(map(int, response.split()))) - float(prompt)
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def make(prompts: int = 3, rewards=None, tokenizer=None, **options) -> Rules:
    fields = {name: options.pop(name) for name in ("templates", "separator", "stop_at_newline") if name in options}
    task = Task(
        name="probe",
        train=[str(i % (V - 1)) for i in range(prompts)],
        test=["4"],
        rewards=rewards or {"words": words, "total": (0.5, total)},
        max_new_tokens=T,
        max_context=options.pop("max_context", 32),
        **{"templates": {"pioneer": "{prompt}", "observer": "{responses} {prompt}"}, **fields},
    )
    return Rules(task, tokenizer or IntTokenizer(V), kl=KLConfig(mode="off"), **options)


turns = st.lists(st.lists(st.integers(1, V - 1), max_size=T), min_size=3, max_size=3)


def whole(ids: list[int]) -> list[int]:
    """A turn: EOS unless the budget is full."""
    return ids if len(ids) == T else [*ids, 0]


@given(
    turns,
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["all", "previous", "none"]),
    st.sampled_from(["periodic", "rotation", "random", "never"]),
    st.integers(0, 40),
)
def test_append_and_take_play_the_same_game(rows, agents, context, roles, index):
    rules = make(num_agents=agents, context=context, roles=roles, seed=3)
    one, two = rules.start(index), rules.start(index)
    for row in rows[:agents]:
        row = whole(row)
        two.take(list(row))
        assert [one.append(token) for token in row] == [False] * (len(row) - 1) + [True]
    assert one.done and two.done
    for a, b in zip(one.turns, two.turns, strict=True):
        fields = ("agent", "context", "cut", "done", "seat", "text", "tokens")
        assert [getattr(a, name) for name in fields] == [getattr(b, name) for name in fields]
    scores = score(rules, [one, two])
    assert (scores.team[0] == scores.team[1]).all()
    assert one.responses == [" ".join(map(str, row)) for row in rows[:agents]]
    assert [turn.cut for turn in one.turns] == [len(row) == T for row in rows[:agents]]
    assert [turn.agent for turn in one.turns] == list(rules.roles.assignment(index))


@given(turns, st.sampled_from(["cooperative", "own", "weighted", "competitive"]), st.integers(0, 20))
def test_team_is_the_matrix_times_task(rows, mode, index):
    rules = make(num_agents=3, mixing=mode, mixing_weight=0.3)
    episode = rules.start(index)
    for row in rows:
        episode.take(whole(row))
    scores = score(rules, [episode])
    prompt = float(episode.prompt)
    by_hand = [len(row) + 0.5 * (sum(row) - prompt) for row in rows]
    assert scores.task[0] == pytest.approx(by_hand)
    assert scores.terms["words"][0].tolist() == [len(row) for row in rows]
    assert scores.terms["total"][0] == pytest.approx([sum(row) - prompt for row in rows])
    everything = sum(by_hand)
    expected = {
        "cooperative": [everything] * 3,
        "own": by_hand,
        "weighted": [0.7 * own + 0.3 * everything for own in by_hand],
        "competitive": [1.5 * own - 0.5 * everything for own in by_hand],
    }[mode]
    assert scores.team[0] == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 17), st.integers(0, 2**60), st.integers(0, 50))
def test_every_epoch_is_its_own_permutation_of_the_prompts(count, seed, epoch):
    rules = make(prompts=count, seed=seed)
    order = [rules.prompt_index(epoch * count + i) for i in range(count)]
    assert sorted(order) == list(range(count))
    assert [make(prompts=count, seed=seed).prompt_index(epoch * count + i) for i in range(count)] == order


def test_epochs_and_seeds_differ():
    rules = make(prompts=17)
    orders = [tuple(rules.prompt_index(epoch * 17 + i) for i in range(17)) for epoch in range(4)]
    orders.append(tuple(rules.reseeded(1).prompt_index(i) for i in range(17)))
    assert len(set(orders)) == 5


@given(st.integers(0, 2**60), st.integers(0, 100))
def test_reseeded_rules_are_rules_with_that_seed(seed, index):
    fresh, again = make(prompts=7, roles="random", seed=seed), make(prompts=7, roles="random", seed=1).reseeded(seed)
    a, b = fresh.start(index), again.start(index)
    assert (a.prompt_index, a.seats, a.prompt) == (b.prompt_index, b.seats, b.prompt)


@pytest.mark.parametrize(
    ("context", "third"),
    [("all", [1, 2, 3, 4]), ("previous", [3, 4]), ("none", [4])],
)
def test_what_an_observer_sees(context, third):
    rules = make(prompts=1, context=context, num_agents=3, split="test")
    episode = rules.start(0)
    episode.take([1, 2, 0])
    assert episode.turn.context == ([4] if context == "none" else [1, 2, 4])
    episode.take([3, 0])
    assert episode.turn.context == third


@given(turns, st.integers(2, 10))
def test_clipping_keeps_the_prompt_and_the_beginning_of_the_partners_text(rows, longest):
    rules = make(max_context=longest, num_agents=3, split="test")
    episode = rules.start(0)
    seen: list[int] = []
    for row in rows:
        context = episode.turn.context
        assert context == [*seen[: longest - 1], 4]
        episode.take(whole(row))
        seen += row


@given(turns, st.integers(3, 12))
def test_clipping_keeps_what_stands_between_the_responses(rows, longest):
    class Marked(IntTokenizer):  # the separator is a special token: encoded, but never decoded
        def encode(self, text):
            return super().encode(text.replace("|", str(V - 1)))

        def decode(self, ids):
            return super().decode([i for i in ids if i != V - 1])

    rows = [[i for i in row if i != V - 1] for row in rows]
    rules = make(max_context=longest, num_agents=3, split="test", separator=" | ", tokenizer=Marked(V))
    episode = rules.start(0)
    for row in rows[:2]:
        episode.take(whole(row))
    first, second = rows[0], rows[1]
    if len(first) + 1 + 1 <= longest:  # the separator has room, so it is there
        assert episode.turn.context == [*first, V - 1, *second[: longest - len(first) - 2], V - 1]
    else:
        assert episode.turn.context == [*first[: longest - 1], V - 1]


def test_the_text_of_a_response_may_end_at_its_first_line_break():
    class Lines(IntTokenizer):
        def decode(self, ids):
            return " ".join("\n" if i == 3 else str(i) for i in ids)

    rules = make(stop_at_newline=True, tokenizer=Lines(V))
    assert rules.text([1, 2, 3, 4]) == "1 2 "
    assert rules.text([3, 0]) == ""


@settings(max_examples=200)
@given(st.integers(1, 12), st.integers(0, 6), st.sets(st.integers(0, 11)), st.integers(0, 11))
def test_a_game_either_has_legal_tokens_everywhere_or_is_refused(vocab, minimum, banned, eos):
    eos, banned = eos % vocab, {i for i in banned if i < vocab}
    try:
        rules = make(
            tokenizer=IntTokenizer(vocab, eos),
            prompts=1,
            split="train",
            min_new_tokens=min(minimum, T),
            banned=sorted(banned),
            num_agents=1,
        )
    except ConfigError:
        assert eos in banned or len(banned | {eos}) == vocab
        return
    for position in range(T):
        mask = rules.sampling.mask(vocab, position)
        assert mask.any()
        assert mask[eos] == (position >= rules.sampling.min_new_tokens)
        assert not mask[sorted(banned)].any()
        assert mask.dtype == np.int8
        assert set(np.flatnonzero(mask == 0)) == set(rules.sampling.illegal(position))


def test_randomness_is_a_function_of_its_counters():
    before = np.random.get_state()[1].copy()
    alone = uniforms(3, [7], 1, 5)[0]
    assert (uniforms(3, [5, 6, 7], 1, 5)[2] == alone).all()
    assert (uniforms(3, [7], 0, 5)[0] != alone).all()
    assert rng(0, 1, stream="roles").random() != rng(0, 1, stream="tokens").random()
    assert (np.random.get_state()[1] == before).all()


# ---------------------------------------------------------------- what goes wrong
@pytest.mark.parametrize("row", [[], [1], [0, 1], [1, 0, 2, 3], [1, 2, 3, 4, 0], [1, 9, 0], [-1, 0]])
def test_take_refuses_what_is_not_a_turn(row):
    episode = make().start(0)
    with pytest.raises(ConfigError, match="episode 0, seat 0"):
        episode.take(row)
    assert episode.turn.tokens == []
    episode.take([1, 0])  # and nothing was played


def finish(rules: Rules):
    episode = rules.start(0)
    while not episode.done:
        episode.take([1, 0])
    return score(rules, [episode])


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        (lambda p, r: [1.0], RewardError, "returned 1 values for 2 responses"),
        (lambda p, r: 3.0, RewardError, "returned float"),
        (lambda p, r: ["1.0", "2.0"], RewardError, "'1.0', a str"),
        (lambda p, r: [None, 1.0], RewardError, "NoneType"),
        (lambda p, r: [1.0, float("nan")], NonFiniteError, "returned nan for the response '1' to prompt"),
        (lambda p, r: [float("inf"), 1.0], NonFiniteError, "returned inf"),
        (lambda p, r: 1 / 0, RewardError, "raised ZeroDivisionError"),
    ],
)
def test_bad_rewards_are_named(reward, error, message):
    with pytest.raises(error, match=message) as caught:
        finish(make(rewards={"fine": words, "mine": reward}))
    assert "task 'probe', reward 'mine'" in str(caught.value)


def test_rewards_that_overflow_by_their_weight_are_named():
    with pytest.raises(
        NonFiniteError, match=r"task 'probe': the weighted sum .* response '1' to prompt .* smaller weights"
    ):
        finish(make(rewards={"huge": (1e308, lambda p, r: [1e10] * len(r))}))


@pytest.mark.parametrize(
    ("seats", "agents"),
    [((0, 0), 2), ((0, 1, 2), 2), ((0,), 2), ((1, 2), 2), (None, 2), ([1, 0], 2), (("a", 0), 2), (3, 1)],
)
def test_a_schedule_that_seats_nobody_or_somebody_twice_is_refused(seats, agents):
    class Mine:
        def assignment(self, episode):
            return seats if episode else tuple(range(agents))

    rules = make(roles=Mine(), num_agents=agents)
    rules.start(0)
    with pytest.raises(
        ConfigError, match=r"role schedule Mine: assignment\(1\) returned .* expected a tuple with each of the agents"
    ):
        rules.start(1)


def test_rewards_may_be_any_numbers():
    scores = finish(make(rewards={"mine": lambda p, r: np.array([1, 2], np.int32)}))
    assert scores.task.tolist() == [[1.0, 2.0]]


class NoEos(IntTokenizer):
    def __init__(self):
        super().__init__(V)
        self.eos_id = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_agents": 0}, "num_agents=0"),
        ({"num_agents": 1.5}, "num_agents=1.5"),
        ({"context": "last"}, "unknown context 'last'"),
        ({"split": "valid"}, "unknown split"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"min_new_tokens": 9}, "min_new_tokens=9"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"num_agents": 2.0}, "num_agents=2.0"),
        ({"num_agents": None}, "num_agents=None"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5; expected a whole number >= 1"),
        ({"min_new_tokens": 0.9}, "min_new_tokens=0.9"),
        ({"max_context": "9"}, "max_context='9'"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"exchange_every": "x"}, "exchange_every='x'"),
        ({"banned": (9,)}, "banned token 9"),
        ({"mixing": [[1, "a"], [0, 1]]}, "a matrix of numbers"),
        ({"mixing": [[1, 2], [3]]}, "a matrix of numbers"),
        ({"rewards": {"mine": (float("nan"), words)}}, "the weight of reward 'mine'=nan"),
        ({"rewards": {"mine": ("2", words)}}, "the weight of reward 'mine'='2'"),
        ({"rewards": {"mine": (1.0, words, 3)}}, "a pair (weight, function)"),
        ({"rewards": [words]}, "expected named terms"),
        ({"rewards": words}, "expected named terms"),
        ({"banned": (0,)}, "EOS and banned"),
        ({"banned": (1, 2, 3, 4)}, "no token of 5 is legal"),
        ({"tokenizer": NoEos()}, "EOS"),
        ({"max_context": 0}, "max_context=0"),
        (
            {"templates": {"pioneer": "{prompt}", "observer": "1 1 1 {responses} {prompt}"}, "max_context": 3},
            "observer's context",
        ),
        (
            {"templates": {"pioneer": "1 1 1 {prompt}", "observer": "{responses} {prompt}"}, "max_context": 3},
            "pioneer's context",
        ),
        ({"templates": {"pioneer": "{prompt}", "observer": "{prompt}"}}, "lacks {responses}"),
        (
            {"templates": {"pioneer": "{prompt} {responses}", "observer": "{responses} {prompt}"}},
            "only {prompt} can be filled",
        ),
        ({"templates": {"pioneer": "{prompt"}}, "not a format string"),
    ],
)
def test_what_cannot_be_played_is_refused_at_construction(options, message):
    with pytest.raises(ConfigError) as caught:
        make(**options)
    assert message in str(caught.value)


def test_tasks_by_name():
    assert make_task("toy").name == "toy"
    with pytest.raises(ConfigError, match="Did you mean 'toy'"):
        make_task("toys")
    with pytest.raises(ConfigError, match="could not be imported"):
        make_task("no.such.module:task")
    with pytest.raises(ConfigError, match="Its options are"):
        make_task("toy", colour="red")
    for wrong in (3, None):
        with pytest.raises(ConfigError, match=f"task {wrong}; expected a coevo_env.Task, or a name"):
            make_task(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give options only with a name"):
        make_task(make_task("toy"), vocab_size=3)


def test_prompts_are_lists_of_text():
    with pytest.raises(ConfigError, match="train split is the text 'abc'; expected a list of prompts"):
        Task(name="t", train="abc", test=["b"], rewards={"words": words})
    for wrong in (3, None, b"x"):
        with pytest.raises(ConfigError, match=r"prompt 1 of the train split is .*; expected text"):
            Rules(Task(name="t", train=["1", wrong], test=["1"], rewards={"words": words}), IntTokenizer(V))  # type: ignore[list-item]


def test_a_misspelt_option_says_what_is_known():
    from coevo_env import BatchEnv, GymEnv, env

    with pytest.raises(
        ConfigError, match=r"unknown option 'rolse': expected one of num_agents, .* Did you mean 'roles'"
    ):
        env(task="toy", rolse="never")
    with pytest.raises(ConfigError, match="unknown option 'num_agnets'"):
        GymEnv(task="toy", num_agnets=3)
    with pytest.raises(ConfigError, match=r"expected the name of a mode, such as 'reported', or a coevo_env.KLConfig"):
        env(task="toy", kl={"mode": "off"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size='toy'"):
        BatchEnv("toy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="KL beta='a'; expected a finite number >= 0"):
        KLConfig(beta="a")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="episode=-5"):
        BatchEnv(2, task="toy").reset(-5)


def test_a_prompt_is_a_string_that_survives_pickling():
    import pickle

    prompt = pickle.loads(pickle.dumps(Prompt("2+3=", answer="5", info={"source": "hand"})))
    assert (prompt, prompt.answer, prompt.info) == ("2+3=", "5", {"source": "hand"})
    assert prompt.upper() == "2+3="


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"top_k": -1}, {"top_k": 1.5}, {"top_p": 0.0}, {"top_p": 1.1}, {"banned": (0,)}]
)
def test_sampling_refuses(options):
    with pytest.raises(ConfigError):
        Sampling(**options)
