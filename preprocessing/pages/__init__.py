"""The page of what preprocessing made: what `preprocessing/report.py` writes."""

from preprocessing.pages.report import make_report, summarize

__all__ = ["make_report", "summarize"]
