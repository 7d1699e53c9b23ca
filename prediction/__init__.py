"""Verdicts on videos: what predict_folder.py is made of."""
