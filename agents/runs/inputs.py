"""What a run rests on, as digests: the initial model, its tokenizer, the task, the settings, and
the versions of the libraries that reward.

One idea: a number of a run means something only beside what it was made from, so that is written
down when the run begins, and whoever goes on with the run, or measures its agents again, compares.
What is compared are values (tensors, ids, prompts), not files, which can be written in other bytes.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch

from coevo_env.assets.tfidf import TfidfClassifier
from coevo_env.errors import CoevoError, ConfigError, short_of_memory
from coevo_env.game.splits import SPLITS
from coevo_env.game.task import Task
from coevo_env.lm.model import LanguageModel

__all__ = ["FREE", "compare", "inputs", "libraries", "model_digests", "settings_digest", "task_digests"]

REWARDS = "rewards, form 2"
"""The digest of the rewards and of all that they reach; "rewards", that of earlier versions, saw
less, and is compared with nothing."""
FREE = ("iterations", "keep", "save_every", "stop_on", "trust_remote_code")
"""Settings that may be others when a run goes on: no number depends on them,
but how many there are."""


def inputs(config: Mapping[str, Any], base: LanguageModel, task: Task) -> dict[str, Any]:
    """The digests of a run, and under "run" one of them all. By that its checkpoints and its
    summary say whose they are; runs that are equal in everything may share it.

    Args:
        config: Its settings as plain data.
        base: The initial model.
        task: The task.
    """
    found = {
        "settings": settings_digest(config),
        "model": model_digests(base),
        "task": task_digests(task),
        "libraries": libraries(task),
    }
    return {**found, "run": _digest([found])}


def compare(saved: Mapping[str, Any] | None, now: Mapping[str, Any], where: str) -> list[str]:
    """Compares what a run rests on with what is there now.

    Args:
        saved: `inputs` as the run folder has them; None of a run before there were any.
        now: Any part of `inputs`.
        where: What to call the run.

    Returns:
        What could not be compared, a line each.

    Raises:
        ConfigError: Something differs; the message names all of it, and what to do.
    """
    wrong, notes = [], []
    for kind, values in now.items():
        old = (saved or {}).get(kind)
        if old is None or old == values:
            continue
        known = {*old, *values} - ({"rewards"} if REWARDS in values else set())
        if REWARDS in values and REWARDS not in old:
            known.discard(REWARDS)
            notes.append(f"{where} has no digest of its rewards in the form of today: they were not compared.")
        names = sorted(name for name in known if old.get(name) != values.get(name))
        for name in names:
            if kind == "libraries":
                wrong.append(f"{name} is {values.get(name, 'not there')} and was {old.get(name, 'not used')}")
            else:
                wrong.append(WORDS.get((kind, name), f"the {name} of the {kind}"))
    if wrong:
        raise ConfigError(
            f"{where} was made with something else than what is there now; different are: {'; '.join(wrong)}. Its "
            "numbers would be those of neither. Put back what it was made with, or start a new run."
        )
    return notes


WORDS = {
    ("model", "weights"): "the weights of the initial model",
    ("model", "configuration"): "the configuration of the initial model",
    ("model", "tokenizer"): "the tokenizer",
    **{("task", split): f"the {split} prompts of the task" for split in SPLITS},
    ("task", "text"): "the templates, lengths or name of the task",
    ("task", REWARDS): "the source or weights of the rewards, or a model that they hold",
}
"""What the parts are called in messages."""


# ---------------------------------------------------------------- the parts
def settings_digest(config: Mapping[str, Any]) -> str:
    """Of settings as they stand in config.json, without those that may change."""
    return _digest([{name: value for name, value in config.items() if name not in FREE}])


def model_digests(base: LanguageModel) -> dict[str, str]:
    """Of all tensors by name, of the configuration of the network, and of what the tokenizer
    does."""
    network, tokenizer = _network(base.module), _tokenizer(base.tokenizer)
    return {"weights": _tensors(base.module), "configuration": _digest(network), "tokenizer": tokenizer}


def _network(module: torch.nn.Module) -> list[Any]:
    """What a network computes beside its tensors: its class, and settings that are no default."""
    settings: Any = getattr(module, "config", None)
    changed = settings.to_diff_dict() if settings is not None else {}
    return [type(module).__name__, {name: value for name, value in changed.items() if name not in NOTES}]


NOTES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Settings of a network that say where it comes from, and not what it computes."""


def _tensors(module: torch.nn.Module) -> str:
    digest, seen = hashlib.sha256(), set()
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.data_ptr() in seen and tensor.numel():  # a tied head
            continue
        seen.add(tensor.data_ptr())
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


PROBE = "It was the best of 1,234 films (by far)! \n\tNaïve – 東京 😀 <eos> don't 3.50$ HELLO  world"
"""Encoded to see whether two tokenizers do the same."""


def _tokenizer(tokenizer: Any) -> str:
    hf = getattr(tokenizer, "hf", None)
    if hf is None:
        return _digest([type(tokenizer).__name__, tokenizer.vocab_size, tokenizer.eos_id])
    template = getattr(hf, "chat_template", None)
    ends = [getattr(tokenizer, name, ()) for name in ("eos_ids", "opening", "banned")]
    return _digest([*_vocabulary(hf), template, tokenizer.vocab_size, *ends])


def _vocabulary(hf: Any) -> list[Any]:
    special = [hf.eos_token_id, hf.pad_token_id, hf.unk_token_id, hf.bos_token_id]
    try:
        ids = hf.encode(PROBE, add_special_tokens=False)
    except Exception:  # there are tokenizers that cannot write everything
        ids = []
    return [sorted(hf.get_vocab().items()), special, ids]


def task_digests(task: Task) -> dict[str, str]:
    """Of the prompts of each split with their answers and columns, of the templates and lengths,
    and of the rewards as they are written."""
    text = [
        *(task.name, task.separator, task.max_new_tokens, task.min_new_tokens, task.max_context),
        *(task.stop_at_newline, sorted(task.templates.items())),
    ]
    rewards = []
    for kind in ("rewards", "joint_rewards"):
        for name, value in sorted(getattr(task, kind).items()):
            weight, function = value if isinstance(value, tuple) else (1.0, value)
            rewards.append((kind, name, weight, source(function)))
    prompts = {
        split: _digest([str(p), *(getattr(p, name, None) for name in ("answer", "earlier", "info"))] for p in prompts)
        for split, prompts in ((split, getattr(task, split)) for split in SPLITS)
    }
    return {**prompts, "text": _digest(text), REWARDS: _digest(rewards)}


def source(function: Any, seen: dict[int, Any] | None = None) -> list[Any]:
    """What a reward is: its text where there is one, and by value all that can be reached from it:
    globals that it names, defaults, what it closes over, attributes, the models that it loads.
    Functions and objects of installed libraries count by name, for the library's version counts."""
    outer, function = function, _written(function)
    what = function if inspect.isroutine(function) or isinstance(function, type) else type(function)
    text = _text(what)
    values = _state(function) | ({"": [outer.args, outer.keywords]} if isinstance(outer, functools.partial) else {})
    if (owner := getattr(function, "__self__", None)) is not None and not inspect.ismodule(owner):
        values["self"] = owner
    return _plain([getattr(what, "__module__", ""), getattr(what, "__qualname__", ""), text, values], seen)


def _written(function: Any) -> Any:
    """The function below partial() and the wrappers that match arguments or remember results."""
    for _ in range(20):
        inner = getattr(function, "func", None) or getattr(function, "function", None)
        inner = inner or getattr(function, "__wrapped__", None)
        if not callable(inner):
            return function
        function = inner
    return function


def _state(function: Any) -> dict[str, Any]:
    """Values that a function closes over or loads, or attributes of an object."""
    if inspect.isfunction(function):
        names = _names(function.__code__) & set(function.__globals__)
        found = {name: function.__globals__[name] for name in names} | dict(inspect.getclosurevars(function).nonlocals)
        return found | {"()": [function.__defaults__, function.__kwdefaults__]}
    if dataclasses.is_dataclass(function) and not isinstance(function, type):
        return {field.name: getattr(function, field.name) for field in dataclasses.fields(function)}
    slots = [name for part in type(function).__mro__ for name in _listed(part.__dict__.get("__slots__", ()))]
    held = {name: getattr(function, name) for name in slots if hasattr(function, name)}
    return held | dict(getattr(function, "__dict__", {}))


def _listed(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _ours(value: Any) -> bool:
    """Whether code is of the user's or of these packages: not of Python or an installed library."""
    name = getattr(value, "__module__", None) or ""
    top, module = name.partition(".")[0], sys.modules.get(name)
    if top in ("coevo_env", "coevo_agents"):
        return True
    if top in sys.stdlib_module_names - {"__main__"}:
        return False
    return "site-packages" not in (getattr(module, "__file__", None) or "")


def _names(code: CodeType) -> set[str]:
    """Names of globals and attributes in a function, and in the functions inside."""
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))


def _loads(value: Any) -> bool:
    """Whether a value is a function that loads something once, as rewards load their models: one
    without parameters under `functools.cache`."""
    return isinstance(value, CACHED) and not inspect.signature(value).parameters


CACHED = type(functools.cache(lambda: None))


def _loaded(load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # a function of the user's can fail in any way
        if isinstance(error, CoevoError) or short_of_memory(error):
            raise
        raise ConfigError(
            f"a reward could not load what it scores with: {getattr(load, '__qualname__', load)}() raised "
            f"{type(error).__name__}: {error}. Mend it, then start again."
        ) from error


def _plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """What JSON can write, of models and tokenizers what they do, of functions and objects what
    they hold; of what belongs to an installed library the name, for a repr can hold an address."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    seen = {} if seen is None else seen
    if not isinstance(value, (tuple, set, frozenset)):
        if id(value) in seen:  # said once, however often and in whatever circle it is reached
            return ["again", list(seen).index(id(value))]
        seen[id(value)] = value
    if _loads(value):
        return _plain(_loaded(value), seen)
    if isinstance(value, torch.nn.Module):
        return [*_plain(_network(value)), _tensors(value)]
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), value.detach().cpu().tolist()]
    if callable(getattr(value, "get_vocab", None)) and callable(getattr(value, "encode", None)):
        return _plain([*_vocabulary(value), getattr(value, "model_max_length", None)])
    if isinstance(value, TfidfClassifier):
        return _plain([value.terms, value.idf, value.weights, value.intercept])
    if isinstance(value, re.Pattern):
        return [value.pattern if isinstance(value.pattern, str) else repr(value.pattern), value.flags]
    if isinstance(value, Mapping):
        return [[str(key), _plain(inner, seen)] for key, inner in sorted(value.items(), key=lambda pair: str(pair[0]))]
    if isinstance(value, (set, frozenset)):
        return sorted(str(_plain(inner, seen)) for inner in value)
    if isinstance(value, (list, tuple)):
        return [_plain(inner, seen) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return _held(value, seen)


def _held(value: Any, seen: dict[int, Any]) -> Any:
    """Of code and of objects; see `_plain`."""
    owner = getattr(value, "__self__", None)
    if inspect.isbuiltin(value) and owner is not None and not inspect.ismodule(owner):  # pattern.search
        return [value.__name__, _plain(owner, seen)]
    if inspect.ismodule(value):
        return value.__name__
    if isinstance(value, type):
        return [value.__module__, value.__qualname__, _text(value) if _ours(value) else ""]
    if inspect.isroutine(value) or isinstance(value, (functools.partial, CACHED)):
        return source(value, seen) if _ours(_written(value)) else getattr(value, "__qualname__", "")
    return [*source(value, seen)] if _ours(type(value)) and not isinstance(value, Path) else type(value).__name__


def _text(what: Any) -> str:
    try:
        return inspect.getsource(what)
    except (OSError, TypeError):  # typed in, or not Python
        return ""


def libraries(task: Task) -> dict[str, str]:
    """Versions of the libraries that the modules of the rewards import; of NumPy not, which counts
    the same in all of them."""
    found: set[str] = set()
    for kind in ("rewards", "joint_rewards"):
        for value in getattr(task, kind).values():
            function = _written(value[1] if isinstance(value, tuple) else value)
            module = sys.modules.get(getattr(function, "__module__", "") or "")
            found |= _imported(module)
    versions = {}
    for name in sorted(found):
        for distribution in (name, DISTRIBUTIONS.get(name, name)):
            try:
                versions[distribution] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "PyYAML", "bs4": "beautifulsoup4"}
"""Names of packages whose distributions are called otherwise."""


def _imported(module: Any) -> set[str]:
    """Top-level names of other people's packages that a module imports anywhere."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return set()
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    tops = {name.partition(".")[0] for name in names} - {"", "numpy", "coevo_env", "coevo_agents"}
    return tops - set(sys.stdlib_module_names)


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(_plain(part)).encode() + b"\0")
    return digest.hexdigest()
