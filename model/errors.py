"""What can go wrong in the model package.

ModelError
├── WeightsError        the weights file is missing, altered, or of another architecture
└── UnsupportedInput    the array given is not something that can be denoised
"""

from __future__ import annotations


class ModelError(Exception):
    """Base of all errors of this package."""


class WeightsError(ModelError):
    """Weights that cannot be trusted: missing, SHA-256 differs from the manifest, wrong shape."""


class UnsupportedInput(ModelError):
    """An array whose shape or type does not describe frames of grey values."""
