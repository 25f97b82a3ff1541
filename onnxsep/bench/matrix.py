"""The matrix of a benchmark: bench.yaml read, checked, and joined with the predefined targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from onnxsep.bench.explain import refusal, schema_problems
from onnxsep.bench.matrix_checks import check_references, salvage
from onnxsep.bench.overrides import assign
from onnxsep.bench.providers import PROVIDERS, Provider, find_provider
from onnxsep.bench.record import Cell
from onnxsep.bench.reference import json_schema, reference_markdown
from onnxsep.bench.schema import (
    Axes,
    MatrixFile,
    ModelEntry,
    Override,
    Selection,
    Settings,
    TargetEntry,
)
from onnxsep.bench.ssh import DEFAULT_FOLDER, DEFAULT_PYTHON, SshSettings
from onnxsep.bench.yaml_reader import read_yaml
from onnxsep.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from onnxsep.bench.transport_adb import AdbSettings

__all__ = [
    "Axes",
    "Matrix",
    "ModelEntry",
    "Override",
    "Selection",
    "Settings",
    "Target",
    "check_files",
    "json_schema",
    "load_matrix",
    "reference_markdown",
]


@dataclasses.dataclass(frozen=True)
class Target:
    """A place where models run, predefined or from the file.

    Attributes:
        name: As in the matrix.
        provider: What runs there.
        python: Interpreter of the worker; empty for the one that runs onnxsep.
        provider_options: The user's, text to text.
        libraries: Plugin providers: registration name to absolute path.
        session_config: The user's session configuration entries for all cells of the target.
        ssh: The machine behind ssh; None where it is not one.
        adb: The Android device; None where it is not one.
    """

    name: str
    provider: Provider
    python: str
    provider_options: Mapping[str, str]
    libraries: Mapping[str, str]
    session_config: Mapping[str, str]
    ssh: SshSettings | None = None
    adb: AdbSettings | None = None

    @property
    def distant(self) -> str:
        """What is behind it, as people write it; empty for this machine."""
        if self.ssh is not None:
            return self.ssh.machine
        return "" if self.adb is None else f"adb {self.adb.serial}".strip()


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A checked matrix.

    Attributes:
        path: Of the file, as given.
        defaults: Measurement settings.
        models: In the order of the file.
        targets: Predefined ones and those of the file, by name.
        axes: As written; ``models`` is None where all are meant.
        include: Further cells.
        exclude: What is left out.
        overrides: Settings of some cells, later ones over earlier ones.
    """

    path: Path
    defaults: Settings
    models: tuple[ModelEntry, ...]
    targets: Mapping[str, Target]
    axes: Axes
    include: tuple[Selection, ...]
    exclude: tuple[Selection, ...]
    overrides: tuple[Override, ...]

    @property
    def folder(self) -> Path:
        """What paths in the file are relative to."""
        return self.path.parent

    def model(self, name: str) -> ModelEntry:
        """The model of that name; the matrix has been checked, so there is one."""
        return next(entry for entry in self.models if entry.name == name)

    def resolve(self, written: str) -> Path:
        """A path of the file, relative to its folder."""
        return self.folder / written


def load_matrix(path: Path, assignments: Sequence[str] = ()) -> Matrix:
    """Read and check a matrix.

    Whether the files that it names exist is not looked at: see `check_files`.

    Args:
        path: Of the YAML file.
        assignments: ``key=value`` of ``--set``, applied in this order before anything is checked.

    Raises:
        InputError: The file is missing or cannot be read.
        ConfigurationError: All that is wrong with it, one line each, with file and line, or with
            the ``--set`` that it came from.
    """
    document = assign(read_yaml(path), assignments)
    if not isinstance(document.value, dict):
        raise ConfigurationError(f"{path}:1: a matrix is a mapping of keys to values")
    # "include:" with all its items commented out means none, not a mistake.
    written = {key: value for key, value in document.value.items() if value is not None}
    document = dataclasses.replace(document, value=written)
    problems = check_references(salvage(written))
    try:
        content = MatrixFile.model_validate(written)
    except ValidationError as error:
        raise refusal(document, [*schema_problems(error), *problems]) from error
    if problems:
        raise refusal(document, problems)
    return _joined(path, content)


def check_files(matrix: Matrix, cells: Sequence[Cell]) -> None:
    """Refuse models, data and interpreters that ``cells`` need and that do not exist.

    Raises:
        InputError: Names all that is missing.
    """
    missing: list[str] = []
    for name in dict.fromkeys(cell.model for cell in cells):
        entry = matrix.model(name)
        precisions = {cell.precision for cell in cells if cell.model == name}
        variants = [file for key, file in entry.variants.items() if key in precisions]
        missing += [
            f"the model {name!r}: {matrix.resolve(file)} does not exist"
            for file in (entry.path, *variants)
            if not matrix.resolve(file).is_file()
        ]
        # What has a colon may name a function instead; the reader of the data says more.
        if entry.data and ":" not in entry.data and not matrix.resolve(entry.data).exists():
            missing.append(f"the data of {name!r}: {matrix.resolve(entry.data)} does not exist")
    for name in dict.fromkeys(cell.target for cell in cells):
        target = matrix.targets[name]
        # What a distant target names lies over there, but for what connects to it.
        files = [] if target.distant else [target.python, *target.libraries.values()]
        if target.ssh is not None:
            files += [target.ssh.identity, target.ssh.config]
        if target.adb is not None:
            files += [target.adb.runner]
        missing += [
            f"the target {name!r}: {file} does not exist"
            for file in files
            if file and _is_path(file) and not Path(file).is_file()
        ]
    if missing:
        raise InputError("; ".join(missing))


def _joined(path: Path, content: MatrixFile) -> Matrix:
    folder = path.parent
    entries = {name: TargetEntry() for name in PROVIDERS} | content.targets
    return Matrix(
        path=path,
        defaults=content.defaults,
        models=content.models,
        targets={name: _target(name, entry, folder) for name, entry in entries.items()},
        axes=content.matrix,
        include=content.include,
        exclude=content.exclude,
        overrides=content.overrides,
    )


def _target(name: str, entry: TargetEntry, folder: Path) -> Target:
    provider = find_provider(entry.provider or name, plugin=bool(entry.libraries))
    if isinstance(provider, str):  # check_references has refused it
        raise ConfigurationError(provider)
    distant = entry.transport != "local"
    python = entry.python or (DEFAULT_PYTHON if entry.transport == "ssh" else "")
    if _is_path(python) and not distant:
        python = _beside(folder, python)
    return Target(
        name=name,
        provider=provider,
        python=python,
        provider_options=dict(entry.provider_options),
        libraries={
            key: file if distant else _beside(folder, file) for key, file in entry.libraries.items()
        },
        session_config=dict(entry.session_options),
        ssh=_ssh_settings(entry, folder) if entry.transport == "ssh" else None,
        adb=_adb_settings(entry, folder) if entry.transport == "adb" else None,
    )


def _ssh_settings(entry: TargetEntry, folder: Path) -> SshSettings:
    return SshSettings(
        host=entry.host or "",
        port=entry.port or 0,
        python=entry.python or DEFAULT_PYTHON,
        folder=entry.folder or DEFAULT_FOLDER,
        identity=_beside(folder, entry.identity) if entry.identity else "",
        config=_beside(folder, entry.ssh_config) if entry.ssh_config else "",
        options=entry.ssh_options,
        keep=entry.keep,
    )


def _adb_settings(entry: TargetEntry, folder: Path) -> AdbSettings:
    # Only who measures on such a device needs all that comes with it.
    from onnxsep.bench.transport_adb import AdbSettings

    settings = AdbSettings(
        serial=entry.serial or "",
        runner=_beside(folder, entry.runner) if entry.runner else "",
        fixed_performance=entry.fixed_performance,
    )
    return dataclasses.replace(settings, folder=entry.folder) if entry.folder else settings


def _beside(folder: Path, written: str) -> str:
    # Absolute but not resolved: the python of a virtual environment is a link, and must stay one.
    return str((folder / Path(written).expanduser()).absolute())


def _is_path(command: str) -> bool:
    """Whether an interpreter is named by path, not looked for like ``python3``."""
    return "/" in command or "\\" in command or command.startswith("~")
