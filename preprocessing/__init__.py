"""From DATA_ROOT to training data: each script is one step with one output. See dfdc/layout.py."""
