"""Shared code: paths, video reading, face detection, images, scores. Imports no other package of the project."""

from importlib.util import find_spec

if find_spec("xxhash") is None:
    raise ModuleNotFoundError("the packages are missing in this Python; run ./setup.sh, then source .venv/bin/activate")
