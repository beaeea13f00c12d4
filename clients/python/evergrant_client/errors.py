"""The one exception of this package.

Rule: its text holds no key and no token. The service's details repeat nothing that came in, and no other
answer is quoted.
"""

from collections.abc import Mapping
from typing import Any


class EvergrantError(Exception):
    """A call failed.

    Attributes:
        code: why. A code of the service, or `unreachable` (no answer came), `unexpected_answer` (the answer
            is not Evergrant's) or `invalid_webhook`.
        detail: the same in one line, for people.
        status: of the answer, where one came.
        retry_after: seconds after which another try makes sense, where the service says so.
        problem: the whole problem document: `reason`, `access_token_expires_at`, `longest_ttl` and the rest.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        status: int | None = None,
        retry_after: float | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, detail, status, retry_after, problem)  # all of it, so that it can be pickled
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after = retry_after
        self.problem = dict(problem or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"
