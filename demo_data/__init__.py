"""The demo dataset, and the images of the README."""
