"""Events as CloudEvents 1.0 in structured mode and the JSON event format, as `docs/events.md` describes."""

import json

from worker.core.events import Event, rfc3339


def to_json(event: Event, source: str) -> bytes:
    """One event as a JSON object in UTF-8; `source` is a URI reference that names the deployment."""
    attributes = {
        "id": event.id,
        "source": source,
        "type": event.type.value,
        "specversion": "1.0",
        "subject": event.subject,
        "time": rfc3339(event.at),
        "datacontenttype": "application/json",
        "data": dict(event.data),
    }
    return json.dumps(attributes).encode()
