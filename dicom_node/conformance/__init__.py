"""The DICOM Conformance Statement (PS3.2), made from the tables that the node works by and from its settings."""

from dicom_node.conformance.statement import render_statement

__all__ = ["render_statement"]
