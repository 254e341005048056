"""All learners: the loss of each against a slow oracle, the known optimum of a game, and the
promises every learner makes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from closed_forms import TeamGame
from toy_runs import BETA, LEARNING, make, step, train

from coevo_agents.learners.learner import LEARNERS, LearnerError, checked, find_learner
from coevo_agents.learners.policy import ActorCritic, LoRAConfig, make_policies
from coevo_agents.methods.update_order import drift, importance, order
from coevo_agents.runs.config import Config
from coevo_agents.runs.settings import apply
from coevo_agents.training.play import play
from coevo_env.errors import ConfigError
from coevo_env.game.rollout import Rollout
from coevo_env.game.sampling import Sampling
from coevo_env.tasks.toy import responses
from coevo_env.testing import check_learner, tiny_lm


# ---------------------------------------------------------------- the known optimum
@pytest.mark.parametrize("learner", LEARNING)
def test_two_agents_with_role_exchange_reach_the_optimum(learner):
    assert near_the_optimum(learner, 2, True, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("num_agents", "exchange"), [(1, False), (2, False), (2, True), (3, False), (3, True)])
@pytest.mark.parametrize("learner", LEARNING)
def test_every_learner_reaches_the_optimum(learner, num_agents, exchange, seed):
    assert near_the_optimum(learner, num_agents, exchange, seed)


@pytest.mark.parametrize("scheme", ["alternating", "sequential"])
def test_update_schemes_reach_the_optimum(scheme):
    assert near_the_optimum("grpo", 2, True, seed=0, updates=scheme, iterations=240 if scheme == "alternating" else 120)


@pytest.mark.parametrize("weights", ["shared", "lora"])
def test_weight_modes_reach_the_optimum(weights):
    rank = {"lora.rank": 16, "lora.alpha": 32} if weights == "lora" else {}
    assert near_the_optimum("grpo", 2, True, seed=0, weights=weights, **rank)


def near_the_optimum(learner, num_agents, exchange, seed, iterations=120, **settings) -> bool:
    """Every agent is within 2 % of its best J in every seat it has played, and has made at least 80
    % of the way there.

    The rewards of the partners are part of J and are there from the start, so the more agents, the
    less 2 % of it says alone.
    """
    settings = {f"{learner}.learning_rate": 3e-3, **settings}
    game, _ = make(learner, num_agents, exchange, seed)
    team = TeamGame(game.rules, game.reference, BETA)
    start = np.array([team.reached(game.reference, seat) / best for seat, best in enumerate(team.optimum())])
    assert max(start) < 0.93  # there is something to learn
    shares = train(learner, num_agents, exchange, seed, iterations, **settings)
    everywhere = exchange or "shared" in settings.get("weights", "")
    start = np.tile(start, num_agents) if everywhere else start
    assert shares.shape == start.shape
    assert shares.min() >= 0.98, shares.round(4)
    assert shares.max() <= 1 + 1e-6
    assert ((shares - start) / (1 - start)).min() >= 0.8
    return True


# ---------------------------------------------------------------- the loss
def slow_logprobs(learner, rollout) -> list[list[torch.Tensor]]:
    """log pi of every token, by one forward pass per response, without padding or cache, in
    float64."""
    rows = []
    for b in range(len(rollout)):
        length, start = int(rollout.lengths[b]), len(rollout.contexts[b]) - 1
        ids = torch.tensor([[*rollout.contexts[b], *rollout.tokens[b, :length].tolist()]])
        logits = learner.policy.lm.module(input_ids=ids).logits[0].double()
        row = []
        for t in range(length):
            scores = logits[start + t].clone()
            if t < learner.sampling.min_new_tokens:
                scores[learner.sampling.eos_id] = -math.inf
            row.append(scores[int(rollout.tokens[b, t])] - scores.logsumexp(0))
        rows.append(row)
    return rows


def slow_reinforce(learner, rollout, usual):
    """Baselines are what earlier rollouts said of each position."""
    return [
        [sum(rollout.rewards[b, t:length]) - (usual[t] if t < len(usual) else 0.0) for t in range(length)]
        for b, length in enumerate(rollout.lengths)
    ]


def slow_groups(learner, rollout, kind):
    over, scale, average = kind
    keys = []
    for b in range(len(rollout)):
        key = [int(rollout.groups[b])]
        key += [("agent", int(rollout.agents[b]))] if "agent" in over else []
        key += [("seat", int(rollout.seats[b]))] if "role" in over else []
        keys.append(tuple(key))
    totals = [float(rollout.rewards[b].sum()) for b in range(len(rollout))]
    result = []
    for b in range(len(rollout)):
        same = [totals[j] for j in range(len(rollout)) if keys[j] == keys[b]]
        mean = sum(same) / len(same)
        advantage = totals[b] - mean
        if scale == "cell":
            advantage /= math.sqrt(sum((x - mean) ** 2 for x in same) / len(same))
        if average == "response":
            advantage *= float(rollout.lengths.mean()) / int(rollout.lengths[b])
        result.append([advantage] * int(rollout.lengths[b]))
    return result


def rollout_of(game, learners, iteration=0):
    game.reset(iteration * game.batch_size)
    play(game, [learners[i % len(learners)].policy for i in range(len(game.agents))])
    return Rollout.merge(game.rollouts()) if len(learners) == 1 else game.rollouts()[0]


def losses(learner, rollout):
    """The batch of an update, and the loss before each of its steps."""
    seen = []
    original = learner._step

    def spy(batch, rows):
        with torch.no_grad():
            seen.append(
                (
                    batch,
                    float(learner.loss(batch, rows, int(rollout.lengths[rows].sum()))[0]),
                    slow_logprobs(learner, rollout),
                )
            )
        return original(batch, rows)

    learner._step = spy
    try:
        learner.update(rollout)
    finally:
        learner._step = original
    return seen


def test_reinforce_loss_against_a_slow_oracle():
    game, learners = make(
        "reinforce", 2, True, 0, batch=12, **{"reinforce.learning_rate": 1e-2, "reinforce.baseline": 0.5}
    )
    first, learner = rollout_of(game, learners), learners[0]
    [(_, loss, logprobs)] = losses(learner, first)
    slow = slow_reinforce(learner, first, [])
    tokens = int(first.lengths.sum())
    assert loss == pytest.approx(
        -sum(a * float(p) for A, P in zip(slow, logprobs, strict=True) for a, p in zip(A, P, strict=True)) / tokens,
        abs=2e-6,
    )
    usual = [
        np.mean([first.rewards[b, t:].sum() for b in range(12) if first.lengths[b] > t])
        for t in range(int(first.lengths.max()))
    ]
    second = rollout_of(game, learners, 1)
    [(_, loss, logprobs)] = losses(learner, second)
    slow = slow_reinforce(
        learner, second, usual
    )  # after one update the corrected average is the mean of the first rollout
    tokens = int(second.lengths.sum())
    assert loss == pytest.approx(
        -sum(a * float(p) for A, P in zip(slow, logprobs, strict=True) for a, p in zip(A, P, strict=True)) / tokens,
        abs=2e-6,
    )


def test_rloo_loss_against_a_slow_oracle():
    game, learners = make("rloo", 2, True, 0, batch=12, group_size=4, **{"rloo.learning_rate": 1e-2})
    rollout, learner = rollout_of(game, learners), learners[0]
    [(_, loss, logprobs)] = losses(learner, rollout)
    totals = rollout.rewards.sum(1)
    expected = 0.0
    for b in range(12):
        others = [totals[j] for j in range(12) if j // 4 == b // 4 and j != b]
        expected -= (totals[b] - sum(others) / 3) * float(sum(logprobs[b]))
    assert loss == pytest.approx(expected / int(rollout.lengths.sum()), abs=2e-6)


@pytest.mark.parametrize("weights", ["separate", "shared"])
@pytest.mark.parametrize(
    "kind",
    [
        ("prompt", "cell", "token"),
        ("agent", "cell", "response"),
        ("role", "none", "token"),
        ("agent+role", "cell", "token"),
    ],
)
def test_grpo_loss_against_a_slow_oracle(weights, kind):
    over, scale, average = kind
    settings = {"grpo.over": over, "grpo.scale": scale, "grpo.average": average, "grpo.clip": 0.05}
    game, learners = make(
        "grpo",
        2,
        True,
        0,
        batch=12,
        group_size=4,
        weights=weights,
        **settings,
        **{"grpo.epochs": 3, "grpo.learning_rate": 3e-2},
    )
    rollout, learner = rollout_of(game, learners), learners[0]
    advantages = slow_groups(learner, rollout, kind)
    found = losses(learner, rollout)
    clipped = 0
    for _, loss, logprobs in found:
        expected = 0.0
        for b in range(len(rollout)):
            for t, logprob in enumerate(logprobs[b]):
                ratio = math.exp(float(logprob) - rollout.logprobs[b, t])
                cut = min(max(ratio, 0.95), 1.05)
                clipped += cut != ratio
                expected -= min(ratio * advantages[b][t], cut * advantages[b][t])
        assert loss == pytest.approx(expected / int(rollout.lengths.sum()), abs=2e-6)
    assert len(found) == 3
    assert clipped > 0


@pytest.mark.parametrize("scale", ["cell", "batch", "none"])
def test_grpo_counts_as_flat_what_has_no_spread_to_learn_from(scale):
    """A response at the mean of a group that differs is not flat; two groups of four, one of which
    earned the same four times."""
    game, learners = make("grpo", 1, False, 0, batch=8, group_size=4, **{"grpo.scale": scale, "kl.beta": 0.0})
    rollout = rollout_of(game, learners)
    for earned, flat in (([0, 0.5, 0.5, 1, 1, 2, 3, 4], 0.0), ([0, 0.5, 0.5, 1, 0.7, 0.7, 0.7, 0.7], 0.5)):
        _, metrics = learners[0].prepare(
            replace(rollout, team_reward=np.array(earned, float), shaping=np.zeros(rollout.tokens.shape))
        )
        assert metrics["flat"] == flat


@pytest.mark.parametrize("micro", [0, 2])
def test_grpo_averages_responses_in_any_minibatch(micro):
    """The mean over responses of the mean over their own tokens, and so for a KL in the loss,
    whatever lengths meet in a minibatch."""
    settings = {
        "average": "response",
        "minibatch_size": 4,
        "micro_batch_size": micro,
        "learning_rate": 3e-2,
        "clip": 0.05,
        "epochs": 2,
    }
    options = {f"grpo.{name}": value for name, value in settings.items()}
    game, learners = make(
        "grpo", 1, False, 0, batch=12, group_size=2, **options, **{"kl.mode": "loss", "task_options.max_new_tokens": 3}
    )
    rollout, learner = rollout_of(game, learners), learners[0]
    advantages, deviations = (
        slow_groups(learner, rollout, ("agent", "cell", "token")),
        slow_groups(learner, rollout, ("agent", "none", "token")),
    )
    original, found, lengths = learner._step, [], []

    def kl(b, t):
        """Exact, at one token."""
        ids = torch.tensor([[*rollout.contexts[b], *rollout.tokens[b, :t].tolist()]])
        legal = torch.tensor([e != learner.sampling.eos_id or t >= learner.sampling.min_new_tokens for e in range(5)])
        ours, theirs = (
            lm.module(input_ids=ids).logits[0, -1].double()[legal].log_softmax(0)
            for lm in (learner.policy.lm, learner.reference)
        )
        return float((ours.exp() * (ours - theirs)).sum())

    def spy(batch, rows):
        size = micro or len(rows)
        with torch.no_grad():
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            loss = sum(float(learner.loss(batch, part, int(rollout.lengths[rows].sum()))[0]) for part in parts)
            logprobs, expected = slow_logprobs(learner, rollout), 0.0
            for b in rows:
                own = 0.0
                for t, logprob in enumerate(logprobs[b]):
                    ratio, advantage = math.exp(float(logprob) - rollout.logprobs[b, t]), advantages[b][0]
                    own -= min(ratio * advantage, min(max(ratio, 0.95), 1.05) * advantage)
                    if deviations[b][0]:  # normalisation multiplied by this, so it multiplies the KL
                        own += BETA * advantage / deviations[b][0] * kl(b, t)
                expected += own / int(rollout.lengths[b]) / len(rows)
        found.append((loss, expected))
        lengths.append(rollout.lengths[rows].mean())
        return original(batch, rows)

    learner._step = spy
    learner.update(rollout)
    assert len(found) == 6
    assert [loss for loss, _ in found] == pytest.approx([slow for _, slow in found], abs=5e-6)
    assert len(set(lengths)) > 1


def test_mappo_values_read_the_joint_state():
    """The critic's value of each state is that of a plain forward pass over what the seats before
    read and wrote, the context and the tokens."""
    game, learners = make("mappo", 3, False, 0, batch=6, context="none")
    game.reset(0)
    play(game, [learner.policy for learner in learners])
    rollout, learner = game.rollouts()[2], learners[2]
    torch.nn.init.normal_(learner.centre.value_head.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = learner.values(rollout, np.arange(6))
    place = 0
    for b in range(6):
        turns = game.episodes[b].turns
        state = [*turns[0].context, *turns[0].tokens, *turns[1].context, *turns[1].tokens, *turns[2].context]
        assert len(turns[2].context) < len(state)  # the critic knows more than the policy
        ids = torch.tensor([[*state, *turns[2].tokens]])
        hidden = learner.centre.lm.module(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        for t in range(len(turns[2].tokens)):
            expected = learner.centre.value_head(hidden[len(state) - 1 + t])
            assert float(got[place]) == pytest.approx(expected.item(), abs=1e-5)
            place += 1
    assert place == len(got)


def test_mappo_loss_against_a_slow_oracle():
    settings = {
        "mappo.epochs": 3,
        "mappo.learning_rate": 3e-2,
        "mappo.clip": 0.05,
        "mappo.value_clip": 0.01,
        "mappo.gae_lambda": 0.9,
    }
    game, learners = make("mappo", 2, False, 0, batch=10, **settings)
    game.reset(0)
    play(game, [learner.policy for learner in learners])
    rollout, learner = game.rollouts()[1], learners[1]
    torch.nn.init.normal_(learner.centre.value_head.weight, generator=torch.Generator().manual_seed(0))
    mask = rollout.mask
    old = np.zeros(rollout.tokens.shape)
    with torch.no_grad():
        old[mask] = learner.values(rollout, np.arange(10)).numpy()
    advantages = np.zeros_like(old)
    for b in range(10):
        running = 0.0
        for t in reversed(range(int(rollout.lengths[b]))):
            following = old[b, t + 1] if t + 1 < rollout.lengths[b] else 0.0
            running = rollout.rewards[b, t] + following - old[b, t] + 0.9 * running
            advantages[b, t] = running
    returns = advantages + old
    white = (advantages - advantages[mask].mean()) / advantages[mask].std()
    original, found = learner._step, []

    def spy(batch, rows):
        with torch.no_grad():
            loss = float(learner.loss(batch, rows, int(rollout.lengths[rows].sum()))[0])
            now = np.zeros_like(old)
            now[mask] = learner.values(rollout, np.arange(10)).numpy()
            logprobs = slow_logprobs(learner, rollout)
        total = 0.0
        for b in range(10):
            for t in range(int(rollout.lengths[b])):
                ratio = math.exp(float(logprobs[b][t]) - rollout.logprobs[b, t])
                total -= min(ratio * white[b, t], min(max(ratio, 0.95), 1.05) * white[b, t])
                near = old[b, t] + min(max(now[b, t] - old[b, t], -0.01), 0.01)
                total += 0.5 * 0.5 * max((now[b, t] - returns[b, t]) ** 2, (near - returns[b, t]) ** 2)
        found.append((loss, total / int(rollout.lengths.sum())))
        return original(batch, rows)

    learner._step = spy
    learner.update(rollout)
    assert len(found) == 3
    assert [loss for loss, _ in found] == pytest.approx([slow for _, slow in found], abs=1e-5)
    assert abs(found[0][0] - found[2][0]) > 1e-3


@pytest.mark.parametrize("learner", LEARNING)
def test_importance_weights_scale_the_advantages(learner):
    game, learners = make(learner, 1, False, 0, batch=8, group_size=4)
    rollout = rollout_of(game, learners)
    plain = learners[0].prepare(rollout)[0].advantages
    _, again = make(learner, 1, False, 0, batch=8, group_size=4)
    weights = np.arange(8.0)
    weighted = again[0].prepare(replace(rollout, weights=weights))[0].advantages
    assert np.abs(plain).max() > 0
    assert weighted == pytest.approx(plain * weights[:, None])


@pytest.mark.parametrize("learner", ["reinforce", "rloo", "grpo", "mappo"])
def test_kl_in_the_loss_reaches_the_optimum_of_the_same_problem(learner):
    """Mode "loss" adds the exact KL, in the units in which the learner counts advantages; it is
    near the optimum that the reward reaches."""
    shares = train(learner, 1, False, 0, 120, **{f"{learner}.learning_rate": 3e-3, "kl.mode": "loss"})
    assert 0.97 <= shares.min() <= 1 + 1e-6


# ---------------------------------------------------------------- promises
@pytest.mark.parametrize("weights", ["separate", "lora"])
@pytest.mark.parametrize("learner", LEARNING)
def test_check_learner_passes(learner, weights):
    """The protocol, the same weights for the same seed, save and load and continue, and
    learning."""
    rate = (
        1e-2 if weights == "separate" else 2e-4 if "ppo" in learner else 1e-3
    )  # so that learning takes several of the 30 updates
    config = apply(Config(), {"learner": learner, "group_size": 4, f"{learner}.learning_rate": rate})

    def factory(lm, seed):
        lora = LoRAConfig(rank=8, alpha=32) if weights == "lora" else None
        policies, reference = make_policies(lm, ["llm1"], lora, 0)
        return find_learner(learner)(policies[0], reference, config.settings, Sampling(), seed)

    passed = check_learner(factory, group_size=4)
    assert {"same seed, same weights", "save, load, continue", "learns"} <= set(passed)


@pytest.mark.parametrize("learner", LEARNING)
@pytest.mark.parametrize("weights", ["separate", "shared", "lora", "shared-lora"])
def test_every_weight_mode_trains_what_it_should(learner, weights):
    game, learners = make(learner, 2, True, 0, batch=16, weights=weights, **{f"{learner}.learning_rate": 1e-2})
    assert len(learners) == (1 if "shared" in weights else 2)
    module = game.reference.module
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if "lora" not in name}
    before = [{name: p.detach().clone() for name, p in each.parameters.items()} for each in learners]
    for iteration in range(2):
        step(game, learners, iteration)
    assert all(
        torch.equal(frozen[name], p) for name, p in module.named_parameters() if "lora" not in name
    )  # the reference stays
    for each, old in zip(learners, before, strict=True):
        moved = {name for name, p in each.parameters.items() if not torch.equal(old[name], p)}
        assert any(name.startswith("model.") for name in moved)
        assert ("lora" in weights) == all("lora" in name for name in each.parameters if name.startswith("model."))
        if learner == "mappo":
            assert any(name.startswith("critic.model.") for name in moved)
            assert any(name.startswith("critic.value_head.") for name in moved)
    if len(learners) == 2:
        assert not {id(p) for p in learners[0].parameters.values()} & {id(p) for p in learners[1].parameters.values()}


def test_a_second_pass_without_a_ratio_is_refused():
    for learner in ("reinforce", "rloo"):
        with pytest.raises(ConfigError, match=rf"{learner}.epochs=2; expected 1"):
            apply(Config(), {"learner": learner, "group_size": 2, f"{learner}.epochs": 2})
        with pytest.raises(ConfigError, match=rf"{learner}.target_kl=0.1; expected 0"):
            apply(Config(), {"learner": learner, "group_size": 2, f"{learner}.target_kl": 0.1})


def test_a_group_of_one_is_refused_before_anything_is_computed():
    for learner in ("rloo", "grpo"):
        with pytest.raises(ConfigError, match=r"group_size=1 with .* expected at least 2"):
            make(learner, 1, False, 0, group_size=1)
    with pytest.raises(ConfigError, match="batch_size=10 is not a multiple of group_size=4"):
        make("grpo", 1, False, 0, batch=10, group_size=4)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "returned a NoneType from update"),
        ({"loss": float("nan")}, "returned nan for its metric 'loss'"),
        ({"loss": "small"}, "'loss': 'small', a str"),
        ({3: 1.0}, "expected a name and a float"),
    ],
)
def test_what_an_update_may_return(returned, says):
    with pytest.raises(LearnerError, match=says):
        checked("llm1", returned)


def test_metrics_whose_keys_change_are_refused():
    assert checked("llm1", {"loss": 1.0}, {"loss"}) == {"loss": 1.0}
    with pytest.raises(LearnerError, match=r"metrics \['loss', 'new'\] after \['loss'\]; expected the same keys"):
        checked("llm1", {"loss": 1.0, "new": 0.0}, {"loss"})


def test_no_learner_imports_another():
    import ast
    from pathlib import Path

    import coevo_agents

    folder = Path(coevo_agents.__file__).parent
    files = {target.partition(":")[0].rpartition(".")[2] for target in LEARNERS.values()}
    assert len(files) == len(LEARNERS)
    for name in files:
        tree = ast.parse((folder / "learners" / f"{name}.py").read_text(encoding="utf-8"))
        imported = {
            (node.module or "").rpartition(".")[2] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }
        assert not imported & (files - {name}), name


# ---------------------------------------------------------------- controls that do not learn
def test_frozen_never_changes():
    game, learners = make("frozen", 2, True, 0, batch=8)
    before = copy.deepcopy(learners[0].state_dict())
    for iteration in range(2):
        step(game, learners, iteration)
    after = learners[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    learners[1].load_state_dict(before)


def test_best_of_n_earns_the_expected_maximum():
    """The mean reward of the kept responses is E[max of n], computed from the distribution of
    rewards by enumeration."""
    n, episodes = 3, 4096
    game, learners = make("best_of_n", 1, False, 0, batch=episodes, **{"best_of_n.n": n})
    metrics = step(game, learners, 0)[0]
    rules, (rollout,) = game.rules, game.rollouts()
    tokens, lengths = responses(rules)
    texts = [rules.text(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]
    expected = []
    for index, prompt in enumerate(rules.prompts):
        rewards = sum(w * np.asarray(f([prompt] * len(texts), texts)) for w, f in rules.terms.values())
        context = rules.turn_context(index, prompt, [])
        p = np.exp(game.reference.score([context] * len(texts), tokens, lengths, rules.sampling).sum(1))
        levels = np.unique(rewards)
        below = np.array([0.0, *[p[rewards <= level].sum() for level in levels]])
        expected.append(float((levels * (below[1:] ** n - below[:-1] ** n)).sum()))
    error = rollout.task_reward.std() / math.sqrt(episodes)
    assert rollout.task_reward.mean() == pytest.approx(np.mean(expected), abs=4 * error)
    assert metrics["kl_bound"] == pytest.approx(math.log(3) - 2 / 3)
    with pytest.raises(ConfigError, match=r"best_of_n\.n=1; expected a whole number >= 2"):
        make("best_of_n", 1, False, 0, **{"best_of_n.n": 1})


# ---------------------------------------------------------------- who learns when
def test_alternating_freezes_all_but_one():
    assert [order("alternating", i, 3, 2, 0) for i in range(8)] == [[0], [0], [1], [1], [2], [2], [0], [0]]
    assert order("simultaneous", 5, 3, 1, 0) == [0, 1, 2]
    orders = [tuple(order("sequential", i, 3, 1, 0)) for i in range(60)]
    assert {tuple(sorted(o)) for o in orders} == {(0, 1, 2)}
    assert len(set(orders)) == 6
    assert orders == [tuple(order("sequential", i, 3, 1, 0)) for i in range(60)]
    with pytest.raises(ConfigError, match="Did you mean 'alternating'"):
        order("alternate", 0, 2, 1, 0)


def test_drift_is_the_log_of_the_product_of_probability_ratios():
    game, learners = make("grpo", 2, True, 0, batch=16, **{"grpo.learning_rate": 3e-2})
    rollout = rollout_of(game, learners)
    episodes = np.arange(16)
    assert drift(learners[0].policy, rollout, game.rules.sampling, episodes) == pytest.approx(np.zeros(16), abs=1e-5)
    learners[0].update(rollout)
    expected = []
    for row, old in zip(slow_logprobs(learners[0], rollout), rollout.logprobs, strict=True):
        expected.append(sum(row).item() - old.sum())
    got = drift(learners[0].policy, rollout, game.rules.sampling, episodes)
    assert got == pytest.approx(expected, abs=1e-5)
    assert got.std() > 0.01


def test_only_the_product_of_all_ratios_is_cut():
    ratios = np.array([[10.0, 0.1, 1.0], [1.9, 1.9, 1.9], [0.1, 10.0, 1.5]])  # three agents in three episodes
    assert importance(np.log(ratios).sum(1)) == pytest.approx([1.0, 2.0, 1.5])
    assert importance(np.array([800.0, -800.0])).tolist() == pytest.approx([2.0, 0.0])  # no overflow on the way


def test_policies_without_a_critic_skip_the_value_head():
    for learner, valued in (("ppo", True), ("mappo", False), ("grpo", False), ("reinforce", False)):
        game, learners = make(learner, 1, False, 0, batch=8, group_size=4)
        rollout = rollout_of(game, learners)
        assert (rollout.values is not None) == valued
    assert ActorCritic(tiny_lm(5)).valued


@pytest.mark.parametrize("learner", ["ppo", "grpo", "mappo"])
def test_an_update_of_one_step_needs_no_second_scoring_pass(learner, monkeypatch):
    """In low precision old log-probs are those of the step itself: the ratio is exactly 1, and how
    far sampling was from it is logged."""
    settings = {f"{learner}.epochs": 1, f"{learner}.recompute": "always"}
    game, learners = make(learner, 1, False, 0, batch=8, group_size=4, **settings)
    rollout = rollout_of(game, learners)
    off = replace(rollout, logprobs=rollout.logprobs - 0.01 * rollout.mask)
    calls, lm = [], learners[0].policy.lm
    original = lm.hidden_states
    monkeypatch.setattr(lm, "hidden_states", lambda *a: (calls.append(1), original(*a))[1])
    metrics = learners[0].update(off)
    assert len(calls) == 1
    assert metrics["ratio_max"] == 1.0
    assert metrics["logprob_mismatch"] == pytest.approx(0.01, abs=1e-5)
    assert not metrics["clip_fraction"]
