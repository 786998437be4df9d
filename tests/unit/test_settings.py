"""The settings file: every fault at once, and schema, example and documentation say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from config.conditions import Range
from config.example import INNER, LISTS, render_example, render_reference
from config.loading import InvalidSettings, load_settings, parse_settings
from config.observation import AlertSettings
from config.settings import CommitmentSettings, Content, PeerTlsSettings, Settings, SourceCommitmentSettings

REPOSITORY = Path(__file__).parents[2]
PACS = {"name": "pacs", "ae_title": "PACS", "host": "pacs.example", "port": 104}

# Commitment is off by default, so its table stands for a value of its own.
TABLES_BELOW = {name: table for name, table in INNER["destinations"].items() if name != "commitment"}


def faults_of(raw: dict[str, object]) -> dict[str, str]:
    with pytest.raises(InvalidSettings) as caught:
        parse_settings(raw)
    return {fault.path: f"{fault.value}: {fault.allowed}" for fault in caught.value.faults}


def test_every_fault_is_named_at_once_with_path_value_and_what_is_allowed() -> None:
    faults = faults_of(
        {
            "node": {"ae_title": "FAR TOO LONG A TITLE", "port": 0, "colour": 1},
            "sources": [{"name": "room"}],
            "destinations": [{**PACS, "port": "x"}, PACS],
            "routes": [{"name": "r", "strength": "huge", "destinations": ["nowhere"], "send": []}],
        }
    )
    assert faults["node.ae_title"] == "'FAR TOO LONG A TITLE': allowed is an AE title of 1 to 16 characters"
    assert "greater than or equal to 1" in faults["node.port"]
    assert faults["node.colour"].startswith("1: no such setting; known are name, ae_title,")
    assert faults["sources[0].ae_titles"] == "(absent): required, and missing"
    assert "valid integer" in faults["destinations[0].port"]
    assert faults["destinations.name"] == "'pacs': a name used once; it stands 2 times"
    assert faults["routes[0].destinations"] == "'nowhere': the name of a destination: pacs, pacs"
    assert "'mild', 'standard' or 'strong'" in faults["routes[0].strength"]
    assert "routes[0].send" in faults


def test_a_list_whose_items_are_at_fault_is_not_called_empty() -> None:
    faults = faults_of({"sources": [{"name": "room", "ae_titles": ["XRAY1"], "hosts": ["10.0.0.300"]}]})
    assert list(faults) == ["sources[0].hosts[0]"]


@pytest.mark.parametrize("title", ["", "   ", "back\\slash", "tab\tbed", "Ümlaut"])
def test_ae_titles_that_dicom_does_not_allow_are_refused(title: str) -> None:
    assert "node.ae_title" in faults_of({"node": {"ae_title": title}})


@pytest.mark.parametrize(
    ("match", "part"),
    [
        ({"modality": "DX"}, "attribute keyword"),
        ({"modality": "DX"}, "did you mean Modality?"),
        ({"calling_aet": "XRAY1"}, "did you mean calling_ae_title?"),
        ({"Modalty": "DX"}, "did you mean Modality?"),
        ({"Modality": "DX("}, "a regular expression; "),
        ({"Rows": {"min": 3, "max": 1}}, "min not above max"),
        ({"Rows": {}}, "min, max or both"),
        ({"Rows": 3}, "a regular expression, a list of them, { min, max }, { not } or { present }"),
        ({"Modality": []}, "at least 1 item"),
        ({"Modality": {"not": "DX("}}, "a regular expression; "),
        ({"Modality": {"not": {"min": 2, "max": 1}}}, "min not above max"),
        ({"Modality": {"not": "DX", "present": False}}, "allowed is true"),
        ({"StudyDate": {"min": "2026-02-30"}}, "a date of the calendar; '2026-02-30' is none (day"),
        ({"StudyDate": {"min": "20260230"}}, 'a date "2026-01-31"'),
        ({"StudyTime": {"min": "24:00"}}, 'a time "08:30"'),
        ({"PatientAge": {"min": "18Y", "max": 20}}, "min and max of one kind"),
        ({"PatientAge": {"min": "2Y", "max": "6M"}}, "min not above max"),
        ({"Modality.CodeValue": "1"}, "a sequence before each dot; Modality in 'Modality.CodeValue' is none"),
        ({"RequestAttributesSequence.": "1"}, "an attribute keyword, a tag (gggg,eeee) or a private tag"),
        ({"RequestAttributesSequence.Modalty": "1"}, "did you mean Modality?"),
        (
            {"(0018,xx10,ACME)": "1"},
            "a private tag whose group is odd and whose creator is named; '(0018,xx10,ACME)' is none",
        ),
        ({"(0019,xx10)": "1"}, "a private tag (gggg,xxee,CREATOR)"),
        ({"Modality": "(?=DX)"}, "a regular expression; '(?=DX)' is none (invalid perl operator: (?=)"),
    ],
)
def test_conditions_that_can_never_be_meant_are_refused(match: dict[str, object], part: str) -> None:
    faults = faults_of({"destinations": [PACS], "routes": [{"name": "r", "match": match, "destinations": ["pacs"]}]})
    assert any(part in text for text in faults.values()), faults


def test_every_wrong_condition_of_a_route_is_named_with_its_own_place() -> None:
    match = {"Modalty": "DX", "calling_aet": "A", "StationName": ["ROOM1", "ROOM("], "Rows": {"mim": 1}}
    raw = {"destinations": [PACS], "routes": [{"name": "r", "match": match, "destinations": ["pacs"]}]}
    with pytest.raises(InvalidSettings) as caught:
        parse_settings(raw)
    assert [(fault.path, fault.value) for fault in caught.value.faults] == [
        ("routes[0].match", "'Modalty'"),
        ("routes[0].match", "'calling_aet'"),
        ("routes[0].match.StationName[1]", "'ROOM('"),
        ("routes[0].match.Rows.mim", "1"),
    ]


@pytest.mark.parametrize(
    ("raw", "path", "said"),
    [
        ({"nod": {}}, "nod", "no such setting; did you mean node?; known are node, receiver,"),
        ({"node": {"data": 1}}, "node.data", "no such setting; did you mean data_dir?; known are name,"),
        ({"route": []}, "route", "no such setting; did you mean routes?; known are node,"),
        ({"routes": {"name": "r"}}, "routes", "allowed is a list of tables: [[routes]], not [routes]"),
        ({"fallback": [{}]}, "fallback", "allowed is one table: [fallback], not [[fallback]]"),
        ({"node": 1}, "node", "allowed is a table"),
        ({"fallback": {"destinations": "pacs"}}, "fallback.destinations", "allowed is a list in square brackets"),
        ({"node": {"name": "X-ray room"}}, "node.name", "allowed is 1 to 64 letters, digits, dots, hyphens"),
        ({"node": {"name": 7}}, "node.name", "allowed is a text in quotes"),
        ({"node": {"workers": 1.5}}, "node.workers", "allowed is a valid integer"),
        ({"logging": {"level": "INFO"}}, "logging.level", "allowed is 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_what_is_allowed_is_told_in_words_of_the_file(raw: dict[str, object], path: str, said: str) -> None:
    assert f": {said}" in faults_of(raw)[path]


def test_a_setting_of_two_kinds_names_both() -> None:
    route = {"name": "r", "strength": "huge", "destinations": ["pacs"]}
    faults = faults_of({"destinations": [PACS], "routes": [route]})
    assert faults["routes[0].strength"] == "'huge': allowed is 'mild', 'standard' or 'strong'; or a number"


def test_a_key_of_a_range_that_is_no_such_setting_is_told_what_there_is() -> None:
    assert faults_of(routes_of({"PatientAge": {"mim": "18Y"}}))["routes[0].match.PatientAge.mim"] == (
        "'18Y': no such setting; did you mean min?; known are min, max"
    )
    assert faults_of(routes_of({"Modality": {"not": "DX", "presnt": True}}))["routes[0].match.Modality.presnt"] == (
        "True: no such setting; did you mean present?; known are not, present"
    )


@pytest.mark.parametrize("host", ["10.1.0.0/33", "300.1.2.3", "no host", "a/b", ""])
def test_hosts_that_are_no_address_network_or_name_are_refused(host: str) -> None:
    assert any("hosts" in path for path in faults_of({"sources": [{"name": "a", "ae_titles": ["A"], "hosts": [host]}]}))


def test_a_missing_or_broken_file_is_a_clear_fault(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="dicom-node init"):
        load_settings(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[node\n")
    with pytest.raises(InvalidSettings, match="not TOML"):
        load_settings(broken)


def test_relative_data_dir_starts_at_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\ndata_dir = "held"\n')
    assert load_settings(file).node.data_dir == tmp_path / "held"


def test_the_example_is_valid_and_its_comments_show_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(render_example())
    settings = load_settings(file)
    assert [route.name for route in settings.routes_in_order] == ["radiographs", "fallback"]
    assert settings.route("fallback").destinations == ("pacs",)
    # Uncommented, every default must parse to the same settings: a comment that lies would be found here.
    # What is off by default has its table behind it, which would switch it on.
    text, off = render_example(), re.compile(r"# (\[(?:sources|destinations)\.commitment(?:\.tls)?\]\n)((?:#.*\n)+)")
    assert len(off.findall(text)) == 3
    nobody = re.compile(r"# \[\[alerts\]\]\n((?:#.*\n)+)")
    (alert,) = nobody.findall(text)
    lines = nobody.sub("", off.sub("", text)).splitlines()
    uncommented = [line[2:] if line.startswith("# ") and _is_setting(line[2:]) else line for line in lines]
    file.write_text("\n".join(line for line in uncommented if not line.endswith(" =")))
    again = load_settings(file)
    assert again == settings
    tables = {
        heading.strip("[]\n"): tomllib.loads(re.sub(r"(?m)^# (?=[a-z_]+ = )|^#.*\n|^$", "", body))
        for heading, body in off.findall(text)
    }
    assert SourceCommitmentSettings.model_validate(tables["sources.commitment"]) == SourceCommitmentSettings()
    assert CommitmentSettings.model_validate(tables["destinations.commitment"]) == CommitmentSettings()
    assert len(tables["destinations.commitment"]) == 10
    assert PeerTlsSettings.model_validate(tables["sources.commitment.tls"]) == PeerTlsSettings()
    assert len(tables["sources.commitment.tls"]) == 4
    shown = tomllib.loads(re.sub(r"(?m)^# (?=[a-z_]+ = )|^#.*\n|^$", "", alert))
    needed = {"name": "pager", "kind": "webhook", "url": "http://host/"}
    assert AlertSettings.model_validate({**shown, **needed}) == AlertSettings.model_validate(needed)


def _is_setting(line: str) -> bool:
    name = line.split(" =")[0]
    models = [LISTS.get(n, f.annotation) for n, f in Settings.model_fields.items()]
    known = {
        key
        for model in models
        if isinstance(model, type) and issubclass(model, BaseModel)
        for key in model.model_fields
    }
    return (
        name in known
        or line in {f"[destinations.{below}]" for below in TABLES_BELOW}
        or name in {key for table in TABLES_BELOW.values() for key in table.model_fields}
    )


def test_schema_example_and_documentation_say_the_same() -> None:
    assert (REPOSITORY / "config" / "node.example.toml").read_text() == render_example()
    assert (REPOSITORY / "docs" / "settings.md").read_text() == render_reference()


def test_every_setting_has_a_sentence() -> None:
    def walk(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation)
            elif model is not Settings:
                assert field.description, f"{model.__name__}.{name}"
                assert field.description.endswith("."), f"{model.__name__}.{name}"

    for model in (Settings, *LISTS.values()):
        walk(model)


def routes_of(match: dict[str, object]) -> dict[str, object]:
    return {"destinations": [PACS], "routes": [{"name": "r", "match": match, "destinations": ["pacs"]}]}


def test_a_fault_in_a_condition_is_told_with_its_place() -> None:
    faults = faults_of(routes_of({"Rows": {"min": 3, "mix": 1}}))
    assert list(faults) == ["routes[0].match.Rows.mix"]


def test_a_path_may_stand_without_quotes(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "h"\nport = 104\n'
        '[[routes]]\nname = "r"\ndestinations = ["pacs"]\n'
        "match = { StudyDate = { min = 2026-01-31 }, StudyTime = { min = 08:30:00 }, "
        'RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeValue = "A1" }\n'
    )
    match = load_settings(file).routes[0].match
    assert match["RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeValue"] == "A1"
    assert match["StudyDate"] == Range(min="2026-01-31")
    assert match["StudyTime"] == Range(min="08:30:00")


def test_fallback_is_the_last_route_and_its_name_is_taken() -> None:
    raw = routes_of({"Modality": "DX"})
    kept = parse_settings(raw)
    assert [route.name for route in kept.routes_in_order] == ["r"]
    with pytest.raises(KeyError):
        kept.route("fallback")
    last = parse_settings({**raw, "fallback": {"destinations": ["pacs"]}}).routes_in_order[-1]
    assert (last.name, last.enhance, last.send, last.match) == ("fallback", False, (Content.ORIGINAL,), {})
    assert last.destinations == ("pacs",)
    faults = faults_of(
        {
            "routes": [{"name": "fallback", "destinations": ["pacs"]}],
            "destinations": [PACS],
            "fallback": {"destinations": ["nowhere"]},
        }
    )
    assert faults["routes[0].name"] == "'fallback': another name; this one is that of [fallback]"
    assert faults["fallback.destinations"] == "'nowhere': the name of a destination: pacs"


def test_a_destination_that_is_named_twice_is_refused() -> None:
    # A series has one delivery to each destination: with two of them it could not be concluded, nor be sent.
    twice = ["pacs", "archive", "pacs"]
    faults = faults_of(
        {
            "destinations": [PACS, {**PACS, "name": "archive"}],
            "routes": [{"name": "r", "destinations": twice}],
            "fallback": {"destinations": twice},
        }
    )
    for path in ("routes[0].destinations", "fallback.destinations"):
        assert faults[path] == f"{twice!r}: allowed is each destination once; 'pacs' is there 2 times"


@pytest.mark.parametrize("route", [{"enhance": False}, {"send": ["original"]}])
def test_a_report_on_images_that_nobody_gets_is_refused(route: dict[str, object]) -> None:
    table = {"name": "r", "destinations": ["pacs"], "report": True}
    faults = faults_of({"destinations": [PACS], "routes": [{**table, **route}]})
    assert 'report = true only where enhance = true and send has "enhanced"' in faults["routes[0]"]
    both = {**table, "send": ["original", "enhanced"]}
    assert parse_settings({"destinations": [PACS], "routes": [both]}).routes[0].report
    assert not parse_settings({"destinations": [PACS], "routes": [{**both, "report": False}]}).routes[0].report


def test_the_environment_stands_above_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\nname = "file"\nport = 1104\n')
    environment = {"LOWDOSE_NODE__NAME": "pod-0", "LOWDOSE_RETENTION__KEEP_H": "3", "LOWDOSE_FAULT_POINTS": "x"}
    settings = load_settings(file, environment)
    assert (settings.node.name, settings.node.port, settings.retention.keep_h) == ("pod-0", 1104, 3)
    assert load_settings(file, {}).node.name == "file"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LOWDOSE_NODE__PORT", "dicom", "integer"),
        ("LOWDOSE_NODE__NMAE", "x", "did you mean name?"),
        ("LOWDOSE_NOD__NAME", "x", "no such setting"),
        ("LOWDOSE_SOURCES__NAME", "x", "unset this variable"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, name: str, value: str, said: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[[sources]]\nname = "a"\nae_titles = ["A"]\nhosts = ["*"]\n')
    with pytest.raises(InvalidSettings) as refused:
        load_settings(file, {name: value})
    [fault] = refused.value.faults
    assert name in str(fault)
    assert said in str(fault)
