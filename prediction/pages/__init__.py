"""The pages of verdicts: what `predict_folder.py --report DIR` writes."""

from prediction.pages.report import make_report

__all__ = ["make_report"]
