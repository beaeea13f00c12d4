"""What a server says when it gives no tokens, in whichever words and wherever in its reply.

RFC 6749 section 5.2 has one word in `error`. Servers also write it in capitals or with blanks, name the field
`code`, `error_code` or `status`, put it into an object or a list of errors, and say it in a sentence. Rules:
- A word counts only if it is known: a refusal is never guessed from a word that nobody knows.
- The specific word goes before the general one: `invalid_request` is said of nearly everything.
- What a server wrote is repeated only where it is one harmless word and no part of a secret that was sent.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from worker.core.documents import Document, read_inner
from worker.core.issued import snake_case
from worker.core.outcomes import THROTTLED

# RFC 6749 section 5.2, but `invalid_grant` and `invalid_request`; then GitHub's, Slack's and Zoho's.
CLIENT_REJECTED: Final = frozenset(
    {"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
    | {"invalid_target"}  # RFC 8707 section 2
    | {"incorrect_client_credentials", "bad_client_secret", "invalid_client_id", "invalid_client_secret"}
)
# Those of them that no server says of a single grant.
CLIENT_FOR_CERTAIN: Final = CLIENT_REJECTED - {"unauthorized_client", "invalid_scope", "invalid_target"}
# RFC 6749 section 4.1.2.1, used at token endpoints too.
TRANSIENT: Final = frozenset({"temporarily_unavailable", "server_error"})
AMBIGUOUS: Final = "invalid_request"  # the request, the client's settings or a dead token
DEAD_TOKEN: Final = "invalid_refresh_token"  # where a sentence says so

MAX_NODES: Final = 200
MAX_TEXT: Final = 2_000
SECRET_PIECE: Final = 8

_CODES: Final = ("error", "error_code", "code", "suberror", "error_subtype", "type", "status", "reason")
_SENTENCES: Final = ("error_description", "message", "msg", "description", "detail", "title", "error_message")

_SAY_NOTHING: Final = frozenset({"error", "failure", "fail", "failed", "false"})

_is_word: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}").fullmatch
_words_in: Final = re.compile(r"[a-z]+(?:_[a-z]+)+").findall
_says_throttled: Final = re.compile(r"(?i)too many (?:requests|attempts)|rate.?limit").search
_dead_token: Final = re.compile(
    r"(?i)refresh.?token\b.{0,40}\b(?:invalid|not valid|expired|revoked|unknown|not found|already (?:been )?"
    r"used)"
    r"|\b(?:invalid|expired|revoked|unknown)\b.{0,20}\brefresh.?token"
).search
_asks_for_more: Final = re.compile(r"(?i)missing|required|must").search


@dataclass(frozen=True, slots=True)
class Said:
    """The words of a reply, by how much they weigh.

    Attributes:
        codes: as the server wrote them.
        sentences: for people; never repeated.
    """

    codes: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    def known(self, rejected: frozenset[str]) -> str | None:
        """The word that says most, in its registered form; `None` where no word is known.

        Args:
            rejected: further words for `invalid_grant`.
        """
        names = rejected | CLIENT_REJECTED | TRANSIENT | THROTTLED | {"invalid_grant"}
        canonical = [canonical_code(each) for each in (*self.codes, *self.sentences)]
        for each in canonical:
            if each in names:
                # A sentence about the refresh token is about this grant, whatever the word says.
                return DEAD_TOKEN if each == "unauthorized_client" and self._mourns_the_token() else each
        if self._mourns_the_token():
            return DEAD_TOKEN
        if AMBIGUOUS in canonical:
            return AMBIGUOUS
        return "too_many_requests" if any(map(_says_throttled, self.sentences)) else None

    def harmless(self, secrets: Iterable[str]) -> str | None:
        """The first code that may be repeated; `None` where none may."""
        sent = list(secrets)
        return next((each for each in self.codes if _is_word(each) and not _betrays(each, sent)), None)

    def _mourns_the_token(self) -> bool:
        return any(_dead_token(each) and not _asks_for_more(each) for each in self.sentences)


def said_in(document: Document) -> Said:
    """The words of a document, the outermost first; of a text that holds none, the one code that it names."""
    codes: list[str] = []
    sentences: list[str] = []
    for fields in _objects(document):
        codes.extend(_codes_of(fields))
        sentences.extend(_texts(fields, _SENTENCES))
        if isinstance(errors := fields.get("errors"), list):
            sentences.extend(each for each in errors if isinstance(each, str))
    if not document.values:
        codes.extend(_codes_in_text(document.text))
    return Said(tuple(codes), tuple(sentences))


def canonical_code(word: str) -> str:
    """A server's word as it is registered: `INVALID_GRANT`, `invalidGrant` and `Invalid grant.` alike.

    Of a name such as `urn:ietf:params:oauth:error:invalid_grant` its last part counts, and of `invalid_grant:
    token expired` its first.
    """
    text = word.strip()[:MAX_TEXT]
    is_name = re.match(r"(?i)urn:|https?:", text)
    text = re.split(r"[:/#]", text)[-1] if is_name else re.split(r":\s|\s[-\u2013]\s", text)[0]
    return re.sub(r"[^a-z0-9]+", "_", snake_case(text)).strip("_").removesuffix("_exception")


def _objects(document: Document) -> Iterator[dict[str, Any]]:
    """Every object, breadth first, with its names in snake case."""
    left = list(document.values)
    for _ in range(MAX_NODES):
        if not left:
            return
        value = left.pop(0)
        if isinstance(value, str):
            value = read_inner(value)
        if isinstance(value, dict):
            yield {snake_case(name): each for name, each in value.items()}
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _codes_of(fields: dict[str, Any]) -> Iterator[str]:
    yield from (each for each in _texts(fields, _CODES) if each.lower() not in _SAY_NOTHING)
    if fields.get("field") == "refresh_token" and fields.get("code") == "invalid":
        yield DEAD_TOKEN  # as Strava says it


def _texts(fields: dict[str, Any], names: Iterable[str]) -> Iterator[str]:
    found = (fields.get(name) for name in names)
    return (each.strip() for each in found if isinstance(each, str) and each.strip())


def _codes_in_text(text: str) -> Iterator[str]:
    """The text itself where it is one word; else the only code of RFC 6749 that it names."""
    if _is_word(text):
        yield text
    elif len(text) <= MAX_TEXT:
        named = set(_words_in(text.lower())) & (CLIENT_REJECTED | {"invalid_grant", AMBIGUOUS})
        if len(named) == 1:
            yield named.pop()


def _betrays(word: str, secrets: list[str]) -> bool:
    """Whether a word is a part of a secret, or has a piece of one in it."""
    pieces = {word[at : at + SECRET_PIECE] for at in range(max(len(word) - SECRET_PIECE, 0) + 1)}
    return any(secret in word or any(piece in secret for piece in pieces) for secret in secrets if secret)
