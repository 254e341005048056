"""Tasks with real text: splits, templates, rewards, scripted policies, and the files and options
that they refuse."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from coevo_env.assets import reviews as hubdata
from coevo_env.assets.tfidf import TfidfClassifier
from coevo_env.errors import CoevoError, ConfigError, MissingExtraError
from coevo_env.tasks import make_task


def mean_reward(task, split, policy):
    prompts = [task.prompt(split, i) for i in range(len(task.prompts(split)))]
    responses = [task.clean(policy(prompt)) for prompt in prompts]
    return {name: float(np.mean(reward(prompts, responses))) for name, reward in task.rewards.items()}


def check(task, name):
    """What every task owes: disjoint splits, templates that render, and a scripted policy that
    beats silence on each split."""
    assert task.name == name and task.description
    splits = [set(map(str, getattr(task, split))) for split in ("train", "validation", "test")]
    assert len(set.union(*splits)) == sum(map(len, splits)), "splits with common prompts"
    prompt = task.prompt("train", 0)
    assert prompt in task.render(prompt)
    observed = task.render(prompt, ["PARTNER"])
    assert observed.count(prompt) >= 1 and "PARTNER" in observed
    for split in ("train", "test"):
        good = mean_reward(task, split, lambda p: task.scripted(p, []))
        nothing = mean_reward(task, split, lambda p: "")
        assert all(good[term] > nothing[term] for term in good)


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# --------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"operations": "+-*", "shots": 3},
        {"digits": 2, "shots": 0},
        {"digits": 6, "operations": ["*"], "test_fraction": 0.5},
    ],
)
def test_arithmetic(options):
    task = make_task("arithmetic", **options)
    check(task, "arithmetic")
    assert mean_reward(task, "test", lambda p: p.answer) == {"exact": 1.0}
    assert mean_reward(task, "test", lambda p: p.answer + "\n1+1=2") == {"exact": 1.0}
    assert mean_reward(task, "test", lambda p: str(int(p.answer) + 1)) == {"exact": 0.0}
    for prompt in [*task.train[:50], *task.test[:50]]:
        assert eval(prompt[:-1]) == int(prompt.answer) >= 0
        assert len(prompt.answer) < task.max_new_tokens
    again = make_task("arithmetic", **options)
    assert list(again.train) == list(task.train) and list(again.test) == list(task.test)


def pair(prompt):
    import re

    return frozenset(map(int, re.findall(r"\d+", prompt)))


def test_arithmetic_holds_out_pairs_in_both_orders():
    task = make_task("arithmetic", operations="+-*", seed=3)
    train, validation, test = ({pair(p) for p in task.prompts(s)} for s in ("train", "validation", "test"))
    shot = pair(task.templates["pioneer"].split("=")[0])
    assert not train & (test | validation) and not test & validation and shot not in train | test | validation
    # 45 unordered pairs of 1..9, less the example's; a fifth of 44 is 9, 4 of them for validation
    assert len(train) == 35 and len(validation) == 4 and len(test) == 5
    assert len(train | validation | test | {shot}) == 45


def test_arithmetic_default_is_the_one_shot_preset():
    task = make_task("arithmetic")
    assert len(task.train) + len(task.validation) + len(task.test) in (
        79,
        80,
    )  # 81 ordered pairs less an example with one order or two
    assert task.max_new_tokens == 4 and task.stop_at_newline and task.model == "smollm2"
    header = task.templates["pioneer"].removesuffix("{prompt}")
    assert header.count("\n") == 1 and eval(header.split("=")[0]) == int(header.split("=")[1])
    assert task.render("2+3=", ["6"]) == header + "2+3=6\n2+3="
    assert make_task("arithmetic", seed=1).test != task.test


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": "/"}, "unknown arithmetic operation '/'"),
        ({"operations": ""}, "`operations` is empty"),
        ({"digits": 0}, "expected 1 to 9"),
        ({"test_fraction": 1.0}, "between 0 and 1"),
        ({"shots": 9}, "expected 0 to 8"),
        ({"extract": "frist_number"}, "Did you mean 'first_number'"),
        ({"digit": 1}, "Its options are"),
    ],
)
def test_arithmetic_refuses(options, message):
    with pytest.raises(ConfigError, match=message):
        make_task("arithmetic", **options)


# --------------------------------------------------------------------------------------- local data


REVIEWS = {
    "train": [
        {"text": f"The {i}th film that I saw this year was a surprise in some ways.", "label": i % 2} for i in range(40)
    ],
    "test": [{"text": f"Nobody told me {i} things about it before I went there.", "label": i % 2} for i in range(10)],
}
QUESTIONS = {
    "train": [
        {"question": f"Ann has {i} pens and buys 1000. How many?", "answer": f"She has more.\n#### {1000 + i:,}"}
        for i in range(9)
    ],
    "test": [{"question": "Bob has 3 hens and sells 1. How many?", "answer": "3 - 1 = <<3-1=2>>2\n#### 2"}],
}


@pytest.fixture
def questions(tmp_path):
    for split, rows in QUESTIONS.items():
        write_jsonl(tmp_path / "gsm8k" / f"{split}.jsonl", rows)
    return tmp_path / "gsm8k"


@pytest.fixture
def reviews(tmp_path):
    for split, rows in REVIEWS.items():
        write_jsonl(tmp_path / "imdb" / f"{split}.jsonl", rows)
    return tmp_path / "imdb"


@pytest.fixture
def classifier(tmp_path):
    TfidfClassifier(["great", "awful"], [1.0, 1.0], [2.0, -2.0], 0.0).save(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_gsm8k_from_a_folder(questions):
    task = make_task("gsm8k", source=questions)
    check(task, "gsm8k")
    assert len(task.train) == 9 and len(task.test) == 1
    assert [p.answer for p in task.train[:2]] == ["1000", "1001"] and task.test[0].answer == "2"
    reward = task.rewards["correct"]
    prompt = task.train[1]
    assert reward([prompt] * 4, ["It is 1,001.", "1001 pens, or 7", "$1001.00", "none"]) == [1.0, 0.0, 1.0, 0.0]


def test_gsm8k_prompt_order_is_the_papers(questions):
    task = make_task("gsm8k", source=questions)
    pioneer, observer = task.render("Q?"), task.render("Q?", [" It is 4."])
    example = pioneer.removesuffix("Question: Q?\nAnswer:")
    assert example.startswith("Question:") and example.endswith("15.\n\n")
    assert observer == example + "Question: Q?\nReference: It is 4.\nAnswer:"
    # No gold answer leaks into what an agent reads.
    assert "1,001" not in task.render(task.train[1]) and "1001" not in task.render(task.train[1])


def test_gsm8k_looks_in_the_environment_variable(questions, monkeypatch):
    monkeypatch.setenv("COEVO_GSM8K", str(questions))
    assert len(make_task("gsm8k").train) == 9
    with pytest.raises(ConfigError, match="no dataset at '/nowhere'"):
        make_task("gsm8k", source="/nowhere")  # what is passed comes first


def test_gsm8k_bad_gold(questions):
    write_jsonl(questions / "test.jsonl", [{"question": "Q", "answer": "it is seven"}])
    with pytest.raises(ConfigError, match=r"\(test\), row 1: the answer ends with 'it is seven'; expected '#### '"):
        make_task("gsm8k", source=questions)


def test_imdb_from_a_folder(reviews, classifier):
    task = make_task("imdb", source=reviews, tokenizer="words", reward=classifier)
    check(task, "imdb")
    starts = {row["text"] for row in REVIEWS["train"]}
    lengths = set()
    for prompt in task.train:
        assert any(text.startswith(prompt) for text in starts)
        lengths.add(len(prompt.split()))
    assert len(task.train) == 40 and lengths <= set(range(2, 9)) and len(lengths) > 3
    assert (task.min_new_tokens, task.max_new_tokens) == (4, 15)
    # One known word: its normalised TF-IDF is 1, so the logit is its weight.
    assert task.rewards["sentiment"](["It is"] * 3, [" great", " awful", " so"]) == [2.0, -2.0, 0.0]
    observed = task.render("It is", [" dull"])
    assert "positive" in observed and "It is dull" in observed and observed.endswith("It is")


def test_imdb_prompt_i_depends_on_seed_and_i_only(reviews, classifier):
    options = {"source": reviews, "tokenizer": "words", "reward": classifier}
    whole, few = make_task("imdb", **options), make_task("imdb", size=7, **options)
    assert list(few.train) == list(whole.train)[:7]
    assert list(make_task("imdb", seed=1, **options).train) != list(whole.train)


def test_imdb_prompts_in_tokens_of_a_tokenizer(reviews, classifier):
    class Letters:
        def encode(self, text):
            return [ord(c) for c in text]

        def decode(self, ids):
            return "".join(map(chr, ids))

    task = make_task(
        "imdb", source=reviews, tokenizer=Letters(), reward=classifier, min_prompt_tokens=5, max_prompt_tokens=5
    )
    assert set(task.train) | set(task.validation) == {"The 0"[:5]} | {f"The {i}"[:5] for i in range(40)}


def test_imdb_drops_test_prompts_seen_in_train(tmp_path, classifier):
    write_jsonl(tmp_path / "d" / "train.jsonl", [{"text": "This film is good indeed", "label": 1}])
    write_jsonl(
        tmp_path / "d" / "test.jsonl",
        [{"text": t, "label": 1} for t in ("This film was bad indeed", "That one is fine too")],
    )
    task = make_task(
        "imdb", source=tmp_path / "d", tokenizer="words", reward=classifier, min_prompt_tokens=2, max_prompt_tokens=2
    )
    assert list(task.train) == ["This film"] and list(task.test) == ["That one"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_prompt_tokens": 9}, "expected 1 <= min <= max"),
        ({"size": 0}, "size=0"),
        ({"output": "logits"}, "Did you mean 'logit'"),
        ({"reward": "distilbert", "centred": True}, "centred=True is for TF-IDF"),
    ],
)
def test_imdb_refuses(reviews, classifier, options, message):
    with pytest.raises(ConfigError, match=message):
        make_task("imdb", **{"source": reviews, "tokenizer": "words", "reward": classifier, **options})


def test_imdb_package_without_assets_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("COEVO_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="Run `coevo assets reviews`"):
        make_task("imdb", source="package", tokenizer="words")
    task_reward = make_task("imdb", source=_one_file(tmp_path), tokenizer="words", reward="tfidf").rewards["sentiment"]
    with pytest.raises(ConfigError, match="Run `coevo assets sentiment-tfidf`"):
        task_reward(["a"], ["b"])
    with pytest.raises(ConfigError, match="Run `coevo assets sentiment-minilm`"):
        make_task("imdb", source=_one_file(tmp_path), tokenizer="words", reward="minilm")


def _one_file(tmp_path):
    path = tmp_path / "some.jsonl"
    write_jsonl(path, [{"text": f"{i} reviews of one file go into both splits", "label": 0} for i in range(200)])
    return path


# ------------------------------------------------------------------------------------ files and hub


def test_formats_agree(tmp_path):
    import csv

    rows = [{"text": 'a "quoted", text\nof two lines', "label": 1}, {"text": "é", "label": 0}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    expected = [row["text"] for row in rows]
    assert [row["text"] for row in hubdata.read_rows(tmp_path / "a.jsonl", ["text", "label"])] == expected
    assert [row["text"] for row in hubdata.read_rows(tmp_path / "a.csv", ["text", "label"])] == expected
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert hubdata.read_rows(tmp_path / "a.parquet", ["text", "label"]) == rows
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ConfigError, match="not a Parquet file"):
        hubdata.read_rows(tmp_path / "bad.parquet", ["text"])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"coevo-env\[hub\]"):
        hubdata.read_rows(tmp_path / "a.parquet", ["text"])


def test_one_file_is_split_by_hash(tmp_path):
    splits = hubdata.load_splits(_one_file(tmp_path), ["text"], ("x", None))
    assert len(splits["train"]) + len(splits["test"]) == 200
    assert {row["text"] for row in splits["test"]} == {
        f"{i} reviews of one file go into both splits"
        for i in range(200)
        if hubdata.is_held_out(f"{i} reviews of one file go into both splits")
    }


def test_splits_in_the_hubs_folders(tmp_path):
    write_jsonl(tmp_path / "main" / "train-00000-of-00002.jsonl", [{"q": 1}])
    write_jsonl(tmp_path / "main" / "train-00001-of-00002.jsonl", [{"q": 2}])
    write_jsonl(tmp_path / "main" / "test-00000-of-00001.jsonl", [{"q": 3}])
    splits = hubdata.load_splits(tmp_path, ["q"], ("x", None))
    assert splits == {"train": [{"q": 1}, {"q": 2}], "test": [{"q": 3}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"txt": "b"}\n', r"row 2: no value in the column 'text'; got the columns \['txt'\]"),
        ('{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("[1]\n", "line 1 is a JSON list"),
        ("\n", "has no rows"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_bad_rows(tmp_path, content, message):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        hubdata.read_rows(path, ["text"])


def test_bad_places(tmp_path):
    with pytest.raises(ConfigError, match=r"expected .hub., a folder with train\.jsonl"):
        hubdata.load_splits(tmp_path / "absent", ["text"], ("x", None))
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"has no file train\.jsonl.*it holds \['a\.pkl'\]"):
        hubdata.load_splits(tmp_path, ["text"], ("x", None))
    with pytest.raises(ConfigError, match=r"got a \.pkl file"):
        hubdata.load_splits(tmp_path / "a.pkl", ["text"], ("x", None))


def test_hub_is_asked_for_the_papers_datasets(monkeypatch, classifier):
    asked = []

    def load_dataset(*names):
        asked.append(names)
        return QUESTIONS if "gsm8k" in names[0] else REVIEWS

    monkeypatch.delenv("COEVO_GSM8K", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    check(make_task("gsm8k"), "gsm8k")
    check(make_task("imdb", tokenizer="words", reward=classifier), "imdb")
    assert asked == [("openai/gsm8k", "main"), ("stanfordnlp/imdb",)]
    assert make_task("imdb", tokenizer="words").model == "gpt2-large"


def test_hub_that_does_not_answer(monkeypatch):
    def load_dataset(*names):
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(
        CoevoError, match=r"'openai/gsm8k' could not be loaded from the hub: ConnectionError: offline.*source="
    ):
        make_task("gsm8k", source="hub")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"coevo-env\[hub\]"):
        make_task("gsm8k", source="hub")


# ------------------------------------------------------------------------------------ reasoning-gym


def test_reasoning_gym_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtraError, match=r"'reasoning-gym/chain_sum' needs .*coevo-env\[reasoning-gym\]"):
        make_task("reasoning-gym/chain_sum")


@pytest.mark.parametrize(
    ("response", "gold", "expected"),
    [
        ("The answer is 8.", "8", "8"),
        ("42x", "4", "42"),
        ("first 3\nAnswer: 12 apples", "12", "12"),
        ("<answer> red </answer> or <answer>blue</answer>", "blue", "blue"),
        ("the answer is blue", "blue", "blue"),
        (" a, b ", "a, b", "a, b"),
        ("no idea", "7", "no idea"),
        ("", "7", ""),
    ],
)
def test_answers_are_extracted(response, gold, expected):
    from coevo_env.tasks.reasoning_gym import extract_answer

    assert extract_answer(response, gold) == expected


@pytest.mark.parametrize("dataset", ["chain_sum", "leg_counting", "spell_backward", "mini_sudoku"])
def test_reasoning_gym(dataset):
    pytest.importorskip("reasoning_gym")
    task = make_task(f"reasoning-gym/{dataset}", size=30, test_size=10)
    check(task, f"reasoning-gym/{dataset}")
    assert mean_reward(task, "train", lambda p: p.answer) == {"correct": 1.0}
    again = make_task(f"reasoning-gym/{dataset}", size=12, test_size=10)
    assert list(again.train) == list(task.train)[:12]  # item i is a function of the seed and i


def test_reasoning_gym_has_no_credit_for_wrong_numbers():
    pytest.importorskip("reasoning_gym")
    task = make_task("reasoning-gym/chain_sum", size=20, test_size=5)
    prompts = list(task.train)
    reward = task.rewards["correct"]
    assert reward(prompts, [f"The answer is {p.answer}." for p in prompts]) == [1.0] * 20
    assert reward(prompts, [f"{p.answer}1" for p in prompts]) == [0.0] * 20
    assert reward(prompts, [""] * 20) == [0.0] * 20


def test_reasoning_gym_refuses():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ConfigError, match="Did you mean 'chain_sum'"):
        make_task("reasoning-gym/chain_sun")
    with pytest.raises(ConfigError, match="min_trms"):
        make_task("reasoning-gym/chain_sum", min_trms=2)
    with pytest.raises(ConfigError, match="size=0"):
        make_task("reasoning-gym/chain_sum", size=0)
    with pytest.raises(ConfigError, match="in the train split too"):
        make_task("reasoning-gym/coin_flip", size=2000, test_size=1, min_trials=1, max_trials=1)
