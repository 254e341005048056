"""What the files of a run have to hold: one model for each kind of file, with types, and bounds on
every number, length and size.

One idea: a run folder can come from anybody, so what is read is checked whole before any of it is
used, and what does not fit is told by file, place, what is there and what was expected. The data
themselves are handed on as they were read: a check changes nothing. How the files are opened is
`coevo_agents.runs.door`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from coevo_env.errors import CoevoError, printable

from .door import Misfit, plain_json, read_text

__all__ = [
    "ALARMS_BYTES",
    "Alarm",
    "CONFIG_BYTES",
    "ITERATIONS",
    "LARGEST",
    "LINE_BYTES",
    "ConfigFile",
    "Episode",
    "Manifest",
    "METRICS_BYTES",
    "Metrics",
    "STATE_BYTES",
    "StateFile",
    "SummaryFile",
    "TRANSCRIPTS_BYTES",
    "misfit",
    "read_json",
]

ITERATIONS = 10**9
"""Iterations of a run at most; at one a second it would take 30 years."""

LARGEST = 1e100
"""Of a number that is measured; those of float32 weights stay far below, and sums of a thousand of
these stay finite."""

CONFIG_BYTES = 16 * 2**20
"""Of config.json, manifest.json and summary.json."""

STATE_BYTES = 256 * 2**20
"""Of a checkpoint's state.json, with its transcripts that are still to be written."""

METRICS_BYTES, TRANSCRIPTS_BYTES, ALARMS_BYTES = 2**29, 2**27, 2**24
"""Of metrics.jsonl, transcripts.jsonl and alarms.jsonl, of whose ends that much is read; 512 MiB of
metrics are those of 200,000 iterations."""

LINE_BYTES = 64 * 2**20
"""Of one line of these."""

Count = Annotated[int, Field(ge=0, le=2**53)]
Iteration = Annotated[int, Field(ge=0, le=ITERATIONS)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=400)]
Text = Annotated[str, Field(max_length=10**6)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Seats = Annotated[list[Annotated[int, Field(ge=0, le=10**4)]], Field(min_length=1, max_length=10**4)]
Numbers = dict[Name, Number]
Series = Annotated[list[Number], Field(max_length=10**6)] | None


class Part(BaseModel):
    """Strict: no text is a number, and no number a bool. Keys that it does not know are those of
    another version or of somebody's own code, and nobody reads them."""

    model_config = ConfigDict(strict=True, extra="ignore")


# ---------------------------------------------------------------- config.json
class Inputs(Part):
    """What a run rests on; see `coevo_agents.runs.inputs`."""

    settings: Digest
    model: dict[Name, Digest]
    task: dict[Name, Digest]
    libraries: dict[Name, Name] = {}
    run: Digest | None = None


class ConfigFile(Part):
    """`config.json`. What the settings may be is asked by `Config` itself."""

    config: dict[Name, Any]
    provenance: dict[Name, Any] = {}
    inputs: Inputs | None = None


# ---------------------------------------------------------------- logs
class Metrics(Part):
    """A line of `metrics.jsonl`: besides the iteration a number for each tag."""

    iteration: Iteration


class Turn(Part):
    """A turn of an episode, as `coevo_env.game.transcript` writes it; of earlier versions some keys
    are missing."""

    seat: Annotated[int, Field(ge=0, le=10**4)] = 0
    role: Name = "pioneer"
    agent: Name = "llm"
    text: Text = ""
    context: Text = ""
    context_ids: Annotated[list[Count], Field(max_length=10**6)] | None = None
    weights: Iteration | None = None
    cut: bool | Count = False
    tokens: Annotated[list[Count], Field(max_length=10**6)] = []
    pieces: Annotated[list[Text], Field(max_length=10**6)] = []
    logprobs: Series = None
    ref_logprobs: Series = None
    kl: Series = None
    shaping: Series = None
    values: Series = None
    advantages: Series = None
    terms: Numbers = {}
    task_reward: Number | None = None
    team_reward: Number | None = None


class Episode(Part):
    """A line of `transcripts.jsonl`."""

    iteration: Iteration = 0
    episode: Count = 0
    task: Name = "task"
    split: Name = "train"
    prompt_index: Count = 0
    prompt: Text = ""
    answer: Any = None
    turns: Annotated[list[Turn], Field(max_length=10**4)]


class Example(Part):
    """An answer that shows what an alarm is about."""

    prompt: Text
    answer: Text


class Finding(Part):
    """A signal of an alarm."""

    signal: Name
    value: Number
    baseline: Number
    threshold: Number


Place = Annotated[str, Field(pattern=r"^(seat\d{1,4}|alone|update)$")]


class Alarm(Part):
    """A line of `alarms.jsonl`."""

    iteration: Iteration
    agent: Name
    place: Place
    since: Iteration
    signals: Annotated[list[Finding], Field(min_length=1, max_length=100)]
    examples: Annotated[list[Example], Field(max_length=100)] = []


# ---------------------------------------------------------------- summary.json
class Sample(Part):
    """One prompt before and after."""

    prompt: Text
    before: Text
    after: Text
    reward: Annotated[list[Number], Field(min_length=2, max_length=2)]


class File(Part):
    """What is written down of a file."""

    sha256: Digest
    bytes: Count


class Trained(Part):
    """An agent before and after, and the files that it was saved in."""

    before: Numbers = {}
    after: Numbers = {}
    ci95: dict[Literal["before", "after"], Numbers] = {}
    samples: Annotated[list[Sample], Field(max_length=1000)] = []
    files: dict[Name, File] | None = None


class Measured(Part):
    """On what agents were measured."""

    split: Name
    prompts: Count
    asked: Count
    draws: Count


class ByPrompt(Part):
    """Means over the draws for each prompt, and a digest of the prompt."""

    reward: Annotated[list[Number], Field(max_length=10**6)] = []
    kl: Annotated[list[Number], Field(max_length=10**6)] = []
    asked: Annotated[list[Name], Field(max_length=10**6)] = []


class SummaryFile(Part):
    """`summary.json`."""

    iterations: Iteration = 0
    task: Name = "task"
    measured: Measured | None = None
    agents: dict[Name, Trained] = {}
    by_prompt: dict[Name, ByPrompt] = {}
    run: Digest | None = None


# ---------------------------------------------------------------- checkpoints
Manifest = dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}$")], File]
"""`manifest.json`; the names are those of files beside it."""


class Scalars(Part):
    """What a learner or a population keeps that is no tensor; learners of one's own have others."""

    updates: Count = 0
    elastic_updates: Count = Field(0, alias="elastic.updates")
    members: list[tuple[Name, Iteration]] = []
    elo: Numbers = {}
    recorded: Count = 0


class Controller(Part):
    """A KL controller."""

    beta: Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]


class Portrait(Part):
    """What an agent did before training."""

    class Said(Part):
        """A sample of it."""

        prompt: Text
        text: Text
        reward: Number

    metrics: Numbers
    samples: Annotated[list[Said], Field(max_length=1000)] = []


class Pending(Part):
    """What an iteration still has to write down."""

    metrics: Numbers
    transcripts: Annotated[list[Episode], Field(max_length=10**4)]
    examples: dict[Name, Annotated[list[Example], Field(max_length=100)]] = {}


class Nothing(BaseModel):
    """Of an iteration that has written everything down: {}."""

    model_config = ConfigDict(extra="forbid")


class Roles(Part):
    """What adaptive roles have decided and seen."""

    history: Annotated[list[tuple[Count, Seats]], Field(min_length=1)]
    arm: Annotated[int, Field(ge=0, le=10**4)] = 0
    payoffs: list[tuple[Annotated[int, Field(ge=0, le=10**4)], Number]] = []
    level: Number | None = None
    since: Count = 0


class Pool(Part):
    """Answers that are taken together until they are enough."""

    count: Number
    sums: Numbers
    weights: Iteration


class Stream(Part):
    """What the audit knows of an agent in a place."""

    over: dict[Name, Annotated[list[Iteration], Field(max_length=10**4)]] = {}
    under: dict[Name, Count] = {}
    active: Annotated[list[Name], Field(max_length=100)] = []
    pool: Pool | None = None


class Audit(Part):
    """What the collapse audit has seen."""

    baseline: dict[Name, Pool] = {}
    streams: dict[Name, Stream] = {}


class StateFile(Part):
    """A checkpoint's `state.json`. What a run cannot do without is asked when it is adopted."""

    iteration: Iteration
    scalars: dict[Name, Scalars]
    controllers: list[Controller] = []
    best: tuple[Number, Iteration] | None = None
    former: tuple[Number, Iteration] | None = None
    audit: Audit | None = None
    alarms: Count = 0
    before: dict[Name, Portrait] = {}
    pending: Pending | Nothing = Nothing()
    offsets: dict[Name, Count] = {}
    spent: tuple[Number, Number] | None = None
    roles: Roles | None = None
    run: Digest | None = None


# ---------------------------------------------------------------- the check
E_ = TypeVar("E_", bound=CoevoError)


def read_json(path: Path, schema: Any, error: Callable[[str], E_], most: int = CONFIG_BYTES, advice: str = "") -> Any:
    """Reads a JSON file of a run.

    Args:
        path: The file.
        schema: One of the models above.
        error: Makes the error from its message.
        most: Bytes that it may have.
        advice: What to do where it does not fit.

    Returns:
        Plain data, as they were read.

    Raises:
        E_: It is not what the schema says, or cannot be read.
        FileNotFoundError, NotADirectoryError: It is not there.
    """
    try:
        data = plain_json(read_text(path, most))
        misfit(data, schema)
        return data
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, Misfit) as wrong:
        raise error(f"{path} is not readable: {wrong}. {advice}".strip()) from None


def misfit(data: Any, schema: Any) -> None:
    """Checks data against a model.

    Raises:
        Misfit: They do not fit; the message names the place, what is there and what was expected.
    """
    try:
        _adapter(schema).validate_json(json.dumps(data))
    except ValidationError as error:
        raise Misfit(_sentence(error)) from None


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema, config=None if isinstance(schema, type) else ConfigDict(strict=True))


def _sentence(error: ValidationError) -> str:
    """The first thing that a validation found, as a clause."""
    found = error.errors(include_url=False, include_context=False)
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    if first["type"] == "json_invalid":
        return "a text in it has half of a surrogate pair, which is no character; expected Unicode"
    path = [printable(str(part))[:60] for part in first["loc"]]
    if first["type"] == "missing":
        return f"at {'.'.join(path[:-1]) or 'the top'} it lacks {path[-1]!r}{more}"
    place, got = ".".join(path) or "the top", printable(repr(first["input"]))
    said = first["msg"].removeprefix("Input ").removeprefix("should be ").removeprefix("should ")
    return f"at {place} it has {got[:80]}{'...' if len(got) > 80 else ''}; expected {said}{more}"
