"""The sender of webhooks, opened when something is first to be sent: few commands need its HTTP client."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worker.core.delivery import Answer
from worker.core.destinations import Network
from worker.core.webhooks import Message

if TYPE_CHECKING:
    from worker.adapters.webhook_sender import HttpWebhookSender


class SenderOnFirstUse:
    """An `HttpWebhookSender` that is made when it is needed.

    Args:
        allowed: private ranges that may be sent to.
        ca_file: private certificate authorities, beside the system's.
    """

    def __init__(self, *, allowed: Sequence[Network], ca_file: Path | None) -> None:
        self._allowed = allowed
        self._ca_file = ca_file
        self._sender: HttpWebhookSender | None = None

    async def send(self, message: Message) -> Answer:
        """Send once."""
        if self._sender is None:
            from worker.adapters.webhook_sender import HttpWebhookSender  # noqa: PLC0415 see above

            self._sender = HttpWebhookSender(allowed=self._allowed, ca_file=self._ca_file)
        return await self._sender.send(message)

    async def close(self) -> None:
        """Close what was opened."""
        if self._sender is not None:
            await self._sender.close()
