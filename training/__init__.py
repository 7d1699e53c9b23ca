"""The trainer. The entry points are train_classifier.py and average_checkpoints.py."""
