"""`evergrant up` where it cannot run."""

import socket

from tests.support.command import Cli


def test_a_port_that_is_taken_ends_it_in_one_line_before_anything_starts(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        up = cli.having(HTTP_PORT=str(port))("up")

    assert (up.code, up.out) == (2, "")
    assert up.complaint == (
        f"evergrant: EVERGRANT_HTTP_HOST and _PORT: 127.0.0.1:{port} cannot be listened at:"
        " Address already in use"
    )
