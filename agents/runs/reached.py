"""Values as digests: what a reward is and reaches, the libraries that it calls, networks, tensors
and tokenizers.

One idea: what counts is what is done, not how it is written or where it lies. Code is compared
without comments and docstrings, objects by what they hold, tokenizers by all that they do, and
what belongs to an installed library by the library's version.

Nothing here knows of runs or settings.
"""

from __future__ import annotations

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

from .code import local_imports, meaning

__all__ = ["digest", "libraries", "network", "source", "tensors", "vocabulary"]

OURS = ("coevo_env", "coevo_agents")


class Seen(dict[int, Any]):
    """Values that were reached, by their id. Without `weights` tensors are passed over, where only
    the kinds of values are asked for."""

    weights = True


def digest(parts: Iterable[Any]) -> str:
    """SHA-256 of values."""
    found = hashlib.sha256()
    for part in parts:
        found.update(json.dumps(_plain(part)).encode() + b"\0")
    return found.hexdigest()


# ---------------------------------------------------------------- models
NOTES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Settings of a network that say where it comes from, and not what it computes."""


def network(module: torch.nn.Module) -> list[Any]:
    """What a network computes beside its tensors: its class, and settings that are no default."""
    settings: Any = getattr(module, "config", None)
    changed = settings.to_diff_dict() if settings is not None else {}
    return [type(module).__name__, {name: value for name, value in changed.items() if name not in NOTES}]


def tensors(module: torch.nn.Module) -> str:
    """The digest of all tensors by name."""
    found, seen = hashlib.sha256(), set()
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.data_ptr() in seen and tensor.numel():  # a tied head
            continue
        seen.add(tensor.data_ptr())
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


PROBE = "It was the best of 1,234 films (by far)! \n\tNaïve – 東京 😀 <eos> don't 3.50$ HELLO  world"
"""Encoded and decoded to see whether two tokenizers do the same."""
WRAPPER = (
    *("clean_up_tokenization_spaces", "split_special_tokens", "add_prefix_space", "add_bos_token", "add_eos_token"),
    *("legacy", "padding_side", "truncation_side", "chat_template"),
)
"""Settings of a tokenizer that stand outside its backend."""


def vocabulary(hf: Any) -> list[Any]:
    """What a Hugging Face tokenizer does: its words, its special tokens, its settings, and the
    normaliser, pre-tokenizer, model, post-processor and decoder of its backend."""
    special = [hf.eos_token_id, hf.pad_token_id, hf.unk_token_id, hf.bos_token_id]
    try:
        ids = hf.encode(PROBE, add_special_tokens=False)
        again = hf.decode(ids)
    except Exception:  # there are tokenizers that cannot write everything
        ids, again = [], ""
    settings = {name: repr(getattr(hf, name, None)) for name in WRAPPER}
    return [sorted(hf.get_vocab().items()), special, ids, again, settings, _backend(hf)]


def _backend(hf: Any) -> str:
    """The digest of what does the work inside: of the library `tokenizers`, or of SentencePiece."""
    backend, pieces = getattr(hf, "backend_tokenizer", None), getattr(hf, "sp_model", None)
    if callable(write := getattr(backend, "to_str", None)):
        parts = json.loads(str(write()))
        for state in ("truncation", "padding"):  # as the last call left them
            parts.pop(state, None)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    if callable(write := getattr(pieces, "serialized_model_proto", None)):
        written: Any = write()
        return hashlib.sha256(bytes(written)).hexdigest()
    return ""


# ---------------------------------------------------------------- code, and what it reaches
def source(function: Any, seen: dict[int, Any] | None = None) -> list[Any]:
    """What a reward is: its code where there is some, and by value all that can be reached from it:
    globals that it names, what it imports inside, defaults, what it closes over, attributes, the
    models that it loads. Functions and objects of installed libraries count by name, for the
    library's version counts."""
    outer, function = function, _written(function)
    what = function if inspect.isroutine(function) or isinstance(function, type) else type(function)
    values = _state(function) | ({"": [outer.args, outer.keywords]} if isinstance(outer, functools.partial) else {})
    if (owner := getattr(function, "__self__", None)) is not None and not inspect.ismodule(owner):
        values["self"] = owner
    return _plain([getattr(what, "__module__", ""), getattr(what, "__qualname__", ""), meaning(what), values], seen)


def libraries(functions: Iterable[Any]) -> dict[str, str]:
    """Versions of the distributions whose code the functions reach: modules that they name or
    import, functions of theirs, objects of their classes. NumPy counts only where code of the user
    calls it: what these packages take of it is the same in all of its versions.

    >>> libraries([len])
    {}
    """
    tops: set[str] = set()
    for function in functions:
        seen = Seen()
        seen.weights = False
        source(function, seen)
        reached = [function, _written(function), *seen.values()]
        kinds = {id(kind): kind for value in reached for kind in type(value).__mro__}
        found = {_top(value) for value in (*reached, *kinds.values()) if not _ours(value)}
        users = [v for v in reached if _ours(v) and _top(v) not in OURS and not inspect.ismodule(v)]
        if not any(_top(one) == "numpy" for user in users for one in _state(user).values()):
            found.discard("numpy")
        tops |= found
    return dict(sorted(_versions(tops).items()))


def _versions(tops: Iterable[str]) -> dict[str, str]:
    found = {}
    for top in tops:
        for distribution in _distributions().get(top, ()):
            found[distribution] = importlib.metadata.version(distribution)
    return found


@functools.cache
def _distributions() -> dict[str, list[str]]:
    """Top-level modules, and the distributions that install them."""
    return {top: sorted(set(names)) for top, names in importlib.metadata.packages_distributions().items()}


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
    """Values that a function closes over, loads or imports, or attributes of an object."""
    if inspect.ismethod(function):
        return _state(function.__func__)
    if inspect.isfunction(function):
        return _reads(function)
    if isinstance(function, type):
        members = {name: _unwrapped(value) for name, value in vars(function).items()}
        kept = {name: value for name, value in members.items() if inspect.isfunction(value) or name[:2] != "__"}
        return {"": [base for base in function.__bases__ if _ours(base)]} | kept
    held: dict[str, Any] = {"": type(function)} if _ours(type(function)) else {}
    if dataclasses.is_dataclass(function):
        return held | {field.name: getattr(function, field.name) for field in dataclasses.fields(function)}
    slots = [name for part in type(function).__mro__ for name in _listed(part.__dict__.get("__slots__", ()))]
    held |= {name: getattr(function, name) for name in slots if hasattr(function, name)}
    return held | dict(getattr(function, "__dict__", {}))


def _reads(function: Any) -> dict[str, Any]:
    """Globals that a function names, what it names of modules that are no library's, what it
    imports, closes over, and its defaults."""
    names, known = _names(function.__code__), function.__globals__
    found = {name: known[name] for name in names & set(known)}
    if _top(function) not in OURS:
        found |= {f"import {number}": value for number, value in enumerate(local_imports(function))}
    modules = [value for value in found.values() if inspect.ismodule(value) and _ours(value)]
    for module in modules:  # more are found on the way: package.module.function
        inside = {name: vars(module)[name] for name in names & set(vars(module))}
        modules += [v for v in inside.values() if inspect.ismodule(v) and _ours(v) and v not in modules]
        found |= {f"{module.__name__}.{name}": value for name, value in inside.items()}
    closed = dict(inspect.getclosurevars(function).nonlocals)
    return found | closed | {"()": [function.__defaults__, function.__kwdefaults__]}


def _unwrapped(member: Any) -> Any:
    """The function of a static method, class method or property."""
    for name in ("__func__", "fget", "func"):
        if inspect.isfunction(inner := getattr(member, name, None)):
            return inner
    return member


def _listed(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _home(value: Any) -> str:
    """The module that a value belongs to: it is one, says so, or its class does."""
    if inspect.ismodule(value):
        return value.__name__
    owner = getattr(value, "__self__", None)
    if inspect.isbuiltin(value) and inspect.ismodule(owner):
        return owner.__name__
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else type(value).__module__


def _top(value: Any) -> str:
    return _home(value).partition(".")[0]


def _ours(value: Any) -> bool:
    """Whether code is of the user's or of these packages: not of Python or an installed library."""
    top = _top(value)
    module = sys.modules.get(_home(value), sys.modules.get(top))
    if top in OURS:
        return True
    if top in sys.stdlib_module_names - {"__main__"}:
        return False
    return not re.search(r"\b(?:site|dist)-packages\b", getattr(module, "__file__", None) or "")


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
    weights = getattr(seen, "weights", True)
    if isinstance(value, torch.nn.Module):
        written = _held(type(value), seen) if _ours(type(value)) else ""
        return [*_plain(network(value)), tensors(value) if weights else "", written]
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), value.detach().cpu().tolist() if weights else ""]
    if (
        not isinstance(value, type)
        and callable(getattr(value, "get_vocab", None))
        and callable(getattr(value, "encode", None))
    ):
        return _plain([*vocabulary(value), getattr(value, "model_max_length", None)])
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
        return source(value, seen) if _ours(value) else [value.__module__, value.__qualname__]
    if inspect.isroutine(value) or isinstance(value, (functools.partial, CACHED)):
        return source(value, seen) if _ours(_written(value)) else getattr(value, "__qualname__", "")
    return [*source(value, seen)] if _ours(type(value)) and not isinstance(value, Path) else type(value).__name__
