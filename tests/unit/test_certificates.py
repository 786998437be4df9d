"""Certificates of the settings: every fault of the files, how long they hold, and who is warned of it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from config.loading import InvalidSettings, load_settings, parse_settings
from config.settings import Settings
from dicom_node.certificate_watch import expiring_soon, log_expiries
from dicom_node.certificates import broken_files, certificate_faults, expiries, key_doubts, read_certificates
from tests.support.certificates import Authority, Pair
from tests.support.node import PYTHON, REPOSITORY

NOW = time.time()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign("node")


def settings_with(authority: Authority, pair: Pair, *, peer: dict[str, Any] | None = None, **tls: Any) -> Settings:
    table = {"certificate": str(pair.certificate), "key": str(pair.key), "ca": str(authority.file), **tls}
    destination = {"name": "pacs", "ae_title": "PACS", "host": "pacs", "port": 104, "tls": peer or False}
    return Settings.model_validate({"tls": table, "destinations": [destination]})


def faults(settings: Settings, now: float = NOW) -> dict[str, str]:
    return {fault.path: fault.allowed for fault in certificate_faults(settings, now)}


# ---------------------------------------------------------------------- files


def test_files_in_order_have_no_faults(authority: Authority, pair: Pair) -> None:
    settings = settings_with(authority, pair, peer={"ca": str(authority.file)})
    assert faults(settings) == {}
    assert list(key_doubts(settings)) == []
    assert expiring_soon(settings, NOW) == []


def test_every_fault_of_the_files_is_told_at_once(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    other = authority.sign("other")
    found = faults(
        settings_with(
            authority,
            pair,
            key=str(other.key),
            ca=str(garbage),
            peer={"ca": str(tmp_path / "absent.pem"), "certificate": str(other.certificate), "key": str(garbage)},
        )
    )
    assert found["tls.key"].startswith(f"the key does not belong to the first certificate of {pair.certificate}")
    assert "no certificate in PEM form" in found["tls.ca"]
    assert found["destinations[0].tls.ca"] == "there is no such file"
    assert "no private key in PEM form" in found["destinations[0].tls.key"]
    assert len(found) == 4


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    key = load_pem_private_key(pair.key.read_bytes(), password=None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    found = faults(settings_with(authority, pair, key=str(locked)))
    assert "the key has a password" in found["tls.key"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_told(authority: Authority) -> None:
    pair = authority.sign("closed")
    pair.key.chmod(0)
    assert "can't be read (Permission denied)" in faults(settings_with(authority, pair))["tls.key"]


def test_an_expired_certificate_is_a_fault_that_does_not_keep_the_node_from_starting(authority: Authority) -> None:
    old = authority.sign("old", days=-3)
    settings = settings_with(authority, old)
    assert "a certificate that is valid: that of CN=old is expired on" in faults(settings)["tls.certificate"]
    assert broken_files(settings) == []
    early = settings_with(authority, authority.sign("early"))
    assert "not valid before" in faults(early, now=NOW - 90 * 86_400)["tls.certificate"]


def test_a_key_that_others_can_read_is_a_doubt(authority: Authority) -> None:
    pair = authority.sign("open")
    pair.key.chmod(0o640)
    (doubt,) = key_doubts(settings_with(authority, pair))
    assert f"chmod 600 {pair.key}" in doubt
    assert "mode 640" in doubt


def test_relative_paths_start_at_the_settings_file_and_destinations_show_the_nodes_certificate(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    for name, source in (("n.crt", pair.certificate), ("n.key", pair.key), ("ca.pem", authority.file)):
        (tmp_path / name).write_bytes(source.read_bytes())
    file = tmp_path / "node.toml"
    destination = '[[destinations]]\nname = "{0}"\nae_title = "P"\nhost = "h"\nport = 104\n'
    file.write_text(
        '[tls]\ncertificate = "n.crt"\nkey = "n.key"\nca = "ca.pem"\n'
        + destination.format("a") + "tls = true\n"
        + destination.format("b") + 'tls = { ca = "ca.pem" }\n'
        + destination.format("c")
    )  # fmt: skip
    settings = load_settings(file)
    assert settings.tls.certificate == tmp_path / "n.crt"
    first, second, third = (destination.tls for destination in settings.destinations)
    assert (first.enabled, second.enabled, third.enabled) == (True, True, False)
    assert first.certificate == second.certificate == tmp_path / "n.crt"
    assert second.ca == tmp_path / "ca.pem"
    assert third.certificate is None
    assert faults(settings) == {}


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("tables", "path", "allowed"),
    [
        ({"tls": {"certificate": "a"}}, "tls", "certificate and key together"),
        ({"tls": {"only": True}}, "tls", "only = true where certificate and key are set"),
        ({"tls": {"certificate": "a", "key": "b"}}, "tls", "ca, the file with the authorities"),
        (
            {"tls": {"certificate": "a", "key": "b", "ca": "c", "port": 11112}},
            "tls.port",
            "another port than node.port",
        ),
        ({"sources": [{"name": "x", "ae_titles": ["X"], "tls": "required"}]}, "sources[0].tls", "in [tls] first"),
        (
            {"sources": [{"name": "x", "ae_titles": ["X"], "certificates": ["x.example"]}]},
            "sources[0].certificates",
            "in [tls] first",
        ),
        (
            {
                "tls": {"certificate": "a", "key": "b", "client_certificates": "none"},
                "sources": [{"name": "x", "ae_titles": ["X"], "certificates": ["x.example"]}],
            },
            "sources[0].certificates",
            'client_certificates other than "none"',
        ),
        (
            {"sources": [{"name": "x", "ae_titles": ["X"], "certificates": ["sha256:12"]}]},
            "sources[0].certificates[0]",
            "64 hexadecimal digits",
        ),
        (
            {"destinations": [{"name": "d", "ae_title": "D", "host": "h", "port": 1, "tls": {"key": "k"}}]},
            "destinations[0].tls",
            "certificate and key together",
        ),
    ],
)
def test_what_does_not_fit_together_is_told(tables: dict[str, Any], path: str, allowed: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse_settings(tables)
    found = {fault.path: fault.allowed for fault in caught.value.faults}
    assert allowed in found[path]


# ---------------------------------------------------------------------- how long they hold


def test_days_left_are_those_of_the_file_that_ends_first(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    soon = authority.sign("soon", days=12.5)
    chain.write_bytes(pair.certificate.read_bytes() + soon.certificate.read_bytes())
    found = {one.setting: one for one in expiries(settings_with(authority, pair, ca=str(chain)), NOW)}
    assert found["tls.certificate"].days_left in (364, 365)
    assert found["tls.ca"].days_left == 12
    assert "(12 days left)" in found["tls.ca"].sentence
    assert read_certificates(chain)[1].names[-1] == "soon"


def test_the_log_warns_in_time_and_alarms_when_it_is_late(
    authority: Authority, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pair = authority.sign("ending", days=40)
    settings = settings_with(authority, pair, warn_days=30, peer={"ca": str(tmp_path / "gone.pem")})
    levels = []
    for days in (0, 12, 41):
        caplog.clear()
        log_expiries(settings, NOW + days * 86_400)
        levels.append({record.setting: record.levelno for record in caplog.records})  # type: ignore[attr-defined]
    gone = {"destinations[0].tls.ca": logging.ERROR}
    assert levels == [gone, {"tls.certificate": logging.WARNING, **gone}, {"tls.certificate": logging.ERROR, **gone}]


def test_check_status_and_doctor_tell_of_certificates(tmp_path: Path, authority: Authority) -> None:
    soon = authority.sign("soon", file="commands", days=10)
    old = authority.sign("old", file="old-one", days=-1)
    soon.key.chmod(0o644)
    file = tmp_path / "node.toml"

    def write(pair: Pair) -> None:
        file.write_text(
            f'[node]\nport = 11999\n[tls]\nport = 11998\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
            f'ca = "{authority.file}"\n'
        )

    def command(name: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [PYTHON, "-m", "dicom_node", name, "-c", str(file), "--json"],
            capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)

    write(soon)
    code, checked = command("check")
    assert code == 0
    assert any("CN=soon is valid until" in warning for warning in checked["warnings"])
    assert any("chmod 600" in warning for warning in checked["warnings"])
    _, status = command("status")
    assert {(one["setting"], one["days_left"]) for one in status["certificates"]} >= {("tls.certificate", 9)}
    _, doctor = command("doctor")
    steps = {step["step"]: step for step in doctor["subjects"]["node"]}
    assert steps["certificate tls.certificate"]["state"] == "warning"
    assert steps["certificate tls.ca"]["state"] == "ok"
    write(old)
    code, checked = command("check")
    assert code == 2
    assert [fault["path"] for fault in checked["faults"]] == ["tls.certificate"]
