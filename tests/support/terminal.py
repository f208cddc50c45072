"""Commands under a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class OnTerminal:
    """A process whose standard error is a terminal; standard output is a pipe."""

    process: subprocess.Popen
    said: bytearray
    reader: threading.Thread

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until the terminal has shown the text."""
        end = time.monotonic() + seconds
        while text.encode() not in self.said:
            assert self.process.poll() is None and time.monotonic() < end, self.text()
            time.sleep(0.02)

    def wait_for_end(self) -> None:
        """Wait until all that the process wrote before it ended is read."""
        self.reader.join(60)

    def text(self) -> str:
        """All that was written to the terminal so far, with its control sequences."""
        return self.said.decode("utf-8", "replace")


def start_on_terminal(
    command: Sequence[str], *, columns: int = 120, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> OnTerminal:
    """Start a command; a thread reads what it writes to its terminal of that many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=clean | {"TERM": "xterm"} | dict(env or {}),
        cwd=cwd,
        preexec_fn=_heed_ctrl_c,
    )
    os.close(theirs)
    said = bytearray()
    reader = threading.Thread(target=_read, args=(ours, said), daemon=True)
    reader.start()
    return OnTerminal(process, said, reader)


def run_on_terminal(command: Sequence[str], **how: object) -> tuple[str, int, bytes]:
    """Run a command; returns what it wrote to the terminal, its exit code, and its standard output."""
    started = start_on_terminal(command, **how)  # pyright: ignore[reportArgumentType]
    out, _ = started.process.communicate(timeout=300)
    started.wait_for_end()
    return started.text(), started.process.returncode, out


def _heed_ctrl_c() -> None:
    """As on a terminal: what runs in the background of a script ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _read(descriptor: int, into: bytearray) -> None:
    try:
        while data := os.read(descriptor, 65536):
            into += data
    except OSError:  # Linux's way to say that the other side is closed
        pass
    finally:
        os.close(descriptor)


def screen(text: str, columns: int = 120) -> list[str]:
    """Lines on the terminal at the end, down to the cursor's; it must be the last that is not empty.

    Knows carriage returns, line feeds, wrapped lines, colours, erasing a line and moving up.
    """
    lines, row, column = [""], 0, 0
    position = 0
    while position < len(text):
        if text[position] == "\x1b":
            end = position + 2
            while not text[end].isalpha():
                end += 1
            number, what = text[position + 2 : end], text[end]
            if what == "A":
                row -= int(number or 1)
                assert row >= 0
            elif what == "K":
                lines[row] = "" if number == "2" else lines[row][:column]
            else:
                assert what in "mhl", f"unknown sequence {text[position : end + 1]!r}"
            position = end + 1
            continue
        character = text[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        else:
            if column == columns:
                row, column = row + 1, 0
                if row == len(lines):
                    lines.append("")
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
    assert not any(lines[row + 1 :]), "something is left below the cursor"
    return [line.rstrip() for line in lines[: row + 1]]
