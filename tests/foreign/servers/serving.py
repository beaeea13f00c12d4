"""How the servers written in Python listen: on loopback, in Hypercorn, which ends at SIGTERM.

What is being answered by then is answered first.
"""

import asyncio
from typing import Any

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config


def serve(app: Any, port: int) -> None:
    """Serve a WSGI application until SIGTERM."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 20.0
    asyncio.run(hypercorn_serve(app, config, mode="wsgi"))
