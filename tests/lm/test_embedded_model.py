"""The embedded model, its grammar and its task: loads offline, speaks the grammar, starts near zero
reward and can be taught.

What a sentence is worth is judged here by counting and by the lexicon, not by the numbers that the
training script printed.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from coevo_env.errors import ConfigError
from coevo_env.lm.making import grammar
from coevo_env.lm.names import embedded_path
from coevo_env.rewards import lexicon_sentiment
from coevo_env.tasks import make_task

torch = pytest.importorskip("torch")

from coevo_env.lm.making.pretrain import (  # noqa: E402
    PretrainConfig,
    build_tokenizer,
    evaluate,
    perplexity,
    pretrain,
    sample,
    save,
    unigram_perplexity,
)

TINY = [
    "--steps",
    "6",
    "--batch",
    "4",
    "--positions",
    "64",
    "--layers",
    "1",
    "--width",
    "16",
    "--heads",
    "2",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def loaded():
    """The model and tokenizer, as a user loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = str(embedded_path())
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(path, local_files_only=True)


# ------------------------------------------------------------------------------------------ grammar


def test_sentence_and_document_depend_on_seed_and_index_only():
    order = list(range(60))
    forwards = [(grammar.sentence(7, i), grammar.document(7, i)) for i in order]
    random.Random(0).shuffle(order)
    assert {i: (grammar.sentence(7, i), grammar.document(7, i)) for i in order} == dict(enumerate(forwards))
    assert [grammar.sentence(8, i) for i in range(60)] != [s for s, _ in forwards]


def test_a_fresh_process_writes_the_same_sentences():
    code = (
        "from coevo_env.lm.making.grammar import *; "
        "print(repr([sentence(3, i) for i in range(5)] + list(openers('test')[:9])))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment(PYTHONHASHSEED="1")
    )
    assert run.stdout.strip() == repr([grammar.sentence(3, i) for i in range(5)] + list(grammar.openers("test")[:9]))


def _environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


def test_every_sentence_is_recognised_and_moods_have_their_shares():
    n = 300
    moods = Counter(grammar.mood_of(grammar.sentence(1, i)) for i in range(n))
    assert set(moods) == set(grammar.MOODS)
    assert math.isclose(sum(grammar.MOODS.values()), 1)
    for mood, share in grammar.MOODS.items():
        assert abs(moods[mood] / n - share) < 4 * math.sqrt(share * (1 - share) / n), mood


def test_lexicon_agrees_with_the_moods():
    texts = [grammar.sentence(2, i) for i in range(250)]
    by_mood: dict[str, list[float]] = {}
    for text, score in zip(texts, lexicon_sentiment([""] * len(texts), texts), strict=True):
        by_mood.setdefault(grammar.mood_of(text) or "", []).append(score)
    assert set(by_mood["neutral"]) == {0.0}
    assert min(by_mood["positive"]) > 0 > max(by_mood["negative"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "this movie was",
        "this movie were wonderful .",
        "these movies was wonderful .",
        "this movie was wonderful . .",
        "this movie was wonderful because the acting was horrible .",
        "this movie was wonderful because the waiters were great .",
        "movie this was wonderful .",
    ],
)
def test_what_the_grammar_refuses(text):
    assert not grammar.is_grammatical(text)


def test_prefixes():
    words = grammar.sentence(0, 0).split()
    assert all(grammar.is_prefix(" ".join(words[:n])) for n in range(len(words) + 1))
    assert not grammar.is_prefix("this movie was wonderful . this")
    assert not grammar.is_prefix("this movie the")


def test_echo_documents_repeat_their_opener():
    documents = [grammar.document(0, i) for i in range(400)]
    assert {len(d) for d in documents} == {1, 2, 3}
    shared = sum(len(d) > 1 and len({s.split(" w")[0] for s in d}) == 1 for d in documents)
    assert shared > 40


# ------------------------------------------------------------------------------------------ openers


def test_splits_are_disjoint_in_their_noun_phrases():
    train, test = grammar.openers("train"), grammar.openers("test")
    assert len(set(train)) == len(train) >= 300 and len(set(test)) == len(test) >= 100
    assert not set(train) & set(test)
    # Nor do they differ in the verb at the end only.
    bare = [{opener.removesuffix(" was").removesuffix(" were") for opener in split} for split in (train, test)]
    assert not bare[0] & bare[1]


def test_openers_are_beginnings_of_sentences_in_the_vocabulary_without_sentiment():
    everything = grammar.openers("train") + grammar.openers("test")
    assert {word for opener in everything for word in opener.split()} <= set(grammar.vocabulary())
    assert set(lexicon_sentiment([""] * len(everything), everything)) == {0.0}
    assert all(grammar.is_prefix(opener) for opener in everything[::5])


def test_unknown_split_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'test'"):
        grammar.openers("tests")


# -------------------------------------------------------------------------------------------- model


def test_loads_with_plain_transformers(loaded):
    model, tokenizer = loaded
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert next(model.parameters()).dtype == torch.float32
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert len(tokenizer) == model.config.vocab_size == len(grammar.vocabulary()) + 3
    assert (
        tokenizer.eos_token == "<eos>"
        and tokenizer.pad_token == "<pad>"
        and tokenizer.pad_token_id != tokenizer.eos_token_id
    )
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert model.config.resid_pdrop == model.config.attn_pdrop == model.config.embd_pdrop == 0


def test_shipped_files_hold_no_code_and_are_small():
    names = {path.name for path in embedded_path().iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    } == names
    assert sum(path.stat().st_size for path in embedded_path().iterdir()) < 4_000_000
    assert "auto_map" not in json.loads((embedded_path() / "config.json").read_text())


def test_text_of_the_vocabulary_round_trips(loaded):
    _, tokenizer = loaded
    texts = (
        [grammar.sentence(5, i) for i in range(50)] + [" ".join(grammar.vocabulary())] + list(grammar.openers("test"))
    )
    for text in texts:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text.split())
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.encode("zyzzyva") == [tokenizer.unk_token_id]


def test_templates_hold_the_eos_token(loaded):
    _, tokenizer = loaded
    task = make_task("sentiment")
    eos = tokenizer.eos_token_id
    prompt = task.prompt("test", 0)
    q, a = tokenizer.encode(str(prompt)), tokenizer.encode("wonderful .")
    assert tokenizer.encode(task.render(prompt)) == [eos, *q]
    assert tokenizer.encode(task.render(prompt, ["wonderful ."])) == [eos, *q, *a, eos, *q]
    assert tokenizer.encode(task.render(prompt, ["wonderful .", "wonderful ."])) == [eos, *q, *a, eos, *a, eos, *q]


def test_held_out_perplexity_is_far_below_what_word_frequencies_give(loaded):
    model, _ = loaded
    # Frequencies of words know no context; a model that had learned only which words follow which
    # would be several times worse than this.
    assert 1 < perplexity(model, seed=1, rows=16) < unigram_perplexity(seed=1, rows=16, train_rows=500) / 15


def test_samples_speak_the_grammar_start_near_zero_and_differ(loaded):
    model, tokenizer = loaded
    found = evaluate(model, tokenizer, seed=11, samples=195)
    assert found["grammatical"] > 0.7
    assert found["ended"] > 0.9
    assert found["distinct"] > 0.7
    assert (
        found["echo_positive_after_positive"] > found["echo_positive_after_negative"] + 0.2
    )  # the observer has something to imitate
    prompts = list(grammar.openers("test")) * 2
    tails = sample(model, [tokenizer.encode(f"<eos> {p}") for p in prompts], 16, seed=12)
    scores = lexicon_sentiment(prompts, [tokenizer.decode(tail) for tail in tails])
    assert -0.1 < sum(scores) / len(scores) < 0.2


def test_generate_stops_at_eos(loaded):
    model, tokenizer = loaded
    ids = tokenizer(["<eos> " + grammar.openers("test")[0]], return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=40)
    assert out[0, -1] == tokenizer.eos_token_id and out.shape[1] < ids["input_ids"].shape[1] + 40


# ---------------------------------------------------------------------------------- making and task


def test_pretraining_is_bit_reproducible_and_leaves_global_state_alone(tmp_path):
    from safetensors.torch import load_file

    config = PretrainConfig(steps=6, batch=4, positions=64, layers=1, width=16, heads=2, threads=1)
    state, threads, lines = torch.get_rng_state(), torch.get_num_threads(), []
    tokenizer = build_tokenizer()
    for name in ("a", "b"):
        save(pretrain(config, log=lines.append), tokenizer, tmp_path / name)
        torch.rand(3)
    save(pretrain(PretrainConfig(**{**vars(config), "seed": 1}), log=lines.append), tokenizer, tmp_path / "c")
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)
    assert torch.get_num_threads() == threads
    torch.set_rng_state(state)
    before = torch.get_rng_state()
    pretrain(config, log=lines.append)
    assert torch.equal(before, torch.get_rng_state())
    assert lines


def test_pretrain_command(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "model"
    run = subprocess.run(
        [sys.executable, "-m", "coevo_env.lm.making.pretrain", "--out", str(out), *TINY],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "perplexity" in run.stdout and "grammatical" in run.stdout
    model = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    assert model.config.n_positions == 64
    assert AutoTokenizer.from_pretrained(out, local_files_only=True).decode([5]) == grammar.vocabulary()[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"width": 10, "heads": 4}, "multiple of heads=4"), ({"steps": 0}, "steps=0"), ({"positions": 32}, "at least 64")],
)
def test_bad_sizes_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        PretrainConfig(**change)


def test_scripted_policy_scores_with_grammatical_sentences():
    task = make_task("sentiment")
    prompts = [task.prompt("test", i) for i in range(len(task.test))]
    responses = [task.scripted(p, []) for p in prompts]
    assert min(lexicon_sentiment(prompts, responses)) > 0.7
    assert all(grammar.mood_of(f"{p} {r}") == "positive" for p, r in zip(prompts[::3], responses[::3], strict=True))
    assert max(len(r.split()) for r in responses) < task.max_new_tokens


def test_contexts_fit(loaded):
    model, tokenizer = loaded
    task = make_task("sentiment")
    longest = max((*task.train, *task.test), key=lambda p: len(p.split()))
    filler = " ".join(["good"] * task.max_new_tokens)
    for visible in (1, 2):  # partners whose whole responses an observer can read
        assert len(tokenizer.encode(task.render(longest, [filler] * visible))) <= task.max_context
    assert task.max_context + task.max_new_tokens <= model.config.n_positions
