"""DICOM audit messages (PS3.15 A.5, IHE ATNA): who did what with which study, in a chained file and at a syslog server.

Whoever does something that is to be audited says `record(...)` with one of the events of `dicom_node.audit.events`;
where audit is off nothing happens.
"""

from __future__ import annotations

from dicom_node.audit.recorder import audited, is_on, record

__all__ = ["audited", "is_on", "record"]
