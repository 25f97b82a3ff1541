"""The cells of a matrix: every combination of the axes, with all questions of defaults answered."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence

from onnxsep.bench.matrix import Matrix, Selection, Settings
from onnxsep.bench.matrix_checks import missing_core, settings_problems
from onnxsep.bench.record import Cell
from onnxsep.errors import ConfigurationError

MOST_CELLS = 10_000
_NEAREST = 3
_DEFAULT_OPTIMIZATION = "all"
_PREFIX = "session."
# Axes that --only knows, with the attribute of the cell.
_AXES = {
    "model": "model",
    "target": "target",
    "provider": "provider",
    "precision": "precision",
    "batch": "batch",
    "threads": "threads",
    "optimization": "optimization",
}


@dataclasses.dataclass(frozen=True)
class _Point:
    """One combination of the axes."""

    model: str
    target: str
    precision: str
    batch: int
    threads: int
    optimization: str
    session_options: Mapping[str, str]

    @property
    def id(self) -> str:
        """Readable, and unique among points.

        The last two axes appear only where they differ from their defaults: the same cell then
        bears the same id in every matrix, which comparisons with a baseline rely on.
        """
        parts = [self.model, self.target, f"b{self.batch}", f"t{self.threads}", self.precision]
        if self.optimization != _DEFAULT_OPTIMIZATION:
            parts.append(self.optimization)
        parts += [
            f"{name.removeprefix(_PREFIX)}={value}"
            for name, value in sorted(self.session_options.items())
        ]
        return " ".join(parts)

    def matches(self, selection: Selection) -> bool:
        """Whether every axis that ``selection`` names has one of its values."""
        for axis in ("model", "target", "precision", "batch", "threads", "optimization"):
            values = getattr(selection, axis)
            if values is not None and getattr(self, axis) not in values:
                return False
        sets = selection.session_options
        return sets is None or any(
            wanted.items() <= self.session_options.items() for wanted in sets
        )


def expand(matrix: Matrix) -> tuple[Cell, ...]:
    """The cells of a matrix in a fixed order.

    Models vary slowest, then targets, precision, batch, threads, optimization and session options;
    what is included follows. A cell that is there already is not included again.

    Raises:
        ConfigurationError: Nothing is left, there are too many, a cell contradicts what its
            provider needs, or its settings contradict each other.
    """
    points: dict[str, _Point] = {}
    for point in _points(matrix):
        if not any(point.matches(selection) for selection in matrix.exclude):
            points.setdefault(point.id, point)
        if len(points) > MOST_CELLS:
            raise ConfigurationError(
                f"{matrix.path} has more than {MOST_CELLS} cells; shorten axes"
            )
    for selection in matrix.include:
        for point in _included(matrix, selection):
            points.setdefault(point.id, point)
        if len(points) > MOST_CELLS:
            raise ConfigurationError(
                f"{matrix.path} has more than {MOST_CELLS} cells; shorten axes"
            )
    if not points:
        raise ConfigurationError(f"{matrix.path}: exclude leaves no cell; take an entry out of it")
    return tuple(_cell(matrix, point) for point in points.values())


def select(cells: Sequence[Cell], patterns: Sequence[str]) -> tuple[Cell, ...]:
    """The cells that any of the patterns of ``--only`` names, in their order; all without patterns.

    A pattern is a glob or a part of the id, or terms such as ``target=cpu,batch=1`` that must all
    hold. Parts that are whole words of an id count before parts of words: ``b1`` is not ``b16``
    where there is a ``b1``.

    Raises:
        ConfigurationError: A pattern names no cell; the message has the nearest ids.
    """
    if not patterns:
        return tuple(cells)
    chosen: set[str] = set()
    for pattern in patterns:
        found = _matching(cells, pattern)
        if not found:
            raise ConfigurationError(_nothing(cells, pattern))
        chosen.update(cell.id for cell in found)
    return tuple(cell for cell in cells if cell.id in chosen)


def matrix_fingerprint(cells: Sequence[Cell], machines: Mapping[str, str] | None = None) -> str:
    """SHA-256 of everything that the cells say, as 64 hexadecimal digits.

    Args:
        cells: All of them.
        machines: Of targets that are not on this machine: what is behind them.
    """
    plain: list[object] = [dataclasses.asdict(cell) for cell in cells]
    if machines:
        plain.append(dict(machines))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _points(matrix: Matrix) -> Iterator[_Point]:
    axes = matrix.axes
    for values in itertools.product(
        _models(matrix),
        axes.targets,
        axes.precision,
        axes.batch,
        axes.threads,
        axes.optimization,
        axes.session_options,
    ):
        yield _Point(*values)


def _included(matrix: Matrix, selection: Selection) -> Iterator[_Point]:
    axes = matrix.axes
    for values in itertools.product(
        selection.model or _models(matrix)[:1],
        selection.target or axes.targets[:1],
        selection.precision or axes.precision[:1],
        selection.batch or axes.batch[:1],
        selection.threads or axes.threads[:1],
        selection.optimization or axes.optimization[:1],
        selection.session_options or axes.session_options[:1],
    ):
        yield _Point(*values)


def _models(matrix: Matrix) -> tuple[str, ...]:
    return matrix.axes.models or tuple(entry.name for entry in matrix.models)


def _cell(matrix: Matrix, point: _Point) -> Cell:
    target = matrix.targets[point.target]
    provider = target.provider
    settings = _settings(matrix, point)
    for name, value in provider.session_config.items():
        if point.session_options.get(name, value) != value:
            raise ConfigurationError(
                f"{matrix.path}: the cell '{point.id}' contradicts {provider.name}, which needs "
                f"{name}={value}; leave it out: exclude: [{{target: {point.target}, "
                f"session_options: {{{name}: {point.session_options[name]!r}}}}}]"
            )
    options = dict(target.provider_options)
    if provider.pool_option:
        if not point.threads and not settings.affinity and target.distant:
            raise ConfigurationError(
                f"{matrix.path}: the cell '{point.id}' wants all cores of {target.distant}, and "
                f"{provider.name} has to be told their number; write it under threads"
            )
        options[provider.pool_option] = str(point.threads or _cores(settings))
    binding = settings.io_binding
    return Cell(
        id=point.id,
        model=point.model,
        target=point.target,
        provider=provider.onnxruntime_name,
        precision=point.precision,
        batch=point.batch,
        threads=point.threads,
        optimization=point.optimization,
        session_config={
            **target.session_config,
            **point.session_options,
            **provider.session_config,
        },
        provider_options=options,
        libraries=dict(target.libraries),
        python=target.python,
        affinity=settings.affinity,
        io_binding=provider.io_binding if binding == "auto" else binding,
        intra_threads=1 if provider.pool_option else point.threads,
        rounds=settings.rounds,
        seconds=settings.seconds,
        fewest_runs=settings.fewest_runs,
        most_runs=settings.most_runs,
        warm_up_seconds=settings.warm_up_seconds,
        timeout=settings.timeout,
        cool_down=settings.cool_down,
    )


def _settings(matrix: Matrix, point: _Point) -> Settings:
    settings = matrix.defaults
    for override in matrix.overrides:
        if point.matches(override.match):
            settings = settings.changed_by(override.set)
    # Each override fits by itself; two of them together may not.
    for name, message in settings_problems(settings):
        raise ConfigurationError(
            f"{matrix.path}: overrides together give the cell '{point.id}' a {name} that does not "
            f"fit: {message}"
        )
    if missing_core(settings) and not matrix.targets[point.target].distant:
        raise ConfigurationError(
            f"{matrix.path}: the cell '{point.id}' is confined to cores: {missing_core(settings)}"
        )
    return settings


def _cores(settings: Settings) -> int:
    """What "all cores" means to a pool that has to be told a number."""
    return len(settings.affinity) or os.cpu_count() or 1


def _matching(cells: Sequence[Cell], pattern: str) -> list[Cell]:
    wanted = pattern.strip().casefold()
    exact = [cell for cell in cells if cell.id.casefold() == wanted]
    if exact:
        return exact
    terms = _terms(wanted)
    if terms:
        return [
            cell
            for cell in cells
            if all(
                fnmatch.fnmatchcase(str(getattr(cell, attribute)).casefold(), value)
                for attribute, value in terms
            )
        ]
    if any(character in wanted for character in "*?["):
        return [cell for cell in cells if fnmatch.fnmatchcase(cell.id.casefold(), wanted)]
    whole = [cell for cell in cells if f" {wanted} " in f" {cell.id.casefold()} "]
    return whole or [cell for cell in cells if wanted and wanted in cell.id.casefold()]


def _terms(pattern: str) -> list[tuple[str, str]]:
    """``target=cpu,batch=1`` as attributes and values; empty if it is anything else."""
    terms = []
    for part in pattern.split(","):
        axis, equals, value = part.partition("=")
        if not equals or axis.strip() not in _AXES:
            return []
        terms.append((_AXES[axis.strip()], value.strip()))
    return terms


def _nothing(cells: Sequence[Cell], pattern: str) -> str:
    axis = pattern.partition("=")[0].strip()
    if "=" in pattern and axis not in _AXES:
        close = difflib.get_close_matches(axis, _AXES, n=1)
        if close:
            return f"--only {pattern}: unknown axis {axis!r}, did you mean {close[0]!r}?"
    ids = [cell.id for cell in cells]
    close = difflib.get_close_matches(pattern, ids, n=_NEAREST, cutoff=0.0)
    return f"--only {pattern} names no cell; the nearest are " + ", ".join(
        f"'{name}'" for name in close
    )
