"""The conformance statement as a text: complete whatever the settings, the same for the same settings, no secrets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from html import unescape
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from config.example import INNER
from config.loading import load_settings, parse_settings
from config.settings import Settings
from dicom_node.conformance import render_statement
from dicom_node.conformance.markdown import CONTENTS, Section, code, document, see, table
from dicom_node.tls import CIPHERS
from tests.support.statement import headings, plain, tables

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLE = REPOSITORY / "config" / "node.example.toml"
CHAPTERS = [
    "1 Overview",
    "2 Table of contents",
    "3 Introduction",
    "4 Implementation model",
    "5 Service and interoperability description",
    "6 Configuration",
    "7 Network and media communication details",
    "8 Security",
    "A Information Object Definitions",
    "B Structured Report content",
    "C Security details",
    "D Mapping of attributes",
    "E Code set usage",
    "F Storage SOP classes",
]

TWO_OF_EACH = """
[node]
ae_title = "NIGHT|SHIFT"
port = 104
database_url = "postgresql://user:s3cret@db/ledger"
[receiver]
max_object_mb = 77
[derivation]
derivation_code = "standard"
equipment = "preserve"
[[sources]]
name = "room-1"
ae_titles = ["XRAY1", "XRAY`2"]
[[sources]]
name = "room-2"
ae_titles = ["XRAY3"]
hosts = ["10.0.0.0/8", "c-arm.local"]
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "pacs.local"
port = 11113
retry = { max_age_h = 5 }
[[destinations]]
name = "archive"
ae_title = "ARCHIVE"
host = "10.1.1.1"
port = 4242
calling_ae_title = "OTHER"
concurrency = 7
[[routes]]
name = "chest"
match = { BodyPartExamined = ["CHEST", "RIBS"], KVP = { min = 60, max = 125.5 } }
sop_classes = ["MG", "1.2.840.10008.5.1.4.1.1.7"]
send = ["original", "enhanced"]
destinations = ["pacs", "archive"]
[[routes]]
name = "rest"
enhance = false
destinations = ["archive"]
"""

# Commitment is off by default, so its table stands for a value of its own.
TABLES_BELOW = {name: table for name, table in INNER["destinations"].items() if name != "commitment"}


def two_of_each() -> Settings:
    return parse_settings(tomllib.loads(TWO_OF_EACH))


SETTINGS = {"defaults": Settings(), "example": load_settings(EXAMPLE), "two of each": two_of_each()}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_chapter_is_there_and_says_something(settings: Settings) -> None:
    text = render_statement(settings)
    found = headings(text)
    assert [heading for heading in found if re.match(r"(\d|[A-Z]) ", heading)] == CHAPTERS
    assert len(set(found)) == len(found)
    # Something stands below each heading: text, or the next level's heading.
    for heading, following in re.findall(r"^(#+) .+\n\n(.)", text, re.MULTILINE):
        assert following, heading
    for match in re.finditer(r"^(#+) .+\n\n(#+) ", text, re.MULTILINE):
        assert len(match[2]) == len(match[1]) + 1, match[0]
    assert "\u27e6" not in text
    assert "None.None" not in text
    assert len(tables(text)) >= 40


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_reference_leads_to_a_heading(settings: Settings) -> None:
    text = render_statement(settings)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings(text)}
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(links) > 50
    assert set(links) <= anchors


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_markdown_reader_sees_every_table_and_its_cells(settings: Settings) -> None:
    text = render_statement(settings)
    html = MarkdownIt("commonmark").enable("table").render(text)
    seen = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)]
    expected = [row for rows in tables(text).values() for row in ([*rows[0]], *([*row.values()] for row in rows))]
    assert html.count("<table>") == len(tables(text))
    assert [[_as_text(cell) for cell in row] for row in seen] == [
        [_as_text(MarkdownIt().renderInline(cell)) for cell in row] for row in expected
    ]


def _as_text(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def test_the_committed_statement_is_that_of_the_example() -> None:
    assert (REPOSITORY / "docs" / "conformance.md").read_text() == render_statement(load_settings(EXAMPLE))


def test_the_statement_knows_nothing_of_machine_time_or_chance(tmp_path: Path) -> None:
    copies = []
    for seed in ("1", "2"):
        file = tmp_path / seed / "node.toml"
        file.parent.mkdir()
        file.write_text(TWO_OF_EACH)
        ended = subprocess.run(
            [sys.executable, "-m", "dicom_node", "conformance", "-c", str(file)],
            capture_output=True,
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
        )
        copies.append(ended.stdout)
    assert copies[0] == copies[1] == render_statement(two_of_each()).encode()
    assert str(tmp_path).encode() not in copies[0]


def test_every_setting_is_there_with_its_meaning() -> None:
    found = tables(render_statement(Settings()))
    shown = {
        (re.match(r"\[+([a-z.]+)\]+([^:]*):", plain(caption)).expand(r"\1\2"), plain(row["Setting"])): row["Meaning"]  # type: ignore[index]
        for caption, rows in found.items()
        if plain(caption).startswith("[")
        for row in rows
    }
    # From the JSON schema, which pydantic makes in a way of its own.
    schema = Settings.model_json_schema()
    expected = {}
    for name, field in schema["properties"].items():
        reference = field.get("items") or field
        if name == "destinations":
            web = schema["$defs"]["DicomwebDestinationSettings"]["properties"]
            title = f"{name} of kind dicomweb"
            expected |= {
                (title, key): entry["description"] for key, entry in web.items() if key not in ("retry", "breaker")
            }
            reference = {"$ref": "/DicomDestinationSettings"}
        model = reference["$ref"].rsplit("/", 1)[1]
        for setting, described in schema["$defs"][model]["properties"].items():
            tables_below = {"destinations": TABLES_BELOW, "console": INNER["console"]}.get(name, {})
            if setting in tables_below:
                below = schema["$defs"][tables_below[setting].__name__]["properties"]
                expected |= {(f"{name}.{setting}", key): entry["description"] for key, entry in below.items()}
            else:
                expected[name, setting] = described["description"]
    assert len(expected) > 50
    assert shown == {key: " ".join(meaning.split()) for key, meaning in expected.items()}


def test_values_are_those_of_the_settings() -> None:
    found = tables(render_statement(two_of_each()))
    node = {
        plain(row["Setting"]): plain(row["Value"])
        for row in found["`[node]`: Who this node is and where it keeps what it holds"]
    }
    assert (node["port"], node["ae_title"], node["drain_s"]) == ("104", '"NIGHT|SHIFT"', "30.0")
    values = {plain(row["Setting"]): row for row in found["Values of `[[destinations]]`"]}
    assert plain(values["calling_ae_title"]["`pacs`"]) == "none"
    assert plain(values["calling_ae_title"]["`archive`"]) == '"OTHER"'
    assert plain(values["retry.max_age_h"]["`pacs`"]) == "5.0"
    assert plain(values["retry.max_age_h"]["`archive`"]) == "72.0"
    routes = {plain(row["Setting"]): row for row in found["Values of `[[routes]]`"]}
    assert plain(routes["match"]["`chest`"]) == (
        '{ BodyPartExamined = ["CHEST", "RIBS"], KVP = { min = 60.0, max = 125.5 } }'
    )
    limits = found["Association parameters of the Receiver AE"]
    assert {"Parameter": "Largest P-DATA PDU that is announced", "Value": "1048576 bytes"} in limits
    stored = {row["Parameter"]: row["Value"] for row in found["Conformance of the Storage SCP"]}
    assert stored["Limits of what an object may hold"] == "its data set has at most 77 MB"


def test_who_is_connected_is_told_from_the_settings() -> None:
    found = tables(render_statement(two_of_each()))
    assert [plain(" ".join(row.values())) for row in found["Sources"]] == [
        "room-1 XRAY1,  XRAY2  *",
        "room-2 XRAY3 10.0.0.0/8, c-arm.local",
    ]
    assert [plain(" ".join(row.values())) for row in found["Destinations"]] == [
        "pacs PACS pacs.local 11113 NIGHT|SHIFT 2",
        "archive ARCHIVE 10.1.1.1 4242 OTHER 7",
    ]
    assert [plain(" / ".join(row.values())) for row in found["Routes, the first that matches takes the series"]] == [
        "chest / BodyPartExamined is CHEST or RIBS and KVP is from 60 to 125.5 / "
        "MG, 1.2.840.10008.5.1.4.1.1.7 / original, enhanced / pacs, archive",
        "rest / always / nothing / enhanced / archive",
    ]


def test_without_sources_destinations_and_routes_it_says_what_that_means() -> None:
    text = " ".join(render_statement(Settings()).split())
    assert "These settings name no source: every association is rejected until one is named." in text
    assert "These settings name no destination: nothing is sent." in text
    assert "These settings have no route: what is received is kept and not forwarded." in text
    assert {row["Routes"] for row in tables(render_statement(Settings()))["SOP classes that can be enhanced"]} == {
        "none"
    }


def test_routes_are_named_at_the_classes_that_they_enhance() -> None:
    rows = tables(render_statement(two_of_each()))["SOP classes that can be enhanced"]
    assert {plain(row["UID"]) for row in rows if plain(row["Routes"]) == "chest"} == {
        "1.2.840.10008.5.1.4.1.1.1.2",
        "1.2.840.10008.5.1.4.1.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.7",
    }
    assert {plain(row["Routes"]) for row in rows} == {"chest", "none"}


def test_no_password_and_no_folder_is_shown() -> None:
    text = render_statement(two_of_each())
    assert "s3cret" not in text
    assert "db/ledger" not in text
    folder = Settings(node=Settings().node.model_copy(update={"data_dir": Path("/srv/somewhere")}))
    assert "somewhere" not in render_statement(folder)


def test_what_is_said_of_tls_follows_the_settings() -> None:
    without, files = render_statement(Settings()), {"certificate": "/x/n.crt", "key": "/x/n.key", "ca": "/x/ca.pem"}
    assert "without TLS" in without
    assert "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile" in without
    tls = Settings.model_validate({"tls": {**files, "port": 2763}})
    text = render_statement(tls)
    assert "`2763`" in text
    assert "/x/" not in text
    for suite in CIPHERS:
        assert f"`{suite}`" in text
    alone = render_statement(Settings.model_validate({"tls": {**files, "only": True}}))
    assert "| sources | this node, address `0.0.0.0` | `11112` |" not in alone


def test_a_dicomweb_destination_is_told_with_its_service_and_without_its_secrets() -> None:
    web = {
        "name": "cloud",
        "kind": "dicomweb",
        "url": "https://cloud.local:8443/dicom-web",
        "token_file": "/srv/token-of-cloud",
        "headers": {"X-Key": "s3cret"},
    }
    raw = tomllib.loads(TWO_OF_EACH)
    text = render_statement(parse_settings({**raw, "destinations": [*raw["destinations"], web]}))
    found = tables(text)
    assert [plain(row["DICOMweb service"]) for row in found["DICOMweb destinations"]] == [web["url"]]
    assert [plain(row["Destination"]) for row in found["Destinations"]] == ["pacs", "archive"]
    assert "8443" in {plain(row["Port"]) for row in found["TCP connections"]}
    assert "token-of-cloud" not in text
    assert "s3cret" not in text


# ---------------------------------------------------------------------- Markdown


def test_sections_are_numbered_listed_and_referred_to() -> None:
    inner = Section(title="The inner, one", body=("text",))
    text = document(
        "T", ("intro",), [Section(title="Contents", body=(CONTENTS,)), Section(title="X", parts=(inner,))],
        [Section(title="Y", body=(see("The inner, one"),))],
    )  # fmt: skip
    assert headings(text) == ["T", "1 Contents", "2 X", "2.1 The inner, one", "A Y"]
    assert "  - [2.1 The inner, one](#21-the-inner-one)" in text
    assert text.endswith("## A Y\n\n[2.1 The inner, one](#21-the-inner-one)\n")
    with pytest.raises(KeyError):
        document("T", (), [Section(title="X", body=(see("nowhere"),))], ())


def test_cells_can_hold_bars_ticks_and_line_ends() -> None:
    text = document("T", (), [Section(title="X", body=(table("C", ("a", "b"), [(code("x|y"), "1\n2")]),))], ())
    assert tables(text) == {"C": [{"a": "`x|y`", "b": "1 2"}]}
    assert code("a`b") == "`` a`b ``"


@pytest.mark.parametrize("rows", [[], [("1",)], [("1", "2", "3")]])
def test_a_table_without_rows_or_of_another_width_is_refused(rows: list[tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="'C'"):
        table("C", ("a", "b"), rows)
