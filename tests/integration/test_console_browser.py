"""An operator's day in a real browser on a running node: a study from arrival to commitment, and what goes wrong."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.browser import Browser, Window, requires_axe, requires_chromium, running_browser
from tests.support.commitment import MockCommitmentPacs, bring_report, report_dataset
from tests.support.node import PYTHON, REPOSITORY, RunningNode, default_routes, destination
from tests.support.peers import LOOPBACK, closed_port, find_free_port, is_listening, requires_dcmtk, wait_until
from tests.support.radiographs import ROOT, radiograph

pytestmark = [requires_chromium, requires_dcmtk, pytest.mark.timeout(600)]

PATIENT = "ZQXNAME"
PASSWORDS = {"boss": "four slow green trains", "olga": "nine loud red kettles", "vera": "three odd blue ladders"}
PAGES = (
    *("/", "/studies", "/queue?show=all", "/destinations", "/destinations/pacs", "/sources", "/routes", "/model"),
    *("/settings?show=all", "/users", "/audit", "/account"),
)


@dataclass
class Department:
    """A node with its console, a PACS that commits, a destination that is gone, and a browser."""

    node: RunningNode
    pacs: MockCommitmentPacs
    browser: Browser
    url: str
    folder: Path

    def send(self, series: int) -> str:
        """Send a study of one image; returns its UID."""
        ds = radiograph(1, series=series)
        ds.PatientName, ds.PatientID, ds.AccessionNumber = f"{PATIENT}^{series}", f"P-{series}", f"A-{series}"
        path = self.folder / f"{series}.dcm"
        ds.save_as(path, enforce_file_format=True)
        done = self.node.send(path)
        assert done.returncode == 0, done.stderr
        return f"{ROOT}.1.{series}"

    def wait_for(self, uid: str, state: str) -> None:
        """Wait until the delivery of a study is in a state."""
        self.node.wait_for_rows(
            "SELECT 1 FROM delivery JOIN arrival ON arrival.id = delivery.arrival_id "
            f"WHERE arrival.study_instance_uid = '{uid}' AND delivery.state = '{state}'"
        )

    def commit(self, uid: str) -> None:
        """Let the PACS report that it has committed a study, as soon as it was asked."""
        ((transaction,),) = self.node.wait_for_rows(
            "SELECT transaction_uid FROM commitment_transaction "
            "JOIN delivery ON delivery.id = commitment_transaction.delivery_id "
            "JOIN arrival ON arrival.id = delivery.arrival_id "
            f"WHERE arrival.study_instance_uid = '{uid}' AND commitment_transaction.state = 'requested'"
        )
        (asked,) = [one for one in self.pacs.asked if one.transaction_uid == transaction]
        assert bring_report(self.node.port, report_dataset(asked.transaction_uid, asked.instances)) == 0x0000
        self.wait_for(uid, "committed")

    @contextmanager
    def window(self, user: str, **options: object) -> Iterator[Window]:
        """Open a window in which a user is signed in."""
        with self.browser.window(self.url, **options) as window:
            window.sign_in(user, PASSWORDS[user])
            yield window


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    folder, port = tmp_path_factory.mktemp("department"), find_free_port()
    with (
        MockCommitmentPacs() as pacs,
        closed_port() as closed,
        RunningNode(
            folder / "node",
            destinations=[
                destination("pacs", pacs.port, commitment={"delay_s": 0, "wait_s": 0.2}),
                destination("gone", closed, "GONE"),
            ],
            routes=default_routes("pacs"),
            console={"enabled": True, "port": port},
        ) as node,
        running_browser() as browser,
    ):
        wait_until(lambda: is_listening(port), timeout_s=90, what="the console")
        for name, role, patients in (("boss", "admin", False), ("olga", "operator", True), ("vera", "viewer", False)):
            add_user(node, name, role, patients=patients)
        yield Department(node=node, pacs=pacs, browser=browser, url=f"http://{LOOPBACK}:{port}", folder=folder)


def add_user(node: RunningNode, name: str, role: str, *, patients: bool) -> None:
    rights = ["--role", role, "--patients" if patients else "--no-patients", "--ask"]
    done = subprocess.run(
        [PYTHON, "-m", "dicom_node", "user", "add", name, *rights, "-c", str(node.file)],
        input=PASSWORDS[name] + "\n",
        text=True,
        capture_output=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert PASSWORDS[name] not in done.stdout + done.stderr


def test_a_study_is_followed_from_its_arrival_to_its_commitment(department: Department) -> None:
    uid = department.send(1)
    department.wait_for(uid, "committing")
    with department.window("olga") as window:
        page = window.page
        page.get_by_role("link", name="Studies", exact=True).click()
        # By what the radiographer has on paper; it does not stay in the address.
        page.get_by_label("UID, accession number or patient ID").fill("A-1")
        page.get_by_role("button", name="Search").click()
        assert "A-1" not in page.url
        page.locator("tbody tr").get_by_role("link").first.click()
        assert page.locator("main .uid").first.inner_text() == uid
        page.get_by_text(f"{PATIENT} 1").wait_for()
        page.get_by_text("P-1", exact=True).wait_for()
        told = page.locator(".timeline").inner_text()
        for sentence in ("1 object received", "is complete", "1 object enhanced", "pacs was asked to commit"):
            assert sentence in told, told
        noise = [float(text) for text in page.locator("td.number").all_inner_texts()[:2]]
        assert noise[0] > noise[1] > 0
        department.commit(uid)
        page.reload()
        assert "pacs has committed it" in page.locator(".timeline").inner_text()
        assert "1 of 1 committed" in page.locator("#deliveries").inner_text()
        assert page.locator("h1 .state").inner_text() == "delivered"


def test_a_destination_is_held_and_released_and_what_waited_goes_on(department: Department) -> None:
    with department.window("olga") as window:
        page = window.page
        window.open("/destinations/pacs")
        page.get_by_label("Reason").fill("new disks")
        page.get_by_role("button", name="Hold").click()
        page.locator(".notice-warn", has_text="new disks (olga in the console)").wait_for()
        uid = department.send(2)
        department.wait_for(uid, "pending")
        window.open("/queue")
        row = page.locator("tbody tr", has_text="destination on hold")
        row.get_by_role("link", name=uid[-24:]).wait_for()
        page.get_by_role("link", name="Overview", exact=True).click()
        page.get_by_text("On hold since").wait_for()
        # The single delivery too, by its box; nobody is asked for that.
        window.open("/queue")
        page.get_by_role("checkbox", name=re.compile("^delivery")).check()
        page.get_by_label("With the chosen").select_option("Hold")
        page.get_by_role("button", name="Go on").click()
        page.get_by_text("1 delivery is on hold.").wait_for()
        page.get_by_role("link", name="Back to the queue").click()
        page.get_by_role("checkbox", name=re.compile("^delivery")).check()
        page.get_by_label("With the chosen").select_option("Release")
        page.get_by_role("button", name="Go on").click()
        page.get_by_text("1 delivery is released.").wait_for()
        window.open("/destinations/pacs")
        page.get_by_role("button", name="Release").click()
        page.get_by_role("button", name="Hold").wait_for()
        department.commit(uid)


def test_several_deliveries_are_changed_after_a_question_that_names_them(department: Department) -> None:
    with department.window("olga") as window:
        page = window.page
        window.open("/destinations/pacs")
        page.get_by_role("button", name="Hold").click()
        page.locator(".notice-warn").wait_for()
        uids = [department.send(series) for series in (3, 4)]
        for uid in uids:
            department.wait_for(uid, "pending")
        window.open("/queue")
        page.get_by_role("checkbox", name="all on this page").check()
        page.get_by_label("With the chosen").select_option("Send to another destination")
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("heading", name="Send to another destination: 2 deliveries?").wait_for()
        page.get_by_label("To").select_option("gone")
        page.get_by_label("Reason, kept in the audit").fill("try the other one")
        page.get_by_role("button", name="Send to another destination").click()
        page.get_by_text("2 deliveries are rerouted to gone.").wait_for()
        window.open("/destinations/pacs")
        page.get_by_role("button", name="Release").click()
        window.open("/queue?destination=gone")
        page.get_by_role("checkbox", name="all on this page").check()
        page.get_by_label("With the chosen").select_option("Cancel")
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text(re.compile("deliveries are cancelled")).wait_for()
    assert department.node.rows("SELECT DISTINCT state FROM delivery WHERE destination = 'gone'") == [("cancelled",)]


def test_an_echo_of_a_dead_destination_says_which_step_failed(department: Department) -> None:
    with department.window("olga") as window:
        page = window.page
        window.open("/destinations/gone")
        page.get_by_role("button", name="Echo").click()
        heading = page.get_by_role("heading", name="gone can't be sent to now")
        heading.wait_for()
        steps = page.locator("#steps .step").all_inner_texts()
        assert any("failed" in step and "tcp" in step for step in steps), steps
        assert any("not tried" in step and "association" in step for step in steps)
        # The page was not left, and the answer has the focus for those who can't see it appear.
        assert page.url.endswith("/destinations/gone")
        assert window.focused()["text"] == "gone can't be sent to now"
        window.open("/destinations/pacs")
        page.get_by_role("button", name="Echo").click()
        page.get_by_role("heading", name="pacs answers").wait_for()


def test_a_viewer_sees_no_patient_and_changes_nothing(department: Department) -> None:
    uid = department.send(5)
    department.wait_for(uid, "committing")
    bodies: list[str] = []
    with department.window("vera") as window:
        page = window.page
        page.on("response", lambda answer: bodies.append(answer.text() if "text" in str(answer.headers) else ""))
        window.open(f"/studies/of/{uid}")
        page.get_by_text("You need the right to see patient data").wait_for()
        for path in ("/", "/studies", "/queue?show=all", "/destinations/pacs"):
            window.open(path)
        assert page.get_by_role("button", name=re.compile("Hold|Go on|Echo|Release")).count() == 0
        # A known patient ID tells nothing either: it is looked for as a UID.
        window.open("/studies")
        page.get_by_label("UID, or hash of a patient or order").fill("P-5")
        page.get_by_role("button", name="Search").click()
        page.get_by_text("No study fits").wait_for()
        window.open("/users")
        page.get_by_role("heading", name="You may not do this").wait_for()
        # The browser says in its console that the answer was 403.
        assert [trouble for trouble in window.troubles if "403" not in trouble] == []
        window.troubles.clear()
    assert len(bodies) > 8
    assert not [body for body in bodies if PATIENT in body or "P-5</" in body]
    department.commit(uid)


def test_everything_is_done_by_keyboard_and_the_focus_is_seen(department: Department) -> None:
    with department.browser.window(department.url) as window:
        page = window.page
        window.open("/login")
        assert page.evaluate("document.activeElement.name") == "name"
        page.keyboard.type("olga")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORDS["olga"])
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Overview").wait_for()
        page.keyboard.press("Tab")
        assert window.focused()["text"] == "Skip to the content"
        assert window.focused()["shown"]
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        window.open("/destinations/gone")
        order = []
        for _ in range(20):
            page.keyboard.press("Tab")
            found = window.focused()
            assert found["shown"], found
            assert found["outlined"], found
            order.append(found["text"])
            if found["text"] == "Echo":
                break
        wanted = ["Skip to the content", "Overview", "Studies", "Queue", "Destinations", "Sign out", "Hold", "Echo"]
        assert [text for text in order if text in wanted] == wanted
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="gone can't be sent to now").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@requires_axe
def test_axe_finds_no_serious_fault(department: Department, scheme: str) -> None:
    with department.browser.window(department.url, color_scheme=scheme) as window:
        window.open("/login")
        found = {"/login": window.faults()}
        window.sign_in("boss", PASSWORDS["boss"])
        study = f"/studies/of/{ROOT}.1.1"
        for path in (*PAGES, study, "/nowhere"):
            window.open(path)
            found[path] = window.faults()
        assert {path: faults for path, faults in found.items() if faults} == {}
        assert [trouble for trouble in window.troubles if "404" not in trouble] == []
        window.troubles.clear()


def test_a_file_is_tested_against_the_routes_and_is_gone_then(department: Department) -> None:
    path = department.folder / "tested.dcm"
    radiograph(1, size=32).save_as(path, enforce_file_format=True)
    with department.window("olga") as window:
        page = window.page
        window.open("/routes")
        page.get_by_label("DICOM file").set_input_files(path)
        page.get_by_role("button", name="Test").click()
        page.get_by_role("heading", name="tested.dcm").wait_for()
        assert window.troubles == []
    assert list(department.node.data_dir.rglob("incoming/tmp*")) == []


def test_at_200_percent_no_page_scrolls_sideways(department: Department) -> None:
    # 1280 pixels at 200 %: what the page sees is a window of 640.
    with department.window("boss", viewport={"width": 640, "height": 400}, device_scale_factor=2) as window:
        wide = []
        for path in (*PAGES, f"/studies/of/{ROOT}.1.1"):
            window.open(path)
            if window.scrolls_sideways():
                wide.append(path)
        assert wide == []


def test_the_overview_refreshes_itself_and_every_form_works_without_scripts(department: Department) -> None:
    with (
        department.window("olga") as window,
        window.page.expect_response(
            lambda answer: answer.request.headers.get("x-poll") == "1", timeout=60_000
        ) as refreshed,
    ):
        window.page.get_by_role("heading", name="Overview").wait_for()
        assert refreshed.value.status == 200
    with department.window("olga", java_script_enabled=False) as window:
        page = window.page
        window.open("/destinations/gone")
        page.get_by_role("button", name="Echo").click()
        page.get_by_role("heading", name="gone can't be sent to now").wait_for()
        page.get_by_role("link", name="Queue", exact=True).click()
        page.get_by_label("State").select_option("everything")
        page.get_by_role("button", name="Filter").click()
        page.get_by_role("checkbox", name=re.compile("^delivery")).first.check()
        page.get_by_label("With the chosen").select_option("Cancel")
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("link", name="Back, nothing is changed").click()
        page.get_by_role("heading", name="Queue").wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()


def test_the_log_has_no_password_and_no_patient(department: Department) -> None:
    log = department.node.log()
    assert "The console's first user is 'admin'" in log
    assert "Console listens" in log
    for secret in (*PASSWORDS.values(), PATIENT):
        assert secret not in log
