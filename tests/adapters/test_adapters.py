"""What holds of the adapters without their libraries: errors, ranges, lazy imports, and a page that
says what the committed results say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

import coevo_env
from coevo_agents.adapters import (
    LIBRARIES,
    OVERRIDE,
    agilerl,
    benchmarl,
    openenv,
    reasoning_gym,
    require,
    torchrl,
    trl,
    verifiers,
)

ROOT = Path(__file__).resolve().parents[2]


def load_script():
    spec = importlib.util.spec_from_file_location("adapters_script", ROOT / "docs" / "scripts" / "adapters.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


script = load_script()
RESULTS = json.loads((ROOT / "docs" / "adapters" / "results.json").read_text(encoding="utf-8"))


def pretend(monkeypatch, version: str | None) -> None:
    """Every library is there in this version, or not at all."""

    def found(package: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(metadata, "version", found)
    monkeypatch.delenv(OVERRIDE, raising=False)


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named_with_the_command_that_installs_it(name, monkeypatch):
    pretend(monkeypatch, None)
    with pytest.raises(coevo_env.MissingExtraError) as error:
        require(name)
    library = LIBRARIES[name]
    assert f"adapter for {name} needs the package '{library.package}'" in str(error.value)
    assert (f"coevo-env[{library.extra}]" if library.extra else f"pip install {library.package}") in str(error.value)


@pytest.mark.parametrize("name", LIBRARIES)
def test_versions_that_were_not_tested_are_errors_unless_asked_for(name, monkeypatch):
    library = LIBRARIES[name]
    for version in ("0.0.1", "999.0", library.high):
        pretend(monkeypatch, version)
        with pytest.raises(
            coevo_env.ConfigError,
            match=re.escape(f"got {library.package} {version}; tested with >= {library.low}, < {library.high}"),
        ):
            require(name)
        monkeypatch.setenv(OVERRIDE, "1")
        assert require(name) == version
    for version in (library.low, f"{library.low}.1rc1", f"{library.low}.0.post2+cpu"):
        pretend(monkeypatch, version)
        assert require(name) == version


def test_unknown_libraries_are_errors():
    with pytest.raises(coevo_env.ConfigError, match="Did you mean 'torchrl'"):
        require("torch_rl")


@pytest.mark.parametrize(
    "call",
    [
        lambda: torchrl.batch_env(4, "toy"),
        lambda: benchmarl.text_task("toy"),
        lambda: benchmarl.token_model(),
        lambda: agilerl.parallel_env("toy"),
        lambda: trl.dataset("toy"),
        lambda: verifiers.taskset("toy"),
        lambda: openenv.text_environment("toy"),
        lambda: openenv.models(),
        lambda: reasoning_gym.dataset("toy"),
        lambda: reasoning_gym.register("toy"),
    ],
)
def test_every_adapter_asks_for_its_library_first(call, monkeypatch):
    pretend(monkeypatch, None)
    with pytest.raises(coevo_env.MissingExtraError):
        call()
    pretend(monkeypatch, "0.0.1")
    with pytest.raises(coevo_env.ConfigError, match="tested with"):
        call()


@pytest.mark.parametrize("ordinary", [False, True])
@pytest.mark.parametrize(
    ("call", "library"),
    [
        (trl.dataset, "trl"),
        (trl.reward_functions, "trl"),
        (trl.settings, "trl"),
        (verifiers.taskset, "verifiers"),
        (reasoning_gym.dataset, "reasoning-gym"),
        (reasoning_gym.register, "reasoning-gym"),
    ],
)
def test_libraries_of_single_responses_refuse_joint_rewards(call, library, ordinary):
    """The fault: they were paid nothing for them, without a word."""
    task = coevo_env.make_task("matching")
    assert task.joint_rewards and not task.rewards
    if ordinary:
        task = replace(task, rewards={"one": lambda prompts, responses: [1.0] * len(responses)})
    with pytest.raises(coevo_env.ConfigError, match=f"for {library}: the task 'matching' has the joint rewards payoff"):
        call(task)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("call", [reasoning_gym.dataset, reasoning_gym.register])
def test_a_question_leaves_no_message_out(call, split, monkeypatch):
    """The fault: of a chat the last message was asked, and the system's was not."""
    pretend(monkeypatch, None)
    chats = {
        count: coevo_env.Prompt(
            "2+2?", answer="4", earlier=[{"role": "system", "content": "Answer in German."}] * count
        )
        for count in (0, 1, 2)
    }
    templates = {"pioneer": "{prompt}", "observer": "{prompt} {responses}"}
    task = replace(coevo_env.make_task("toy"), train=["a", chats[0]], test=["b"], templates=templates)
    with pytest.raises(coevo_env.MissingExtraError):  # a chat of one message is a text
        call(task)
    for count in (1, 2):
        longer = replace(task, **{split: ["c", chats[count]]})
        with pytest.raises(
            coevo_env.ConfigError, match=f"prompt 1 of '{split}' .* a chat with {count} messages before"
        ):
            call(longer)


def test_importing_adapters_imports_no_library():
    libraries = [
        "torchrl",
        "tensordict",
        "benchmarl",
        "ray",
        "tianshou",
        "agilerl",
        "trl",
        "datasets",
        "verifiers",
        "openenv",
        "reasoning_gym",
    ]
    names = ["torchrl", "benchmarl", "agilerl", "trl", "verifiers", "openenv", "reasoning_gym"]
    code = (
        f"import sys, importlib; [importlib.import_module('coevo_agents.adapters.' + name) for name in {names}];"
        f"print(sorted(set({libraries}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- ranges, results and the page
def test_extras_ask_for_what_was_tested():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for library in LIBRARIES.values():
        if library.extra:
            (asked,) = re.findall(rf'^{library.extra} = \["[\w-]+(?:\[\w+\])?>=([\d.]+)"\]', project, re.MULTILINE)
            assert asked == library.low, library


def test_results_lie_in_the_ranges():
    def numbers(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version)]

    for name, result in RESULTS.items():
        for library in LIBRARIES.values():
            version = result["versions"].get(library.package)
            if version and library.package in next(entry.packages for entry in script.ENTRIES if entry.name == name):
                assert numbers(library.low) <= numbers(version) < numbers(library.high), (name, library, version)


def test_both_ends_of_a_range_were_tested():
    for name, library in LIBRARIES.items():
        if library.extra in (None, "sb3"):
            continue  # tests of this suite as well
        result = RESULTS[name]
        tried = [result["versions"][library.package]]
        tried += [version for version, counts in result["also"].items() if counts["passed"] and not counts["failed"]]
        assert any(version.startswith(library.low) for version in tried), (
            f"{name}: run with `--version {library.low}...`, or raise the lower end"
        )


def test_every_library_has_results_and_none_failed():
    for entry in script.ENTRIES:
        assert entry.name in RESULTS, f"{entry.name}: run `make test-adapters LIBRARY={entry.name}`"
        result = RESULTS[entry.name]
        assert result["tests"] and not result["problem"]
        assert "failed" not in result["tests"].values(), entry.name
        assert script.verdict(result["tests"], entry.conserved) == "yes", entry.name
        if entry.algorithms:
            assert script.verdict(result["tests"], entry.improves) == "yes", entry.name


def test_results_name_the_tests_that_there_are():
    """A test that was renamed or added since the last run is not in the results: run `make
    test-adapters`."""
    for entry in script.ENTRIES:
        if entry.extra == "sb3":
            continue  # these are tests of this suite as well
        text = (ROOT / entry.test).read_text(encoding="utf-8")
        assert {name.split("[")[0] for name in RESULTS[entry.name]["tests"]} == set(
            re.findall(r"^def (test_\w+)", text, re.MULTILINE)
        ), entry.name


def test_the_page_is_made_of_the_results():
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    assert page == script.page(RESULTS), "run `python docs/scripts/adapters.py render`"


def test_results_and_page_name_no_path_of_a_machine():
    for name in ("docs/adapters.md", "docs/adapters/results.json"):
        assert not re.search(r"(^|[\s\"'(])/\w", (ROOT / name).read_text(encoding="utf-8")), name


def test_what_the_page_names_exists():
    extras = set(re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    for entry in script.ENTRIES:
        assert entry.extra in extras, entry.name
        assert not entry.module or (ROOT / "agents" / "adapters" / f"{entry.module}.py").is_file()
        for example in entry.examples:
            assert (ROOT / "docs" / "examples" / example).is_file()
    for *_, shown in script.REFUSED:
        if shown:
            library, test = shown.split(": ")
            assert RESULTS[library]["tests"][test] == "passed", shown


def test_tests_of_libraries_are_skipped_without_them():
    for entry in script.ENTRIES:
        if entry.extra != "sb3":
            text = (ROOT / entry.test).read_text(encoding="utf-8")
            assert "pytest.importorskip(" in text and "pytestmark = pytest.mark.adapter" in text, entry.test


# ---------------------------------------------------------------- the generator
def test_verdicts():
    tests = {
        "test_rewards_are_conserved[a]": "passed",
        "test_rewards_are_conserved[b]": "failed",
        "test_it_improves": "passed",
    }
    assert script.verdict(tests, "conserve") == "**no**"
    assert script.verdict(tests, "improves") == "yes"
    assert script.verdict(tests, "nothing") == "-"
    assert script.verdict({"test_it_improves": "skipped"}, "improves") == "skipped"


def test_a_library_that_was_not_run_is_said_to_be_so():
    entry = script.ENTRIES[2]
    assert "| not run |" in script.row(entry, None)
    broken = {
        "versions": {},
        "python": "",
        "tests": {},
        "problem": script.last_line("trace\nERROR: no wheel in /home/somebody/wheels for it\n"),
    }
    text = script.row(entry, broken)
    assert "| not run: not installed" not in text and "no wheel in <path> for it" in text


def test_outcomes_are_read_from_junit(tmp_path):
    report = tmp_path / "junit.xml"
    inner = {"a": "", "b": "<failure/>", "c": "<skipped/>", "d": "<error/>"}
    cases = "".join(f'<testcase name="{name}">{what}</testcase>' for name, what in inner.items())
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>", encoding="utf-8")
    assert script.outcomes(report) == {"a": "passed", "b": "failed", "c": "skipped", "d": "failed"}
