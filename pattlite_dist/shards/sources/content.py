"""What a file is by its first bytes."""

import re
from pathlib import PurePosixPath

HEAD = 32  # bytes that are enough to tell
# Of files that may be as many as the images and never are images: they are not opened.
_TEXT = {".json", ".txt", ".csv", ".tsv", ".xml", ".lst", ".cls", ".npy", ".npz", ".md", ".py"}
_STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  ",  # JPEG 2000
)
_NETPBM = re.compile(rb"P[1-6][ \t\r\n]+[0-9#]")
_HEIF = re.compile(rb"....ftyp(?:heic|heix|hevc|heim|mif1|msf1|avif|avis)", re.DOTALL)
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}  # sizes in bytes of what follows the first 14


def is_text(name: str) -> bool:
    """Whether a file is an annotation or a document, by its suffix."""
    return PurePosixPath(name).suffix.lower() in _TEXT


def shows_image(head: bytes) -> bool:
    """Whether a file that begins with `head` is an image, of a readable format or another."""
    if head.startswith(_STARTS) or _NETPBM.match(head) or _HEIF.match(head):
        return True
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    return head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS
