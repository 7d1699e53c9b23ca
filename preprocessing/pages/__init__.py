"""The preprocessing page, written by `preprocessing/report.py`."""

from preprocessing.pages.report import make_report, summarize

__all__ = ["make_report", "summarize"]
