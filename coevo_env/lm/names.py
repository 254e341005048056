"""Language models by name: the one that ships with the package, the grammar and script that made
it, and where others are.

One idea: a small real model that needs no network. `embedded_path()` names a directory that
`AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load as they would any
other. Importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError

__all__ = ["embedded_path", "resolve"]


EXPECTED = "Expected 'embedded', 'smollm2', a model directory, or a hub name such as 'gpt2'."


def embedded_path() -> Path:
    """The directory of the embedded model: weights (safetensors), tokenizer, config and a README
    saying how they were made.

    >>> (embedded_path() / "config.json").name
    'config.json'
    """
    return Path(__file__).resolve().parent / "embedded"


def resolve(spec: str | os.PathLike[str]) -> str:
    """The directory or hub name that a model spec stands for.

    Raises:
        ConfigError: A path that does not exist, a directory without a model, or an asset that was
            not prepared.
    """
    name = os.fspath(spec)
    if name == "embedded":
        return str(embedded_path())
    if name == "smollm2":
        from ..assets.store import asset_path

        return str(asset_path("smollm2"))
    path = Path(name).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise ConfigError(f"model {name!r} has no config.json; expected a directory written by `save_pretrained`.")
        return str(path)
    if (
        path.is_absolute()
        or name.startswith((".", "~"))
        or name.count("/") > 1
        or (name.count("/") == 1 and path.parent.is_dir())
    ):
        raise ConfigError(f"model {name!r}: no such directory. {EXPECTED}")
    return name


def hub_advice(path: str) -> str:
    """What to add to a failure of the hub: its name may have been meant for a directory. Nothing
    where there is one."""
    return (
        ""
        if os.path.isdir(path)
        else f" There is no directory {path!r} here either. {EXPECTED} A hub name needs the network once."
    )
