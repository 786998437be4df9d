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
from cryptography.x509 import load_pem_x509_crl

from config.loading import InvalidSettings, load_settings, parse_settings
from config.settings import Settings
from dicom_node.certificate_watch import CertificateWatch, expiring_soon, log_expiries
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


# ---------------------------------------------------------------------- revocation lists


def test_a_list_in_order_has_no_faults(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    settings = settings_with(authority, pair, crl=str(authority.write_list(tmp_path / "crl.pem", "node")))
    assert faults(settings) == {}
    assert expiring_soon(settings, NOW) == []
    found = {one.setting: one for one in expiries(settings, time.time())}["tls.crl"]
    assert (found.what, found.days_left, found.problem) == ("crl", 6, "")
    assert found.sentence.startswith("revocation list of CN=Hospital Test CA, 1 certificates, is valid until ")


def test_every_fault_of_lists_is_told_before_it_refuses_anybody(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    fine = authority.write_list(tmp_path / "fine.pem").read_bytes()
    other, impostor = Authority(tmp_path / "other", "Other CA"), Authority(tmp_path / "impostor")
    der = load_pem_x509_crl(fine).public_bytes(Encoding.DER)
    crl = tmp_path / "crl.pem"
    cases = {
        "no revocation list in PEM form": b"nothing",
        "openssl crl -inform DER": der,
        "there is a certificate in it, which would be trusted": fine + other.file.read_bytes(),
        "can't be read: get it anew": fine.replace(fine[60:120], b"A" * 60),
        "is overdue since": authority.write_list(tmp_path / "old.pem", days=-1).read_bytes(),
        "is not valid before": authority.write_list(tmp_path / "early.pem", from_days=2).read_bytes(),
        "is signed with another key": impostor.write_list(tmp_path / "forged.pem").read_bytes(),
        "there is none of CN=Hospital Test CA": other.write_list(tmp_path / "strange.pem").read_bytes(),
    }
    for words, content in cases.items():
        crl.write_bytes(content)
        found = faults(settings_with(authority, pair, crl=str(crl)))
        assert list(found) == ["tls.crl"], words
        assert words in found["tls.crl"]
    gone = faults(settings_with(authority, pair, peer={"ca": str(authority.file), "crl": str(tmp_path / "gone.pem")}))
    assert gone == {"destinations[0].tls.crl": "there is no such file"}
    # What keeps the node from starting is a file that can't be used, not one that is late.
    crl.write_bytes(cases["is overdue since"])
    assert broken_files(settings_with(authority, pair, crl=str(crl))) == []


def test_the_leaf_alone_needs_no_list_of_the_authority_above_its_own(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    site = Authority(tmp_path / "site", "Site CA", above=authority)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(authority.file.read_bytes() + site.file.read_bytes())
    crl = site.write_list(tmp_path / "site.pem")
    whole = faults(settings_with(authority, pair, ca=str(chain), crl=str(crl)))
    assert "there is none of CN=Hospital Test CA" in whole["tls.crl"]
    assert faults(settings_with(authority, pair, ca=str(chain), crl=str(crl), crl_check="leaf")) == {}


def test_the_log_warns_before_a_list_is_due_and_says_the_same_once_a_day(
    tmp_path: Path, authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    crl = authority.write_list(tmp_path / "crl.pem", days=3)
    settings = settings_with(authority, pair, crl=str(crl), crl_warn_h=24)
    watch, hour = CertificateWatch(settings), 3600.0

    def said_at(hours: float) -> list[int]:
        caplog.clear()
        watch.look(NOW + hours * hour)
        return [record.levelno for record in caplog.records]

    assert said_at(0) == []
    assert said_at(49) == [logging.WARNING]
    assert said_at(50) == []
    assert said_at(72.5) == [logging.ERROR]
    assert "peers are refused until a valid one is there" in caplog.text
    assert said_at(73) == []
    assert said_at(97) == [logging.ERROR]
    authority.write_list(crl, days=8)
    assert said_at(98) == []
    crl.unlink()
    assert said_at(99) == [logging.ERROR]


def test_certificates_of_commitment_are_looked_after_too(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    soon = authority.sign("soon-for-reports", days=5)
    table = {"ca": str(authority.file), "certificate": str(soon.certificate), "key": str(soon.key)}
    gone = {"ca": str(tmp_path / "gone.pem")}
    settings = Settings.model_validate(
        {
            "sources": [{"name": "x", "ae_titles": ["X"], "commitment": {"port": 4006, "tls": table}}],
            "destinations": [
                {"name": "d", "ae_title": "D", "host": "h", "port": 104, "commitment": {"port": 105, "tls": gone}}
            ],
        }
    )
    assert faults(settings) == {"destinations[0].commitment.tls.ca": "there is no such file"}
    (warning, absent) = expiring_soon(settings, NOW)
    assert warning.startswith("sources[0].commitment.tls.certificate: CN=soon-for-reports is valid until")
    assert absent == "destinations[0].commitment.tls.ca: there is no such file"


def test_certificates_of_a_dicomweb_server_are_looked_after_too(tmp_path: Path, authority: Authority) -> None:
    soon = authority.sign("soon-for-web", days=5)
    both = tmp_path / "both.pem"
    both.write_bytes(soon.certificate.read_bytes() + soon.key.read_bytes())
    both.chmod(0o600)
    web = {"name": "w", "kind": "dicomweb", "url": "https://w/dicom-web", "client_certificate": str(both)}
    web |= {"ca_file": str(authority.file), "crl_file": str(authority.write_list(tmp_path / "crl.pem", days=-1))}
    settings = Settings.model_validate({"destinations": [web]})
    assert "is overdue since" in faults(settings)["destinations[0].crl_file"]
    certificate, overdue = expiring_soon(settings, NOW)
    assert certificate.startswith("destinations[0].client_certificate: CN=soon-for-web is valid until")
    assert overdue.startswith("destinations[0].crl_file: revocation list of CN=Hospital Test CA")
    # Key and certificate may be two files, which have to fit.
    other = authority.sign("other-web")
    web |= {"client_certificate": str(soon.certificate), "client_key": str(other.key), "crl_file": None}
    found = faults(Settings.model_validate({"destinations": [web]}))
    assert "the key does not belong" in found["destinations[0].client_key"]


def test_peers_of_commitment_are_shown_the_nodes_certificate_and_paths_start_at_the_file(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    for name, source in (("n.crt", pair.certificate), ("n.key", pair.key), ("ca.pem", authority.file)):
        (tmp_path / name).write_bytes(source.read_bytes())
    authority.write_list(tmp_path / "crl.pem")
    file = tmp_path / "node.toml"
    file.write_text(
        '[tls]\ncertificate = "n.crt"\nkey = "n.key"\nca = "ca.pem"\ncrl = "crl.pem"\n'
        '[[sources]]\nname = "x"\nae_titles = ["X"]\n[sources.commitment]\nport = 4006\n'
        'tls = { ca = "ca.pem", crl = "crl.pem" }\n'
        '[[destinations]]\nname = "d"\nae_title = "D"\nhost = "h"\nport = 104\n'
        '[destinations.commitment]\nport = 105\ntls = { ca = "ca.pem" }\n'
    )
    settings = load_settings(file)
    of_source, of_destination = settings.sources[0].commitment, settings.dicom_destinations[0].commitment
    assert of_source is not None
    assert of_destination is not None
    assert of_destination.tls is not None
    assert settings.tls.crl == of_source.tls.crl == tmp_path / "crl.pem"
    for table in (of_source.tls, of_destination.tls):
        assert (table.certificate, table.key) == (tmp_path / "n.crt", tmp_path / "n.key")
        assert table.ca == tmp_path / "ca.pem"
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
        ({"tls": {"certificate": "a", "key": "b", "ca": "c", "crl": "d", "client_certificates": "none"}}, "tls", "crl"),
        (
            {"destinations": [{"name": "d", "ae_title": "D", "host": "h", "port": 1, "tls": {"crl": "k"}}]},
            "destinations[0].tls",
            "ca, the file with the authorities whose lists",
        ),
        (
            {"sources": [{"name": "x", "ae_titles": ["X"], "commitment": {"tls": True}}]},
            "sources[0].commitment",
            "port where tls is set",
        ),
        (
            {
                "destinations": [
                    {"name": "d", "ae_title": "D", "host": "h", "port": 1, "commitment": {"report_tls": "required"}}
                ]
            },
            "destinations[0].commitment.report_tls",
            "without them every report of this destination is rejected",
        ),
        (
            {
                "tls": {"certificate": "a", "key": "b", "client_certificates": "none"},
                "destinations": [
                    {"name": "d", "ae_title": "D", "host": "h", "port": 1, "commitment": {"report_certificates": ["x"]}}
                ],
            },
            "destinations[0].commitment.report_certificates",
            "nobody is asked for a certificate",
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
