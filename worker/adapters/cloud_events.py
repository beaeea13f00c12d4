"""Events as CloudEvents 1.0 JSON (the format that `docs/events.md` describes)."""

from datetime import UTC, datetime

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from worker.core.events import Event

_FORMAT = JSONFormat()


def to_json(event: Event, source: str) -> bytes:
    """One event as a structured-mode JSON object; `source` names the deployment."""
    attributes = {
        "id": event.id,
        "source": source,
        "type": event.type.value,
        "specversion": "1.0",
        "subject": event.subject,
        "time": datetime.fromtimestamp(event.at / 1000, UTC),
        "datacontenttype": "application/json",
    }
    return _FORMAT.write(CloudEvent(attributes, dict(event.data)))
