"""Language models as policies: sampling and scoring say the same, whatever the padding, the warp,
the architecture or the adapter."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, architectures, contexts

from coevo_env.errors import ConfigError
from coevo_env.game.reference import warp
from coevo_env.game.rules import Rules
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import LanguageModel, pick_device, warp_logits
from coevo_env.lm.names import embedded_path
from coevo_env.lm.tokenizer import TextTokenizer
from coevo_env.tasks import toy
from coevo_env.testing import tiny_lm

WARPS = {
    "plain": Sampling(eos_id=0),
    "masked": Sampling(eos_id=0, banned=(3, 7), min_new_tokens=3),
    "cold": Sampling(0.6, eos_id=0),
    "hot and masked": Sampling(1.7, eos_id=0, banned=(5,), min_new_tokens=1),
    "top-k": Sampling(1.3, top_k=4, eos_id=0),
    "top-p": Sampling(top_p=0.7, eos_id=0, min_new_tokens=2),
    "top-k and top-p": Sampling(0.8, top_k=6, top_p=0.8, eos_id=0, banned=(2,)),
}


@pytest.fixture(scope="module")
def models() -> dict[str, LanguageModel]:
    return architectures()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", WARPS)
@pytest.mark.parametrize("block", [1024, 2])
def test_sampling_scoring_cursor_and_distributions_agree(models, name, kind, block, monkeypatch):
    monkeypatch.setattr(
        "coevo_env.lm.model.BLOCK", block
    )  # words of the vocabulary at a time; more than there are means all at once
    monkeypatch.setattr("coevo_env.lm.logits.BLOCK", block)
    lm, sampling = models[name], WARPS[kind]
    prompts = contexts(9, 11)
    drawn = lm.generate(prompts, 8, sampling, np.random.default_rng(1).random((9, 8)))
    mask = np.arange(drawn.tokens.shape[1]) < drawn.lengths[:, None]
    scored = lm.score(prompts, drawn.tokens, drawn.lengths, sampling)
    assert np.abs(scored - drawn.logprobs)[mask].max() < 1e-5
    assert not scored[~mask].any() and not drawn.tokens[~mask].any()
    distributions = lm.distributions(prompts, drawn.tokens, drawn.lengths, sampling)
    assert np.allclose(np.exp(distributions[mask]).sum(-1), 1, atol=1e-5)
    for row in (0, 4, 8):
        cursor = lm.cursor(prompts[row], sampling)
        for t in range(drawn.lengths[row]):
            finite = np.isfinite(distributions[row, t])
            assert np.abs(cursor.logprobs()[finite] - distributions[row, t][finite]).max() < 1e-5
            assert cursor.logprobs()[drawn.tokens[row, t]] == pytest.approx(scored[row, t], abs=1e-5)
            cursor.push(int(drawn.tokens[row, t]))
    for row in range(9):  # a turn ends with EOS or with the budget, and EOS is nowhere else
        tokens = drawn.tokens[row, : drawn.lengths[row]].tolist()
        assert sampling.eos_id not in tokens[:-1]
        assert tokens[-1] == sampling.eos_id or len(tokens) == 8
        assert all(token not in sampling.illegal(t) for t, token in enumerate(tokens))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("learner", ["ppo", "mappo"])
@pytest.mark.parametrize("mode", ["reported", "loss"])
def test_critics_learn_with_any_architecture(models, name, learner, mode):
    from coevo_agents.learners.learner import find_learner
    from coevo_agents.learners.policy import make_policies
    from coevo_agents.runs.config import Config
    from coevo_agents.runs.settings import apply
    from coevo_agents.training.play import play
    from coevo_env.faces.batch import BatchEnv
    from coevo_env.faces.build import build

    config = apply(Config(), {"learner": learner, "kl.mode": mode, f"{learner}.learning_rate": 1e-2})
    policies, reference = make_policies(models[name].clone(), ["llm1", "llm2"], None, 0)
    rules, _ = build("toy", reference, kl=config.kl, task_options={"vocab_size": 11})
    game = BatchEnv(8, rules=rules, reference=reference)
    game.reset(0)
    play(game, policies)
    rollout, policy = game.rollouts()[1], policies[1]
    metrics = find_learner(learner)(policy, reference, config.settings, rules.sampling, 0).update(rollout)
    assert metrics["grad_norm"] > 0 and np.isfinite(list(metrics.values())).all()
    scored = policy.lm.score(rollout.contexts, rollout.tokens, rollout.lengths, Sampling())
    assert np.abs(scored - rollout.logprobs)[rollout.mask].max() > 1e-3  # it has learned something
    for row, context in enumerate(rollout.contexts):  # and is still the model that transformers runs
        said = rollout.tokens[row, : rollout.lengths[row]].tolist()
        with torch.no_grad():
            output = policy.lm.module(input_ids=torch.tensor([[*context, *said]]), output_hidden_states=True)
        plain = output.logits[0, len(context) - 1 : -1].log_softmax(-1)[np.arange(len(said)), said]
        assert np.abs(scored[row, : len(said)] - plain.numpy()).max() < 1e-4
    hidden, _, _ = policy.lm.hidden_states(rollout.contexts, rollout.tokens, rollout.lengths)
    assert hidden.shape[-1] == policy.lm.hidden_size == policy.lm.head.weight.shape[1]


def test_a_head_that_nobody_knows_samples_and_scores_but_has_no_critic(models):
    from coevo_agents.learners.learner import find_learner, settings_class
    from coevo_agents.learners.policy import make_policies

    module = models["cohere (scaled logits)"].clone().module
    module.logit_scale = 0.7  # not what its configuration says
    lm, sampling = LanguageModel(module, models["gpt2"].tokenizer), WARPS["masked"]
    assert not lm.gives_hidden
    prompts = contexts(5, 11)
    drawn = lm.generate(prompts, 6, sampling, np.random.default_rng(1).random((5, 6)))
    assert np.abs(lm.score(prompts, drawn.tokens, drawn.lengths, sampling) - drawn.logprobs).max() < 1e-5
    (policy,), reference = make_policies(lm, ["llm1"], None, 0)
    for name in ("ppo", "mappo"):
        with pytest.raises(ConfigError, match=r"needs a value head .* CohereForCausalLM .* 'reinforce'"):
            find_learner(name)(policy, reference, settings_class(name)(), Sampling(), 0)
    find_learner("reinforce")(policy, reference, settings_class("reinforce")(), Sampling(), 0)


@pytest.mark.parametrize("kind", ["MambaConfig", "RwkvConfig"])
def test_models_without_a_cache_of_keys_and_values_are_refused(kind):
    import transformers

    shape = {"vocab_size": 11, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "state_size": 8}
    module = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, kind)(**shape, eos_token_id=0, bos_token_id=0)
    )
    with pytest.raises(ConfigError, match=r"(Mamba|Rwkv).* expected a transformer with"):
        LanguageModel(module, tiny_lm(11).tokenizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_does_not_heed_padding_is_refused_in_any_precision(models, dtype, monkeypatch):
    for name in ARCHITECTURES:
        LanguageModel(models[name].clone().module.to(dtype), models["gpt2"].tokenizer)  # not these
    module = models["llama"].clone().module.to(dtype)
    forward = module.base_model.forward

    @functools.wraps(forward)
    def deaf(**kwargs):
        return forward(**{**kwargs, "attention_mask": None})

    monkeypatch.setattr(module.base_model, "forward", deaf)
    with pytest.raises(ConfigError, match="% off when it reads token by token behind padding"):
        LanguageModel(module, models["gpt2"].tokenizer)


def test_padding_does_not_change_a_row(models):
    lm, sampling = models["llama"], WARPS["masked"]
    prompts = contexts(6, 11)
    noise = np.random.default_rng(2).random((6, 8))
    together = lm.generate(prompts, 8, sampling, noise)
    for row in range(6):
        alone = lm.generate(prompts[row : row + 1], 8, sampling, noise[row : row + 1])
        length = together.lengths[row]
        assert alone.lengths[0] == length
        assert alone.tokens[0, :length].tolist() == together.tokens[row, :length].tolist()
        assert np.abs(alone.logprobs[0, :length] - together.logprobs[row, :length]).max() < 1e-5


def test_tokens_follow_the_distribution_they_are_scored_with():
    lm, sampling = tiny_lm(5, scale=0.5), Sampling(0.8, top_k=3, eos_id=0)
    count = 20_000
    drawn = lm.generate([[1, 2]] * count, 1, sampling, np.random.default_rng(0).random((count, 1)))
    probability = np.exp(lm.distributions([[1, 2]], np.array([[0]]), np.array([1]), sampling)[0, 0])
    frequency = np.bincount(drawn.tokens[:, 0], minlength=5) / count
    assert (frequency[probability == 0] == 0).all() and (probability == 0).sum() == 2
    assert np.abs(frequency - probability).max() < 4 * np.sqrt(0.25 / count)  # four standard errors


def test_extreme_uniforms_never_pick_an_impossible_token():
    lm, sampling = tiny_lm(9), Sampling(eos_id=0, banned=(7, 8), min_new_tokens=4)  # the last ids are the illegal ones
    for uniform in (0.0, np.nextafter(1.0, 0.0)):
        drawn = lm.generate([[1], [2, 3]], 4, sampling, np.full((2, 4), uniform))
        assert not np.isin(drawn.tokens, (0, 7, 8)).any()


def test_greedy_takes_the_most_probable_token():
    lm = tiny_lm(9, scale=0.5)
    sampling = Sampling(0.0, eos_id=0, min_new_tokens=5)
    drawn = lm.generate([[1], [2, 3]], 5, sampling, np.zeros((2, 5)))
    best = lm.distributions([[1], [2, 3]], drawn.tokens, drawn.lengths, sampling).argmax(-1)
    assert (best == drawn.tokens).all()


@pytest.mark.parametrize("kind", WARPS)
def test_the_two_warps_are_one(kind):
    logits = np.random.default_rng(0).normal(size=(6, 11)) * 3
    positions = np.arange(6)
    ours = warp(logits, WARPS[kind], positions)
    theirs = warp_logits(torch.from_numpy(logits), WARPS[kind], torch.from_numpy(positions)).log_softmax(-1).numpy()
    assert (np.isfinite(ours) == np.isfinite(theirs)).all()
    finite = np.isfinite(ours)
    assert np.abs(ours[finite] - theirs[finite]).max() < 1e-9


def test_scores_equal_the_plain_forward_pass_of_the_embedded_model():
    lm = LanguageModel.from_pretrained("embedded")
    texts = ["<eos> the soup was", "<eos> this film was so good . <eos> this film"]
    prompts = [lm.tokenizer.encode(text) for text in texts]
    drawn = lm.generate(prompts, 10, Sampling(eos_id=lm.tokenizer.eos_id), np.random.default_rng(0).random((2, 10)))
    scored = lm.score(prompts, drawn.tokens, drawn.lengths, Sampling(eos_id=lm.tokenizer.eos_id))
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([[*prompt, *drawn.tokens[row, : drawn.lengths[row]].tolist()]])
        with torch.no_grad():
            logprobs = lm.module(input_ids=ids).logits[0].log_softmax(-1)
        for t in range(drawn.lengths[row]):
            assert float(logprobs[len(prompt) - 1 + t, drawn.tokens[row, t]]) == pytest.approx(scored[row, t], abs=1e-5)


def test_chunked_scoring_and_its_gradient_equal_one_chunk(monkeypatch):
    prompts = contexts(5, 11)
    sampling, results = WARPS["masked"], []
    for elements in (1 << 24, 11 * 4):
        monkeypatch.setattr("coevo_env.lm.model.CHUNK_ELEMENTS", elements)
        lm, other = tiny_lm(11), tiny_lm(11, seed=1)
        drawn = lm.generate(prompts, 6, sampling, np.random.default_rng(3).random((5, 6)))
        logprobs, hidden, positions = lm.score_tensor(prompts, drawn.tokens, drawn.lengths, sampling)
        theirs, _, _ = other.hidden_states(prompts, drawn.tokens, drawn.lengths)
        kl = lm.exact_kl(hidden, other, theirs.detach(), positions, sampling)
        (logprobs.sum() + kl.square().sum()).backward()
        gradient = torch.cat([p.grad.flatten() for p in lm.module.parameters() if p.grad is not None])
        results.append((logprobs.detach(), kl.detach(), gradient))
    for one, many in zip(*results, strict=True):
        assert torch.allclose(one, many, atol=1e-5)


def test_exact_kl_is_the_kl_of_the_distributions():
    lm, other, sampling = tiny_lm(11), tiny_lm(11, seed=1), WARPS["masked"]
    prompts = contexts(4, 11)
    drawn = lm.generate(prompts, 5, sampling, np.random.default_rng(3).random((4, 5)))
    mask = np.arange(drawn.tokens.shape[1]) < drawn.lengths[:, None]
    _, hidden, positions = lm.score_tensor(prompts, drawn.tokens, drawn.lengths, sampling)
    theirs, _, _ = other.hidden_states(prompts, drawn.tokens, drawn.lengths)
    got = lm.exact_kl(hidden, other, theirs, positions, sampling).detach().numpy()
    p = lm.distributions(prompts, drawn.tokens, drawn.lengths, sampling)[mask]
    q = other.distributions(prompts, drawn.tokens, drawn.lengths, sampling)[mask]
    with np.errstate(invalid="ignore"):
        expected = np.where(np.isfinite(p), np.exp(p) * (p - q), 0.0).sum(-1)
    assert np.allclose(got, expected, atol=1e-5)


def test_a_copy_has_parameters_of_its_own_and_dropout_is_off():
    lm = tiny_lm(5)
    copy = lm.clone()
    with torch.no_grad():
        next(copy.module.parameters()).add_(1.0)
    assert not torch.equal(next(lm.module.parameters()), next(copy.module.parameters()))
    assert not lm.module.training and not copy.module.training
    lm.module.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in lm.clone().module.parameters())


def test_bfloat16_samples_and_scores_to_its_precision():
    lm = LanguageModel.from_pretrained("embedded", dtype="bfloat16")
    prompts = [lm.tokenizer.encode("<eos> the soup was")] * 8
    sampling = Sampling(eos_id=lm.tokenizer.eos_id)
    drawn = lm.generate(prompts, 8, sampling, np.random.default_rng(0).random((8, 8)))
    assert lm.head.weight.dtype == torch.bfloat16
    assert np.abs(lm.score(prompts, drawn.tokens, drawn.lengths, sampling) - drawn.logprobs).max() < 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", WARPS)
def test_cuda_says_what_the_cpu_says(kind):
    cpu = LanguageModel.from_pretrained("embedded")
    cuda = LanguageModel.from_pretrained("embedded", device="cuda")
    eos = cpu.tokenizer.eos_id
    sampling = Sampling(**{**WARPS[kind].__dict__, "eos_id": eos, "banned": (0, 2)})
    prompts = [
        cpu.tokenizer.encode(text)
        for text in ("<eos> the soup was", "<eos> this film", "<eos> the weather in the north was")
    ]
    drawn = cuda.generate(prompts, 12, sampling, np.random.default_rng(0).random((3, 12)))
    assert np.abs(cuda.score(prompts, drawn.tokens, drawn.lengths, sampling) - drawn.logprobs).max() < 1e-4
    if not sampling.truncates:  # a tie at the edge of a truncated support may fall either way
        assert np.abs(cpu.score(prompts, drawn.tokens, drawn.lengths, sampling) - drawn.logprobs).max() < 1e-3


def test_errors_name_what_was_wrong(tmp_path):
    with pytest.raises(ConfigError, match="no such directory"):
        LanguageModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        LanguageModel.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="expected one of float32"):
        LanguageModel.from_pretrained("embedded", dtype="float8")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no CUDA device"):
            pick_device("cuda")
    with pytest.raises(ConfigError, match="device 'gpu'"):
        pick_device("gpu")
    lm = tiny_lm(5, positions=8)
    with pytest.raises(ConfigError, match="8 positions"):
        lm.generate([[1] * 9], 2, Sampling(), np.zeros((1, 2)))


def test_a_tokenizer_without_eos_is_refused():
    from transformers import AutoTokenizer

    hf = AutoTokenizer.from_pretrained(str(embedded_path()))
    hf.eos_token = None
    with pytest.raises(ConfigError, match="no EOS token"):
        TextTokenizer(hf)


def beginning_with_bos(bos: int = 1):
    """A tokenizer that begins every text with BOS, as Llama's does."""
    from tokenizers import processors

    hf = tiny_lm(9).tokenizer.hf
    hf.add_special_tokens({"bos_token": str(bos)})
    hf.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(str(bos), bos)]
    )
    return hf


def test_contexts_begin_with_bos_where_the_tokenizer_says_so():
    plain, tokenizer = tiny_lm(9).tokenizer, TextTokenizer(beginning_with_bos())
    assert plain.opening == [] and tokenizer.opening == [1]
    assert tokenizer.encode("3 4") == [3, 4]  # a response does not
    rules = Rules(replace(toy.task(vocab_size=9), tokenizer=None), tokenizer)
    assert tokenizer.hf.encode("3 4") == rules.encode("3 4") == [1, 3, 4]
    assert rules.encode("1 3 4") == [1, 3, 4]  # not twice
    assert all(rules.start(episode).turn.context[0] == 1 for episode in range(4))
    assert Rules(toy.task(vocab_size=9), plain).encode("3 4") == [3, 4]
    short = Rules(replace(toy.task(vocab_size=9), tokenizer=None), tokenizer, max_context=4)
    assert short.turn_context(0, "5", ["2 3 4 6"]) == [1, 2, 3, 5]  # counted when a partner's text is clipped


def test_contexts_in_a_chat_template():
    hf = tiny_lm(9).tokenizer.hf
    with pytest.raises(ConfigError, match="no chat template"):
        TextTokenizer(hf, chat=True)
    hf.chat_template = (
        "{% for message in messages %}7 {{ message['content'] }} {% endfor %}{% if add_generation_prompt %}8{% endif %}"
    )
    assert TextTokenizer(hf, chat=True).render("3 4") == [7, 3, 4, 8]
    assert TextTokenizer(hf, chat=True).encode("3 4") == [3, 4]


def test_special_tokens_cannot_be_smuggled_into_a_context():
    tokenizer = LanguageModel.from_pretrained("embedded").tokenizer
    ids = tokenizer.encode("the soup <eos> was")
    assert tokenizer.eos_id in ids
    assert "<eos>" not in tokenizer.decode(ids)


@pytest.mark.parametrize(
    "text", ["<e<eos>os>", "<e<eos<eos>>os>", "a<eo<e<e<eos>os>os>s>b<eos><eo", "<|ne<eos>ver|>", "<|never|>"]
)
def test_special_tokens_cannot_be_spelled_around_one_another(text):
    hf = tiny_lm(None).tokenizer.hf
    hf.add_special_tokens({"additional_special_tokens": ["<|never|>"]})
    tokenizer = TextTokenizer(hf)
    with_none = hf.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)[0][0]
    ids = hf.convert_tokens_to_ids(list(with_none))  # byte by byte, no special id among them
    assert tokenizer.eos_id not in ids and max(ids) < 257
    again = tokenizer.encode(tokenizer.decode(ids))
    assert tokenizer.eos_id not in again and max(again, default=0) < 257
    assert tokenizer.decode(tokenizer.encode("a plain <text>")) == "a plain <text>"


@pytest.mark.parametrize("kind", ["whole", "lora", "embedded"])
def test_equal_contexts_are_read_once_and_nothing_else_changes(kind, monkeypatch):
    """Sampling, scoring and gradients of groups are those of reading every row by itself."""
    from coevo_agents.learners.policy import LoRAConfig, make_policies

    lm = LanguageModel.from_pretrained("embedded") if kind == "embedded" else tiny_lm(9, seed=2)
    if kind == "lora":
        policies, _ = make_policies(lm, ["llm1"], LoRAConfig(rank=4), 0)
        lm = policies[0].lm
        for name, parameter in lm.module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 9, size=n).tolist() for n in (6, 2, 4)]
    contexts = [list(prompts[row % 3]) for row in range(12)]  # groups in no order
    lengths = rng.integers(1, 6, size=12)
    tokens = rng.integers(1, 9, size=(12, 5)) * (np.arange(5) < lengths[:, None])
    warp = Sampling(temperature=0.8, min_new_tokens=1, eos_id=lm.tokenizer.eos_id)
    noise, weights = rng.random((12, 5)), torch.tensor(rng.normal(size=int(lengths.sum())), dtype=torch.float32)
    rows = []
    original = lm.states
    monkeypatch.setattr(lm, "states", lambda ids, *a, **k: (rows.append(len(ids)), original(ids, *a, **k))[1])

    def everything():
        rows.clear()
        drawn = lm.generate(contexts, 5, warp, noise)
        logprobs, hidden, positions = lm.score_tensor(contexts, tokens, lengths, warp)
        lm.module.zero_grad()
        (logprobs * weights).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in lm.module.parameters() if p.grad is not None])
        return drawn, logprobs.detach(), hidden.detach(), positions, gradient, rows[0]

    shared = everything()
    for module in ("model", "sampler"):
        monkeypatch.setattr(f"coevo_env.lm.{module}.distinct", lambda contexts: (contexts, None))
    alone = everything()
    assert (shared[5], alone[5]) == (3, 12)
    assert np.array_equal(shared[0].tokens, alone[0].tokens)
    assert np.array_equal(shared[0].lengths, alone[0].lengths)
    assert shared[0].logprobs == pytest.approx(alone[0].logprobs, abs=1e-5)
    for ours, theirs in zip(shared[1:4], alone[1:4], strict=True):
        assert torch.allclose(ours.float(), theirs.float(), atol=2e-5)
    assert float((shared[4] - alone[4]).norm() / alone[4].norm()) < 3e-5
