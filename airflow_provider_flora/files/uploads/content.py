"""Inspects the content of a file: its type, its pixels, and whether it is complete. Libraries do the parsing.

MediaInfo recognises the type of every file. The checks for completeness:

    ==================================  =========  =============================================================
    type                                library    check
    ==================================  =========  =============================================================
    png                                 Pillow     each chunk has its checksum; nothing is decoded
    jpeg                                Pillow     it decodes to its end, at an eighth of its size
    gif                                 Pillow     its frames decode, up to ``DECODED_PIXELS`` in total
    webp                                Pillow     it has the length in its header
    avif heic heif mp4 quicktime webm   MediaInfo  no part ends after the file's end; a video has a picture
    mpeg audio, wav                     MediaInfo  no part ends after the file's end
    ogg, pdf                            -          their headers have no length
    ==================================  =========  =============================================================

Both libraries read in chunks, up to ``READ_AT_MOST`` in total. A file that needs more counts as complete.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

READ_AT_MOST = 128 * 1024 * 1024
"""Bytes that a library may read of a file. A WebP is read into memory completely."""
SEEK_COSTS = 256 * 1024
"""Bytes that a seek counts as: about as much as a storage fetches for it."""
DECODED_PIXELS = 50_000_000
"""Most pixels of a GIF or progressive JPEG to decode in memory. A larger picture counts as complete."""

_log = logging.getLogger(__name__)

# Media types by MediaInfo's names of formats. Others use MediaInfo's own "internet media type", if it has one.
_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WebP": "image/webp",
    "MPEG-4": "video/mp4",
    "QuickTime": "video/quicktime",
    "WebM": "video/webm",
    "Matroska": "video/x-matroska",
    "MPEG Audio": "audio/mpeg",
    "Wave": "audio/wav",
    "Ogg": "audio/ogg",
    "PDF": "application/pdf",
}
# Pictures and videos of the ISO family differ in the brands in the file (ISO/IEC 23008-12, AVIF 1.1).
_AVIF_BRANDS = {"avif", "avis"}
_HEIF_BRANDS = {"heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"}
# Other types that a file of a type may claim: members of one family, which readers do not distinguish by name.
_ALSO_FITS = {
    "video/mp4": {"video/quicktime"},
    "video/quicktime": {"video/mp4"},
    "image/heic": {"image/heif"},
    "image/heif": {"image/heic", "image/avif"},
}
_EXPECTED_SIZE = re.compile(r"expected size (?:at least )?(\d+)")
_NO_SIZE = 2**50
"""A live WebM has the length "unknown", which MediaInfo reads as a number above this."""
_NO_WAV_SIZE = 2**32 + 7
"""A WAV that was written to a pipe has the largest number as its length."""


@dataclass(frozen=True)
class Content:
    """The content of a file.

    :param media_type: media type; ``None`` if no library knows it.
    :param size: width and height of a picture in pixels.
    :param damage: damage of the file; ``None`` if none was found.
    """

    media_type: str | None
    size: tuple[int, int] | None = None
    damage: str | None = None

    def fits(self, claimed: str) -> bool:
        """Whether a file with this content may claim a content type."""
        return self.media_type == claimed or self.media_type in _ALSO_FITS.get(claimed, ())


def inspect_content(file: BinaryIO, claimed: str, pixel_limit: int) -> Content:
    """Inspect the content of a file.

    :param file: seekable file at its beginning.
    :param claimed: content type that the file claims.
    :param pixel_limit: number of pixels above which a picture is not decoded.
    :raises Exception: an error of reading the file.
    """
    try:
        found = _inspect_with_mediainfo(_Bounded(file), claimed)
        if found.fits(claimed) and claimed in _PICTURES:
            file.seek(0)
            return _inspect_with_pillow(_Bounded(file), claimed, pixel_limit)
        return found
    except _Unreadable as error:
        raise error.error from None


def _inspect_with_mediainfo(file: _Bounded, claimed: str) -> Content:
    from pymediainfo import MediaInfo

    try:
        general, *tracks = MediaInfo.parse(file, encoding_errors="replace").tracks
    except (OSError, RuntimeError, SyntaxError) as error:
        # The library is missing, since it has no wheel for this system, or it failed.
        _log.warning("MediaInfo could not check the content of a %s file: %s", claimed, error)
        return Content(claimed)
    seen = [track for track in tracks if track.track_type in ("Video", "Image")]
    sizes = [(int(track.width), int(track.height)) for track in seen if track.width and track.height]
    media_type = _media_type(general, bool(tracks), bool(seen))
    return Content(
        media_type,
        max(sizes, key=lambda size: size[0] * size[1], default=None),
        None if media_type is None or file.exhausted else _damage(general, media_type, bool(seen)),
    )


def _media_type(general: Any, has_tracks: bool, has_pictures: bool) -> str | None:
    brands = {general.codec_id, *str(general.codecid_compatible or "").split("/")}
    if brands & _AVIF_BRANDS:
        return "image/avif"
    if brands & _HEIF_BRANDS:
        return "image/heif"
    named: str | None = general.internet_media_type
    # For unknown files of the ISO family, MediaInfo's format is the brand: "dash", "iso6".
    media_type = _TYPES.get(general.format) or named or ("video/mp4" if general.codec_id else None)
    if media_type is not None and media_type.startswith("video/") and has_tracks and not has_pictures:
        return named if named and named.startswith("audio/") else media_type.replace("video/", "audio/")
    return media_type


def _damage(general: Any, media_type: str, has_pictures: bool) -> str | None:
    if general.istruncated == "Yes":
        words = [str(general.general_compliance), *map(str, general.other_general_compliance or ())]
        expected = [int(size) for size in _EXPECTED_SIZE.findall(" ".join(words))]
        announced = [size for size in expected if size < _NO_SIZE and size != _NO_WAV_SIZE]
        if announced:
            return f"it has {general.file_size:,} of at least {max(announced):,} bytes"
        if not expected:
            return f"it ends too early, after {general.file_size:,} bytes"
    if media_type.startswith("video/") and not has_pictures:
        return "it contains no video"
    return None


def _inspect_with_pillow(file: _Bounded, claimed: str, pixel_limit: int) -> Content:
    open_image, check = _PICTURES[claimed]
    found = Content(claimed)
    try:
        with open_image(file) as image:
            found = replace(found, size=image.size)
            if image.size[0] * image.size[1] <= pixel_limit:
                check(image)
    except _Unreadable:
        raise
    except (OSError, EOFError, SyntaxError) as error:
        return found if file.exhausted else replace(found, damage=str(error))
    except Exception as error:  # Pillow has limits that Flora does not have, such as that of a text in a picture
        _log.info("Pillow could not check whether a %s file is complete: %s", claimed, error)
    return found


# The classes of the plugins: Image.open refuses pictures from 179 megapixels on, without their size.
def _open_png(file: Any) -> ImageFile:
    from PIL.PngImagePlugin import PngImageFile

    return PngImageFile(file)


def _open_jpeg(file: Any) -> ImageFile:
    from PIL.JpegImagePlugin import JpegImageFile

    return JpegImageFile(file)


def _open_gif(file: Any) -> ImageFile:
    from PIL.GifImagePlugin import GifImageFile

    return GifImageFile(file)


def _open_webp(file: Any) -> ImageFile:
    from PIL.WebPImagePlugin import WebPImageFile

    return WebPImageFile(file)


def _check_png(image: ImageFile) -> None:
    image.verify()


def _check_jpeg(image: ImageFile) -> None:
    if image.info.get("progressive") and image.size[0] * image.size[1] > DECODED_PIXELS:
        return  # at any scale, all its coefficients are held in memory
    image.draft(None, (1, 1))  # the same mode, at the smallest scale
    image.load()


def _check_gif(image: ImageFile) -> None:
    from PIL import ImageSequence

    pixels = 0
    for frame in ImageSequence.Iterator(image):
        pixels += image.size[0] * image.size[1]
        if pixels > DECODED_PIXELS:
            return
        frame.load()


def _check_webp(image: ImageFile) -> None:
    """Check nothing: Pillow does not open a truncated WebP."""


_PICTURES: dict[str, tuple[Callable[[Any], ImageFile], Callable[[ImageFile], None]]] = {
    "image/png": (_open_png, _check_png),
    "image/jpeg": (_open_jpeg, _check_jpeg),
    "image/gif": (_open_gif, _check_gif),
    "image/webp": (_open_webp, _check_webp),
}


class _Unreadable(Exception):  # noqa: N818  it carries an error through a library that would replace it
    """An error of reading the file."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Bounded(io.RawIOBase):
    """A file that appears to end after ``READ_AT_MOST`` bytes.

    :ivar exhausted: whether that limit was reached.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = READ_AT_MOST
        self.exhausted = False

    def read(self, size: int = -1) -> bytes:
        """Read a number of bytes, up to the limit."""
        may = max(0, self._left)
        try:
            chunk = self._file.read(min(size, may) if size >= 0 else may)
        except Exception as error:
            raise _Unreadable(error) from error
        self._left -= len(chunk)
        self.exhausted = self._left <= 0
        return chunk

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek to a position."""
        self._left -= SEEK_COSTS
        try:
            return self._file.seek(offset, whence)
        except Exception as error:
            raise _Unreadable(error) from error

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._file.tell()

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True
