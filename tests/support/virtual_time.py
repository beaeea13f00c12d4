"""A loop whose sleeps take no time: when nothing is ready, its clock jumps to the next timer.

For code without sockets, files and threads: what waits for those would be jumped over.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTime:
    """Time that passes only in sleeps; it goes on from one run to the next.

    Attributes:
        seconds: how much has passed.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something to its end."""

        def make_loop() -> asyncio.AbstractEventLoop:
            loop = asyncio.SelectorEventLoop(_Jumping(self))
            loop.time = lambda: self.seconds  # type: ignore[method-assign]
            return loop

        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(work)


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: where it would wait, time passes."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is ready, and there is no timer: this would hang")
        self._time.seconds += max(timeout, 0)
        return super().select(0)
