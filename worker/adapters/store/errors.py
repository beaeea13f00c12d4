"""What went wrong with the store, in one line that names the server's own code."""

from collections.abc import Mapping
from typing import Final

from redis import exceptions

# redis-py takes these out of the text, and makes a class of each.
CODES: Final[Mapping[type[Exception], str]] = {
    exceptions.AskError: "ASK",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.ClusterCrossSlotError: "CROSSSLOT",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.MovedError: "MOVED",
    exceptions.NoPermissionError: "NOPERM",
    exceptions.NoScriptError: "NOSCRIPT",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.TryAgainError: "TRYAGAIN",
}


def described(error: Exception) -> str:
    """The error's first line, with the server's code in front; its name where it says nothing."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    code = CODES.get(type(error))
    return text if code is None else f"{code} {text}"
