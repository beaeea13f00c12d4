"""What promises take from the settings: the rules, the length of a lease, and what every key begins with.

The runtime and `at_hand.py` share it, so it loads neither pydantic nor the runtime.
"""

from typing import TYPE_CHECKING, Final

from worker.core.policy import RESEND_PAUSE_SECONDS, Rules

if TYPE_CHECKING:
    from config import Settings
    from config.plain import PlainSettings

CLAIM_SECONDS: Final = 2.0  # of a lease, for the claim's reply to arrive
COMMIT_SECONDS: Final = 5.0  # of a lease, for the commit


def lease_ms(settings: "Settings | PlainSettings") -> int:
    """How long a lease lasts. The grants of a dead worker wait for as long."""
    return int((CLAIM_SECONDS + refresh_seconds(settings) + COMMIT_SECONDS) * 1000)


def refresh_seconds(settings: "Settings | PlainSettings") -> float:
    """The longest that the requests of one refresh and the pause between them take."""
    return 3 * settings.http_timeout_seconds + 1.5 * RESEND_PAUSE_SECONDS


def rules_of(settings: "Settings | PlainSettings") -> Rules:
    """The deployment's choice of when tokens are refreshed."""
    return Rules(
        refresh_at=settings.refresh_at,
        min_margin_ms=int(settings.min_margin_seconds * 1000),
        believe_ms=int(settings.believe_seconds * 1000),
    )


def prefix_of(namespace: str) -> str:
    """What every key begins with: the namespace as a hash tag."""
    return f"{{{namespace}}}:"
