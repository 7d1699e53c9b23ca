"""The trainer; train_classifier.py is the only entry."""
