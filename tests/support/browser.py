"""Pages in a real browser: chromium without a window, as Debian has it (`apt-get install chromium`)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const inked = (mark) => { const box = mark.getBoundingClientRect(); return box.width + box.height > 0; };
  const drawn = (chart) => [...chart.querySelectorAll("[clip-path]")].filter(inked).length;
  const facts = {
    charts: [...document.querySelectorAll("svg.chart")].filter((c) => c.checkVisibility()).map(drawn),
    canvases: document.querySelectorAll("canvas").length,
    images: [...document.images].map((image) => image.naturalWidth),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name).filter((n) => /^https?:/.test(n)),
    width: document.documentElement.scrollWidth,
  };
  const note = document.createElement("pre");
  note.id = "probe";
  note.textContent = JSON.stringify(facts);
  document.body.append(note);
}, 500));
</script>
"""
"""Put into a copy of a page: writes what the browser made of it into its body."""


@dataclass(frozen=True)
class Rendered:
    """What a browser made of a page.

    Attributes:
        facts: `charts` (marks of each visible chart), `canvases`, `images` (widths), `requests` of others, `width`.
        console: lines of its console.
        text: the document as it stood at the end.
    """

    facts: dict[str, Any]
    console: list[str]
    text: str


def render(page: Path, folder: Path, *, width: int = 1280, script: str = "") -> Rendered:
    """Open a copy of a page beside it, with the probe inside.

    Args:
        folder: for the browser's profile.
        width: of the window, pixels.
        script: run after the page's own, as a visitor's hand.
    """
    assert CHROMIUM is not None
    copy = page.with_name(f"probed_{page.name}")
    before, _, after = page.read_text(encoding="utf-8").rpartition("</body>")
    copy.write_text(f"{before}<script>{script}</script>{PROBE}</body>{after}", encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000"]
    command = [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2000"]
    command += ["--enable-logging=stderr", "--dump-dom", copy.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    copy.unlink()
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return Rendered(
        facts=json.loads(unescape(found[1])),
        console=[line for line in done.stderr.splitlines() if "CONSOLE" in line],
        text=done.stdout,
    )


def outside_resources(text: str) -> list[str]:
    """What a page names of the network: sources of scripts, styles and pictures."""
    return re.findall(r"""(?:\bsrc\s*=|<link[^>]*\bhref\s*=|@import|url\()\s*["']?(?:https?:)?//[^"'\s)>]+""", text)
