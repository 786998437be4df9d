"""The workflow engine forgets what ended long ago, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# In a process of its own: the engine is one for each.
_SCRIPT = """
import json, sys, time
from dbos import DBOS, SetWorkflowID
from dicom_node import engine_history
DBOS(config={"name": "node", "system_database_url": sys.argv[1], "application_version": "1", "executor_id": "x"})

@DBOS.workflow()
def good(): return 1

@DBOS.workflow()
def bad(): raise ValueError("x")

@DBOS.workflow()
def waits(): DBOS.recv("never", timeout_seconds=3600)

DBOS.launch()
for n in range(7):
    with SetWorkflowID(f"good:{n}"):
        good()
with SetWorkflowID("bad:0"):
    try: bad()
    except ValueError: pass
with SetWorkflowID("waits:0"):
    DBOS.start_workflow(waits)
engine_history.BATCH = 3
found = {"soon": engine_history.forget_ended(time.time() + engine_history.KEEP_S - 60)}
found["late"] = engine_history.forget_ended(time.time() + engine_history.KEEP_S + 60)
found["left"] = [one.workflow_id for one in DBOS.list_workflows()]
found["again"] = engine_history.forget_ended(time.time() + engine_history.KEEP_S + 60)
print(json.dumps(found), flush=True)
import os
os._exit(0)
"""


def test_what_ended_long_ago_is_forgotten_and_what_is_in_work_is_not(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'workflows.sqlite'}"
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, url], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(result.stdout.splitlines()[-1]) == {"soon": 0, "late": 8, "left": ["waits:0"], "again": 0}
