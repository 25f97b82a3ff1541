"""What a matrix has to be as a whole: names that exist, options that mean something, fitting times.

Checked on all parts that are well formed, so that one report names everything that is wrong.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from onnxsep.bench.explain import Problem, did_you_mean
from onnxsep.bench.providers import PROVIDERS, Provider, check_provider_option, find_provider
from onnxsep.bench.schema import (
    Axes,
    ModelEntry,
    Override,
    Selection,
    Settings,
    TargetEntry,
)
from onnxsep.bench.session_keys import check_session_entry
from onnxsep.bench.ssh import host_problem, option_problem
from onnxsep.bench.yaml_reader import PathParts

_Part = TypeVar("_Part", bound=BaseModel)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The well-formed parts of a matrix, each with its place in the file.

    Attributes:
        defaults: Measurement settings; the built-in ones where the written ones are wrong.
        models: By index.
        model_names: Of all models, malformed ones included, in the order of the file.
        targets: By name.
        target_names: Of all targets, malformed ones included.
        axes: The axes.
        include: By index.
        exclude: By index.
        overrides: By index.
    """

    defaults: Settings
    models: Mapping[int, ModelEntry]
    model_names: tuple[str, ...]
    targets: Mapping[str, TargetEntry]
    target_names: tuple[str, ...]
    axes: Axes
    include: Mapping[int, Selection]
    exclude: Mapping[int, Selection]
    overrides: Mapping[int, Override]


def salvage(value: Mapping[str, Any]) -> Parts:
    """The parts of ``value`` that are well formed by themselves."""
    models, targets = _items(value.get("models")), value.get("targets")
    targets = targets if isinstance(targets, dict) else {}
    names = [item.get("name") for item in models.values() if isinstance(item, dict)]
    return Parts(
        defaults=_part(Settings, value.get("defaults", {})) or Settings(),
        models=_parts(ModelEntry, models),
        model_names=tuple(name for name in names if isinstance(name, str)),
        targets=_parts(TargetEntry, targets),
        target_names=tuple(targets),
        axes=_axes(value.get("matrix", {})),
        include=_parts(Selection, _items(value.get("include"))),
        exclude=_parts(Selection, _items(value.get("exclude"))),
        overrides=_parts(Override, _items(value.get("overrides"))),
    )


def check_references(parts: Parts) -> list[Problem]:
    """Everything that is wrong with parts beside each other."""
    return [
        *_check_models(parts),
        *_check_targets(parts),
        *_check_axes(parts),
        *_check_selections(parts),
        *_check_all_settings(parts),
    ]


def settings_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """Settings that contradict each other: name of the setting and one clause."""
    least = settings.seconds + settings.warm_up_seconds
    if settings.timeout <= least:
        yield (
            "timeout",
            f"{settings.timeout:g} s are over before seconds and warm_up_seconds, "
            f"{least:g} s together; give more",
        )
    if settings.most_runs < settings.fewest_runs:
        yield (
            "most_runs",
            f"{settings.most_runs} is less than fewest_runs, {settings.fewest_runs}",
        )


def missing_core(settings: Settings) -> str:
    """What is wrong with the cores for a cell on this machine, one clause; empty if nothing is."""
    cores = os.cpu_count() or 1
    beyond = [core for core in settings.affinity if core >= cores]
    return f"there is no core {beyond[0]}; this machine has 0 to {cores - 1}" if beyond else ""


def _check_models(parts: Parts) -> Iterator[Problem]:
    for index, entry in parts.models.items():
        if entry.name in parts.model_names[:index]:
            yield Problem(("models", index, "name"), f"{entry.name!r} is the name of two models")
        if entry.compare_to == entry.name:
            yield Problem(("models", index, "compare_to"), "a model cannot be its own reference")
        elif entry.compare_to is not None:
            yield from _check_name(
                "model", entry.compare_to, parts.model_names, ("models", index, "compare_to")
            )


def _check_targets(parts: Parts) -> Iterator[Problem]:
    for name, entry in parts.targets.items():
        path: PathParts = ("targets", name)
        provider = find_provider(entry.provider or name, plugin=bool(entry.libraries))
        if isinstance(provider, str):
            if entry.provider is None:
                message = (
                    f"{name!r} is no predefined target; name its provider, as in provider: cpu"
                )
                yield Problem(path, message)
            else:
                yield Problem((*path, "provider"), provider)
            continue
        for option, value in entry.provider_options.items():
            wrong = check_provider_option(provider, option, value)
            if wrong:
                yield Problem((*path, "provider_options", option), wrong)
        yield from _check_entries(entry.session_options, (*path, "session_options"), provider)
        yield from _check_way(entry, path)


# Keys that mean something to one way only, and those that it cannot do without.
_WAYS: Mapping[str, tuple[str, ...]] = {
    "ssh": ("host", "port", "identity", "ssh_config", "ssh_options", "keep", "folder"),
    "adb": ("serial", "runner", "fixed_performance", "folder"),
    "local": (),
}
_NEEDED = {"ssh": "host", "adb": "runner"}
_EXAMPLES = {"host": "host: user@board", "runner": "runner: path/to/the/program"}


def _check_way(entry: TargetEntry, path: PathParts) -> Iterator[Problem]:
    """Whether all that a target says of the way to it belongs together."""
    way = entry.transport
    needed = _NEEDED.get(way)
    if needed is not None and getattr(entry, needed) is None:
        message = f"a target behind {way} needs '{needed}', as in {_EXAMPLES[needed]}"
        yield Problem((*path, "transport"), message)
    for name in sorted(entry.model_fields_set):
        ways = [other for other, names in _WAYS.items() if name in names]
        if ways and way not in ways:
            words = " or ".join(ways)
            yield Problem((*path, name), f"{name!r} is for transport: {words}, not {way}")
    if way == "adb" and entry.python:
        yield Problem((*path, "python"), "a device behind adb runs no Python; leave it out")
    if way == "ssh":
        wrong = "" if entry.host is None else host_problem(entry.host)
        if wrong:
            yield Problem((*path, "host"), wrong)
        for index, option in enumerate(entry.ssh_options):
            wrong = option_problem(option)
            if wrong:
                yield Problem((*path, "ssh_options", index), wrong)


def _check_axes(parts: Parts) -> Iterator[Problem]:
    axes = parts.axes
    yield from _check_names("model", axes.models, parts.model_names, ("matrix", "models"))
    yield from _check_names("target", axes.targets, _targets_known(parts), ("matrix", "targets"))
    for index, entries in enumerate(axes.session_options):
        yield from _check_entries(entries, ("matrix", "session_options", index))


def _check_selections(parts: Parts) -> Iterator[Problem]:
    placed: list[tuple[PathParts, Selection]] = [
        *((("include", index), part) for index, part in parts.include.items()),
        *((("exclude", index), part) for index, part in parts.exclude.items()),
        *((("overrides", index, "match"), part.match) for index, part in parts.overrides.items()),
    ]
    for path, selection in placed:
        yield from _check_names("model", selection.model, parts.model_names, (*path, "model"))
        yield from _check_names(
            "target", selection.target, _targets_known(parts), (*path, "target")
        )
        for index, entries in enumerate(selection.session_options or ()):
            yield from _check_entries(entries, (*path, "session_options", index))
    for index, selection in parts.exclude.items():
        if selection == Selection():
            yield Problem(("exclude", index), "names no axis and would leave out every cell")


def _check_all_settings(parts: Parts) -> Iterator[Problem]:
    known = set()
    for name, message in settings_problems(parts.defaults):
        known.add(name)
        yield Problem(("defaults", name), message)
    # How many cores a distant machine has is not known here.
    near = all(entry.transport == "local" for entry in parts.targets.values())
    if near and missing_core(parts.defaults):
        yield Problem(("defaults", "affinity"), missing_core(parts.defaults))
    for index, override in parts.overrides.items():
        changed = override.set.model_fields_set
        if not changed:
            yield Problem(("overrides", index, "set"), "sets nothing")
        for name, message in settings_problems(parts.defaults.changed_by(override.set)):
            if name in changed or name not in known:
                yield Problem(("overrides", index, "set", name), message)
        if near and missing_core(override.set):
            yield Problem(("overrides", index, "set", "affinity"), missing_core(override.set))


def _check_entries(
    entries: Mapping[str, str], path: PathParts, provider: Provider | None = None
) -> Iterator[Problem]:
    """Session configuration entries; ``provider`` may insist on some."""
    forced = {} if provider is None else provider.session_config
    for name, value in entries.items():
        wrong = check_session_entry(name, value)
        if not wrong and forced.get(name, value) != value:
            wrong = f"{name!r} is always {forced[name]!r} on {provider.name if provider else ''}"
        if wrong:
            yield Problem((*path, name), wrong)


def _check_names(
    kind: str, names: Iterable[str] | None, known: Iterable[str], path: PathParts
) -> Iterator[Problem]:
    for index, name in enumerate(names or ()):
        yield from _check_name(kind, name, known, (*path, index))


def _check_name(kind: str, name: str, known: Iterable[str], path: PathParts) -> Iterator[Problem]:
    if name not in (names := tuple(known)):
        yield Problem(path, f"unknown {kind} {name!r}{did_you_mean(name, names)}")


def _targets_known(parts: Parts) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*PROVIDERS, *parts.target_names)))


def _axes(value: object) -> Axes:
    """The axes that are well formed; the others as if they were not written."""
    if not isinstance(value, dict):
        return Axes()
    alone = {name: _part(Axes, {name: axis}) for name, axis in value.items()}
    return Axes.model_validate({name: value[name] for name, part in alone.items() if part})


def _items(value: object) -> dict[int, Any]:
    return dict(enumerate(value)) if isinstance(value, list) else {}


def _parts(kind: type[_Part], values: Mapping[Any, Any]) -> dict[Any, _Part]:
    made = {key: _part(kind, value) for key, value in values.items()}
    return {key: part for key, part in made.items() if part is not None}


def _part(kind: type[_Part], value: object) -> _Part | None:
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None  # named by the validation of the whole
