"""The kit for plug-ins: it accepts what is good, and each kind of bad plug-in breaks the promise
that it should."""

import dataclasses
from collections import deque

import numpy as np
import pytest
import torch

from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.game.reference import IntTokenizer
from coevo_env.game.sampling import Sampling
from coevo_env.game.task import Prompt, Task
from coevo_env.lm.model import Generation, LanguageModel
from coevo_env.tasks import toy
from coevo_env.testing import CheckFailed, check_learner, check_reward, check_task, tiny_lm


# ---------------------------------------------------------------- tiny_lm
def test_tiny_lm_reads_and_writes_ids_as_the_toy_does():
    lm, ints = tiny_lm(12, eos_id=1), IntTokenizer(12, eos_id=1)
    assert lm.tokenizer.encode("3 10 1 11 0") == ints.encode("3 10 1 11 0")
    assert lm.tokenizer.decode([3, 10, 11, 0]) == ints.decode([3, 10, 11, 0])
    assert (lm.vocab_size, lm.tokenizer.eos_id, lm.tokenizer.banned) == (12, 1, ())


def test_tiny_lm_of_bytes_reads_any_text():
    tokenizer = tiny_lm(None).tokenizer
    text = "naïve\n😀 \t<b>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode("<eos>") == [tokenizer.eos_id]


def test_tiny_lm_is_a_function_of_its_seed_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    one, same, other = (next(iter(tiny_lm(5, seed=seed).module.parameters())) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_tiny_lm_plays_the_toy_and_survives_saving(tmp_path):
    lm = tiny_lm(5)
    game = BatchEnv(8, "toy", lm, seed=0)
    while (turn := game.begin_turn()) is not None:
        drawn = lm.generate(turn.contexts, turn.max_new_tokens, turn.sampling, turn.uniforms())
        game.submit_turn(drawn.tokens, drawn.lengths, drawn.logprobs)
    assert max(np.abs(rollout.kl).max() for rollout in game.rollouts()) < 1e-5  # the policy is its own reference
    lm.module.save_pretrained(tmp_path)
    lm.tokenizer.hf.save_pretrained(tmp_path)
    again = LanguageModel.from_pretrained(tmp_path)
    assert again.tokenizer.encode("3 0 4") == [3, 0, 4]


def test_tiny_lm_refuses_what_cannot_be():
    for options in ({"vocab_size": 1}, {"eos_id": 8}, {"width": 30, "heads": 4}):
        with pytest.raises(ConfigError, match="tiny_lm"):
            tiny_lm(**options)


# ---------------------------------------------------------------- rewards
def length(prompts, responses):
    return [float(len(response)) for response in responses]


class Counter:
    """Remembers how often it was called."""

    def __init__(self):
        self.calls = 0

    def __call__(self, prompts, responses):
        self.calls += 1
        return [float(self.calls)] * len(responses)


def popping(prompts, responses):
    result = length(prompts, responses)
    responses.clear()
    return result


BAD_REWARDS = {
    "one for each": lambda prompts, responses: [0.0],
    "a list of": lambda prompts, responses: 0.0,
    "numbers only": lambda prompts, responses: ["good"] * len(responses),
    "got None": lambda prompts, responses: [None] * len(responses),
    "finite": lambda prompts, responses: [1.0 / len(r) if r else float("nan") for r in responses],
    "for any text": lambda prompts, responses: [float(r.split()[0] == "x") for r in responses],
    "no randomness": Counter(),
    "lists it is given": popping,
    "does not depend on the rest": lambda prompts, responses: [
        float(len(r) == max(map(len, responses))) for r in responses
    ],
    "same score for the same": lambda prompts, responses: [float(i) for i, _ in enumerate(responses)],
}


def test_a_reward_that_changes_a_column_is_named():
    """A prompt is the same object for the whole run, and a column of it may be a list."""
    prompts = [Prompt("a", info={"choices": ["x", "y"]}), Prompt("b", info={"choices": ["y"]})]

    def pops(completions, choices):
        return [
            float(text in (names.pop() if len(names) > 1 else "x"))
            for text, names in zip(completions, choices, strict=True)
        ]

    with pytest.raises(CheckFailed, match="copy it before you change it"):
        check_reward(pops, prompts, ["x", "y"])
    prompts = [Prompt(text, info={"choices": deque(["x", "y"])}) for text in "ab"]  # of a class of its own
    with pytest.raises(CheckFailed, match="changed by the call"):
        check_reward(pops, prompts, ["x", "y"])


def test_a_good_reward_passes_on_numpy_and_on_own_texts():
    assert len(check_reward(length)) == 5
    assert check_reward(lambda prompts, responses: np.array(length(prompts, responses), np.float32)) == check_reward(
        length
    )
    assert check_reward(lambda p, r: [float(int(x)) for x in r], ["a", "b"], ["1", "2"])  # it reads numbers only


@pytest.mark.parametrize("message", BAD_REWARDS)
def test_a_bad_reward_is_named(message):
    with pytest.raises(CheckFailed, match=message):
        check_reward(BAD_REWARDS[message])


def test_check_reward_wants_pairs():
    with pytest.raises(ConfigError, match="both, or none"):
        check_reward(length, ["a"])
    with pytest.raises(ConfigError, match="equally many"):
        check_reward(length, ["a"], ["b", "c"])


# ---------------------------------------------------------------- tasks
def test_good_tasks_pass():
    promises = check_task("toy")
    assert {"made the same twice", "contexts fit", "rewards", "scripted policy", "plays", "PettingZoo api_test"} <= set(
        promises
    )
    assert "plays" in check_task(toy.task(), tiny_lm(5))
    assert "plays" in check_task("sentiment", prompts=8)


def test_a_text_task_plays_with_a_byte_model():
    def vowels(prompts, responses):
        return [float(sum(c in "aeiou" for c in response)) for response in responses]

    task = Task(
        name="vowels",
        train=["say something"],
        test=["say more"],
        rewards={"vowels": vowels},
        scripted=lambda p, r: "a" * 16,
    )
    assert "scripted policy" in check_task(task, tiny_lm(None))


BAD_TASKS = {
    "contexts that fit": {"train": ["1 2 3 4 " * 9]},
    "the scripted policy to do better": {"scripted": lambda prompt, responses: ""},
    "called with '[1-4]' and no responses: got IndexError: list index out of range; expected text": {
        "scripted": lambda prompt, responses: responses[0]
    },
    "called with '[1-4]' and no responses: got 7, a int; expected text": {"scripted": lambda prompt, responses: 7},
    "term 'matches'": {"rewards": {"matches": lambda prompts, responses: [1.0]}},
    "the observer template": {
        "separator": "",
        "templates": {"pioneer": "{prompt}", "observer": "{responses:.3} {prompt}"},
    },
}


@pytest.mark.parametrize("message", BAD_TASKS)
def test_a_bad_task_is_named(message):
    task = dataclasses.replace(toy.task(), **BAD_TASKS[message])
    with pytest.raises(CheckFailed, match=message):
        check_task(task)


drifting = iter(range(1000))


def unseeded() -> Task:
    return dataclasses.replace(toy.task(), train=[Prompt(str(next(drifting) % 4 + 1))])


def test_a_task_that_is_never_the_same_is_named():
    with pytest.raises(CheckFailed, match="made twice"):
        check_task(f"{__name__}:unseeded")


# ---------------------------------------------------------------- learners
class Reinforce:
    """The smallest learner that learns: policy gradient with the batch mean as baseline."""

    def __init__(self, policy, seed, rate=1e-2):
        self.policy, self.calls = policy, 0
        self.parameters = list(policy.module.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=rate)

    def update(self, rollout):
        advantage = rollout.team_reward + rollout.shaping.sum(1)
        advantage = torch.as_tensor(np.repeat(advantage - advantage.mean(), rollout.lengths), dtype=torch.float32)
        logprobs, _, _ = self.policy.score_tensor(rollout.contexts, rollout.tokens, rollout.lengths, Sampling())
        loss = -(advantage * logprobs).sum() / len(rollout)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.calls += 1
        return {"loss": float(loss.detach())}

    def state_dict(self):
        state = {f"weight.{number}": parameter for number, parameter in enumerate(self.parameters)}
        for number, parameter in enumerate(self.parameters):
            state.update({f"moment.{number}.{key}": value for key, value in self.optimizer.state[parameter].items()})
        return {**state, "calls": self.calls}

    def load_state_dict(self, state):
        self.load_weights(state)
        for number, parameter in enumerate(self.parameters):
            moments = {key: state[f"moment.{number}.{key}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = moments
        self.calls = state["calls"]

    def load_weights(self, state):
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters):
                parameter.copy_(state[f"weight.{number}"])


class Forgetful(Reinforce):
    """Loses the moments of its optimiser."""

    def state_dict(self):
        return {f"weight.{number}": parameter for number, parameter in enumerate(self.parameters)}

    def load_state_dict(self, state):
        self.load_weights(state)


class Deaf(Reinforce):
    def load_state_dict(self, state):
        pass


class Noisy(Reinforce):
    """Draws from the global generator."""

    def update(self, rollout):
        metrics = super().update(rollout)
        with torch.no_grad():
            self.parameters[0].add_(1e-3 * torch.randn_like(self.parameters[0]))
        return metrics


class Greedy(Reinforce):
    """Eats the rollout."""

    def update(self, rollout):
        metrics = super().update(rollout)
        rollout.team_reward[:] = 0
        return metrics


class Moody(Reinforce):
    def update(self, rollout):
        return {**super().update(rollout), f"mood/{self.calls}": 0.0}


class Broken(Reinforce):
    def update(self, rollout):
        return {**super().update(rollout), "loss": float("nan")}


class Wordy(Reinforce):
    def update(self, rollout):
        return {**super().update(rollout), "phase": "warm-up"}


class Lazy(Reinforce):
    def __init__(self, policy, seed):
        super().__init__(policy, seed, rate=0.0)


class Nested(Reinforce):
    """Its state has another in it, as that of torch's optimisers."""

    def state_dict(self):
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}


class Numpy(Reinforce):
    def state_dict(self):
        return {**super().state_dict(), "calls": np.array(self.calls)}


class Tied(Reinforce):
    """GPT-2's embedding and its head are one tensor by two names."""

    def state_dict(self):
        return {**super().state_dict(), **self.policy.module.state_dict()}


class Stillborn(Reinforce):
    def __init__(self, policy):
        super().__init__(policy, 0)


class Clumsy(Reinforce):
    def update(self, rollout):
        return {"loss": rollout.no_such_thing}


class Amnesiac(Reinforce):
    def load_state_dict(self, state):
        self.calls = state["updates"]


class Secretive(Reinforce):
    def state_dict(self):
        raise RuntimeError("the state is on another machine")


class Voice:
    """A policy that says what it is told to."""

    def __init__(self, says):
        self.says = says

    def generate(self, contexts, max_new_tokens, sampling, uniforms):
        return self.says(contexts)


class Mute(Reinforce):
    def __init__(self, policy, seed):
        super().__init__(policy, seed)
        self.policy = Voice(lambda contexts: None)


class Textual(Reinforce):
    def __init__(self, policy, seed):
        super().__init__(policy, seed)
        self.policy = Voice(
            lambda contexts: Generation(np.zeros((len(contexts), 1), int), np.ones(len(contexts), int), [["a"]])
        )


class Choking(Reinforce):
    def __init__(self, policy, seed):
        super().__init__(policy, seed)
        self.policy = Voice(lambda contexts: contexts[1000])


class Half:
    def __init__(self, policy, seed):
        self.policy = policy

    def update(self, rollout):
        return {}


BAD_LEARNERS = {
    "no state_dict and no load_state_dict": Half,
    r"called with \(policy, seed\): got TypeError: .* positional argument": Stillborn,
    "learner.update: got AttributeError: .*no_such_thing": Clumsy,
    "learner.load_state_dict: got KeyError: 'updates'": Amnesiac,
    "learner.state_dict: got RuntimeError: the state is on another machine": Secretive,
    "learner.policy.generate: got a NoneType without tokens and lengths and logprobs; "
    "expected a coevo_env.lm.model.Generation": Mute,
    "learner.policy.generate: got a turn that is refused: could not convert": Textual,
    "learner.policy.generate: got IndexError": Choking,
    "entry 'optimizer': got a dict; expected a flat dict of tensors": Nested,
    "entry 'calls': got a ndarray; expected a flat dict of tensors": Numpy,
    "tensors that cannot be saved: .*share memory": Tied,
    "without the interruption": Forgetful,
    "after load_state_dict": Deaf,
    "same seed": Noisy,
    "team_reward": Greedy,
    "same keys": Moody,
    "finite number": Broken,
    "'warm-up', a str": Wordy,
    "three standard errors": Lazy,
}


def test_a_good_learner_passes():
    state = torch.get_rng_state()
    assert check_learner(Reinforce) == [
        *("protocol", "metrics", "rollout unchanged", "same seed, same weights", "save, load, continue", "learns")
    ]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("message", BAD_LEARNERS)
def test_a_bad_learner_is_named(message):
    with pytest.raises(CheckFailed, match=message):  # never an error of its own
        check_learner(BAD_LEARNERS[message], iterations=6, batch_size=16)
