"""The options that say how images become inputs, as one value; shared by the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxsep.errors import ConfigurationError

if TYPE_CHECKING:
    from onnxsep.data import Preprocessing


def preprocessing_from(
    preset: str | None,
    mean: str | None,
    std: str | None,
    scale: str | None,
    layout: str | None,
    color: str | None,
) -> Preprocessing | None:
    """The preprocessing that the options describe, None if they say nothing.

    Raises:
        ConfigurationError: A preset is unknown, or a number is none.
    """
    given = {"mean": mean, "std": std, "scale": scale, "layout": layout, "color": color}
    if preset is None and not any(given.values()):
        return None
    import dataclasses

    from onnxsep.data import PRESETS, Preprocessing

    if preset is not None and preset not in PRESETS:
        raise ConfigurationError(
            f"unknown preset {preset!r}; known are {', '.join(sorted(PRESETS))}"
        )
    base = Preprocessing() if preset is None else PRESETS[preset]
    changes: dict[str, object] = {}
    for name in ("mean", "std"):
        text = given[name]
        if text is not None:
            changes[name] = tuple(_number(part, f"--{name}") for part in text.split(","))
    if scale is not None:
        changes["scale"] = _number(scale, "--scale")
    changes.update({name: given[name] for name in ("layout", "color") if given[name] is not None})
    if changes:
        changes["name"] = "custom" if preset is None else f"{preset}, changed"
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def _number(text: str, option: str) -> float:
    """A number, or a fraction such as 1/255."""
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ConfigurationError(
            f"{option} takes numbers such as 0.5 or 1/255, not {text!r}"
        ) from None
