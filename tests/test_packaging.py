"""The wheel holds what runs need and nothing more, versions agree, and imports go one way: core <-
faces <- agents <- benchmarks."""

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

import coevo_env

ROOT = Path(__file__).resolve().parents[1]
CORE = ("core", "kl", "mixing", "roles", "rng", "sampling", "scoring", "task", "errors")
"""The rules of the game; they import one another and numpy."""


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
        *(
            "coevo_env/py.typed",
            "coevo_agents/py.typed",
            "coevo_agents/templates/report.html.j2",
            "coevo_env/templates/page.html.j2",
        ),
        *("coevo_env/models/embedded/model.safetensors", "coevo_env/models/embedded/tokenizer.json"),
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
    assert foreign - set(re.findall(r'"([\w-]+)>=', needed)) == {"datasets"}  # comes with trl


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
    listed = re.search(r"^packages = \[(.*)\]", project, re.MULTILINE)
    assert listed
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "coevo_env").rglob("__init__.py")}
    assert set(re.findall(r'"([\w.]+)"', listed[1])) == found | {"coevo_agents", "coevo_agents.adapters"}


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
def imported(file: Path, package: str) -> set[str]:
    """Absolute names of all modules that a file imports, inside functions as well; imports for type
    checkers do not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def package_files(folder: str, package: str):
    for file in sorted((ROOT / folder).rglob("*.py")):
        inside = file.relative_to(ROOT / folder).parent.parts
        yield file, ".".join([package, *inside])


def test_the_environment_never_imports_learners_or_benchmarks():
    for file, package in package_files("coevo_env", "coevo_env"):
        roots = {name.split(".")[0] for name in imported(file, package)}
        assert not roots & {"coevo_agents", "agents", "benchmarks", "tests"}, file


def test_agents_never_import_benchmarks():
    for file, package in package_files("agents", "coevo_agents"):
        assert not {name.split(".")[0] for name in imported(file, package)} & {"benchmarks", "tests"}, file


def test_the_core_is_pure():
    own = {f"coevo_env.{name}" for name in CORE}
    for name in CORE:
        found = imported(ROOT / "coevo_env" / f"{name}.py", "coevo_env")
        assert not {full.split(".")[0] for full in found} & {"pettingzoo", "gymnasium", "torch", "transformers"}, name
        modules = {".".join(full.split(".")[:2]) for full in found if full.startswith("coevo_env.")}
        allowed = (
            own | {"coevo_env.tasks"} if name == "task" else own
        )  # a task by its name is looked up when it is asked for
        assert modules <= allowed, (name, modules - allowed)


def test_the_rules_know_no_face():
    faces = {f"coevo_env.{name}" for name in ("aec", "parallel", "gym_env", "batch")}
    below = [file for file, _ in package_files("coevo_env", "coevo_env") if f"coevo_env.{file.stem}" not in faces]
    free = {"__init__", "testing", "learner_check"}  # they name the faces for others
    for file in below:
        if file.stem not in free:
            package = ".".join(["coevo_env", *file.relative_to(ROOT / "coevo_env").parent.parts])
            assert not imported(file, package) & faces, file


def test_importing_the_package_is_light():
    heavy = {"torch", "transformers", "peft", "stable_baselines3", "sklearn"}
    code = f"import sys, coevo_env; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_names_of_the_package_are_all_there():
    for name in coevo_env.__all__:
        assert getattr(coevo_env, name) is not None
    assert set(coevo_env.__all__) - {"__version__"} == set(coevo_env._HOME)
