"""What was found out about this machine, as plain data."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

State = Literal["ok", "warning", "missing", "broken"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        group: Heading that it stands under.
        name: What was looked at.
        state: ``ok``; ``warning``: works, but disturbs; ``missing``: something optional is not
            here; ``broken``: something required is not.
        value: What was found, one clause.
        way_out: What helps, one clause; empty where nothing needs help.
    """

    group: str
    name: str
    state: State
    value: str
    way_out: str = ""


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of reading."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """What has to be mended before onnxsep works."""
        return tuple(found for found in self.findings if found.state == "broken")

    def to_json(self) -> str:
        """All of it as JSON."""
        plain = {
            "findings": [dataclasses.asdict(found) for found in self.findings],
            "broken": len(self.broken),
        }
        return json.dumps(plain, indent=2) + "\n"
