"""Images of one's own, of ImageNet or of CUB-200-2011; `image_lists` finds their classes."""

from dataclasses import replace

import numpy as np

from phasegrid.datasets import ImageFolderOptions
from phasegrid.datasets.coded import CodedDataset
from phasegrid.datasets.image_files import decode_images, digest_of_images, entry_of, find_images
from phasegrid.datasets.prepared import prepared
from phasegrid.datasets.preparing import prepare, raw_of, read_options
from phasegrid.datasets.text_files import require_digest
from phasegrid.keys import Json

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of each channel of ImageNet, of pixels in 0..1, as torchvision's networks were
trained with.
"""


def load(**args: Json) -> CodedDataset:
    """Load the images in `root`. `args` are the fields of `ImageFolderOptions`.

    Raises:
        DataError: if the folders are missing, do not fit, or hold other images than ``sha256``
            names.
    """
    options = read_options(ImageFolderOptions, args)
    found = find_images(options)
    if options.sha256:
        digest = digest_of_images(options, found)
        require_digest("image_folder", f"the images in {options.root}", digest, options.sha256)
    arrays = prepared(
        entry_of(options, found),
        lambda: found.paths,
        lambda _: decode_images(options, found),
    )
    raw = raw_of("image_folder", arrays, len(found.classes))
    if options.statistics == "imagenet":
        mean, std = (255 * np.array(values).reshape(3, 1, 1) for values in IMAGENET)
        raw = replace(raw, statistics=(mean, std), given=True)
    return prepare(raw, options)
