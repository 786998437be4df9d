"""Settings of a DICOMweb destination: what is allowed, and that faults name the right field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.doubts import doubts
from config.loading import InvalidSettings, load_settings, parse_settings
from config.settings import DicomDestinationSettings, DicomwebDestinationSettings

WEB = {"name": "web", "kind": "dicomweb", "url": "https://pacs.local/dicom-web/"}
PACS = {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104}


def faults_of(*destinations: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidSettings) as caught:
        parse_settings({"destinations": list(destinations)})
    return {fault.path: f"{fault.value}: {fault.allowed}" for fault in caught.value.faults}


def test_dicom_is_the_kind_where_none_is_named() -> None:
    plain, named, web = parse_settings(
        {"destinations": [PACS, {**PACS, "name": "b", "kind": "dicom"}, WEB]}
    ).destinations
    assert type(plain) is type(named) is DicomDestinationSettings
    assert isinstance(web, DicomwebDestinationSettings)
    assert web.url == "https://pacs.local/dicom-web"


def test_faults_name_the_fields_of_their_kind_alone() -> None:
    found = faults_of(
        {**PACS, "port": 0}, {**WEB, "max_objects": 0, "ae_title": "X"}, {"name": "c", "kind": "dicomweb"}
    )
    assert set(found) == {
        "destinations[0].port",
        "destinations[1].max_objects",
        "destinations[1].ae_title",
        "destinations[2].url",
    }
    assert "no such setting" in found["destinations[1].ae_title"]
    assert "token_file" in found["destinations[1].ae_title"]
    assert found["destinations[2].url"] == "(absent): required, and missing"


@pytest.mark.parametrize("kind", ["ftp", "", 3, ["dicom"]])
def test_another_kind_is_refused_where_it_stands(kind: object) -> None:
    (path, said), *others = faults_of({**PACS, "kind": kind}).items()
    assert path == "destinations[0].kind"
    assert '"dicom" or "dicomweb"' in said
    assert not others


@pytest.mark.parametrize(
    "url",
    ["", "pacs", "ftp://pacs/x", "https://", "https://u:p4ss@pacs/x", "https://pacs/x?a=1", "https://pacs:99999/x"],
)
def test_a_url_that_is_no_base_of_a_service_is_refused(url: str) -> None:
    assert set(faults_of({**WEB, "url": url})) == {"destinations[0].url"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_file": "t", "username": "u", "password_file": "p"}, "one way to log in"),
        ({"token_file": "t", "token_variable": "T"}, "token_file or token_variable"),
        ({"username": "u"}, "password_file or password_variable"),
        ({"password_file": "p"}, "username is set"),
        ({"oauth_url": "https://a/token", "oauth_client_id": "c"}, "oauth_secret_file or oauth_secret_variable"),
        ({"oauth_url": "https://a/token", "oauth_secret_file": "s"}, "oauth_client_id"),
        ({"client_key": "k"}, "client_certificate"),
    ],
)
def test_settings_that_do_not_go_together_are_named(changes: dict[str, object], words: str) -> None:
    found = faults_of({**WEB, **changes})
    assert set(found) == {"destinations[0]"}
    assert words in found["destinations[0]"]


@pytest.mark.parametrize(
    "headers", [{"Authorization": "x"}, {"a b": "x"}, {"X": "a\r\nHost: b"}, {"content-length": "1"}]
)
def test_headers_that_are_ours_or_none_are_refused(headers: dict[str, str]) -> None:
    assert set(faults_of({**WEB, "headers": headers})) == {"destinations[0].headers"}


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[[destinations]]\nname = "w"\nkind = "dicomweb"\nurl = "https://h"\n'
        'token_file = "t"\nca_file = "/etc/ca.pem"\n'
    )
    (found,) = load_settings(file).destinations
    assert isinstance(found, DicomwebDestinationSettings)
    assert (found.token_file, found.ca_file, found.client_key) == (tmp_path / "t", Path("/etc/ca.pem"), None)


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({}, ""),
        ({"verify": False}, "verify = false"),
        ({"url": "http://pacs.local"}, ""),
        ({"url": "http://pacs.local", "token_variable": "T"}, "no https"),
        ({"url": "http://pacs.local", "username": "u", "password_file": "p"}, "no https"),
        ({"token_variable": "T"}, ""),
    ],
)
def test_what_opens_objects_or_secrets_to_others_is_doubted(changes: dict[str, object], doubt: str) -> None:
    found = [
        text for text in doubts(parse_settings({"destinations": [{**WEB, **changes}]})) if "destination web" in text
    ]
    assert len(found) == bool(doubt)
    assert all(doubt in text for text in found)
