"""Matplotlib, in whatever shell it is started."""

from __future__ import annotations

import os

# A notebook's own backend, which the commands that it starts inherit, can't be loaded by them.
if os.environ.get("MPLBACKEND", "").startswith("module://"):
    os.environ["MPLBACKEND"] = "agg"

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["Axes", "Figure", "MaxNLocator", "plt"]
