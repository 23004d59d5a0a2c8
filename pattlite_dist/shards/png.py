"""PNG files of small images, written and read in a third of Pillow's time.

Pillow spends most of its time on handling arbitrary files. Only one kind of PNG is written here,
with bytes that do not depend on how Pillow's compressor was built; Pillow reads all others.
"""

import io
import struct
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pattlite_dist.shards.manifest import ImageInfo

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_AROUND = 33 + 12 + 12  # bytes of a PNG with one IDAT chunk, without that chunk's data
_UP = b"\2"  # the filter of a row: its difference from the one above


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encode_pngs(images: NDArray[np.uint8]) -> list[bytes]:
    """PNG bytes of uint8 images [n, C, H, W] with C of 1 (grey) or 3 (RGB).

    PNG (ISO/IEC 15948): each row as its difference from the one above, compressed with run lengths
    and Huffman codes. zlib's longer searches gain nothing on the pixels of photographs.
    """
    samples, channels, height, width = images.shape
    rows = images.transpose(0, 2, 3, 1).reshape(samples, height, width * channels)
    filtered = np.full((samples, height, 1 + width * channels), ord(_UP), np.uint8)
    filtered[:, 0, 1:] = rows[:, 0]
    np.subtract(rows[:, 1:], rows[:, :-1], out=filtered[:, 1:, 1:])  # modulo 256
    start = _plain_start(channels, height, width)
    return [start + _chunk(b"IDAT", _compress(image.tobytes())) + _PNG_END for image in filtered]


def _compress(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
    return compressor.compress(data) + compressor.flush()


def decode_png(data: bytes | memoryview, image: ImageInfo) -> NDArray[np.uint8]:
    """Decode to uint8 [C, H, W]; the shape must be the manifest's.

    Raises:
        ValueError: it is not a PNG, is damaged, or has another size or mode.
    """
    pixels = _decode_plain(data, image)
    if pixels is None:
        pixels = _decode_any(data, image)
    return pixels[None] if image.channels == 1 else pixels.transpose(2, 0, 1)


def _decode_plain(data: bytes | memoryview, image: ImageInfo) -> NDArray[np.uint8] | None:
    """The pixels of a PNG as `shards create` writes it; None if it is any other or damaged.

    Pillow takes twice as long for small images, mostly because it handles arbitrary files.
    """
    data = bytes(data)
    channels, height, width = image.shape
    size = len(data) - _PNG_AROUND
    if (
        data[:33] != _plain_start(channels, height, width)
        or data[33:41] != max(size, 0).to_bytes(4, "big") + b"IDAT"
        or data[-12:] != _PNG_END
        or zlib.crc32(data[37:-16]) != int.from_bytes(data[-16:-12], "big")
    ):
        return None
    stride = 1 + channels * width
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data[41:-16], 1)
        if text != _UP:  # checked early, because Pillow has to start over
            return None
        text += unpacker.decompress(unpacker.unconsumed_tail, height * stride)
    except zlib.error:
        return None
    if not unpacker.eof or len(text) != height * stride:
        return None
    rows = np.frombuffer(text, np.uint8).reshape(height, stride)
    if text[::stride] != _UP * height:
        return None
    pixels: NDArray[np.uint8] = np.add.accumulate(rows[:, 1:], axis=0, dtype=np.uint8)
    return pixels if channels == 1 else pixels.reshape(height, width, 3)


@lru_cache(maxsize=8)
def _plain_start(channels: int, height: int, width: int) -> bytes:
    """The signature and first chunk of a PNG with 8 bits per channel, not interlaced."""
    colour = 0 if channels == 1 else 2
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, colour, 0, 0, 0)
    return struct.pack(">8sI17sI", _PNG_START, 13, header, zlib.crc32(header))


def _decode_any(data: bytes | memoryview, image: ImageInfo) -> NDArray[np.uint8]:
    needed = ("L" if image.channels == 1 else "RGB", image.width, image.height)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            found = (picture.mode, *picture.size)
            if found != needed:  # before any pixels are unpacked, however many there are
                raise ValueError(
                    "an image is {} of {}x{}, but must be {} of {}x{}".format(*found, *needed)
                )
            picture.verify()  # the checksums of the pixels, which are not checked otherwise
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            return np.asarray(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors
        raise ValueError(f"an image is damaged ({error})") from error
