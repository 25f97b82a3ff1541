"""The structure of bench.yaml as typed models; descriptions become JSON schema and reference.

Only what a value must be by itself is said here; what it must be beside others is checked in
`onnxsep.bench.matrix_checks`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from onnxsep.bench.session_keys import SESSION_KEYS

Precision = Literal["fp32", "fp16", "int8"]
Optimization = Literal["disable", "basic", "extended", "layout", "all"]
TransportName = Literal["local", "ssh", "adb"]

# A matrix is read by people; beyond these bounds something is meant differently.
_MOST_ROUNDS = 1000
_MOST_RUNS = 1_000_000
_LONGEST_SECONDS = 86_400.0
_MOST_BATCH = 1_000_000
_MOST_THREADS = 1024
_MOST_ITEMS = 1000


def _option_text(value: object) -> object:
    """Options travel as text; a number may be written without quotes, ``true`` may not."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise PydanticCustomError(
            "option_text", "must be text or a whole number (switches are 0 and 1)"
        )
    return value


def _binding(value: object) -> object:
    # 1 equals True in Python, but not in a file that people read.
    if value is True or value is False or value == "auto":
        return value
    raise PydanticCustomError("io_binding", "must be auto, true or false")


class _OneOrMany:
    """A list that may be written as its only item."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_as_list, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


def _as_list(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(value)
    return value if value is None else (value,)


def _without_repetition(value: object) -> object:
    if isinstance(value, tuple | list):
        seen: list[object] = []
        for item in value:
            if any(item == other and type(item) is type(other) for other in seen):
                raise PydanticCustomError("repeated", "holds {item} twice", {"item": repr(item)})
            seen.append(item)
    return value


Name = Annotated[
    StrictStr,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=64),
]
FileName = Annotated[StrictStr, Field(min_length=1, max_length=4096)]
Seconds = Annotated[float, Field(strict=True, le=_LONGEST_SECONDS, allow_inf_nan=False)]
Runs = Annotated[StrictInt, Field(ge=1, le=_MOST_RUNS)]
Batch = Annotated[StrictInt, Field(ge=1, le=_MOST_BATCH)]
Threads = Annotated[StrictInt, Field(ge=0, le=_MOST_THREADS)]
Core = Annotated[StrictInt, Field(ge=0)]
Dimension = Annotated[StrictInt, Field(ge=1)]
OptionText = Annotated[
    str, BeforeValidator(_option_text), WithJsonSchema({"type": ["string", "integer"]})
]


def _session_options_schema() -> dict[str, Any]:
    """Known entries with their values, so that an editor completes them."""
    properties: dict[str, Any] = {}
    for key in SESSION_KEYS.values():
        about: dict[str, Any] = {"description": key.meaning} if key.meaning else {}
        match key.kind:
            case "switch":
                about["enum"] = ["0", "1", 0, 1]
            case "count":
                about.update({"type": ["string", "integer"], "minimum": 0, "pattern": "^[0-9]+$"})
            case "text":
                about["type"] = ["string", "integer"]
                if key.values:
                    about["enum"] = list(key.values)
        properties[key.name] = about
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": {r"^ep\..+": {"type": ["string", "integer"]}},
        "additionalProperties": False,
    }


SessionOptions = Annotated[dict[str, OptionText], WithJsonSchema(_session_options_schema())]
_Distinct = BeforeValidator(_without_repetition)
Items = Field(min_length=1, max_length=_MOST_ITEMS)
ModelNames = Annotated[tuple[Name, ...], Items, _Distinct, _OneOrMany()]
Batches = Annotated[tuple[Batch, ...], Items, _Distinct, _OneOrMany()]
ThreadCounts = Annotated[tuple[Threads, ...], Items, _Distinct, _OneOrMany()]
Precisions = Annotated[tuple[Precision, ...], Items, _Distinct, _OneOrMany()]
Optimizations = Annotated[tuple[Optimization, ...], Items, _Distinct, _OneOrMany()]
SessionOptionSets = Annotated[tuple[SessionOptions, ...], Items, _Distinct, _OneOrMany()]
Cores = Annotated[tuple[Core, ...], _Distinct, _OneOrMany()]


class Structure(BaseModel):
    """What all parts of the file have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Settings(Structure):
    """How cells are measured."""

    rounds: Annotated[StrictInt, Field(ge=1, le=_MOST_ROUNDS)] = 5
    """Fresh processes of every cell, spread over the whole run; from 3 on there is an interval."""
    seconds: Annotated[Seconds, Field(gt=0)] = 0.4
    """Length of the timed loop of one round."""
    fewest_runs: Runs = 5
    """Timed runs of one round at least, even if its time is up."""
    most_runs: Runs = 10_000
    """Timed runs of one round at most."""
    warm_up_seconds: Annotated[Seconds, Field(ge=0)] = 1.0
    """Longest warm-up of one round; it ends sooner once the times are stable."""
    timeout: Annotated[Seconds, Field(gt=0)] = 120.0
    """Seconds after which a round counts as hung; more than seconds and warm_up_seconds."""
    cool_down: Annotated[Seconds, Field(ge=0)] = 0.0
    """Seconds of rest in front of every round."""
    affinity: Cores = ()
    """Logical cores that the process is confined to, counted from 0; empty for all."""
    io_binding: Annotated[
        Literal["auto", True, False],
        BeforeValidator(_binding),
        WithJsonSchema({"enum": ["auto", True, False]}),
    ] = "auto"
    """Bind inputs and outputs to the device once, outside the timed loop; auto: only on CUDA."""

    def changed_by(self, changes: Settings) -> Settings:
        """These settings with those of ``changes`` that were written, not its defaults."""
        return self.model_copy(
            update={name: getattr(changes, name) for name in changes.model_fields_set}
        )


class ModelEntry(Structure):
    """A model and what belongs to it."""

    name: Name
    """Short name, used everywhere else."""
    path: FileName
    """The float model, relative to the folder of this file."""
    data: FileName | None = None
    """Images as for optimize --data; with labels or targets they give the accuracy."""
    compare_to: Name | None = None
    """Another model whose cells are the reference of the speed-up."""
    variants: dict[Literal["fp16", "int8"], FileName] = Field(default_factory=dict)
    """Files to use for a precision; a missing one is made from path."""
    inputs: dict[StrictStr, Annotated[tuple[Dimension, ...], Field(max_length=16)]] = Field(
        default_factory=dict
    )
    """Shapes of inputs whose dimensions are open; the batch is set by the matrix."""


class TargetEntry(Structure):
    """A place where models run. Beside the name of a predefined target it changes that one."""

    provider: Annotated[StrictStr, Field(min_length=1, max_length=128)] | None = None
    """Execution provider, by short name or as onnxruntime calls it; default: the target's name."""
    python: Annotated[StrictStr, Field(max_length=4096)] = ""
    """Interpreter of the worker, which needs numpy and onnxruntime only; default: this one, behind
    ssh the python3 there."""
    provider_options: dict[str, OptionText] = Field(default_factory=dict)
    """Options of the provider, such as use_tf32: 0."""
    libraries: dict[Annotated[StrictStr, Field(min_length=1)], FileName] = Field(
        default_factory=dict
    )
    """Plugin providers to register: registration name to path of the library."""
    session_options: SessionOptions = Field(default_factory=dict)
    """Session configuration entries for all cells of the target."""
    transport: TransportName = "local"
    """Where the worker runs: on this machine, on another one behind ssh, or on an Android device
    behind adb."""
    host: Annotated[StrictStr, Field(min_length=1, max_length=255)] | None = None
    """ssh: the machine, as in user@board, or a name in the configuration of ssh."""
    port: Annotated[StrictInt, Field(ge=1, le=65535)] | None = None
    """ssh: the port; default: that of ssh (22, or what its configuration says). Termux has 8022."""
    identity: FileName | None = None
    """ssh: file of the private key; default: those that ssh finds itself."""
    ssh_config: FileName | None = None
    """ssh: configuration file in place of the user's."""
    ssh_options: Annotated[tuple[StrictStr, ...], Field(max_length=100), _OneOrMany()] = ()
    """ssh: further options as in its configuration, such as ProxyJump=gate."""
    folder: FileName | None = None
    """ssh and adb: folder on the other side for jobs, made if missing and removed after the run;
    default: ~/.cache/onnxsep, with adb /data/local/tmp/onnxsep."""
    keep: StrictBool = False
    """ssh: leave models in the folder, so that the next run need not send them again."""
    serial: Annotated[StrictStr, Field(min_length=1, max_length=255)] | None = None
    """adb: serial number of the device; default: the only one that is connected."""
    runner: FileName | None = None
    """adb: the native program that runs the model there, a file on this machine."""
    fixed_performance: StrictBool = True
    """adb: ask the device to hold its clocks still while it measures."""


class Axes(Structure):
    """Every combination of these is a cell."""

    models: ModelNames | None = None
    """Names of models; default: all."""
    targets: ModelNames = ("cpu",)
    """Names of targets."""
    batch: Batches = (1,)
    """Images per run."""
    threads: ThreadCounts = (1,)
    """Threads inside one operator; 0 for all cores. For XNNPACK, of its own pool."""
    precision: Precisions = ("fp32",)
    """Number format."""
    optimization: Optimizations = ("all",)
    """Graph optimization level."""
    session_options: SessionOptionSets = ({},)
    """Sets of session configuration entries."""


class Selection(Structure):
    """Cells by their axes; several values of an axis mean any of them."""

    model: ModelNames | None = None
    """Names of models."""
    target: ModelNames | None = None
    """Names of targets."""
    batch: Batches | None = None
    """Images per run."""
    threads: ThreadCounts | None = None
    """Threads inside one operator."""
    precision: Precisions | None = None
    """Number format."""
    optimization: Optimizations | None = None
    """Graph optimization level."""
    session_options: SessionOptionSets | None = None
    """Session configuration entries; a cell that has all of a set, and maybe more, matches."""


class Override(Structure):
    """Measurement settings of some cells; later entries win."""

    match: Selection
    """Which cells."""
    set: Settings
    """What they get; what is not named stays as it is."""


class MatrixFile(Structure):
    """What bench.yaml holds."""

    defaults: Settings = Settings()
    """How cells are measured."""
    models: Annotated[tuple[ModelEntry, ...], Items]
    """The models."""
    targets: dict[Name, TargetEntry] = Field(default_factory=dict)
    """Targets beside the predefined ones, or changes to those."""
    matrix: Axes = Axes()
    """The axes whose combinations are the cells."""
    include: tuple[Selection, ...] = ()
    """Further cells; an axis that is not named takes the first value of the matrix."""
    exclude: tuple[Selection, ...] = ()
    """Cells of the matrix that are left out: those that match all axes of an entry."""
    overrides: tuple[Override, ...] = ()
    """Measurement settings of some cells."""
