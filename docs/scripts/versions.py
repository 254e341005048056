"""Runs the tests under each supported Python, and with the lowest versions of the dependencies that
`pyproject.toml` states.

    python docs/scripts/versions.py [3.10 3.12 3.13 lowest ...] [-- words for pytest]

One idea: uv resolves, finds interpreters and knows how to take the lowest version of everything, so
this only calls it: an environment for each case under `.venv-versions/`, the suite in it, and one
line for each at the end. `lowest` runs under the oldest Python, whose wheels the old versions have.

PyTorch's default wheel on Linux brings CUDA along, some gigabytes for each Python; with
`UV_TORCH_BACKEND=cpu` uv takes the small one from PyTorch's own index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENVS = ROOT / ".venv-versions"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
CASES = (*PYTHONS, "lowest")


def uv() -> str:
    """The path of uv: the one that is there, or one from PyPI in an environment of its own."""
    if found := shutil.which("uv"):
        return found
    home = VENVS / "uv"
    if not (home / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "uv"], check=True)
    return str(home / "bin" / "uv")


def run(case: str, words: list[str]) -> int:
    """Installs and tests one case; returns pytest's exit status, or that of the installation."""
    python = PYTHONS[0] if case == "lowest" else case
    home = VENVS / case
    how = ["--resolution", "lowest-direct"] if case == "lowest" else ["--constraint", "constraints.txt"]
    commands = [
        [uv(), "venv", "--quiet", "--seed", "--allow-existing", "--python", python, str(home)],
        [uv(), "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), *how, "--editable", ".[dev]"],
        [str(home / "bin" / "python"), "-m", "pytest", "-q", "-n", "2", *words],
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    for command in commands:
        print("+", *command, flush=True)
        if status := subprocess.run(command, cwd=ROOT, env=env, check=False).returncode:
            return status
    return 0


def main() -> None:
    cases, _, words = " ".join(sys.argv[1:]).partition("--")
    if unknown := set(cases.split()) - set(CASES):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(CASES)}")
    found = {case: run(case, words.split()) for case in cases.split() or CASES}
    for case, status in found.items():
        print(f"{case:8} {'passed' if status == 0 else f'failed ({status})'}")
    sys.exit(max(found.values()))


if __name__ == "__main__":
    main()
