"""Which attribute a condition asks for: a keyword, a tag, a private attribute, or a path of them through sequences."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_dict, tag_for_keyword

_STEP = re.compile(
    r"(?P<keyword>[A-Z][A-Za-z0-9]*)"
    r"|\((?P<group>[0-9A-Fa-f]{4}),(?P<element>[0-9A-Fa-f]{4})\)"
    # PS3.5 7.8.1: the creator reserves a block of any number, so that its first two digits are not known beforehand.
    r"|\((?P<private_group>[0-9A-Fa-f]{4}),[xX]{2}(?P<offset>[0-9A-Fa-f]{2}),(?P<creator>[ -\[\]-~]{1,64}?)\)(?=\.|$)"
)
FORMS = "an attribute keyword, a tag (gggg,eeee) or a private tag (gggg,xxee,CREATOR), each after a sequence and a dot"


@dataclass(frozen=True, kw_only=True)
class PathStep:
    """One attribute of a path.

    Attributes
    ----------
    group
        Of the tag.
    element
        Of the tag; for a private attribute with its creator, the last two digits alone.
    creator
        Private Creator that reserves the block of the attribute (PS3.5 7.8.1); empty where the tag says everything.
    """

    group: int
    element: int
    creator: str = ""


@lru_cache(maxsize=1024)
def parse_path(text: str) -> tuple[PathStep, ...]:
    """Return the attributes that lead to the one that `text` names; all but the last are sequences.

    Raises
    ------
    ValueError
        If it names none; the message says what is allowed.
    """
    steps: list[PathStep] = []
    position = 0
    while True:
        found = _STEP.match(text, position)
        if found is None or text[found.end() : found.end() + 1] not in ("", "."):
            raise ValueError(f"{FORMS}; {text!r} is none")
        step = _step(found)
        steps.append(step)
        if found.end() == len(text):
            return tuple(steps)
        if not _may_be_sequence(step):
            raise ValueError(f"a sequence before each dot; {found.group()} in {text!r} is none")
        position = found.end() + 1


def vr_of(text: str) -> str | None:
    """Return the VR of the attribute that a path ends at; None if DICOM's dictionary does not have it."""
    step = parse_path(text)[-1]
    tag = (step.group << 16) + step.element
    if step.creator or not dictionary_has_tag(tag):
        return None
    return dictionary_VR(tag)


def is_keyword(text: str) -> bool:
    """Return whether `text` is the keyword of an attribute of DICOM."""
    return tag_for_keyword(text) is not None


def _step(found: re.Match[str]) -> PathStep:
    if found["keyword"]:
        tag = tag_for_keyword(found["keyword"])
        if tag is None:
            near = difflib.get_close_matches(found["keyword"], keyword_dict, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"an attribute keyword of DICOM; {found['keyword']!r} is none{hint}")
        return PathStep(group=tag >> 16, element=tag & 0xFFFF)
    if found["group"]:
        return PathStep(group=int(found["group"], 16), element=int(found["element"], 16))
    group, creator = int(found["private_group"], 16), found["creator"].strip(" ")
    if group % 2 == 0 or not creator:
        raise ValueError(f"a private tag whose group is odd and whose creator is named; {found.group()!r} is none")
    return PathStep(group=group, element=int(found["offset"], 16), creator=creator)


def _may_be_sequence(step: PathStep) -> bool:
    tag = (step.group << 16) + step.element
    if step.creator or step.group % 2 or not dictionary_has_tag(tag):
        return True
    return dictionary_VR(tag) == "SQ"
