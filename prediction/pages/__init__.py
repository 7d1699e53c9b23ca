"""The HTML pages of verdicts, written by `predict_folder.py --report DIR`."""
