"""Which messages of the broker are Evergrant's: whatever is not is dropped with one line.

Anybody who reaches the broker can put anything into the queue. Kombu and Celery trust what they read there:
a body that is no JSON, or a header that is a list, raises in the middle of a worker's main loop and ends the
worker, and Celery logs the whole message. So each message is checked before they see it.

Rule: a reason names a field and what it lacks, and never a part of the message: it may hold anything.
"""

from collections.abc import Mapping
from typing import Any, Literal

import structlog
from kombu.utils.json import loads
from pydantic import Base64Bytes, BaseModel, Field, TypeAdapter, ValidationError

log = structlog.get_logger(__name__)

Arguments = tuple[list[str], dict[str, str], dict[str, None]]  # positional, by name, Celery's canvas


class _Headers(BaseModel):
    """What Celery notes about a task. Ours are to run at once."""

    task: str
    id: str = Field(max_length=64)
    eta: None = None
    expires: None = None
    shadow: None = None
    timelimit: tuple[float | None, float | None] | None = None


class _DeliveryInfo(BaseModel):
    exchange: str
    routing_key: str


class _Properties(BaseModel):
    body_encoding: Literal["base64"]
    delivery_tag: str
    delivery_info: _DeliveryInfo


class _Envelope(BaseModel):
    """A message as kombu keeps it in a Redis list."""

    body: Base64Bytes
    headers: _Headers
    properties: _Properties


_arguments = TypeAdapter(Arguments)


def fault_of_envelope(raw: bytes | str) -> str | None:
    """What is wrong with an element of a Redis queue; `None` where kombu can read it."""
    try:
        _Envelope.model_validate(loads(raw))
    except ValidationError as problem:
        return _first_fault(problem)
    except Exception:  # noqa: BLE001 kombu's decoders raise whatever the value makes them raise
        return "it is not a message in JSON"
    return None


def fault_of_task(message: Any, tasks: Mapping[str, Any]) -> str | None:
    """What is wrong with a message that a broker delivered; `None` where it is one of our tasks.

    Args:
        message: as kombu gives it.
        tasks: the tasks that there are, by name.
    """
    try:
        name = _Headers.model_validate(message.headers).task
    except ValidationError as problem:
        return _first_fault(problem)
    if name not in tasks or name.startswith("celery."):
        return "it names no task of Evergrant's"
    if (message.content_type, message.content_encoding) != ("application/json", "utf-8"):
        return "its content is not application/json in utf-8"
    try:
        positional, by_name, _ = _arguments.validate_python(loads(message.body))
        tasks[name].__header__(*positional, **by_name)
    except Exception:  # noqa: BLE001 as above; and a task's signature raises TypeError
        return f"its body holds no arguments of {name}"
    return None


def report_dropped(fault: str) -> None:
    """Say that a message was dropped."""
    log.error("broker.message_dropped", because=fault)


def _first_fault(problem: ValidationError) -> str:
    first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(part for part in first["loc"] if isinstance(part, str))
    return f"{field or 'it'}: {first['type']}"
