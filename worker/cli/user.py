"""Who runs a command, for the audit stream."""

import getpass
import socket


def user_and_host() -> tuple[str, str]:
    """The user's name, and this machine's."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        user = "unknown"
    return user, socket.gethostname()
