"""Where files of a run folder are opened: what is no plain file is refused, and what is read is
bounded before it is looked at.

One idea: a run folder can come from anybody, so nothing in it is followed, nothing is written
through, and no file decides how much memory or time it takes. What the files have to hold is said
in `coevo_agents.runs.schema`.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError

__all__ = [
    "Misfit",
    "check_folder",
    "check_plain",
    "file_mode",
    "is_own",
    "plain_json",
    "read_bytes",
    "read_end",
    "read_text",
    "refuse_link",
    "replace_file",
]

MANY = 100_000
"""Entries of a run folder; a long run with everything kept has some thousands."""

DEPTH = 32
"""Nesting of JSON; that of the deepest file of ours is 9."""

KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class Misfit(ValueError):
    """What a file holds is not what it should; the message has no file name in it yet."""


def check_folder(directory: Path) -> None:
    """Refuses a run folder in which anything is no plain file or folder. The folder itself may be
    named through a link: whoever calls has chosen it.

    Raises:
        ConfigError: It holds a link, pipe, socket or device, or more entries than a run can have.
    """
    seen = 0
    pending = [directory]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    refuse_link(directory, Path(entry.path), entry.stat(follow_symlinks=False))
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
        except OSError as error:
            raise ConfigError(
                f"the run folder {directory} could not be read: {error}. Check its permissions."
            ) from None
        if seen > MANY:
            raise ConfigError(
                f"the run folder {directory} holds more than {MANY} files; expected those of one run. Give the folder "
                "that `coevo train` printed."
            )


def check_plain(path: Path, written: bool = False) -> None:
    """Refuses a path that is there and is no plain file.

    Args:
        path: Of a file.
        written: Whether the file is going to be continued where it is, which would also change
            every other file that is the same one by a hard link.

    Raises:
        ConfigError: It is a link or something else.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    refuse_link(path.parent, path, status)
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{path} is a folder; expected a file of a run. Remove it, or use another run folder.")
    if written and status.st_nlink > 1:
        raise ConfigError(
            f"{path} has {status.st_nlink - 1} other name(s) by hard links, and continuing it would change what they "
            f"name too; expected a file of its own. Copy the run folder (cp -r {path.parent} NEW) and use the copy."
        )


def refuse_link(directory: Path, path: Path, status: os.stat_result | None = None) -> None:
    """Refuses one entry of a run folder that is no plain file or folder.

    Raises:
        ConfigError: It is not.
    """
    kind = stat.S_IFMT((status or path.lstat()).st_mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        return
    what = KINDS.get(kind, "no plain file")
    where = f" to {os.readlink(path)!r}" if kind == stat.S_IFLNK else ""
    raise ConfigError(
        f"{path} is {what}{where}; expected plain files and folders only in the run folder {directory}, because "
        "commands read, replace and remove files there. Remove it, or put a copy of what it stands for in its place."
    )


def is_own(folder: Path) -> bool:
    """Whether a folder belongs to whoever asks, as far as the system knows of owners."""
    return not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid()


# ---------------------------------------------------------------- reading
def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a plain file of at most `most` bytes.

    Raises:
        Misfit: It is something else, or larger.
        OSError: It cannot be read; FileNotFoundError where it is not there.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # opening a pipe must not wait for a writer
    with os.fdopen(os.open(path, flags), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Misfit("it is no plain file")
        if status.st_size > most:
            raise Misfit(f"it has {status.st_size} bytes; expected at most {most}")
        return stream.read(most)


def read_end(path: Path, most: int) -> tuple[bytes, int]:
    """The last `most` bytes of a plain file, and how many stand before them.

    Raises:
        Misfit: It is something else.
        OSError: It cannot be read; FileNotFoundError where it is not there.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Misfit("it is no plain file")
        skipped = max(0, status.st_size - most)
        stream.seek(skipped)
        return stream.read(most), skipped


def read_text(path: Path, most: int) -> str:
    """The same as text.

    Raises:
        Misfit: It is something else, larger, or no UTF-8.
        OSError: It cannot be read; FileNotFoundError where it is not there.
    """
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Misfit(f"byte {error.start} is no UTF-8; expected JSON in UTF-8") from None


def plain_json(text: str) -> Any:
    """JSON as plain data that is not nested deeper than `DEPTH`; NaN and infinities, which JSON
    does not know, are left to the schema.

    Raises:
        Misfit: It is no JSON, or too deep.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise Misfit(f"it is nested thousands of levels deep; expected at most {DEPTH}") from None
    except ValueError as error:
        raise Misfit(f"it is no JSON ({error})") from None
    level: list[Any] = [data]
    for _ in range(DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return data
    raise Misfit(f"it is nested more than {DEPTH} levels deep; expected at most {DEPTH}")


# ---------------------------------------------------------------- writing
@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A new file to write, which takes the place of `path` at once when the block ends well and
    vanishes when it does not. Whatever `path` was before, a link too, is replaced and not written
    through."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def file_mode(folder: Path) -> int:
    """The permissions that a new file in a folder gets: 0666 without what the umask takes."""
    probe = folder / ".mode"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()
