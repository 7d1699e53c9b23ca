"""Networks, checkpoint files, exported models, and the ensemble that runs them."""
