"""Pages as a real browser lays them out: in frames as narrow as a telephone, in both schemes."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A window of a browser may not be as narrow as a telephone, a frame may. The page in it stays as it
# is, but for what is folded.
_FRAME = '<iframe style="width:{width}px; height:900px; border:0" srcdoc="{page}"></iframe>'
_PROBE = """<script>
onload = () => {
  const looks = Array.from(document.querySelectorAll("iframe"), frame => {
    const root = frame.contentDocument.documentElement;
    const body = getComputedStyle(root.querySelector("body"));
    const drawings = Array.from(root.querySelectorAll("svg"), svg => {
      const area = svg.getBoundingClientRect();
      const cut = Array.from(svg.querySelectorAll("text")).filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < area.left - 2 || box.right > area.right + 2
          || box.top < area.top - 2 || box.bottom > area.bottom + 2;
      });
      const sizes = Array.from(svg.querySelectorAll("text"),
        text => {
        const box = text.getBoundingClientRect();
        return Math.max(box.width, box.height);  // some are turned
      });
      return {
        width: area.width, height: area.height, cut: cut.map(text => text.textContent),
        smallest: Math.min(...sizes)
      };
    });
    return {
      window: frame.contentWindow.innerWidth, page: root.scrollWidth,
      back: body.backgroundColor, text: body.color, drawings: drawings,
      words: root.innerText.length
    };
  });
  document.body.dataset.probe = JSON.stringify(looks);
};
</script>"""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A drawing: its size in CSS pixels, words that stick out of it, its smallest letters."""

    width: float
    height: float
    cut: list[str]
    smallest: float


@dataclasses.dataclass(frozen=True)
class Look:
    """A page in a window: widths in CSS pixels, colours as ``rgb(r, g, b)``."""

    window: int
    page: int
    back: str
    text: str
    drawings: list[Drawing]
    words: int


def look(page: str, widths: Sequence[int], folder: Path, *, dark: bool = False) -> list[Look]:
    """The page at every width; the test is skipped where there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser to look at the page with: none of {', '.join(BROWSERS)} is here")
    path = folder / "frames.html"
    unfolded = html.escape(page.replace("<details>", "<details open>"))
    frames = "".join(_FRAME.format(width=width, page=unfolded) for width in widths)
    head = '<!DOCTYPE html><html style="color-scheme: light dark">'
    path.write_text(f"{head}<body>{frames}{_PROBE}</body></html>", encoding="utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,1000",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found is not None, done.stderr
    return [
        Look(**{**plain, "drawings": [Drawing(**each) for each in plain["drawings"]]})
        for plain in json.loads(html.unescape(found[1]))
    ]
