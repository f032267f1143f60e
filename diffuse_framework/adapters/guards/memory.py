"""A lack of memory is no damage: it ends the run, while an image that is damaged is left out of it."""

from __future__ import annotations

import numpy as np

# An image as its file has it, as numbers, and what decodes it.
_BYTES_A_PIXEL = 16


def raise_if_short(error: BaseException, n_pixels: int) -> None:
    """Raise `error` again if it is a lack of memory that is real: an image can't be held now.

    Damaged files ask for more memory than there is, too: where there is enough for an image of this detector, the
    file is to blame.

    Args:
        error: what was raised as the image was read or indexed.
        n_pixels: of the detector.

    Raises:
        MemoryError: memory is short.
    """
    if not isinstance(error, MemoryError):
        return
    try:
        np.empty(_BYTES_A_PIXEL * n_pixels, np.uint8)
    except MemoryError:
        raise error from None
