"""Work that goes on in threads beside the caller's: items made ahead of it, and work done behind it, both in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")

_PATIENCE = 5.0
"""Seconds that the end of `ahead` waits for an item that is being made, such as a picture of a camera that hangs."""


def ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """The items in their order, of which a thread makes up to `depth` before they are asked for.

    Whatever the iterator raises comes out here, after the items before it. Close the result to stop the thread.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_make, args=(items, made, stopped), name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            what, value = made.get()
            if what == "error":
                raise value
            if what == "end":
                return
            yield value
    finally:
        stopped.set()
        while not made.empty():  # a thread that waits for a place gets one, and then sees that it is to stop
            made.get_nowait()
        thread.join(_PATIENCE)


def _make(items: Iterator[Any], made: queue.Queue[tuple[str, Any]], stopped: threading.Event) -> None:
    last: tuple[str, Any] = ("end", None)
    try:
        for item in items:
            if stopped.is_set():
                break
            made.put(("item", item))
    except BaseException as error:  # raised where the items are used
        last = ("error", error)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
        if not stopped.is_set():
            made.put(last)


class Behind:
    """Does pieces of work in a thread, in their order, while the caller goes on. Use it in `with`.

    The end of `with` waits for all work. An error stops the work after it; the next `do` raises it, or the end.
    """

    def __init__(self, depth: int) -> None:
        """Args: depth: pieces that may wait; `do` blocks while so many do."""
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="behind", daemon=True)

    def __enter__(self) -> Behind:
        self._thread.start()
        return self

    def do(self, work: Callable[[], None]) -> None:
        """Put a piece of work in the line. Raises: what an earlier piece raised."""
        if self._error is not None:
            raise self._error
        self._waiting.put(work)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._waiting.put(None)
            self._thread.join()
        except BaseException as error:  # a second Ctrl-C: what waits is left out
            self._error = error
            self._waiting.put(None)
            self._thread.join()
            raise
        if self._error is not None and self._error is not value:
            raise self._error

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            if self._error is None:
                try:
                    work()
                except BaseException as error:  # raised where the caller sees it; the line is emptied meanwhile
                    self._error = error
