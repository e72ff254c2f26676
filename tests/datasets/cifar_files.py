"""Write files as CIFAR's authors did: pickles of protocol 2 by the cPickle of Python 2."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_batch(path: Path, images: NDArray[Any], labels: Sequence[int], key: str) -> None:
    """Write images (N, 3072) of uint8 and their labels, whose list is called `key`."""
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    names = b"".join(_text(f"image_{index:05}.png") for index in range(len(labels)))
    path.write_bytes(
        b"\x80\x02}q\x01("
        + (_text("batch_label") + b"q\x02" + _text("training batch 1 of 5") + b"q\x03")
        + (_text(key) + b"q\x04]q\x05(" + numbers + b"e")
        + (_text("data") + b"q\x06" + _array(images))
        + (_text("filenames") + b"q\x0c]q\r(" + names + b"eu.")
    )


def _array(images: NDArray[np.uint8]) -> bytes:
    rows, columns = images.shape
    data = images.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t"
        + (b"(K\x01M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86")
        + b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + (b"\x89T" + struct.pack("<I", len(data)) + data + b"tb")
    )


def _text(value: str) -> bytes:
    return b"U" + bytes([len(value)]) + value.encode()
