"""How rewards are called: arguments by name, coroutines, threads, a cache, a timeout, and names
for those who write none."""

from __future__ import annotations

import asyncio
import functools
import itertools
import pickle
import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_env.errors import ConfigError, RewardError, RewardTimeout
from coevo_env.faces.batch import BatchEnv
from coevo_env.game.arguments import in_order
from coevo_env.game.kl import KLConfig
from coevo_env.game.task import Prompt, Task
from coevo_env.rewards import REWARDS, call, lexicon_sentiment, make_reward
from coevo_env.tasks import toy
from coevo_env.testing import check_joint_reward, check_reward

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [Prompt("one", answer="1", info={"label": 10}), Prompt("three", answer="3", info={"label": 30})]
SAID = ["a", "bb"]


def called(function, prompt=PROMPTS[0]):
    """What a reward is given, told by itself."""
    return in_order("reward", function, prompt)(PROMPTS, SAID)


# ---------------------------------------------------------------- names
BY_NAME = {
    "in order": lambda prompts, responses: (prompts, responses),
    "in the other order": lambda completions, prompts: (prompts, completions),
    "other words": lambda outputs, queries: (queries, outputs),
    "singular": lambda completion, question: (question, completion),
    "letters": lambda p, r: (p, r),
    "the second says so": lambda batch, texts: (batch, texts),
    "the first says so": lambda questions, words: (questions, words),
    "answers to questions": lambda answers, questions: (questions, answers),
    "keywords": lambda *, responses, prompts: (prompts, responses),
    "marked as unused": lambda _prompts, responses: (_prompts, responses),
    "defaults": lambda completions, prompts, scale=2: (prompts, completions) if scale == 2 else None,
    "a partial": functools.partial(lambda scale, completions, prompts: (prompts, completions), 3),
    "all of TRL's": lambda **kwargs: (kwargs["prompts"], kwargs["completions"]),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_arguments_go_by_name(name):
    assert tuple(called(BY_NAME[name])) == (PROMPTS, SAID)


def test_every_order_of_names_is_the_same_reward():
    for order in itertools.permutations(["prompts", "completions", "label", "answer"]):
        space: dict = {}
        exec(f"def reward({', '.join(order)}): return prompts, completions, label, answer", space)
        assert called(space["reward"]) == (PROMPTS, SAID, [10, 30], ["1", "3"]), order


def _decorated(function, kind):
    def by_place(*args):
        return function(*args)

    def by_any(*args, **kwargs):
        return function(*args, **kwargs)

    return functools.wraps(function)(by_any) if kind == "wraps" else {"args": by_place, "kwargs": by_any}[kind]


@pytest.mark.parametrize("kind", ["args", "kwargs", "wraps"])
@pytest.mark.parametrize("order", list(itertools.permutations(["prompts", "completions", "label", "answer"])))
def test_a_decorated_reward_is_given_the_right_texts_or_none(order, kind):
    """The fault: a decorator hid the names, so `(completions, prompts)` scored the prompts."""
    space: dict = {}
    exec(f"def reward({', '.join(order)}): return prompts, completions, label, answer", space)
    if kind == "args":
        with pytest.raises(ConfigError, match="does not say"):
            called(_decorated(space["reward"], kind))
    else:
        assert called(_decorated(space["reward"], kind)) == (PROMPTS, SAID, [10, 30], ["1", "3"])


@settings(max_examples=300, deadline=None)
@given(
    order=st.permutations(["prompts", "completions", "label", "level", "answer"]),
    optional=st.sets(st.sampled_from(["label", "level", "answer"])),
    slash=st.integers(0, 5),
    star=st.integers(0, 5),
    rest=st.booleans(),
    bind=st.sets(st.sampled_from(["label", "level", "answer", "scale"])),
    wrapped=st.booleans(),
)
def test_every_signature_is_given_what_is_bound_then_columns_then_defaults(
    order, optional, slash, star, rest, bind, wrapped
):
    """The faults: a column won against what partial() had bound, and a default by place alone was a
    TypeError. The oracle is the rule, in the order of this test's name."""
    optional |= {"level"} - bind  # PROMPTS have a label and an answer, and no level
    order = sorted(order, key=lambda name: name in optional)
    places, named = order[: max(slash, star)], order[max(slash, star) :]
    parts = [f"{name}='default'" if name in optional else name for name in places]
    parts[slash:slash] = ["/"] if 0 < slash <= len(parts) else []
    parts += ["*", *(f"{name}=None" if name in optional else name for name in named)] if named else []
    space: dict = {}
    exec(f"def reward({', '.join(parts + ['**rest'] * rest)}): return dict(locals())", space)
    bind = bind - {*order[:slash]} - (set() if rest else {"scale"})
    if "level" in order[:slash] and "level" not in optional:
        return  # nothing can give it
    function = functools.partial(space["reward"], **dict.fromkeys(bind, "bound")) if bind else space["reward"]
    got = called(functools.wraps(function)(lambda *a, **k: function(*a, **k)) if wrapped else function)
    got |= got.pop("rest", {})
    given = {"prompts": PROMPTS, "completions": SAID, "label": [10, 30], "answer": ["1", "3"]}
    default = {name: "default" if name in places else None for name in optional}
    assert got == {**default, **given, **dict.fromkeys(bind, "bound")}


def test_columns():
    assert called(lambda completions, label: label) == [10, 30]
    assert called(lambda completions, **rest: rest) == {"label": [10, 30], "answer": ["1", "3"], "prompts": PROMPTS}
    assert called(lambda completions, label=None: label) == [10, 30]
    assert called(lambda completions, level=7: level) == 7
    # a parameter with the name of a column is the column, and not another word for the prompts
    data = Prompt("a", info={"question": "b"})
    assert in_order("reward", lambda completions, question: question, data)([data], ["x"]) == ["b"]


def test_prompts_with_other_columns_are_asked_about_apart():
    calls = []

    def reward(completions, level=5):
        calls.append(level)
        return [len(c) + (level if isinstance(level, int) else level[i]) for i, c in enumerate(completions)]

    prompts = [Prompt("a", info={"level": 1}), Prompt("b"), Prompt("c", info={"level": 3})]
    assert in_order("r", reward, prompts[0])(prompts, ["x", "xx", "xxx"]) == [2, 7, 6]
    assert calls == [[1, 3], 5]
    with pytest.raises(RewardError, match=r"the prompt 'b' has no column 'level'.*it has none"):
        in_order("r", lambda completions, level: level, prompts[0])(prompts, ["x"] * 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a, b: b, "its parameters are a, b, which do not say"),
        (lambda *args: args[1], r"it takes \*args, which does not say .* functools\.wraps"),
        (lambda prompts: prompts, "its parameters are prompts, which do not say"),
        (lambda prompts, answer: answer, "its parameters are prompts, answer, which do not say"),
        (lambda completions, responses: responses, "'responses', which is neither|do not say"),
        (lambda completions, lable: lable, "unknown column 'lable'.*Did you mean 'label'"),
        (lambda prompts, completions, completion_ids: 0, "'completion_ids' asks for tokens"),
    ],
)
def test_names_that_do_not_say_what_is_what(function, message):
    for make in (
        lambda: in_order("reward", function, PROMPTS[0]),
        lambda: Task(name="t", train=PROMPTS, test=["t"], rewards={"mine": function}),
        lambda: Task(name="t", train=PROMPTS, test=["t"], joint_rewards={"mine": (0.5, function)}),
        lambda: check_reward(function, PROMPTS, SAID),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_a_task_calls_rewards_by_name():
    """The fault: `reward(completions, prompts)` scored the prompts, and the check passed."""

    def tokens(completions, prompts):
        return [float(len(text.split())) for text in completions]

    def joint(completions, prompts):
        return [[float(len(text.split())) for text in texts] for texts in completions]

    task = Task(**{**vars(toy.task()), "rewards": {"own": (2.0, tokens)}, "joint_rewards": {"all": joint}})
    game = BatchEnv(2, task, kl=KLConfig(mode="off"), roles="never")
    while game.begin_turn() is not None:
        game.submit_turn([[1, 2, 0]] * 2, [3] * 2, [[0.0] * 3] * 2)
    assert game.scores is not None
    assert game.scores.terms["own"].tolist() == game.scores.terms["all"].tolist() == [[2.0, 2.0]] * 2
    assert game.scores.task.tolist() == [[6.0, 6.0]] * 2
    assert "deterministic" in check_reward(tokens) and "an agent alone" in check_joint_reward(joint)
    assert Task(**{**vars(toy.task()), "rewards": {"mood": lexicon_sentiment}}).rewards["mood"] is lexicon_sentiment


# ---------------------------------------------------------------- coroutines, threads
async def slowly(completions, prompts, answer):
    await asyncio.sleep(0.01)
    return [float(len(text) + int(gold)) for text, gold in zip(completions, answer, strict=True)]


def test_a_coroutine_function_is_a_reward():
    assert called(slowly) == [2.0, 5.0]
    task = Task(name="t", train=PROMPTS, test=["t"], rewards={"slow": slowly})
    assert task.rewards["slow"](PROMPTS, SAID) == [2.0, 5.0]

    async def inside():  # a notebook runs a loop already
        return task.rewards["slow"](PROMPTS, SAID)

    assert asyncio.run(inside()) == [2.0, 5.0]


def test_coroutines_share_one_loop_for_ever():
    loops = []

    async def reward(prompts, responses):
        loops.append(asyncio.get_running_loop())
        return [0.0] * len(responses)

    for function in (in_order("r", reward), call(reward), call(reward)):
        function(PROMPTS, SAID)
    assert len(set(map(id, loops))) == 1 and len(loops) == 5


@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_parallel_values_are_those_of_one_call_and_never_more_at_a_time(workers, asynchronous, batch_size):
    now, most, lock = [0], [0], threading.Lock()

    def enter(step):
        with lock:
            now[0] += step
            most[0] = max(most[0], now[0])

    def value(prompts, responses):
        assert len(responses) <= batch_size
        return [len(p) + 0.1 * int(r) for p, r in zip(prompts, responses, strict=True)]

    def threaded(responses, prompts):
        enter(1)
        time.sleep(0.005)
        enter(-1)
        return value(prompts, responses)

    async def awaited(responses, prompts):
        enter(1)
        await asyncio.sleep(0.005)
        enter(-1)
        return value(prompts, responses)

    prompts, said = ["p" * (i % 3) for i in range(40)], [str(i) for i in range(40)]
    reward = call(awaited if asynchronous else threaded, workers=workers, batch_size=batch_size)
    assert reward(prompts, said) == [len(p) + 0.1 * int(r) for p, r in zip(prompts, said, strict=True)]
    assert 1 <= most[0] <= workers and (workers == 1 or most[0] > 1)


def test_equal_pairs_are_asked_about_once():
    asked = []

    def reward(prompts, responses):
        asked.extend(zip(prompts, responses, strict=True))
        return [float(len(asked))] * len(responses)

    once = call(reward, workers=1)
    first = once(["a", "b", "a"], ["x", "x", "x"])
    assert first[0] == first[2] != first[1] and len(asked) == 2
    assert once(["b", "a"], ["x", "x"]) == first[1::-1] and len(asked) == 2
    # other answers and other columns are other prompts, though their texts are equal
    others = [Prompt("a", answer="1"), Prompt("a", answer="2"), Prompt("a", info={"k": 1}), Prompt("a", earlier=[])]
    assert len(set(once(others, ["x"] * 4))) == 4 and len(asked) == 6
    assert once(others, ["x"] * 4) == [3.0, 4.0, 5.0, 6.0]
    asked.clear()
    always = call(reward, workers=1, cache=False)
    always(["a", "a"], ["x", "x"])
    always(["a", "a"], ["x", "x"])
    assert len(asked) == 4
    copy = pickle.loads(pickle.dumps(call(lexicon_sentiment)))
    assert copy(["it was"], ["great"]) == lexicon_sentiment(["it was"], ["great"])


def test_values_do_not_depend_on_the_cache_to_the_bit():
    """A function whose values depend on its batch by rounding, as those of neural classifiers."""

    def rounding(prompts, responses):
        return [float(len(text)) + 1e-9 * len(responses) for text in responses]

    said = ["a", "bb", "a", "ccc"]
    one, alone = call(rounding), [1 + 1e-9, 2 + 1e-9, 1 + 1e-9, 3 + 1e-9]
    assert one(["p"] * 4, said) == call(rounding, cache=False, workers=1)(["p"] * 4, said) == alone
    assert one(["p"] * 2, said[2:]) == [1 + 1e-9, 3 + 1e-9]


# ---------------------------------------------------------------- timeout, errors
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_a_timeout_is_a_clear_error_that_keeps_what_was_computed(asynchronous, cache):
    asked, hold = [], {"on": True}

    def threaded(prompts, responses):
        asked.extend(responses)
        while hold["on"] and responses == ["hangs"]:
            time.sleep(0.01)
        return [float(len(r)) for r in responses]

    async def awaited(prompts, responses):
        asked.extend(responses)
        while hold["on"] and responses == ["hangs"]:
            await asyncio.sleep(0.01)
        return [float(len(r)) for r in responses]

    said = ["a", "bb", "hangs", "ccc"]
    reward = call(awaited if asynchronous else threaded, workers=2, cache=cache, timeout=0.5)
    began = time.monotonic()
    with pytest.raises(RewardTimeout, match=r"3 values of 4 responses were there after 0\.5 s\. They are kept"):
        reward(["p"] * 4, said)
    assert time.monotonic() - began < 5
    hold["on"] = False
    time.sleep(0.05)  # the thread that hung may still end, and what it computed is right
    assert reward(["p"] * 4, said) == [1.0, 2.0, 5.0, 3.0]
    assert sorted(set(asked)) == sorted(said) and asked.count("a") == asked.count("ccc") == 1


def test_a_timeout_in_a_game_names_the_term_and_is_not_repeated_row_by_row():
    def hangs(prompts, responses):
        time.sleep(0.3)
        return [0.0] * len(responses)

    task = Task(**{**vars(toy.task()), "rewards": {"slow": call(hangs, timeout=0.05)}})
    game = BatchEnv(8, task, num_agents=1, kl=KLConfig(mode="off"))
    game.begin_turn()
    began = time.monotonic()
    with pytest.raises(RewardTimeout, match=r"task 'toy', reward 'slow': 0 values of 8 responses"):
        game.submit_turn([[0, 0, 0]] * 8, [1] * 8, [[0.0] * 3] * 8)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_errors_of_the_function_come_through(asynchronous):
    def threaded(prompts, responses):
        raise {"a": KeyError("mine"), "b": asyncio.TimeoutError("its own")}[responses[0]]

    async def awaited(prompts, responses):
        threaded(prompts, responses)

    reward = call(awaited if asynchronous else threaded, timeout=30)
    with pytest.raises(KeyError, match="mine"):
        reward(["p"], ["a"])
    with pytest.raises(asyncio.TimeoutError, match="its own"):
        reward(["p"], ["b"])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("value", [[1.0, 2.0], [], 1.0, "ab", None])
def test_a_wrong_number_of_values_is_an_error(workers, value):
    with pytest.raises(RewardError, match=r"returned .* for 1 responses; expected a list of one float for each"):
        call(lambda prompts, responses: value, workers=workers)(["p"] * 3, ["a", "b", "c"])


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"workers": 1.5}, {"batch_size": 0}, {"timeout": 0}, {"timeout": "x"}, {"cache": 1}]
)
def test_options_of_a_call(options):
    with pytest.raises(ConfigError, match=f"call: {next(iter(options))}="):
        call(lexicon_sentiment, **options)
    with pytest.raises(ConfigError, match="expected a function"):
        call(3)  # type: ignore[arg-type]


# ---------------------------------------------------------------- names of rewards
@pytest.fixture
def spelled(tmp_path):
    """For each name a way to ask for it."""
    tfidf = pytest.importorskip("coevo_env.assets.tfidf").TfidfClassifier
    tfidf(["great"], [1.0], [2.0], 0.0).save(tmp_path)
    return {
        "exact": "exact",
        "number": "number",
        "regex": "regex:[0-9]",
        "length": "length:3",
        "lexicon": "lexicon",
        "tfidf": f"tfidf:{tmp_path}",
    }


@pytest.mark.parametrize("name", sorted(set(REWARDS) - {"classifier"}))  # test_classifiers.py has a classifier
def test_every_named_reward_keeps_the_promises(name, spelled):
    assert "independent of the batch" in check_reward(make_reward(spelled[name]))
    assert "independent of the batch" in check_reward(call(make_reward(spelled[name])))


def test_rewards_by_name(spelled):
    assert make_reward("regex:^a:b", hit=2.0)(["", ""], ["a:bc", "ab"]) == [2.0, 0.0]
    assert make_reward("length", target=2)([""], ["a b"]) == make_reward("length:2")([""], ["a b"]) == [1.0]
    assert make_reward("number:first_number")([Prompt("", answer="1")], ["1 or 2"]) == [1.0]
    assert make_reward(spelled["tfidf"].partition(":")[2])(["a"], [" great"]) == [2.0]
    assert make_reward(lexicon_sentiment) is lexicon_sentiment
    assert make_reward("coevo_env.rewards:lexicon_sentiment") is lexicon_sentiment
    for spec, message in (
        ("lexcon", "Did you mean 'lexicon'"),
        (3, "reward 3; expected a function, or a name"),
        ("math:pi", "is a float; expected a function"),
        ("lexicon:3", "too many positional arguments"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_reward(spec)


def test_the_page_has_a_row_for_every_name():
    page = (ROOT / "docs" / "add_a_reward.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(REWARDS)
