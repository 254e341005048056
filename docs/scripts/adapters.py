"""Tests every library in an environment of its own, and writes docs/adapters.md from the outcome.

    python docs/scripts/adapters.py run [library ...] [--version VERSION]
    python docs/scripts/adapters.py render

One idea: no one environment can hold all libraries, so each gets a virtual environment under
`.venv-adapters/`, its extra, and its test file; what was installed and how each test ended is kept
in docs/adapters/results.json, and the page is made of that file and of what is written here. The
matrix claims nothing that is not in the file: a library without results is a library that was not
run. With `--version` an older version of one library is tried, for the lower end of its range.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VENVS = ROOT / ".venv-adapters"
RESULTS = ROOT / "docs" / "adapters" / "results.json"
PAGE = ROOT / "docs" / "adapters.md"
COMMON = ("torch", "numpy", "gymnasium", "pettingzoo")


@dataclass(frozen=True)
class Entry:
    """A row of the matrix.

    Attributes:
        name: As in `coevo_agents.adapters.LIBRARIES`, where it is there.
        title: As its makers write it.
        packages: Distributions whose versions are noted; the first is the library.
        extra: What is installed.
        faces: Through which faces of the game it was tried.
        algorithms: Its own learners that the test trains; empty where it has none.
        module: Module of `coevo_agents.adapters`, or "" where nothing has to be translated.
        examples: Files of docs/examples.
        conserved, improves: Regular expressions of the names of the tests that prove it.
        page: A page of docs/adapters/, or "".
    """

    name: str
    title: str
    packages: tuple[str, ...]
    extra: str
    faces: str
    algorithms: str
    module: str = ""
    examples: tuple[str, ...] = ()
    conserved: str = "conserve"
    improves: str = "improves"
    page: str = ""

    @property
    def test(self) -> str:
        """Its file of tests, or folder where there are several."""
        return TESTS.get(self.name, f"tests/adapters/test_{self.name.replace('-', '_')}.py")


TESTS = {"stable-baselines3": "tests/adapters/sb3"}

ENTRIES = (
    Entry(
        "stable-baselines3",
        "Stable-Baselines3, sb3-contrib",
        ("stable-baselines3", "sb3-contrib"),
        "sb3",
        "gymnasium, batched",
        "PPO, A2C",
        module="sb3",
        examples=("sb3_ppo.py", "sb3_cotrain.py"),
        improves="learns",
        page="stable-baselines3.md",
    ),
    Entry(
        "cleanrl",
        "CleanRL style",
        (),
        "sb3",
        "batched",
        "PPO in one file",
        examples=("cleanrl_ppo.py",),
        conserved="what_the_engine_paid",
        page="cleanrl.md",
    ),
    Entry(
        "torchrl",
        "TorchRL",
        ("torchrl", "tensordict"),
        "torchrl",
        "AEC, batched",
        "ClipPPOLoss",
        "torchrl",
        ("torchrl_ppo.py",),
    ),
    Entry("supersuit", "SuperSuit", ("supersuit", "stable-baselines3"), "supersuit", "AEC, parallel", ""),
    Entry(
        "benchmarl",
        "BenchMARL",
        ("benchmarl", "torchrl"),
        "benchmarl",
        "parallel",
        "IPPO, MAPPO",
        "benchmarl",
        ("benchmarl_ippo.py",),
    ),
    Entry("rllib", "RLlib", ("ray",), "rllib", "AEC", "PPO", examples=("rllib_ppo.py",)),
    Entry("tianshou", "Tianshou", ("tianshou",), "tianshou", "gymnasium", "PPO", examples=("tianshou_ppo.py",)),
    Entry("agilerl", "AgileRL", ("agilerl",), "agilerl", "parallel", "IPPO", "agilerl", ("agilerl_ippo.py",)),
    Entry(
        "trl", "TRL", ("trl", "transformers", "datasets"), "trl", "task (one agent)", "GRPO", "trl", ("trl_grpo.py",)
    ),
    Entry("verifiers", "verifiers", ("verifiers",), "verifiers", "task (one agent)", "", "verifiers"),
    Entry("openenv", "OpenEnv", ("openenv",), "openenv", "AEC, whole turns", "", "openenv"),
    Entry(
        "reasoning-gym", "reasoning-gym", ("reasoning-gym",), "reasoning-gym", "task (one agent)", "", "reasoning_gym"
    ),
)

REFUSED = (
    (
        "Tianshou's `MultiAgentOnPolicyAlgorithm` on AEC",
        "it keeps the rewards of the steps at which an agent acts and drops the others: the pioneer, which is paid "
        "when the observer ends, sees 0",
        "the gymnasium face, one learner at a time, the others as partners",
        "tianshou: test_its_own_multi_agent_path_drops_what_is_paid_while_another_acts",
    ),
    (
        "AgileRL's `train_multi_agent_on_policy`",
        "it clears the ends of an episode that ends for all agents at once, so advantages reach into the next episode",
        "`IPPO.get_action` and `IPPO.learn` in a loop of one's own, as in the example",
        "agilerl: test_its_training_loop_forgets_where_episodes_end",
    ),
    (
        "masks with AgileRL's IPPO",
        "it applies a mask when it acts and not when it learns, so the two log-probs of one action differ",
        "no mask: a forbidden token is played as it is; choose a task whose tokens are all legal",
        "agilerl: test_its_learning_forgets_masks",
    ),
    (
        "agent names of the form `x_0`, `x_1` with AgileRL",
        "agents with one stem share one policy, without a word",
        "names as ours, `llm1`, `llm2`",
        "agilerl: test_agents_named_with_an_underscore_and_a_number_would_share_one",
    ),
    (
        "filtering a TorchRL rollout by `mask` before advantages are computed",
        "what an agent is paid while it is idle stands on idle steps, and would be thrown away",
        "advantages on all steps, then the loss on those of the mask, as in the example",
        "torchrl: test_aec_idle_steps_hold_the_pioneers_reward",
    ),
    (
        "partial resets of the batched TorchRL environment",
        "the rows of a batch begin and end together",
        "reset all rows; TorchRL's collectors do",
        "torchrl: test_batched_errors_say_what_is_missing",
    ),
    (
        "PettingZoo's turn-based conversion to a parallel environment",
        "it puts a string into the infos, which libraries that stack infos cannot bear",
        "the parallel face",
        "supersuit: test_pettingzoos_own_conversion_puts_a_string_into_the_infos",
    ),
    (
        "SuperSuit's `black_death_v3`",
        "it waits for a step in which every agent is terminated and truncated at once, which is never",
        "nothing: all agents live to the end of an episode",
        "supersuit: test_black_death_would_never_end",
    ),
    (
        "BenchMARL with `parallel_collection`",
        "every process would play the episodes of the same seed",
        "the default; environments in one process get seeds of their own",
        "",
    ),
    (
        "more than one agent in TRL, verifiers and reasoning-gym",
        "they know one model that answers a prompt",
        "the learners of this package, or a library with several agents",
        "",
    ),
    (
        "KL modes `reported` and `loss` with OpenEnv",
        "its clients send a text and no log-probs",
        '`kl="reference"`',
        "openenv: test_errors",
    ),
)
"""What does not work, why, what to do instead, and the test that shows it ("library: test")."""

HEADER = """# Libraries

Which version of which library was tried with this package, with which of its own learners, and whether two things
hold: *reward conservation*, what the environment paid each agent is what that agent's learner found in its own
buffers; and *improvement*, the trained agents earn more than chance, or than what they began with, by many standard
errors at a fixed seed.

Made by `python docs/scripts/adapters.py render` from [results.json](adapters/results.json), in which `make
test-adapters` writes what it saw. The libraries cannot share an environment, so each is an extra of its own and is
tested in one of its own:

```bash
make test-adapters
python docs/scripts/adapters.py run torchrl
```
"""

FOOTER = """
A version outside the range that an adapter was tested with is an error that says so; set
`COEVO_ALLOW_UNTESTED=1` to try it all the same.
"""


# ---------------------------------------------------------------- running
def run(names: list[str], version: str = "") -> int:
    """Tests some libraries, or all; returns how many had a failure."""
    failures = 0
    for entry in ENTRIES:
        if (names and entry.name not in names) or not (ROOT / entry.test).exists():
            continue
        result = run_one(entry, version)
        results = load()
        bad = [name for name, outcome in result["tests"].items() if outcome == "failed"]
        also = results.get(entry.name, {}).get("also", {})
        if version:
            counts = {
                "passed": sum(outcome == "passed" for outcome in result["tests"].values()),
                "failed": len(bad),
                "problem": result["problem"],
            }
            result = {**results[entry.name], "also": {**also, version: counts}}
        else:
            result["also"] = also
        results[entry.name] = result
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n", encoding="utf-8")
        failures += bool(bad or result["problem"])
        print(f"{entry.name} {version}: {len(bad)} tests failed {result['problem']}", flush=True)
    return failures


def run_one(entry: Entry, version: str = "") -> dict[str, Any]:
    """Installs a library, in a version or in the newest that fits, and runs its tests."""
    folder = VENVS / (f"{entry.extra}-{version}" if version else entry.extra)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-c", "constraints.txt"]
    exactly = [f"{entry.packages[0]}=={version}"] if version else []
    for what in (["torch"], ["-e", f".[{entry.extra}]", *exactly, "pytest"]):
        done = subprocess.run([*pip, *what], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"versions": {}, "python": "", "tests": {}, "problem": f"not installed: {last_line(done.stderr)}"}
    with tempfile.TemporaryDirectory() as report:
        path = Path(report) / "junit.xml"
        command = [
            str(python),
            "-m",
            "pytest",
            entry.test,
            "-m",
            "not slow and not gpu and not assets",
            "-q",
            f"--junitxml={path}",
        ]
        environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        done = subprocess.run([*command, "-p", "no:cacheprovider"], cwd=ROOT, env=environment, check=False)
        tests = outcomes(path) if path.is_file() else {}
    problem = "" if tests else f"pytest ended with {done.returncode} and ran no test"
    return {
        "versions": versions(python, (*entry.packages, *COMMON)),
        "python": version_of(python),
        "tests": tests,
        "problem": problem,
    }


def outcomes(path: Path) -> dict[str, str]:
    """Test -> "passed", "failed" or "skipped", from a JUnit file."""
    found = {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        tags = {child.tag for child in case}
        found[case.get("name", "")] = (
            "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        )
    return found


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    code = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=True)
    return {name: found.split("+")[0] for name, found in json.loads(done.stdout).items()}


def version_of(python: Path) -> str:
    code = "import platform; print(platform.python_version())"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def last_line(text: str) -> str:
    """The last line that says something, without a path of this machine."""
    lines = [line for line in text.splitlines() if line.strip()] or ["no message"]
    return re.sub(r"(/[\w.-]+){2,}", "<path>", lines[-1])[:200]


# ---------------------------------------------------------------- the page
def load() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def verdict(tests: dict[str, str], pattern: str) -> str:
    """What the tests whose names match say together."""
    found = [outcome for name, outcome in tests.items() if re.search(pattern, name)]
    if not found:
        return "-"
    if "failed" in found:
        return "**no**"
    return "yes" if "passed" in found else "skipped"


def row(entry: Entry, result: dict[str, Any] | None) -> str:
    title = f"[{entry.title}](adapters/{entry.page})" if entry.page else entry.title
    examples = ", ".join(f"[{name}](examples/{name})" for name in entry.examples) or "-"
    adapter = f"`coevo_agents.adapters.{entry.module}`" if entry.module else "none needed"
    if result is None or result["problem"]:
        version, python, conserved, improves = f"not run{': ' + result['problem'] if result else ''}", "-", "-", "-"
    else:
        version = (
            ", ".join(
                result["versions"][name] for name in entry.packages[: 2 if entry.name == "stable-baselines3" else 1]
            )
            or "-"
        )
        python = result["python"].rsplit(".", 1)[0]
        conserved = verdict(result["tests"], entry.conserved)
        improves = verdict(result["tests"], entry.improves) if entry.algorithms else "no learner"
    cells = [
        title,
        version,
        python,
        entry.faces,
        entry.algorithms or "scores only",
        conserved,
        improves,
        adapter,
        examples,
    ]
    return f"| {' | '.join(cells)} |"


def page(results: dict[str, Any]) -> str:
    """The text of docs/adapters.md."""
    head = [
        "library",
        "version",
        "Python",
        "faces",
        "learners trained",
        "rewards conserved",
        "improves",
        "adapter",
        "example",
    ]
    lines = [HEADER, f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [row(entry, results.get(entry.name)) for entry in ENTRIES]
    lines += [
        "",
        "Installed together with:",
        "",
        "| library | test | passed | with | passes also with |",
        "|---|---|---|---|---|",
    ]
    for entry in ENTRIES:
        result = results.get(entry.name)
        if result is None:
            continue
        passed = sum(outcome == "passed" for outcome in result["tests"].values())
        found = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        also = (
            ", ".join(
                version for version, counts in result["also"].items() if not counts["failed"] and not counts["problem"]
            )
            or "-"
        )
        test = f"[{Path(entry.test).name}](../{entry.test})"
        lines.append(f"| {entry.title} | {test} | {passed} of {len(result['tests'])} | {found} | {also} |")
    lines += ["", "## Refused, and why", "", "| what | why | instead | shown by |", "|---|---|---|---|"]
    for what, why, instead, shown in REFUSED:
        lines.append(f"| {what} | {why} | {instead} | {proof(shown, results)} |")
    lines += ["", "## Examples", "", "Each needs the extra of its library:", "", "```bash"]
    for entry in ENTRIES:
        lines += [f"python docs/examples/{name}  # {entry.title}" for name in entry.examples]
    lines += ["```", FOOTER.rstrip()]
    return "\n".join(lines) + "\n"


def proof(shown: str, results: dict[str, Any]) -> str:
    """The test that shows it, if it passed."""
    if not shown:
        return "-"
    library, test = shown.split(": ")
    outcome = results.get(library, {"tests": {}})["tests"].get(test, "not run")
    return f"`{test}`" if outcome == "passed" else f"`{test}` ({outcome})"


def main() -> int:
    parser = argparse.ArgumentParser(description="Tests the adapters and writes docs/adapters.md.")
    commands = parser.add_subparsers(dest="command", required=True)
    tests = commands.add_parser("run", help="tests libraries, each in an environment of its own, and renders the page")
    tests.add_argument(
        "libraries",
        metavar="library",
        nargs="*",
        choices=[[], *(entry.name for entry in ENTRIES)],
        help="all, where none is named",
    )
    tests.add_argument("--version", default="", help="of the library, where it is not the newest that fits")
    commands.add_parser("render", help="writes docs/adapters.md from docs/adapters/results.json")
    arguments = parser.parse_args()
    if getattr(arguments, "version", "") and len(arguments.libraries) != 1:
        parser.error("--version needs exactly one library")
    failures = run(arguments.libraries, arguments.version) if arguments.command == "run" else 0
    PAGE.write_text(page(load()), encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
