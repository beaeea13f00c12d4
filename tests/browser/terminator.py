"""TLS in front of a service, as a load balancer ends it."""

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer

from tests.support.certificates import CertificateFiles


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    service: tuple[str, int]
    context: ssl.SSLContext


class _Handler(BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with (
            suppress(OSError),
            self.server.context.wrap_socket(self.request, server_side=True) as browser,
            socket.create_connection(self.server.service) as service,
        ):
            back = threading.Thread(target=_copy, args=(service, browser), daemon=True)
            back.start()
            _copy(browser, service)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError), source.makefile("rb", 0) as read, target.makefile("wb", 0) as written:
        shutil.copyfileobj(read, written)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def tls_before(service: int, port: int, certificate: CertificateFiles) -> Iterator[None]:
    """TLS at one port of this machine, and a service that has none at another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.service, server.context = ("127.0.0.1", service), context
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
