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


def declared_domain(*, presentation_intent: str, relationship: str) -> Domain:
    """Return the domain that Presentation Intent Type and Pixel Intensity Relationship declare, each empty if absent.

    Only values that are declared to be linear, and that were not prepared for presentation, count as LINEAR; what is
    declared in no way is DISPLAY, where the denoiser assumes least.
    """
    if relationship == "LOG":
        return Domain.LOG
    if relationship == "LIN" and presentation_intent != "FOR PRESENTATION":
        return Domain.LINEAR
    return Domain.DISPLAY


def counts_down(domain: Domain, sign: int) -> bool:
    """Tell whether greater values mean less exposure (Pixel Intensity Relationship Sign -1, PS3.3 C.8.11.3.1.2).

    It matters in the linear domain alone: there values are counted from the other end of their range before the
    noise law is fitted.
    """
    return domain is Domain.LINEAR and sign < 0
