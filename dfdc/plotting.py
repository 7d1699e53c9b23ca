"""Matplotlib with a backend that works in any shell."""

from __future__ import annotations

import os

# Commands started from a notebook inherit its backend, but can't load it.
if os.environ.get("MPLBACKEND", "").startswith("module://"):
    os.environ["MPLBACKEND"] = "agg"

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

plt.rcParams["text.parse_math"] = False  # a name may hold dollars

__all__ = ["Axes", "Figure", "MaxNLocator", "plt"]
