"""The pages that users read, and what stands in them."""

from __future__ import annotations

import re

from tests.support.pipeline import ROOT

MAIN_PAGES = ("README.md", "CONTRIBUTING.md")
SHELLS = ("", "bash", "sh", "console")
"""Languages of code blocks that hold commands; a block without one is read as such, too."""
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def pages() -> tuple[str, ...]:
    """Paths of the pages, from the project's root."""
    return (*MAIN_PAGES, *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))


def page(name: str) -> str:
    """Text of a file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def code_of(text: str) -> list[str]:
    """Code spans, line breaks inside them removed, and the lines of code blocks, continued lines joined."""
    prose = _BLOCK.sub("", text)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)] + block_lines(text)


def block_lines(text: str, languages: tuple[str, ...] = SHELLS) -> list[str]:
    """Lines of the code blocks in one of the languages, continued lines joined."""
    blocks = [block for language, block in _BLOCK.findall(text) if language in languages]
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def commands_of(text: str) -> list[str]:
    """Commands of the code blocks marked as `bash`, without their comments and with single spaces."""
    lines = [re.sub(r"\s+#.*", "", line) for line in block_lines(text, ("bash",))]
    return [" ".join(line.split()) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def anchors_of(text: str) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def table_of(text: str, header: str) -> list[list[str]]:
    """Cells of the rows of the table that begins with `header`."""
    rows = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
