"""Image quality figures, defined once in the model package."""

from __future__ import annotations

from model.metrics import data_range, mse, psnr, ssim

__all__ = ["data_range", "mse", "psnr", "ssim"]
