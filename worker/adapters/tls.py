"""TLS as this product speaks it: servers are verified, by the system's authorities and by private ones."""

import ssl
from pathlib import Path


def verifying_context(ca_file: Path | None) -> ssl.SSLContext:
    """A client's context.

    Args:
        ca_file: private authorities in PEM, beside those that the system knows.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context
