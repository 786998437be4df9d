"""The relation between pixel values and detector exposure, as far as the denoiser needs to know it."""

from __future__ import annotations

import enum


class Domain(enum.Enum):
    """How pixel values relate to X-ray exposure (PS3.3 C.8.11.3.1.2, Pixel Intensity Relationship).

    ``LINEAR``
        Proportional to exposure, offset removed (FOR PROCESSING, ``LIN``): the parametric noise law holds.
    ``LOG``
        Logarithm of exposure (``LOG``): the noise curve is estimated without a law.
    ``DISPLAY``
        FOR PRESENTATION or unknown: noise curve, stricter gate; a mild strength is advised.
    """

    LINEAR = "linear"
    LOG = "log"
    DISPLAY = "display"
