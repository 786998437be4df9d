"""Settings of alerts, audit and traces: what can't work is refused with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.loading import InvalidSettings, load_settings, parse_settings

MAIL = {"name": "mail", "kind": "email", "host": "h", "sender": "a@b", "recipients": ["c@d"]}
HOOK = {"name": "hook", "kind": "webhook", "url": "https://h/x"}


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ({"alerts": [{**HOOK, "url": ""}]}, "alerts[0]"),
        ({"alerts": [{**HOOK, "url": "ftp://h"}]}, "alerts[0].url"),
        ({"alerts": [{**HOOK, "url": "https://user:word@h/"}]}, "alerts[0].url"),
        ({"alerts": [{**HOOK, "alarms": ["disc"]}]}, "alerts[0].alarms[0]"),
        ({"alerts": [HOOK, HOOK]}, "alerts.name"),
        ({"alerts": [{**MAIL, "recipients": []}]}, "alerts[0]"),
        ({"alerts": [{**MAIL, "recipients": ["a@b\nBcc: c@d"]}]}, "alerts[0].recipients[0]"),
        ({"alerts": [{**MAIL, "username": "u"}]}, "alerts[0]"),
        ({"alerts": [{**MAIL, "username": "u", "password_file": "p", "security": "none"}]}, "alerts[0]"),
        ({"audit": {"certificate": "a.pem"}}, "audit"),
        ({"tracing": {"endpoint": "collector:4318"}}, "tracing.endpoint"),
        ({"metrics": {"port": 70_000}}, "metrics.port"),
        ({"alarms": {"guard_percent": 0}}, "alarms.guard_percent"),
    ],
)
def test_what_can_not_work_is_refused_with_its_place(raw: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse_settings(raw)
    assert [fault.path for fault in caught.value.faults] == [place]


def test_files_start_at_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[[alerts]]\nname = "m"\nkind = "email"\nhost = "h"\nsender = "a@b"\nrecipients = ["c@d"]\nusername = "u"\n'
        'password_file = "secret"\nca_file = "ca.pem"\n[audit]\ncertificate = "a.crt"\nkey = "a.key"\n'
    )
    settings = load_settings(file)
    assert settings.alerts[0].password_file == tmp_path / "secret"
    assert (settings.audit.certificate, settings.audit.ca_file) == (tmp_path / "a.crt", None)
