"""What the product logs as an error in a run; everything else is dropped unread.

The product catches what must not stop it, and logs it: to the simulation that is a surprise like any other.
"""

import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from logging import ERROR
from typing import Any, NoReturn

import structlog

from worker.core.ports import StoreUnavailableError

Listener = Callable[[str], None]


class ProductErrors:
    """Whom the product's errors are given to at the moment."""

    listener: Listener | None = None


@contextmanager
def product_errors_noticed() -> Iterator[None]:
    """Give the product's errors to the listener for as long as the block lasts."""
    before = structlog.get_config()
    structlog.configure(
        processors=[_listen],
        wrapper_class=structlog.make_filtering_bound_logger(ERROR),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def _listen(logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
    del logger, method
    problem = event.get("exc_info")
    if problem is True:
        problem = sys.exc_info()[1]
    if isinstance(problem, BaseException) and not isinstance(problem, StoreUnavailableError):
        text = "".join(traceback.format_exception(problem))
        if ProductErrors.listener is not None:
            ProductErrors.listener(f"{event['event']}: {text}")
    raise structlog.DropEvent
