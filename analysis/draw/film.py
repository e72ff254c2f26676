"""Write figures as the frames of an animation."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

FRAMES_PER_SECOND = 1
DPI = 100

Pixels = npt.NDArray[np.uint8]


def write_film(frames: Sequence[Figure], stem: Path) -> list[Path]:
    """Write frames as ``STEM.gif`` and, where ffmpeg is installed, ``STEM.mp4``; return the files.
    All frames have the size of the largest.
    """
    pictures = [_pixels(frame) for frame in frames]
    height, width = (max(one.shape[axis] for one in pictures) // 2 * 2 + 2 for axis in (0, 1))
    kinds: dict[str, type[PillowWriter | FFMpegWriter]] = {"gif": PillowWriter}
    if FFMpegWriter.isAvailable():
        kinds["mp4"] = FFMpegWriter
    paths = []
    for ending, kind in kinds.items():
        paths.append(stem.with_name(f"{stem.name}.{ending}"))
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        FigureCanvasAgg(figure)
        writer = kind(fps=FRAMES_PER_SECOND)
        with writer.saving(figure, str(paths[-1]), DPI):
            for picture in pictures:
                figure.clear()
                figure.figimage(picture, 0, height - picture.shape[0])
                writer.grab_frame()
    return paths


def _pixels(figure: Figure) -> Pixels:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DPI)
        file.seek(0)
        return np.asarray(imread(file) * 255, dtype=np.uint8)
