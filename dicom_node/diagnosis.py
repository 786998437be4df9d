"""What `doctor` looks at: this machine's port, folder, model and ledger, then every destination, step by step."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dicom_node.certificates import Expiry
from dicom_node.destinations.base import ProbeStep, StepState

Check = Callable[[], ProbeStep]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The steps that concern one subject: this node, or a destination by its name."""

    subject: str
    steps: tuple[ProbeStep, ...]

    @property
    def has_failed(self) -> bool:
        """Whether any step failed; warnings don't count."""
        return any(step.state is StepState.FAILED for step in self.steps)


class Probed(Protocol):
    """A peer that can be tried out: a destination, or one of Storage Commitment."""

    @property
    def name(self) -> str:
        """What it is called."""

    def probe(self) -> list[ProbeStep]:
        """Try it out, step by step; nothing is stored."""


def diagnose(checks: Iterable[Check], peers: Iterable[Probed]) -> Iterator[Diagnosis]:
    """Yield the diagnosis of this node, then that of each peer, each as soon as it is made."""
    yield Diagnosis(subject="node", steps=tuple(check() for check in checks))
    for peer in peers:
        yield Diagnosis(subject=peer.name, steps=tuple(peer.probe()))


def as_json(diagnoses: Iterable[Diagnosis]) -> dict[str, object]:
    """Return the object that `dicom-node doctor --json` prints."""
    found = list(diagnoses)
    return {
        "ok": not any(diagnosis.has_failed for diagnosis in found),
        "subjects": {
            diagnosis.subject: [
                {"step": s.name, "state": s.state.value, "sentence": s.sentence, "seconds": round(s.seconds, 3)}
                for s in diagnosis.steps
            ]
            for diagnosis in found
        },
    }


def check_port(bind: str, port: int) -> ProbeStep:
    """Tell whether the receiver could listen; a port in use is a warning, as it may be this node that runs."""
    begin = time.perf_counter()
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the receiver does: ports of connections just closed don't count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((bind, port))
    except OSError as error:
        state, sentence = _explain_bind(bind, port, error)
    else:
        state, sentence = StepState.OK, f"port {port} of {bind} is free"
    return ProbeStep(name="port", state=state, sentence=sentence, seconds=time.perf_counter() - begin)


def _explain_bind(bind: str, port: int, error: OSError) -> tuple[StepState, str]:
    match error.errno:
        case errno.EADDRINUSE:
            advice = f'fine if this node runs; if not, "ss -ltnp sport = :{port}" shows which program has it'
            return StepState.WARNING, f"port {port} is in use: {advice}"
        case errno.EACCES:
            return StepState.FAILED, f"port {port} needs privileges; take one above 1023, such as 11112"
        case errno.EADDRNOTAVAIL:
            return StepState.FAILED, f"{bind} is no address of this machine; correct bind in [node], 0.0.0.0 means all"
        case _:
            return StepState.FAILED, f"port {port} of {bind} can't be opened: {error.strerror or error}"


def check_certificate(found: Expiry, warn_days: int) -> ProbeStep:
    """Tell how long a certificate, or a revocation list, of the settings still holds."""
    name = f"certificate {found.setting}"
    if found.problem:
        what = (
            "every peer is refused until a valid one is there"
            if found.what == "crl"
            else "peers refuse it until it is renewed"
        )
        sentence = f"{found.sentence or found.path + ': ' + found.problem}; {what}"
        return ProbeStep(name=name, state=StepState.FAILED, sentence=sentence)
    is_soon = found.ends_soon(warn_days)
    advice = "; put the next one in its place" if found.what == "crl" else "; renew it"
    state = StepState.WARNING if is_soon else StepState.OK
    return ProbeStep(name=name, state=state, sentence=found.sentence + (advice if is_soon else ""))


def check_data_dir(data_dir: Path) -> ProbeStep:
    """Tell whether files can be written durably to the data folder; it is made if it does not exist."""
    begin = time.perf_counter()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=data_dir, prefix=".doctor-") as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        state = StepState.FAILED
        sentence = f"{data_dir} can't be written: {error.strerror or error}; give it to the user that runs the node"
    else:
        state, sentence = StepState.OK, f"{data_dir} can be written"
    return ProbeStep(name="data folder", state=state, sentence=sentence, seconds=time.perf_counter() - begin)


def check_free_space(data_dir: Path, min_free_mb: int) -> ProbeStep:
    """Tell whether the data folder's disk is above the watermark under which associations are refused."""
    existing = next((folder for folder in (data_dir, *data_dir.absolute().parents) if folder.exists()), Path("/"))
    try:
        free_mb = shutil.disk_usage(existing).free // 1_000_000
    except OSError as error:
        sentence = f"free space of {existing} is not known: {error.strerror or error}"
        return ProbeStep(name="free space", state=StepState.FAILED, sentence=sentence)
    if free_mb < min_free_mb:
        sentence = f"{free_mb} MB free, below min_free_mb = {min_free_mb}: associations are refused; make room"
        return ProbeStep(name="free space", state=StepState.FAILED, sentence=sentence)
    state = StepState.WARNING if free_mb < 2 * min_free_mb else StepState.OK
    return ProbeStep(name="free space", state=state, sentence=f"{free_mb} MB free, {min_free_mb} MB are the least")


def check_that(
    name: str, action: Callable[[], str], *, errors: tuple[type[Exception], ...], advice: str = ""
) -> ProbeStep:
    """Run `action` as a step: what it returns is the sentence, and one of `errors` means failed.

    Parameters
    ----------
    name
        Of the step, such as "model" or "ledger".
    action
        For example verifies the weights and returns their name and digest.
    errors
        What it raises if things are not in order.
    advice
        What to do then.
    """
    begin = time.perf_counter()
    try:
        state, sentence = StepState.OK, action()
    except errors as error:
        said = str(error) or type(error).__name__
        state, sentence = StepState.FAILED, f"{said}; {advice}" if advice else said
    return ProbeStep(name=name, state=state, sentence=sentence, seconds=time.perf_counter() - begin)


SYMBOLS: Mapping[StepState, str] = {
    StepState.OK: "ok",
    StepState.WARNING: "warning",
    StepState.FAILED: "FAILED",
    StepState.SKIPPED: "skipped",
}


def render(diagnosis: Diagnosis) -> str:
    """Return a diagnosis as lines of text: state, step, sentence."""
    width = max((len(step.name) for step in diagnosis.steps), default=0)
    lines = [f"{SYMBOLS[step.state]:>9}  {step.name:<{width}}  {step.sentence}" for step in diagnosis.steps]
    return "\n".join([diagnosis.subject, *lines])
