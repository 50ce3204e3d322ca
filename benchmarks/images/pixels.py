"""One image file to 8-bit pixels: upright, and scaled by what its own format says is white.

A 16-bit or float image cut off at 255 would be black or white all over, without a word. So each mode is
either scaled by a range that is known, or refused.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from dsn.errors import InputError

_MODES = {1: "L", 3: "RGB"}
_SIXTEEN_BITS = 2**16 - 1
_BITS, _MAXIMUM, _SAMPLE_FORMAT, _SIGNED = 258, 281, 339, 2  # of TIFF 6.0
_READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError)
_BAD_EXIF = (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error)


def read_pixels(path: Path, channels: int) -> tuple[Image.Image, float | None]:
    """The image at ``path``, turned as its EXIF orientation says, in mode L (1 channel) or RGB (3).

    Returns with it how bright its brightest pixel is, in [0, 1], where its numbers had to be scaled.

    Raises InputError naming the file where it cannot be read, or its brightest value is not known.
    """
    try:
        refuse_special(path)
        with Image.open(path) as image:
            image.load()
            pixels, brightest = _eight_bits(image)
            return _upright(pixels, image).convert(_MODES[channels]), brightest
    except _READ_ERRORS as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> InputError:
    """What to raise for a file that cannot be read."""
    reason = getattr(error, "strerror", None) or error
    return InputError(f"cannot read the image {shown(path)} ({reason}); repair or remove it")


def shown(path: Path) -> str:
    """The path as text that every terminal and file can hold: bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def refuse_special(path: Path) -> None:
    """Raise OSError for what is no file: reading a pipe would wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is no regular file")


def _upright(pixels: Image.Image, opened: Image.Image) -> Image.Image:
    """``pixels`` turned as the EXIF data of the file say; as they are where these cannot be read."""
    try:
        orientation = opened.getexif().get(ExifTags.Base.Orientation)
    except _BAD_EXIF:
        return pixels
    return pixels.transpose(_TURNS[orientation]) if orientation in _TURNS else pixels


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _eight_bits(image: Image.Image) -> tuple[Image.Image, float | None]:
    """The image with values 0 .. 255 where its mode holds larger numbers, and how bright it gets."""
    if not image.mode.startswith(("I", "F")):
        return image, None
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    white = 1.0 if image.mode == "F" else _white(image)
    if not np.isfinite(values).all() or low < 0 or high > white:
        raise ValueError(
            f"its numbers go from {low:g} to {high:g}, and 0 to {white:g} is what its format can tell; "
            "convert it to 8 bits"
        )
    scaled = (values * (255 / white)).round().astype(np.uint8)
    return Image.fromarray(scaled), high / white


def _white(image: Image.Image) -> float:
    """The largest whole number of the image's format: a TIFF says it; PNG, PGM and JPEG 2000 give 16 bits."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return _SIXTEEN_BITS
    declared = tags.get(_MAXIMUM)
    if declared is not None:
        return float(np.max(declared))
    signed = int(np.max(tags.get(_SAMPLE_FORMAT, 1))) == _SIGNED
    return float(2 ** (int(np.max(tags.get(_BITS, 16))) - signed) - 1)
