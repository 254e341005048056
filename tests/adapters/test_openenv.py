"""The game as an environment of OpenEnv, in this process and through its web server. OpenEnv has no
learner to train."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("openenv")

from fastapi.testclient import TestClient
from ledger import Ledger
from openenv.core.env_server import create_fastapi_app

import coevo_env
from coevo_agents.adapters.openenv import models, text_environment
from coevo_env.testing import tiny_lm

pytestmark = pytest.mark.adapter


@pytest.mark.parametrize(
    "options", [{}, {"num_agents": 1}, {"num_agents": 3, "roles": "random", "context": "previous"}, {"kl": "reference"}]
)
def test_rewards_are_conserved(options, monkeypatch):
    """Turn by turn: what the game paid for the tokens is what the client is told."""
    ledger = Ledger().install(monkeypatch)
    env, generator = text_environment("toy", seed=0, **options), np.random.default_rng(0)
    action, _ = models()
    for _ in range(20):
        observation, turns = env.reset(), 0
        while not observation.done:
            agent, before = observation.agent, len(ledger.entries)
            observation = env.step(action(text=" ".join(map(str, generator.integers(1, 5, generator.integers(0, 4))))))
            paid = np.array([entry.rewards for entry in ledger.entries[before:]]).sum(0)
            assert list(observation.rewards.values()) == pytest.approx(paid, abs=1e-9)
            assert observation.reward == observation.rewards[agent]
            turns += 1
        assert turns == env.state.step_count == len(env.env.possible_agents)
    assert np.abs(ledger.episodes()).sum() > 0


def test_agents_read_what_their_role_reads():
    env = text_environment("toy", seed=0, roles="never")
    action, _ = models()
    first = env.reset()
    task = coevo_env.make_task("toy")
    assert (first.agent, first.text) == ("llm1", task.render(task.prompt("train", env.env.game.episode.prompt_index)))
    second = env.step(action(text="1 2 3 4"))
    assert (
        second.agent == "llm2" and second.text.startswith("1 2 3 ") and "4" not in second.text
    )  # the budget is three tokens
    assert env.env.rules.tokenizer.encode(second.text) == env.env.game.episode.turn.context


def test_it_can_be_served():
    app = create_fastapi_app(lambda: text_environment("toy", seed=0), *models())
    with TestClient(app) as client:
        answer = client.post("/reset", json={"seed": 1})
        assert answer.status_code == 200 and answer.json()["observation"]["agent"] in ("llm1", "llm2")
        assert set(client.get("/schema").json()["action"]["properties"]) == {"text", "metadata"}
        with client.websocket_connect("/ws") as socket:
            socket.send_json({"type": "reset", "data": {"seed": 1}})
            assert socket.receive_json()["data"]["done"] is False
            for _ in range(2):
                socket.send_json({"type": "step", "data": {"text": "1 1 1"}})
                last = socket.receive_json()["data"]
            assert last["done"] is True and last["reward"] > 0


def test_errors():
    with pytest.raises(coevo_env.ConfigError, match="report no log-probs"):
        text_environment("toy", kl="reported")
    env = text_environment("toy", seed=0)
    with pytest.raises(coevo_env.ConfigError, match="call reset"):
        env.step(models()[0](text="1"))


def test_a_chat_keeps_its_earlier_messages():
    earlier = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    )
    prompt = coevo_env.Prompt("and now ?", earlier=earlier)
    task = replace(
        coevo_env.make_task("sentiment"),
        train=[prompt],
        templates={"pioneer": "{prompt}", "observer": "{responses} {prompt}"},
    )
    chat = [*earlier, {"role": "user", "content": "and now ?"}]
    model = tiny_lm(None, positions=512)
    model.tokenizer.hf.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    seen = text_environment(task, model=model, num_agents=1, max_context=400, seed=0).reset()
    assert (seen.text, seen.messages) == ("and now ?", chat)
    assert text_environment("toy", seed=0).reset().messages == []
