"""Label maps as PNGs that every program can open, and that this module reads several times as fast as OpenCV does.

The PNG is grey, with 8 bits per pixel if all ids are at most 255, else with 16. Layers are stacked from top to bottom. Two things make
reading fast: no row is filtered (filter type 0), and each layer is an IDAT chunk of its own that ends with a full flush, so one layer can
be inflated without the layers above it. The CRC-32 of each chunk is checked; the Adler-32 checksum of zlib would be computed over the
unpacked ids, takes a third of the reading time and finds the same damage, so it is skipped. Any other grey PNG is read by OpenCV.
"""

import os
import shlex
import struct
import zlib

import cv2
import numpy as np

from detcon_d2.io.references import LabelMapReference, parse_label_map, read_range

try:
    # Takes a seventh of the time of zlib.
    from zlib_ng.zlib_ng import decompress
except ImportError:
    from zlib import decompress

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Width, height, bits, colour type (0 = grey), compression, filter method, interlacing.
_HEADER = struct.Struct(">IIBBBBB")
# Level 8 makes reading 8-bit maps 1.3 times as fast as level 6 and costs 2 ms more per map to write; it does not help 16-bit maps.
_LEVELS = {8: 8, 16: 6}
_RAW = -15
_ZLIB_HEADER_BYTES = 2
_LAST_BLOCK = b"\x03\x00"  # an empty block that ends a deflate stream
_MAX_PIXELS = 2**30


def encode_png(stack: np.ndarray) -> bytes:
    """Label maps of an image, uint16 (layers, H, W), as one PNG of layers * H rows."""
    bits = 8 if stack.max(initial=0) <= 255 else 16
    layers, height, width = stack.shape
    rows = np.zeros((layers, height, 1 + width * bits // 8), np.uint8)  # each row begins with its filter type
    rows[..., 1:] = np.ascontiguousarray(stack, f">u{bits // 8}").view(np.uint8).reshape(layers, height, -1)
    compressor = zlib.compressobj(_LEVELS[bits])
    parts = [_SIGNATURE, _chunk(b"IHDR", _HEADER.pack(width, layers * height, bits, 0, 0, 0, 0))]
    for index, layer in enumerate(rows):
        flush = zlib.Z_FINISH if index == layers - 1 else zlib.Z_FULL_FLUSH
        parts.append(_chunk(b"IDAT", compressor.compress(layer.tobytes()) + compressor.flush(flush)))
    return b"".join([*parts, _chunk(b"IEND", b"")])


def decode_png(data: bytes, layer: int = 0, layers: int = 1) -> np.ndarray:
    """Label map number ``layer`` of the ``layers`` in a PNG, uint16 (H, W). Raises ValueError: damaged, not grey, or not 8 or 16 bits."""
    label_map = _decode_fast(data, layer, layers)
    return _decode_any(data, layers)[layer] if label_map is None else label_map


def to_own_png(data: bytes, layers: int) -> bytes:
    """The same label maps in a PNG that is read fast; ``data`` itself if it is one. Raises ValueError as :func:`decode_png`."""
    fast = all(_decode_fast(data, layer, layers) is not None for layer in range(layers))
    return data if fast else encode_png(_decode_any(data, layers))


def is_intact(data: bytes) -> bool:
    """Whether these bytes are a complete PNG without damage."""
    try:
        return bool(_read_chunks(data))
    except ValueError:
        return False


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(content, zlib.crc32(kind)).to_bytes(4, "big")


def _read_chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    """(kind, content) of every chunk. Raises ValueError for damage."""
    view, start, chunks = memoryview(data), len(_SIGNATURE), []
    intact = data.startswith(_SIGNATURE)
    while intact and start < len(data):
        end = start + 8 + int.from_bytes(view[start : start + 4], "big")
        intact = end + 4 <= len(data) and zlib.crc32(view[start + 4 : end]) == int.from_bytes(view[end : end + 4], "big")
        chunks.append((data[start + 4 : start + 8], view[start + 8 : end]))
        start = end + 4
    if not intact or len(chunks) < 2 or len(chunks[0][1]) != _HEADER.size or chunks[-1][0] != b"IEND":
        raise ValueError(f"its content is damaged ({len(data)} bytes)")
    return chunks


def _decode_fast(data: bytes, layer: int, layers: int) -> np.ndarray | None:
    """As :func:`decode_png`; None for a PNG that was not written by :func:`encode_png`."""
    chunks = _read_chunks(data)
    width, rows, bits, color_type, *methods = _HEADER.unpack(chunks[0][1])
    if bits not in (8, 16) or color_type != 0 or width * rows > _MAX_PIXELS:
        raise ValueError(f"found a PNG of {width} x {rows} pixels, {bits} bits, colour type {color_type}; expected grey, 8 or 16 bits")
    if rows % layers:
        raise ValueError(f"found {rows} rows; expected a multiple of its {layers} layers")
    # The upper two bits of the second byte of a zlib stream say how well it was compressed, here 2 or 3; OpenCV's label maps have 1.
    if [kind for kind, _ in chunks[1:-1]] != [b"IDAT"] * layers or any(methods) or bytes(chunks[1][1][1:2]) < b"\x80":
        return None
    packed = chunks[1 + layer][1][_ZLIB_HEADER_BYTES if layer == 0 else 0 :]
    row_bytes = 1 + width * bits // 8
    try:
        ids = decompress(packed if layer == layers - 1 else bytes(packed) + _LAST_BLOCK, _RAW, rows // layers * row_bytes)
    except Exception:  # zlib and zlib-ng have errors of their own; OpenCV decides whether this is damage
        return None
    if len(ids) != rows // layers * row_bytes:
        return None
    table = np.frombuffer(ids, np.uint8).reshape(-1, row_bytes)
    if table[:, 0].any():
        return None
    return np.ascontiguousarray(table[:, 1:]).view(">u2").astype(np.uint16) if bits == 16 else table[:, 1:].astype(np.uint16)


def _decode_any(data: bytes, layers: int) -> np.ndarray:
    """uint16 (layers, H, W) of any grey PNG whose header has been checked."""
    stack = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stack is None or stack.ndim != 2:
        raise ValueError(f"its content is damaged ({len(data)} bytes)")
    return stack.astype(np.uint16).reshape(layers, -1, stack.shape[1])


def read_label_map(reference: str | os.PathLike | LabelMapReference, layer: int = 0) -> np.ndarray:
    """The label map that ``record["label_map_file_name"]`` names (see :mod:`detcon_d2.io.references`), uint16 (H, W), 65535 = no region.
    Raises ValueError: missing, damaged, no grey PNG, or no such layer."""
    if not isinstance(reference, LabelMapReference):
        reference = parse_label_map(reference)
    path, layers, offset, length = reference
    if not 0 <= layer < layers:
        raise ValueError(f"label map {reference}: found {layers} layer(s); expected more than {layer}")
    try:
        return decode_png(read_range(reference), layer, layers)
    except FileNotFoundError as error:
        raise ValueError(f"label map: found no {path}; expected one for every image: run tools/generate_masks.py again") from error
    except ValueError as error:
        if length is None:
            raise ValueError(f"label map: {path}: {error}; delete it and run tools/generate_masks.py again") from error
    try:
        # The tar may have been replaced since this process opened it.
        return decode_png(read_range(reference, fresh=True), layer, layers)
    except ValueError as error:
        raise ValueError(
            f"label map: bytes {offset}..{offset + length - 1} of {path}: {error}. Find and remove damaged label maps with: "
            f"{shlex.join(['python', 'tools/merge_masks.py', os.path.dirname(path), '--repair'])}; then run tools/generate_masks.py again"
        ) from error
