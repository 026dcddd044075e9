"""A meme as a small WebP picture."""

import cv2
import numpy as np

from dataloaders.image_file import ImageFile

LONGEST_SHAPE = 3  # of an image which is longer than so many times its width, or wider, the beginning is shown


def thumbnail(data: bytes, side: int, quality: int) -> bytes:
    """The WebP bytes of an image file's bytes, `side` pixels long at most. Raises BadImage."""
    picture = first_picture(data, side)
    height, width = picture.shape[:2]
    picture = picture[: LONGEST_SHAPE * width, : LONGEST_SHAPE * height]
    height, width = picture.shape[:2]
    scale = min(1, side / max(height, width))
    small = cv2.resize(
        picture, (max(1, round(scale * width)), max(1, round(scale * height))), interpolation=cv2.INTER_AREA
    )
    return cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def first_picture(data: bytes, side: int) -> np.ndarray:
    """BGR pixels (H, W, 3), uint8, of what is seen first; a JPEG may be made smaller, but not than `side`."""
    image = ImageFile(data)
    longest = min(max(image.width, image.height), LONGEST_SHAPE * min(image.width, image.height))
    return image.first(longest / side, colour=True)
