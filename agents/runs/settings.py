"""Settings by dotted name: set, listed, explained, read from files and written to them.

One idea: a preset, a file and the command line are all the same thing, overrides by dotted name,
and `apply` is the only door. What is misspelt is told with the nearest name; what does not apply to
the run at hand is refused rather than swallowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError, unknown_name

from ..learners.learner import LEARNERS, learner_name, settings_class
from .config import Config, settings_label
from .presets import PRESETS

__all__ = ["apply", "explained", "from_dict", "listing", "names", "preset", "read_nested", "read_toml", "to_dict"]

OPTIONS = "task_options"
"""The setting that holds options by name, whatever these are."""
AGENTS = "agents"
"""The setting that holds what single agents have for themselves, by agent."""

TOML_BYTES = 2**20
"""Of a file of settings; all there are, with explanations, take 10 kB."""

RENAMED = {"best_of": "best_of_n.n", "learner_options": "learner_settings"}
"""What settings of 0.1 are called now."""


# ---------------------------------------------------------------- what there is
def names(learner: str = "ppo") -> dict[str, Any]:
    """Every setting of a run with this learner by dotted name, with its type."""
    result: dict[str, Any] = {}
    for name, hint in _hints(Config).items():
        if name == "learner_settings":
            label = settings_label(learner)
            result.update({f"{label}.{key}": inner for key, inner in _hints(settings_class(learner)).items()})
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            result.update({f"{name}.{key}": inner for key, inner in _hints(hint).items()})
        else:
            result[name] = hint
    return result


def explained(cls: type) -> dict[str, str]:
    """What the docstrings of a dataclass and of those that it extends say of each field, by
    name."""
    result: dict[str, str] = {}
    for kind in reversed(cls.__mro__):
        _, found, section = inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("Attributes:\n")
        section = re.split(r"\n(?=\S)", section)[0] if found else ""
        for entry in re.split(r"\n(?=    \S)", section):
            fields, colon, words = entry.strip().partition(": ")
            if colon:
                result.update(dict.fromkeys(fields.split(", "), " ".join(words.split())))
    return result


def listing(config: Config) -> list[str]:
    """Every setting that applies to a run as a line of TOML, with its explanation as the comment
    behind it."""
    lines = []
    own, label = explained(settings_class(config.learner)), settings_label(config.learner)
    run = explained(Config)
    for name in names(config.learner):
        parent, _, leaf = name.rpartition(".")
        if parent == label:
            value, words = getattr(config.settings, leaf), own.get(leaf, "")
        else:
            holder: Any = getattr(config, parent) if parent else config
            value, words = getattr(holder, leaf), (explained(type(holder)) if parent else run).get(leaf, "")
        lines.append(f"{name} = {_toml(value)}" + (f"  # {words}" if words else ""))
    return lines


# ---------------------------------------------------------------- setting
def apply(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A config with some settings replaced.

    Args:
        config: Where to start.
        overrides: Dotted name -> value; a string is read as the type of the setting.
            `task_options.x` sets one option of the task. The settings of the learner are called by
            its name (`ppo.clip`), those of a learner of one's own `learner_settings.x`. Another
            learner than that of `config` starts from its own defaults.

    Raises:
        ConfigError: An unknown name (the nearest is suggested), a value of another type, or a
            setting that the run would not use.
    """
    config = _replaced(config, overrides)
    for name in overrides:
        _check_applies(name, config)
    return config


def _replaced(config: Config, overrides: Mapping[str, Any]) -> Config:
    """`apply` without the question whether a setting is of use, which a saved run is not asked."""
    learner = learner_name(str(overrides.get("learner", config.learner)))
    known, label = names(learner), settings_label(learner)
    overrides, given = _of_agents(overrides)
    nested: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {"learner": learner}
    settings = dict(config.learner_settings) if learner == config.learner else {}
    for name, value in overrides.items():
        parent, _, leaf = name.rpartition(".")
        if name == "learner_settings" and isinstance(value, Mapping):
            settings.update(
                {
                    key: _convert(f"{label}.{key}", _known(f"{label}.{key}", known, learner), v)
                    for key, v in value.items()
                }
            )
        elif parent in (label, "learner_settings"):
            settings[leaf] = _convert(name, _known(f"{label}.{leaf}", known, learner), value)
        elif name.startswith(f"{OPTIONS}."):
            top.setdefault(OPTIONS, dict(config.task_options))[name.partition(".")[2]] = _guess(value)
        else:
            value = _convert(name, _known(name, known, learner), value)
            (nested.setdefault(parent, {}) if parent else top)[leaf] = value
    top["agents"] = _agents(config, learner, given)
    for parent, values in nested.items():
        try:
            top[parent] = dataclasses.replace(getattr(config, parent), **values)
        except TypeError as error:
            raise ConfigError(f"{parent}: {error}") from error
    return dataclasses.replace(config, **top, learner_settings=settings).complete()


def _of_agents(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Overrides without those of single agents (`agents.llm2.learner`, or a table of them); and
    these by agent."""
    rest: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    pending = list(overrides.items())
    while pending:
        name, value = pending.pop(0)
        if name.partition(".")[0] != AGENTS or (name == AGENTS and not isinstance(value, Mapping)):
            rest[name] = value
        elif isinstance(value, Mapping):
            pending[:0] = [(f"{name}.{key}", inner) for key, inner in value.items()]
        else:
            _, agent, *leaf = name.split(".", 2)
            own.setdefault(agent, {})[leaf[0] if leaf else ""] = value
    return rest, own


def _agents(config: Config, learner: str, given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`Config.agents` with some of it replaced.

    Args:
        config: Where to start.
        learner: Of the run, which may be another one now.
        given: What `_of_agents` found.
    """
    result: dict[str, dict[str, Any]] = {}
    for agent in dict.fromkeys([*config.agents, *given]):
        old, new = config.agents.get(agent, {}), dict(given.get(agent, {}))
        had = old.get("learner", config.learner)
        own = {key: value for key, value in {**old, **new}.items() if key == "learner"}
        if own:
            own["learner"] = learner_name(_convert(f"{AGENTS}.{agent}.learner", str, own["learner"]))
        has = own.get("learner", learner)
        settings = dict(old.get("learner_settings", {})) if has == had else {}
        new.pop("learner", None)
        label = settings_label(has)
        for name, value in new.items():
            parent, _, leaf = name.rpartition(".")
            where = f"{AGENTS}.{agent}.{name}".rstrip(".")
            if parent != "learner_settings" and parent not in LEARNERS:
                raise unknown_name(
                    "setting of an agent",
                    where,
                    [f"{AGENTS}.{agent}.learner", f"{AGENTS}.{agent}.{label}.{leaf or name}"],
                )
            key = f"{label if parent == 'learner_settings' else parent}.{leaf}"
            try:
                hint = _known(key, names(has), has)
            except ConfigError as error:
                raise ConfigError(f"{AGENTS}.{agent}: {error}") from error
            settings[leaf] = _convert(where, hint, value)
        result[agent] = own | ({"learner_settings": settings} if settings else {})
    return {agent: own for agent, own in result.items() if own}


def preset(name: str) -> Config:
    """The config of a preset."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return apply(Config(), PRESETS[name])


UNUSED: dict[str, tuple[Callable[[Config], bool], str]] = {
    "lora.": (lambda c: "lora" in c.weights, "weights='lora' or 'shared-lora'"),
    "mixing_weight": (lambda c: c.mixing == "weighted", "mixing='weighted'"),
    "mixing_weight_end": (lambda c: c.mixing_anneal > 0, "mixing_anneal > 0"),
    "alternate_every": (lambda c: c.updates == "alternating", "updates='alternating'"),
    "kl.target": (lambda c: c.kl.controller != "fixed", "kl.controller='adaptive' or 'dual'"),
    "kl.horizon": (lambda c: c.kl.controller == "adaptive", "kl.controller='adaptive'"),
    "kl.rate": (lambda c: c.kl.controller == "dual", "kl.controller='dual'"),
    "elastic.": (lambda c: c.elastic.every > 0, "elastic.every > 0"),
    "population.": (lambda c: c.population.capacity > 0, "population.capacity > 0"),
    "warm_start.": (lambda c: c.warm_start.steps > 0, "warm_start.steps > 0"),
}
"""Settings, or groups of them, that only some runs use: when, and how that is said."""


def _check_applies(name: str, config: Config) -> None:
    """Refuses a setting that has been given a value of its own and that the run would not use."""
    parent, _, leaf = name.rpartition(".")
    applies, when = UNUSED.get(name) or UNUSED.get(f"{parent}.") or (None, "")
    if applies is None or applies(config):
        return
    default, value = Config(), getattr(getattr(config, parent) if parent else config, leaf)
    if value != getattr(getattr(default, parent) if parent else default, leaf):
        raise ConfigError(
            f"{name}={value!r} does nothing in this run: it is used with {when}. Set that too, or leave it out."
        )


def _known(name: str, known: Mapping[str, Any], learner: str) -> Any:
    """The type of a setting; a name that is none is told from one that belongs to another
    learner."""
    if name in known:
        return known[name]
    label, (head, _, _) = settings_label(learner), name.partition(".")
    if head in LEARNERS or head == "learner_settings":
        mine = [other for other in known if other.startswith(f"{label}.")]
        has = f"its settings are {', '.join(mine)}" if mine else "it has no settings"
        near = difflib.get_close_matches(name, mine, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}: this run's learner is {learner}; {has}.{hint}")
    near = [RENAMED[head]] if head in RENAMED else [other for other in known if other.endswith(f".{name}")]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown setting {name!r}: expected one that `coevo train --list-settings` lists.{hint}")


# ---------------------------------------------------------------- files
def to_dict(config: Config) -> dict[str, Any]:
    """Plain data for JSON."""
    return dataclasses.asdict(config)


def from_dict(data: Mapping[str, Any]) -> Config:
    """The config that `to_dict` wrote, also by an earlier version. A learner of one's own is not
    imported; its settings are kept as they are until `Config.complete`.

    Raises:
        ConfigError: A name or value that is none.
    """
    flat: dict[str, Any] = {}
    for name, value in _upgraded(data).items():
        if isinstance(value, Mapping) and name not in (OPTIONS, AGENTS, "learner_settings"):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    settings, agents = flat.pop("learner_settings", {}), flat.pop(AGENTS, {})
    learner = learner_name(str(flat.pop("learner", Config.learner)))
    config = _replaced(Config(), flat)
    if learner in LEARNERS:
        return _replaced(config, {"learner": learner, "learner_settings": settings, AGENTS: agents})
    return dataclasses.replace(config, learner=learner, learner_settings=settings, agents=agents)


def _upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run of 0.1, which kept those of every learner side by side, in the form of
    today."""
    new = dict(data)
    if "learner_options" not in new:
        return new
    learner, options = new.get("learner", "ppo"), new.pop("learner_options")
    held = {name: new.pop(name, {}) for name in ("ppo", "reinforce", "rloo", "grpo", "mappo")}
    held |= {"best_of_n": {"n": new.pop("best_of", 4)}, "frozen": {}}
    return {**new, "learner_settings": held.get(learner, options)}


def read_toml(path: str | Path) -> dict[str, Any]:
    """Overrides by dotted name from a TOML file: `[kl]` and `beta = 0.1` below it is `kl.beta`.

    Raises:
        ConfigError: The file cannot be read, or asks for what only a person may ask for.
    """
    data = read_nested(path)
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    if flat.get("trust_remote_code"):
        raise ConfigError(
            f"{path}: trust_remote_code lets a model run code of its own, which a file cannot ask for; give it on the "
            "command line: --set trust_remote_code=true."
        )
    return flat


def read_nested(path: str | Path) -> dict[str, Any]:
    """What a TOML file says, as it is.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        with Path(path).open("rb") as stream:
            text = stream.read(TOML_BYTES + 1).decode("utf-8")
        if len(text) > TOML_BYTES:
            raise ValueError(f"it has more than {TOML_BYTES} bytes")
        data = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path} could not be read as TOML: {what}.") from error
    return data


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, str)) else repr(value)


# ---------------------------------------------------------------- values
def _hints(cls: type) -> dict[str, Any]:
    """Types of the fields of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls) if item.init}


def _convert(name: str, hint: Any, value: Any) -> Any:
    kind: Any = typing.get_origin(hint) or hint
    if kind in (typing.Union, types.UnionType):
        return _guess(value)
    if kind is typing.Literal:
        return value
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        if kind is bool and not isinstance(value, (bool, int)):
            raise ValueError
        if kind in (dict, Mapping):
            if not isinstance(value, Mapping):
                raise ValueError
            return dict(value)
        if kind in (list, tuple) and isinstance(value, str):
            value = _guess(value)
        if kind is str and not isinstance(value, str):
            raise ValueError
        if kind is int and not isinstance(value, int):
            try:
                return int(value) if isinstance(value, str) else _whole(float(value))
            except ValueError:
                return _whole(float(value))  # "1e3"
        return kind(value)  # pyright: ignore[reportArgumentType]  # what it refuses is caught
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ConfigError(f"setting {name}={value!r}; expected a value of type {kind.__name__}.") from None


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError
    return int(value)


def _guess(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
