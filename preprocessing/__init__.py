"""From DATA_ROOT to training data: one script is one step with one output folder. See dfdc/layout.py."""
