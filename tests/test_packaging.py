"""The wheel holds what runs need and nothing more, versions agree, and importing the package is
light."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from floor_plan import FOLDERS

import coevo_env

ROOT = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------- the wheel
@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy of the sources, as pip builds it, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("coevo_env", "agents"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(folder),
        str(folder / "source"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_every_module_template_and_weight(wheel):
    packed = set(wheel.namelist())
    wanted = set()
    for folder, package in (("coevo_env", "coevo_env"), ("agents", "coevo_agents")):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                wanted.add(f"{package}/{file.relative_to(ROOT / folder).as_posix()}")
    assert {name for name in packed if ".dist-info/" not in name} == wanted
    for name in (
        *("coevo_env/py.typed", "coevo_agents/py.typed"),
        *("coevo_agents/pages/templates/report.html.j2", "coevo_env/view/templates/page.html.j2"),
        *("coevo_env/lm/embedded/model.safetensors", "coevo_env/lm/embedded/tokenizer.json"),
    ):
        assert name in packed


def test_the_wheel_installs_two_names_only(wheel):
    assert {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == {
        "coevo_env",
        "coevo_agents",
    }


def test_the_wheel_says_what_it_is(wheel):
    texts = {name.rpartition("/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    about = wheel.read(texts["METADATA"]).decode()
    assert re.search(r"^License-Expression: Apache-2.0$", about, re.MULTILINE)
    assert re.search(rf"^Version: {re.escape(coevo_env.__version__)}$", about, re.MULTILINE)
    assert re.search(r"^Requires-Python: >=3.10$", about, re.MULTILINE)
    assert "Apache License" in wheel.read(texts["LICENSE"]).decode()
    assert "coevo = coevo_agents.cli:main" in wheel.read(texts["entry_points.txt"]).decode()


def test_a_wheel_in_a_folder_of_its_own_works(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = (
        "import sys, coevo_env, coevo_agents.cli, coevo_env.lm.names as m, coevo_agents.pages.report as r, "
        "coevo_env.view.render as p;"
        "assert coevo_env.__file__.startswith(sys.argv[1]), coevo_env.__file__;"
        "r._template(); p.style(); p.script();"
        "env = coevo_env.env(seed=0); env.reset(); print(env.unwrapped.rules.vocab_size)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", code, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


# ---------------------------------------------------------------- versions and files
def test_versions_agree():
    assert metadata.version("coevo-env") == coevo_env.__version__
    latest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert latest and latest[1] == coevo_env.__version__
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited and cited[1] == coevo_env.__version__


def test_what_comes_next_says_whose_results_it_affects():
    """A section of the changelog that is not out yet says so in its heading (CONTRIBUTING.md)."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## Unreleased, to be ([\d.]+)$(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    if found is None:
        assert not re.search(r"^## Unreleased", text, re.MULTILINE), "expected '## Unreleased, to be X.Y.Z'"
        return
    assert found[1] != coevo_env.__version__, "the version is raised when it is released"
    assert re.search(r"^### Results affected\n\n\S", found[2], re.MULTILINE)


@pytest.mark.parametrize("name", ["bug", "wrong_number", "new_learner_or_task"])
def test_issue_forms_are_forms(name):
    """What GitHub asks of a form; a form that it cannot read is not shown at all."""
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8"))
    assert set(form) == {"name", "description", "labels", "body"}
    assert len({field["id"] for field in form["body"]}) == len({field["attributes"]["label"] for field in form["body"]})
    assert any(field.get("validations", {}).get("required") for field in form["body"])
    for field in form["body"]:
        assert set(field) <= {"type", "id", "attributes", "validations"}
        assert field["type"] in ("textarea", "dropdown", "checkboxes")
        options = field["attributes"].get("options", [])
        assert (field["type"] == "textarea") == (options == [])
        assert all(isinstance(option, dict if field["type"] == "checkboxes" else str) for option in options), field


def test_the_extra_bench_has_what_the_benchmarks_import():
    nodes = [
        node
        for file in (ROOT / "benchmarks").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    ]
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    ours = {"benchmarks", "coevo_agents", "coevo_env"}
    foreign = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - ours
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = (
        project[project.index("dependencies = [") : project.index("[project.optional")]
        + project[project.index("bench = [") :].splitlines()[0]
    )
    assert foreign - set(re.findall(r'"([\w-]+)>=', needed)) == {
        "comlrl",  # in an environment of its own
        "datasets",  # comes with trl
    }


def test_ranges_begin_where_the_package_begins_to_work():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    low = {
        name: tuple(map(int, version.split(".")))
        for name, version in re.findall(r'"(torch|transformers)>=([\d.]+)"', project)
    }
    assert low["torch"] >= (2, 5)  # torch.OutOfMemoryError
    assert low["transformers"] >= (4, 52)  # 4.51 raises KeyError while sampling


def test_every_package_folder_is_packaged():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^packages = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    assert listed
    found = {
        ".".join([package, *file.parent.relative_to(ROOT / folder).parts])
        for package, folder in FOLDERS.items()
        for file in (ROOT / folder).rglob("__init__.py")
    }
    assert set(re.findall(r'"([\w.]+)"', listed[1])) == found


def test_everything_installs_under_the_constraints():
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for name in ("Makefile", "README.md", "docs/dependencies.md"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if re.search(r"(^|\) |\t)(pip|\$\(PIP\)) install|^\s+\$\(PIP\) install", line):
                assert "-c constraints.txt" in line, f"{name}: {line}"


def test_ci_and_readme_run_the_same_commands():
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert 'for target in lint test; do\n  make --no-print-directory "$target" VENV=' in script
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^make train\b", readme, re.MULTILINE) and re.search(r"^make test\b", readme, re.MULTILINE)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_installs_once():
    """Without running anything: what `make` would do in an environment that is up to date, and in
    none."""

    def dry(*words: str) -> str:
        done = subprocess.run(
            ["make", "-n", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    fresh = dry("test", "VENV=/nonexistent/venv")
    assert (
        "-m venv /nonexistent/venv" in fresh
        and "install -c constraints.txt -e '.[dev]'" in fresh
        and "-m pytest" in fresh
    )
    assert "coevo train --seed 1" in dry("train", "ARGS=--seed 1", "VENV=/nonexistent/venv")


def test_make_does_nothing_twice(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for name in ("bin/python", ".installed", ".installed-dev"):
        (venv / name).touch()
        stamp = max((ROOT / file).stat().st_mtime for file in ("pyproject.toml", "constraints.txt")) + 1
        os.utime(venv / name, (stamp, stamp))
    for target in ("train", "test", "lint"):
        command = ["make", "-n", "-C", str(ROOT), target, f"VENV={venv}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "install -c" not in done.stdout and "-m venv" not in done.stdout


# ---------------------------------------------------------------- imports
def test_importing_the_package_is_light():
    heavy = {"torch", "transformers", "peft", "stable_baselines3", "sklearn"}
    code = f"import sys, coevo_env; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_names_of_the_package_are_all_there():
    for name in coevo_env.__all__:
        assert getattr(coevo_env, name) is not None
    assert set(coevo_env.__all__) - {"__version__"} == set(coevo_env._HOME)
