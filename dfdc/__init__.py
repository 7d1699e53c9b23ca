"""Shared code: paths, video reading, face detection, images, scores. Imports no other package of the project."""

import os
from importlib.util import find_spec

from dfdc.limits import PHOTO_PIXELS

if find_spec("xxhash") is None:
    raise ModuleNotFoundError("the packages are missing in this Python; run ./setup.sh, then source .venv/bin/activate")

# Read when OpenCV is loaded. It reads the crops, which may have come with a downloaded dataset.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(PHOTO_PIXELS))
