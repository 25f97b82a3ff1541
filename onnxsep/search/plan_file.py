"""A plan as a file: what became of every convolution, and all that is needed to do it again.

The same plan on the same model, with the same data, seed, settings and versions, gives the same
bytes. The file holds fingerprints of model and data, so that a replay knows whether it may promise
that. It may come from anybody, edited by hand: everything in it is checked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

from pydantic import ConfigDict, TypeAdapter, ValidationError

from onnxsep.decision import Decision
from onnxsep.errors import ConfigurationError, InputError, OutputError
from onnxsep.model import atomic_file, external_files
from onnxsep.passes.base import Refusal

SCHEMA_VERSION = 1
KIND = "onnxsep plan"
# A thousand layers with reasons are half a megabyte.
_LARGEST_BYTES = 16 * 2**20
_LARGEST_RANK = 1_000_000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 2**20
_PACKAGES = ("onnxsep", "onnx", "onnx-ir", "onnxruntime", "onnxsim", "numpy", "scipy")
# Names of layers in a message; more help nobody.
_MOST_NAMES = 3

Precision = Literal["fp32", "int8", "fp16"]
Setting = str | int | float | bool | None


@dataclasses.dataclass(frozen=True)
class SavedLayer:
    """What the plan says about one convolution.

    Attributes:
        name: Name of its node in the cleaned model.
        form: The separable form; None where the convolution is kept.
        rank: See `onnxsep.decision.Decision`; None where it is kept.
        precision: Of its arithmetic.
        code: Why, for programs: ``chosen``, or the code of the refusal.
        reason: The same for people.
        figures: Numbers behind it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    form: str | None
    rank: int | None
    precision: Precision
    code: str
    reason: str
    figures: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def decision(self) -> Decision | None:
        """Form and rank; None where the convolution is kept.

        Raises:
            ConfigurationError: They have no meaning; never of a plan that `load_plan` read.
        """
        if self.form is None or self.rank is None:
            return None
        return Decision.from_json({"form": self.form, "rank": self.rank}, repr(self.name))

    @classmethod
    def chosen(
        cls,
        name: str,
        decision: Decision,
        precision: Precision,
        reason: str,
        figures: Mapping[str, float] | None = None,
    ) -> SavedLayer:
        """A convolution that is rewritten."""
        return cls(
            name, decision.form, decision.rank, precision, "chosen", reason, dict(figures or {})
        )

    @classmethod
    def kept(cls, refusal: Refusal, precision: Precision) -> SavedLayer:
        """A convolution that stays."""
        figures = dict(refusal.figures)
        return cls(refusal.node, None, None, precision, refusal.code, refusal.reason, figures)


@dataclasses.dataclass(frozen=True)
class SavedPlan:
    """Everything that a replay needs.

    Attributes:
        model: File name of the input model, for people.
        model_sha256: Of the file and its external data, see `model_fingerprint`.
        data: Where the images come from, for people; empty where they were drawn.
        data_sha256: See `onnxsep.calibrate.cache.fingerprint`.
        target: Name of the target.
        seed: Of every random choice.
        layers: Every convolution, in network order.
        alignment: Group of channels → multiple, see `AlignChannels`.
        keep_float: Nodes that are not quantized.
        settings: Options of the run that the result depends on, by name.
        versions: Package → version.
        predicted: Figures of the search, by name: milliseconds, divergence. For people.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    model_sha256: str
    data: str
    data_sha256: str
    target: str
    seed: int
    layers: tuple[SavedLayer, ...]
    alignment: dict[str, int] = dataclasses.field(default_factory=dict)
    keep_float: tuple[str, ...] = ()
    settings: dict[str, Setting] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=lambda: current_versions())
    predicted: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def decisions(self) -> dict[str, Decision]:
        """Name → form and rank, of the convolutions that are rewritten."""
        return {layer.name: found for layer in self.layers if (found := layer.decision) is not None}

    @property
    def precisions(self) -> dict[str, Precision]:
        """Name → precision, of all convolutions."""
        return {layer.name: layer.precision for layer in self.layers}

    @property
    def refusals(self) -> dict[str, Refusal]:
        """Name → why the convolution is kept."""
        return {
            layer.name: Refusal(layer.name, layer.code, layer.reason, layer.figures)
            for layer in self.layers
            if layer.decision is None
        }

    def require_nodes(self, names: Collection[str], model: str) -> None:
        """Refuse a plan that is for another model.

        Args:
            names: Of the convolutions that the model has, once it is cleaned.
            model: What the message calls it.

        Raises:
            InputError: The plan names convolutions that the model has not, or says nothing about
                some that it has; names them.
        """
        planned = {layer.name for layer in self.layers}
        unknown = [layer.name for layer in self.layers if layer.name not in names]
        missing = [name for name in names if name not in planned]
        if unknown:
            raise InputError(
                f"the plan was made for {self.model!r} and names {_listed(unknown)}, which {model} "
                "has not; give the model that the plan was made for"
            )
        if missing:
            raise InputError(
                f"the plan was made for {self.model!r} and says nothing about {_listed(missing)} "
                f"of {model}; give the model that the plan was made for"
            )

    def differences(self, *, model_sha256: str, data_sha256: str) -> list[str]:
        """Why a replay here may give other bytes than the first run, in clauses; empty if none."""
        found = []
        if model_sha256 != self.model_sha256:
            found.append(f"the plan was made for another version of the model ({self.model})")
        if data_sha256 != self.data_sha256:
            found.append(
                f"the plan was made with other images ({self.data or 'drawn'}), so that the "
                "factors will differ"
            )
        here = current_versions()
        found += [
            f"the plan was made with {name} {version}, here is {here[name]}"
            for name, version in sorted(self.versions.items())
            if name in here and here[name] != version
        ]
        return found


def current_versions() -> dict[str, str]:
    """Package → version, of all that may change the bytes of a result; Python's too."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
            found[name] = "unknown"
    return found


def model_fingerprint(path: Path) -> str:
    """SHA-256, in hexadecimal digits, over a model file and the files in which its weights are.

    Raises:
        InputError: It cannot be read, or points outside its folder.
    """
    digest = hashlib.sha256()
    try:
        _feed_file(digest.update, path)
        for name, file in sorted(external_files(path).items()):
            digest.update(json.dumps(["external data", name]).encode())
            _feed_file(digest.update, file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def save_plan(plan: SavedPlan, path: str | Path) -> None:
    """Write the plan as JSON with sorted keys, whole or not at all.

    Raises:
        OutputError: The folder is missing or not writable.
    """
    path = Path(path)
    plain = {"kind": KIND, "schema": SCHEMA_VERSION, **_finite(dataclasses.asdict(plan))}
    text = json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def load_plan(path: str | Path) -> SavedPlan:
    """Read a plan; the file may come from anybody.

    Raises:
        InputError: It is missing, too large, no plan, from a newer onnxsep, or something in it is
            impossible; names what.
    """
    path = Path(path)
    plain = _read(path)
    if not isinstance(plain, dict) or plain.get("kind") != KIND:
        raise InputError(f"{path} is no plan of onnxsep")
    schema = plain.pop("schema", None)
    if schema != SCHEMA_VERSION or isinstance(schema, bool):
        known = f"this onnxsep reads {SCHEMA_VERSION}"
        raise InputError(f"{path} is a plan of schema {str(schema)[:20]}, {known}; update onnxsep")
    del plain["kind"]
    try:
        # Only from JSON is pydantic strict about scalars and yet takes lists for tuples.
        plan = _ADAPTER.validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InputError(f"{path}: {_place(first['loc'])}: {first['msg']}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    _check(plan, path)
    return plan


_ADAPTER = TypeAdapter(SavedPlan)


def _check(plan: SavedPlan, path: Path) -> None:
    """What types cannot say.

    Raises:
        InputError: Something is impossible; names it.
    """
    for title, digest in (("model_sha256", plan.model_sha256), ("data_sha256", plan.data_sha256)):
        if not _DIGEST.fullmatch(digest):
            raise InputError(f"{path}: {title}: not 64 hexadecimal digits in lower case")
    if plan.seed < 0:
        raise InputError(f"{path}: seed: {plan.seed} is below 0")
    names = set()
    for number, layer in enumerate(plan.layers):
        place = f"{path}: layers[{number}]"
        if not layer.name or layer.name in names:
            problem = f"{layer.name!r} is there twice" if layer.name else "is empty"
            raise InputError(f"{place}.name: {problem}")
        names.add(layer.name)
        if (layer.form is None) != (layer.rank is None):
            raise InputError(f"{place}: form and rank are given together or not at all")
        try:
            decision = layer.decision
        except ConfigurationError as error:
            raise InputError(f"{place}: {error}") from None
        if decision is not None and decision.rank > _LARGEST_RANK:
            raise InputError(f"{place}.rank: {decision.rank} is above {_LARGEST_RANK}")


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > _LARGEST_BYTES:
        raise InputError(f"{path} is larger than {_LARGEST_BYTES // 2**20} MiB; no plan is")
    try:
        return json.loads(
            content.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique
        )
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no JSON: it is not even text") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key is there twice: edited by hand, the first would vanish."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _finite(value: Any) -> Any:
    """Without figures that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {
            name: _finite(inner)
            for name, inner in value.items()
            if not (isinstance(inner, float) and not math.isfinite(inner))
        }
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def _place(location: tuple[int | str, ...]) -> str:
    """``layers[3].rank``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the plan"


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def _feed_file(feed: Any, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            feed(chunk)
