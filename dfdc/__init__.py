"""Shared code: paths, video reading, face detection, images, scores. Imports no other package of the project."""
