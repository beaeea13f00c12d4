"""Decompression of a reply, up to a number of bytes.

Requests ask for no compression; some servers and proxies compress all the same, in any of these ways, or say
that they did and did not.
"""

import sys
import zlib
from collections.abc import Callable
from typing import Final

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_CODINGS: Final = 3
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
MAGIC_NUMBERS: Final = (_GZIP, _ZSTD)  # no text begins with one of these


def decompressed(body: bytes, encoding: str, most: int) -> tuple[bytes, bool]:
    """Undo what `Content-Encoding` says; where a body is not what it says, it is taken as it is.

    Args:
        body: as it came.
        encoding: the header's value, empty where there is none.
        most: so many bytes and one more at most are made.

    Returns the bytes, and whether they are all.
    """
    is_whole = True
    for coding in reversed([each.strip().lower() for each in encoding.split(",")][-MAX_CODINGS:]):
        stream = _stream_of(body, coding)
        if stream is None:
            continue
        try:
            plain, is_complete = stream(body, most + 1)
        except (zlib.error, brotli.error, zstd.ZstdError, EOFError):
            continue
        body, is_whole = plain, is_whole and is_complete
    return body[: most + 1], is_whole and len(body) <= most


def _stream_of(body: bytes, coding: str) -> Callable[[bytes, int], tuple[bytes, bool]] | None:
    """By the first bytes, where those tell more than the header."""
    if body.startswith(_GZIP):
        return _gunzip
    if body.startswith(_ZSTD):
        return _unzstd
    return {"br": _unbrotli, "deflate": _inflate}.get(coding)


def _gunzip(body: bytes, most: int) -> tuple[bytes, bool]:
    stream = zlib.decompressobj(wbits=31)
    return stream.decompress(body, most), stream.eof


def _inflate(body: bytes, most: int) -> tuple[bytes, bool]:
    """RFC 9110 section 8.4.1.2 wants a zlib header, and notes that some leave it out."""
    for wbits in (15, -15):
        stream = zlib.decompressobj(wbits=wbits)
        try:
            return stream.decompress(body, most), stream.eof
        except zlib.error:
            continue
    raise zlib.error("neither kind of deflate")


def _unbrotli(body: bytes, most: int) -> tuple[bytes, bool]:
    stream = brotli.Decompressor()
    plain = bytearray(stream.process(body, output_buffer_limit=most))
    while not stream.is_finished() and not stream.can_accept_more_data() and len(plain) < most:
        plain += stream.process(b"", output_buffer_limit=most - len(plain))
    return bytes(plain[:most]), bool(stream.is_finished())


def _unzstd(body: bytes, most: int) -> tuple[bytes, bool]:
    stream = zstd.ZstdDecompressor()
    plain = stream.decompress(body, most)
    return plain, bool(stream.eof)
