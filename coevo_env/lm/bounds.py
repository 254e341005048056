"""Whether a model directory can be what its configuration says, before anything is allocated.

One idea: every layer has a tensor in the weights file, and every matrix its bytes, so a
configuration that asks for more than the file can hold is a mistake (or somebody's joke) that would
end in a hang or without memory. Only the headers of the files are read.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["refuse_absurd"]

CONFIG_BYTES, HEADER_BYTES = 16 * 2**20, 100 * 2**20
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim")
LENGTHS = (
    *("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "vocab_size"),
    *("n_positions", "num_local_experts", "num_experts", "head_dim"),
)
LARGEST = 10**8
"""Of a size that no file can vouch for, such as positions that are computed."""


def refuse_absurd(path: str | os.PathLike[str]) -> None:
    """Refuses a local model directory whose configuration is far from its weights.

    Raises:
        ConfigError: It asks for more layers than there are tensors, or for a matrix of more than
            eight numbers a byte; or a file is no configuration at all.
    """
    folder = Path(path)
    if not folder.is_dir():  # a hub name
        return
    config, tensors, size = _config(folder / "config.json"), 0, 0
    for file in sorted(folder.glob("model*.safetensors")):
        if not (named := _tensors(file)):  # what is wrong with it is said by who reads it whole
            return
        tensors, size = tensors + named, size + file.stat().st_size
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            _check(folder, part, tensors, size)


def _check(folder: Path, config: dict[str, Any], tensors: int, size: int) -> None:
    for name, value in config.items():
        if isinstance(value, (int, float)) and not abs(value) <= 1e30:
            raise _absurd(folder, name, value, "a number below 1e30")
        if type(value) is int and name in (*LAYERS, *WIDTHS, *LENGTHS, "max_position_embeddings") and value > LARGEST:
            raise _absurd(folder, name, value, f"at most {LARGEST}")
    if not tensors:  # other words are said where the weights are missing
        return
    for name in LAYERS:
        if type(layers := config.get(name)) is int and layers > tensors:
            raise _absurd(folder, name, layers, f"at most {tensors}, for its weights are {tensors} tensors")
    width = max((config[name] for name in WIDTHS if type(config.get(name)) is int), default=1)
    for name in (*WIDTHS, *LENGTHS):
        if type(length := config.get(name)) is int and width * length > 8 * size:
            raise _absurd(folder, name, length, f"a model of {size} bytes, which is what its weights are")


def _absurd(folder: Path, name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(
        f"{folder / 'config.json'} says {name}={value!r}; expected {expected}. Was it edited? Save the model again "
        "with save_pretrained()."
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes, expected at most {CONFIG_BYTES}")
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"it holds a {type(data).__name__}")
        return data
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"no causal language model could be loaded from {str(path.parent)!r}: config.json is not readable "
            f"({type(error).__name__}: {error}); expected what save_pretrained() writes."
        ) from None


def _tensors(path: Path) -> int:
    """How many tensors a safetensors file names in its header; none where that is damaged."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(HEADER_BYTES, path.stat().st_size):
                return 0
            return len(json.loads(stream.read(length)).keys() - {"__metadata__"})
    except (OSError, ValueError, AttributeError, RecursionError, struct.error):
        return 0
