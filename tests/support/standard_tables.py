"""The tables of PS3.3 and PS3.6 as `dicom-validator` takes them, made from an installed package: nothing is downloaded.

`dicom-validator` reads the DocBook edition of the standard, which it fetches when it runs. The package `dicom-standard`
holds the same tables as JSON, with each attribute's description as HTML. Here they are put into the dictionaries that
`IODValidator` works on; conditions and enumerated values are read from the descriptions by its own parsers.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from dicom_validator.spec_reader.condition import ConditionType
from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.spec_reader.enum_parser import EnumParser
from dicom_validator.validator.dicom_info import DicomInfo
from lxml import etree, html

PACKAGE: Final = "dicom-standard"
FUNCTIONAL_GROUPS: Final = ("52009229", "52009230")
_DOCBOOK: Final = EnumParser.docbook_ns

requires_standard_tables = pytest.mark.skipif(
    importlib.util.find_spec("dicom_standard") is None, reason=f"the tables of the standard are not here ({PACKAGE})"
)

Table = dict[str, Any]


@functools.lru_cache
def tables_for(sop_class_uid: str) -> DicomInfo | None:
    """Return what the standard says of one SOP class; None if it is not among the classes of the package."""
    ciod = _ciods().get(sop_class_uid)
    if ciod is None:
        return None
    modules, references = {}, {}
    for row in _rows("ciod_to_modules", "ciodId")[ciod]:
        modules[row["moduleId"]] = _usage(row, "moduleId")
        references[row["moduleId"]] = _attributes("module_to_attributes", "moduleId", row["moduleId"])
    macros = {}
    for row in _rows("ciod_to_fg_macros", "ciodId").get(ciod, ()):
        macros[row["macroId"]] = _usage(row, "macroId")
        references[row["macroId"]] = _attributes("macro_to_attributes", "macroId", row["macroId"])
    iod = {"title": ciod, "modules": modules, "group_macros": macros}
    return DicomInfo(dictionary=_dictionary(), iods={sop_class_uid: iod}, modules=references)


def _usage(row: Mapping[str, str | None], name: str) -> Table:
    usage: Table = {"ref": row[name], "use": row["usage"]}
    if row["conditionalStatement"]:
        usage["cond"] = _conditions().parse(f"{row['usage']} - {row['conditionalStatement']}").result_dict()
    return usage


@functools.lru_cache
def _attributes(table: str, key: str, name: str) -> Table:
    """Return the attributes of a module or macro, items nested; macros that they include are already spelt out."""
    top: Table = {}
    for row in sorted(_rows(table, key)[name], key=lambda row: row["path"].count(":")):
        place = top
        for parent in row["path"].split(":")[1:-1]:
            place = place[_tag(parent)].setdefault("items", {})
        # Where a module states an attribute twice, for instance for two value types, the weaker demand counts.
        place.setdefault(row["tag"], _attribute(row))
    for sequence in FUNCTIONAL_GROUPS:
        if _tag(sequence) in top:
            top[_tag(sequence)].setdefault("items", {})["include"] = [{"ref": "FuncGroup"}]
    return top


def _attribute(row: Mapping[str, Any]) -> Table:
    description = html.fromstring(row["description"])
    attribute: Table = {"type": row["type"]}
    if row["type"] in ("1C", "2C", "3"):
        condition = _conditions().parse(" ".join(" ".join(description.itertext()).split()))
        if condition.type != ConditionType.UserDefined:
            attribute["cond"] = condition.result_dict()
    information = _dictionary().get(row["tag"])
    if information is not None:
        enums = _enums().parse(_docbook(description, row["externalReferences"]), information["vr"])
        mine = [entry for entry in enums if entry.get("tag", row["tag"]) == row["tag"]]
        if mine:
            attribute["enums"] = [_plain(entry) for entry in mine]
    return attribute


def _plain(entry: Mapping[str, Any]) -> Table:
    plain = {key: value for key, value in entry.items() if key != "tag"}
    if "cond" in plain:
        plain["cond"] = plain["cond"].result_dict()
    return plain


def _docbook(text: Any, references: Iterable[Mapping[str, str]] = ()) -> Any:
    """Return the part of a text that the parser of enumerated values looks at, with DocBook's names.

    Only lists and links of the text itself count: those of its notes, tables and enumerations say something else.
    """
    node = etree.Element(_DOCBOOK + "td")
    for terms in text.iterfind("div/dl"):
        title = terms.getprevious()
        variables = etree.SubElement(node, _DOCBOOK + "variablelist")
        etree.SubElement(variables, _DOCBOOK + "title").text = "" if title is None else title.text_content().strip()
        for term in terms.iterfind("dt"):
            entry = etree.SubElement(variables, _DOCBOOK + "varlistentry")
            etree.SubElement(entry, _DOCBOOK + "term").text = term.text_content().strip()
    targets = {reference["title"]: reference["sourceUrl"].rpartition("#")[2] for reference in references}
    links = etree.SubElement(node, _DOCBOOK + "para")
    for link in text.iterfind("p/span"):
        if link.text_content() in targets:
            etree.SubElement(links, _DOCBOOK + "xref", linkend=targets[link.text_content()])
    return node


def _find_section(name: str) -> Any:
    text = _sections().get(f"sect_{name}")
    return None if text is None else _docbook(html.fragment_fromstring(text))


@functools.lru_cache
def _conditions() -> ConditionParser:
    return ConditionParser(_dictionary())


@functools.lru_cache
def _enums() -> EnumParser:
    return EnumParser(_find_section, _conditions())


@functools.lru_cache
def _sections() -> dict[str, str]:
    return {url.rpartition("#")[2]: text for url, text in _read("references").items()}


@functools.lru_cache
def _dictionary() -> dict[str, dict[str, str]]:
    return {
        row["tag"]: {
            "name": row["name"],
            "vr": row["valueRepresentation"],
            "vm": row["valueMultiplicity"],
            "prop": "RET" if row["retired"] == "Y" else "",
        }
        for row in _read("attributes")
    }


@functools.lru_cache
def _ciods() -> dict[str, str]:
    identifiers = {row["name"]: row["id"] for row in _read("ciods")}
    return {row["id"]: identifiers[row["ciod"]] for row in _read("sops") if row["ciod"] in identifiers}


@functools.lru_cache
def _rows(table: str, key: str) -> dict[str, list[dict[str, Any]]]:
    rows = defaultdict(list)
    for row in _read(table):
        rows[row[key]].append(row)
    return dict(rows)


def _read(table: str) -> Any:
    for path in importlib.metadata.files(PACKAGE) or ():
        if path.name == f"{table}.json":
            return json.loads(Path(str(path.locate())).read_bytes())
    raise FileNotFoundError(f"{table}.json is not in the package {PACKAGE}")


def _tag(path: str) -> str:
    return re.sub("(.{4})(.{4})", r"(\1,\2)", path.upper())
