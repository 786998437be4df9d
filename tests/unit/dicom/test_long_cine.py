"""A cine of 500 frames is enhanced frame by frame: memory is bounded whatever their number."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from dicom_node.instance_store import InstanceStore, StoredObject
from dicom_node.part10 import open_part10
from dicom_node.pixel_encoding import frame_writer
from dicom_node.pixels import PixelSpec, frame_of, iter_frames, read_spec
from tests.support.objects import enhanced_xa_dataset

FRAMES, SIZE = 500, 512
BOUND_MB = 60
"""What resident memory may grow by; the pixels are 262 MB. Measured: 13 uncompressed, 6 RLE, 5 JPEG-LS."""

PROGRAM = """
import json, sys, threading
from pathlib import Path

import psutil
import pydicom

from dicom_node.instance_store import InstanceStore, StoredObject
from tests.support.enhancing import StandInDenoiser, enhance_stored

folder = Path(sys.argv[1])
short, cine = (StoredObject(**json.loads(argument)) for argument in sys.argv[2:])
denoiser, process, done = StandInDenoiser(), psutil.Process(), threading.Event()

def enhance(stored, denoiser):
    header = pydicom.dcmread(InstanceStore(folder).path(stored.key), stop_before_pixels=True)
    return enhance_stored(header, stored, folder, denoiser)

# Libraries and codecs are loaded when a few frames went through.
enhance(short, StandInDenoiser())
before = peak = process.memory_info().rss

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, process.memory_info().rss)

watcher = threading.Thread(target=watch)
watcher.start()
record, _, path = enhance(cine, denoiser)
done.set()
watcher.join()
print(json.dumps({
    "decision": record.decision.value, "reason": record.reason, "path": str(path), "growth": peak - before,
    "frames": denoiser.frames,
}))
"""


def store_cine(store: InstanceStore, syntax: UID, frames: int) -> StoredObject:
    """Store an Enhanced XA cine, written frame by frame; the first value of each frame is its number plus 100."""
    ds = enhanced_xa_dataset(np.zeros((frames, 1, 1), np.uint16), bits_stored=12, Rows=SIZE, Columns=SIZE)
    spec = PixelSpec(**{**vars(read_spec(ds)), "transfer_syntax_uid": syntax})
    rows, columns = np.indices((SIZE, SIZE))
    scene = (1500 + 800 * np.sin(rows / 40) * np.cos(columns / 50)).astype(np.uint16)
    with frame_writer(spec, folder=store.scratch) as writer:
        for index in range(frames):
            cells = np.roll(scene, index, axis=1)
            cells[0, 0] = index + 100
            writer.add(frame_of(cells, index, spec), cells)
        encoded = writer.finish()
        assert encoded.transfer_syntax_uid == syntax
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encoded.value
        ds["PixelData"].VR = encoded.vr
        ds["PixelData"].is_undefined_length = syntax.is_encapsulated
        return store.save(ds)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless], ids=lambda s: s.name)
def test_a_cine_is_enhanced_frame_by_frame_in_bounded_memory(tmp_path: Path, syntax: UID) -> None:
    store = InstanceStore(tmp_path)
    stored = [store_cine(store, syntax, frames) for frames in (3, FRAMES)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), *(json.dumps(vars(one)) for one in stored)],
        capture_output=True,
        timeout=250,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["decision"] == "enhanced", found["reason"]
    assert found["frames"] == [1] * FRAMES
    assert found["growth"] < BOUND_MB * 10**6
    with open_part10(Path(found["path"])) as part10:
        assert part10.transfer_syntax_uid == syntax
        first_values = [int(frame.values[0, 0]) for frame in iter_frames(part10, read_spec(part10.header))]
    assert first_values == [index + 99 for index in range(FRAMES)]
