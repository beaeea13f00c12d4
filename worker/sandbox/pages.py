"""What a person sees in the browser: plain HTML, without scripts or styles."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def consent_page(
    path: str, client_id: str, person: str, scopes: Iterable[str], pairs: Sequence[tuple[str, str]]
) -> str:
    """A form that sends an authorization request again, with the person's decision."""
    items = "".join(f"<li>{escape(name)}</li>" for name in scopes)
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in pairs
    )
    return _page(
        f"Allow {client_id}?",
        f"<p>You are {escape(person)}. {escape(client_id)} asks for:</p><ul>{items}</ul>"
        f'<form method="post" action="{escape(path)}">{hidden}'
        '<button name="decision" value="allow">Allow</button> '
        '<button name="decision" value="deny">Deny</button></form>',
    )


def refusal_page(problem: str) -> str:
    """Why nobody is sent anywhere."""
    return _page("This sign-in cannot go on", f"<p>{escape(problem)}</p>")


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title></head><body><h1>{escape(title)}</h1>{body}</body></html>"
    )
