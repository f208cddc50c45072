"""The end of a stage's help: what it reads and writes, and the present values of its section."""

from __future__ import annotations

import json
from typing import Any

from ruamel.yaml import YAML, YAMLError
from typer.core import TyperCommand

from stages.shared.flow import CONTENTS, FLOW
from stages.shared.paths import PARAMS

ALIKE = {"train": "search", "qat": "search"}
"""Section -> the one with the same keys, which has their comments."""


class StageCommand(TyperCommand):
    """A stage; the end of its help comes from the table of stages and from the parameter file."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write lists of files and values."""
        flow = FLOW[self.name or ""]
        inputs = [(str(path), CONTENTS[path]) for path in flow.reads]
        if flow.section == "prepare":
            inputs = [("prepare.root", "the dataset: images and labels of VOC, COCO or YOLO")]
        outputs = [(str(path), CONTENTS[path]) for path in flow.writes]
        for title, rows in (("Reads", inputs), ("Writes", outputs)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if flow.section:
            self._write_values(flow.section, formatter)
        if flow.others:
            formatter.write_paragraph()
            formatter.write_text(f"Sections that count{' as well' if flow.section else ''}: {', '.join(flow.others)}.")

    @staticmethod
    def _write_values(section: str, formatter: Any) -> None:
        try:
            values = value_rows(PARAMS.read_text(encoding="utf-8"), section)
        except (OSError, ValueError, YAMLError) as error:
            values = [(str(PARAMS), f"cannot be read here ({type(error).__name__}); run from the project's root")]
        with formatter.section(f"Section {section} of {PARAMS} now"):
            formatter.write_dl(values)


def value_rows(text: str, section: str) -> list[tuple[str, str]]:
    """`key: value` and the comment beside it, for each key of a section.

    Args:
        text: of the parameter file.

    Raises:
        ValueError: the section is missing or empty.
        YAMLError: the text is not YAML.
    """
    alike = ALIKE.get(section, section)
    document = YAML().load(_sections(text, {section, alike}) or text)
    values = document.get(section) if isinstance(document, dict) else None
    if not isinstance(values, dict) or not values:
        raise ValueError(f"no section {section}")
    comments = _comments(document.get(alike)) | _comments(values)
    return [(f"{key}: {_shown(value)}", comments.get(key, "")) for key, value in values.items()]


def _sections(text: str, names: set[str]) -> str:
    """Lines of the text under top-level keys of these names: reading all of it would be a tenth of the time of help."""
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        if line[:1].isalpha():
            inside = line.partition(":")[0].rstrip() in names
        kept += [line] * inside
    return "".join(kept)


def _comments(values: Any) -> dict[str, str]:
    """Key -> the comment at the end of its line."""
    tokens = {key: marks[2] for key, marks in values.ca.items.items()} if hasattr(values, "ca") else {}
    lines = {key: token.value.partition("\n")[0] for key, token in tokens.items() if token is not None}
    return {key: line.lstrip("# ") for key, line in lines.items() if line.startswith("#")}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
