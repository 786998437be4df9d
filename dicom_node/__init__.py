"""The DICOM node: receives low-dose X-ray studies, has them denoised, and delivers them to the PACS."""

__version__ = "0.1.0"
