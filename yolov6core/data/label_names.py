"""Names of label files: by the image's name alone, or with its folders where names repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class LabelNames:
    """How label files of a dataset folder are named after images.

    Attributes:
        root: folder that names count from; None: the file name alone counts.
        suffixes: whether the image's suffix is part of the name, for `a.jpg` beside `a.png`.
    """

    root: str | None = None
    suffixes: bool = False

    def of(self, path: str) -> str:
        """Name of the label file without `.txt`: `a` or `sub/a` for the image `<root>/sub/a.jpg`."""
        if self.root is None:
            name = path[path.rfind("/") + 1 :]
        else:
            whole, front = plain_path(path), self.root.rstrip("/") + "/"
            name = whole.removeprefix(front).lstrip("/") if self.root else whole.lstrip("/")
        dot = name.rfind(".")
        bare = name.rfind("/") + 1 < dot < len(name) - 1
        return name if self.suffixes or not bare else name[:dot]

    @classmethod
    def told_by(cls, content: Mapping[str, object]) -> LabelNames:
        """The naming in the entry `labels` of `dataset.yaml`; plain names if it has none.

        Raises:
            ValueError: the entry is malformed.
        """
        entry = content.get("labels")
        if entry is None:
            return cls()
        if not isinstance(entry, dict) or not isinstance(entry.get("root"), str):
            raise ValueError(f"`labels` must hold `root`, found {entry!r}")
        return cls(entry["root"], entry.get("suffixes") is True)


def plain_path(path: str) -> str:
    """A path without `.` and repeated slashes, as lists are read back."""
    return PurePosixPath(path).as_posix()
