"""The pages of verdicts: what `predict_folder.py --report DIR` writes."""
