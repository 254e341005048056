"""The agents that a run has saved: which there are, and whether they are still what it saved.

One idea: the summary of a run says of every file of its agents what it is, so whoever measures an
agent, plays it or goes on with its run is told when it is another one's, or was edited. Pages and
notes beside the files of a model (`*.md`, hidden files) are nobody's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError

from .checkpoint import checkpoints, manifest
from .folder import read_saved
from .schema import SummaryFile, read_json

__all__ = ["check_saved", "run_of", "saved_agents"]


def saved_agents(run: Path) -> dict[str, str]:
    """Name -> folder of the agents that a run saved at its end, `llm1` before `llm10`; {} where it
    has none, or has checkpoints of a training that has not ended.

    Raises:
        ConfigError: They are not those of the summary.
    """
    place = run / "agents"
    names = [f.name for f in place.iterdir() if (f / "config.json").exists()] if place.is_dir() else []
    found = sorted((name for name in names if name[0] != "."), key=lambda name: (len(name), name))
    summary = _summary(run)
    if not summary and checkpoints(run / "checkpoints"):
        return {}
    told = {name for name, agent in summary.get("agents", {}).items() if agent.get("files")}
    if found and told and (wrong := sorted(told ^ set(found))):
        what = "is missing" if wrong[0] in told else "is none that the run saved"
        raise ConfigError(f"{place / wrong[0]} {what}; expected the agents {', '.join(sorted(told))}. {_mend(run)}")
    return {name: str(place / name) for name in found}


def run_of(agent: str | Path) -> Path | None:
    """The run in whose folder a saved agent lies."""
    run = Path(agent).parent.parent
    return run if Path(agent).parent.name == "agents" and (run / "config.json").is_file() else None


def check_saved(agents: Iterable[str | Path]) -> list[str]:
    """Whether folders of agents that lie in run folders hold what the runs saved there.

    Args:
        agents: Folders; those that are not there are left out, and so are models of no run.

    Returns:
        What is to be said: of a run without digests of its agents.

    Raises:
        ConfigError: One is another agent's, or was edited.
    """
    notes: dict[Path, str] = {}
    for path in map(Path, agents):
        run = run_of(path)
        if run is None or not path.is_dir():
            continue
        summary = _summary(run)
        expected = {name: agent.get("files") for name, agent in summary.get("agents", {}).items()}
        if not expected.get(path.name):
            notes[run] = f"{run} has no digests of its agents: whether they are those that it saved was not checked."
            continue
        _compare(run, path, expected)
    return list(notes.values())


def _compare(run: Path, path: Path, expected: Mapping[str, Mapping[str, Any]]) -> None:
    sizes = {file["bytes"] for files in expected.values() for file in (files or {}).values()}
    found = {name: what for name, what in manifest(path, sizes).items() if not _beside(name)}
    other = next((name for name, files in expected.items() if files == found), None)
    if found == expected[path.name]:
        return
    if other:
        raise ConfigError(f"{path} holds the agent that the run saved as {other}. {_mend(run)}")
    wrong = []
    for name in sorted({*found, *expected[path.name]}):
        if name not in found:
            wrong.append(f"{name} is missing")
        elif name not in expected[path.name]:
            wrong.append(f"{name} was added")
        elif found[name] != expected[path.name][name]:
            wrong.append(f"{name} is another one")
    more = f", and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    raise ConfigError(f"{path} is not what the run saved there: {', '.join(wrong[:4])}{more}. {_mend(run)}")


def _beside(name: str) -> bool:
    """Whether a file is for people and for other tools, and no loader of models reads it."""
    return name.startswith(".") or name.endswith(".md")


def _mend(run: Path) -> str:
    return (
        f"Put back what it saved, or have it saved again: remove {run / 'agents'}, then coevo train --resume {run}. A "
        "model that is meant to be another one can be measured from another folder."
    )


def _summary(run: Path) -> dict[str, Any]:
    """The summary of a run; {} where there is none.

    Raises:
        ConfigError: It cannot be read, or is of another run.
    """
    try:
        summary = read_json(run / "summary.json", SummaryFile, ConfigError, advice=f"Remove it, then: {_again(run)}")
    except FileNotFoundError:
        return {}
    if not summary.get("agents"):
        raise ConfigError(f"{run / 'summary.json'} has no agents in it. Remove it: {_again(run)}")
    pinned = (read_saved(run / "config.json").get("inputs") or {}).get("run")
    if None not in (pinned, summary.get("run")) and pinned != summary["run"]:
        raise ConfigError(f"{run / 'summary.json'} is of another run. Put back its own, or remove it: {_again(run)}")
    return summary


def _again(run: Path) -> str:
    return f"coevo train --resume {run} writes it again."
