"""The handler `thumbnail`: a small PNG of the input `image`, by Pillow."""

import io
import warnings
from typing import Annotated

import msgspec

from filemill.handlers import Job, PermanentError, handler

# 50 megapixels need 200 MB as RGBA. A compressed image of a few kilobytes may claim more.
MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

Side = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class Thumbnail(msgspec.Struct, forbid_unknown_fields=True):
    """The largest width and height in pixels. The proportions are kept."""

    width: Side = 256
    height: Side = 256


@handler(
    "thumbnail", content_type="image/png", extension="png", deterministic=True, timeout=30, memory="1 GiB", attempts=2
)
def thumbnail(job: Job[Thumbnail]) -> bytes:
    """Make a thumbnail without the metadata of the image."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415

    if "image" not in job.inputs:
        raise PermanentError('The handler "thumbnail" needs the input "image": inputs = {"image": "key in the bucket"}')
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(job.inputs["image"], formats=FORMATS) as image:
                small = ImageOps.exif_transpose(image).convert("RGBA")
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise PermanentError(f"The image has more than {MAX_PIXELS} pixels") from None
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise PermanentError(f"The input is not an image that can be read: {error}") from None
    small.thumbnail((job.parameters.width, job.parameters.height))
    clean = Image.new("RGBA", small.size)
    clean.paste(small)
    body = io.BytesIO()
    clean.save(body, "PNG")
    return body.getvalue()
