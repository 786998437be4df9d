"""What a run tells while it goes: lines of JSON, TensorBoard, a picture of samples."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from training.samples import write_sheet


class Journal:
    """Writes ``log.jsonl``, ``tensorboard/`` and ``samples/`` in the folder of a run.

    Parameters
    ----------
    folder
        Of the run.
    first_step
        Where the run goes on; what TensorBoard has beyond it is from before a kill, and hidden.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add points to the curves of TensorBoard."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def validation(self, facts: dict[str, Any], gains_db: dict[str, float], sheet: NDArray[np.uint8]) -> None:
        """Write one validation: a line of the log, the gains as curves, the picture."""
        step = int(facts["step"])
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
        self.scalars(step, {f"gain_db/{name}": gain for name, gain in gains_db.items()})
        self.scalars(step, {"gain_db/mean": facts["validation_gain_db"]})
        self._board.add_image("noisy, denoised, target, removed", sheet[None], step)
        self._board.flush()
        write_sheet(sheet, self._folder / "samples" / f"step_{step:07d}.png")

    def close(self) -> None:
        """Write what is still in memory."""
        self._board.close()


def forecast(steps: int, seconds: float, pixels: int, remaining_s: float) -> str:
    """Return in one sentence how long the run will still take and how much it will see."""
    end = time.strftime("%H:%M", time.localtime(time.time() + remaining_s))
    rate = steps / seconds
    seen = pixels / seconds * remaining_s / 1e9
    return (
        f"{rate:.2f} steps per second: {_duration(remaining_s)} to go, until {end}, "
        f"about {rate * remaining_s:.0f} steps and {seen:.2f} gigapixels"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else "1 min"
