"""Why the store or a record cannot be used.

In a file of their own: handing out a token at hand loads no port (`runtime/at_hand.py`).
"""

from typing import Final

UNREADABLE: Final = "its record cannot be read"
WAY_OUT: Final = (
    "Put the grant in anew (`evergrant grants import --replace`), or `evergrant grants delete` it."
)


class UnsealError(Exception):
    """A sealed pair cannot be opened: its key is not in the ring, or it was tampered with."""


class MissingKeyError(UnsealError):
    """A sealed pair cannot be opened: this process lacks the key that sealed it.

    Attributes:
        key_id: of that key.
    """

    def __init__(self, problem: str, key_id: str) -> None:
        super().__init__(problem)
        self.key_id = key_id


class StoreUnavailableError(Exception):
    """The store did not answer, or cannot do it now; the change may have been made all the same."""


class WritesRefusedError(StoreUnavailableError):
    """The store answers, and takes no writes now; the message is one line with the server's code."""


class StoreRefusedError(StoreUnavailableError):
    """The store takes writes, but fails at this one or at a record it found: the others are not affected."""


class UnreadableRecordError(Exception):
    """A grant's record cannot be read. The message names the grant and repeats nothing of the record.

    Attributes:
        grant_id: whose it is.
        problem: what is wrong with it.
        advice: what to do.
    """

    def __init__(self, grant_id: str, problem: str = UNREADABLE, advice: str = WAY_OUT) -> None:
        super().__init__(f"{grant_id}: {problem}. {advice}")
        self.grant_id = grant_id
        self.problem = problem
        self.advice = advice


class NewerRecordError(UnreadableRecordError):
    """A newer release wrote a grant's record, in a format that this one cannot read."""

    def __init__(self, grant_id: str, number: int, known: int) -> None:
        super().__init__(
            grant_id,
            f"its record has format {number}, of a newer release; this one reads up to {known}",
            "Upgrade this process: the grant is left as it is until then.",
        )
