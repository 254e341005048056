"""BenchMARL's IPPO and MAPPO on the parallel face."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("benchmarl")

import benchmarl_ippo as example
from benchmarl.experiment import Callback
from ledger import Ledger, chance, significance

import coevo_env
from coevo_agents.adapters import benchmarl as adapter

pytestmark = pytest.mark.adapter
ITERATIONS, FRAMES, EPOCHS = 12, 640, 6
TRAINED = {}


class Recorder(Callback):
    """What the experiment collected, and what its optimiser was given of it."""

    def __init__(self):
        super().__init__()
        self.rewards, self.trained = [], []

    def on_batch_collected(self, batch) -> None:
        self.rewards.append(batch["next", "agents", "reward"].squeeze(-1).numpy().copy())  # (envs, T, A)

    def on_train_step(self, batch, group):
        self.trained.append(batch["next", "agents", "reward"].squeeze(-1).numpy().copy())  # (rows, A)


@pytest.fixture(params=["IPPO", "MAPPO"])
def trained(request, monkeypatch, tmp_path):
    if request.param not in TRAINED:
        ledger, recorder = Ledger().install(monkeypatch), Recorder()
        algorithm = example.algorithms()[request.param]
        arguments = {"iterations": ITERATIONS, "frames": FRAMES, "task": "toy", "callbacks": [recorder]}
        experiment = example.make_experiment(algorithm, str(tmp_path), **arguments)
        experiment.run()
        TRAINED[request.param] = (recorder, ledger, experiment)
    return TRAINED[request.param]


def test_rewards_are_conserved(trained):
    """Token by token and environment by environment, in what was collected; and as a whole in what
    was trained on."""
    recorder, ledger, _ = trained
    games = sorted({entry.game for entry in ledger.entries})
    collected = np.concatenate(recorder.rewards, 1)  # (envs, T, A)
    assert len(games) == len(collected) == 4
    for rows, game in zip(collected, games, strict=True):
        paid = np.array([entry.rewards for entry in ledger.entries if entry.game == game])
        assert np.abs(paid).sum() > 0
        assert rows == pytest.approx(paid, abs=1e-6)
    for number, batch in enumerate(recorder.rewards):
        steps = len(recorder.trained) // ITERATIONS
        used = np.concatenate(recorder.trained[number * steps : (number + 1) * steps])
        assert used.sum(0) == pytest.approx(batch.sum((0, 1)) * EPOCHS, rel=1e-4)


def test_it_improves(trained):
    _, ledger, _ = trained
    paid = ledger.episodes().mean(1)
    assert significance(chance(500, task="toy").mean(1), paid[-200:]) > 10
    assert significance(paid[:100], paid[-200:]) > 10


def test_environments_play_different_episodes(trained):
    _, ledger, _ = trained
    seeds = {game.rules.seed for game in ledger._games}
    assert len(seeds) >= 4


def test_agents_have_networks_of_their_own(trained):
    _, _, experiment = trained
    policy = experiment.algorithm.get_policy_for_loss("agents")
    nets = next(module for module in policy.modules() if isinstance(module, adapter._classes()["TokenModel"])).nets
    assert len(nets) == 2
    assert not np.allclose(nets[0][0].weight.detach().numpy(), nets[1][0].weight.detach().numpy())


@pytest.mark.parametrize("share", [False, True])
def test_parameters_can_be_shared_and_three_agents_play(share, tmp_path):
    for algorithm in example.algorithms().values():
        experiment = example.make_experiment(
            algorithm, str(tmp_path), iterations=1, frames=160, task="toy", num_agents=3, roles="random"
        )
        experiment.config.share_policy_params = share
        experiment.run()


def test_its_parts_can_be_pickled():
    """BenchMARL writes them into the folder of every experiment."""
    task, model = adapter.text_task("toy", seed=3), adapter.token_model(width=32)
    assert pickle.loads(pickle.dumps(task)) == task
    assert pickle.loads(pickle.dumps(model)) == model


def test_errors():
    with pytest.raises(coevo_env.ConfigError, match="take the mask from the observation"):
        adapter.text_task("toy", mask="none")
    with pytest.raises(coevo_env.ConfigError, match="unknown role schedule"):
        adapter.text_task("toy", roles="perodic")
    with pytest.raises(AttributeError, match="no attribute"):
        adapter.nothing  # noqa: B018
