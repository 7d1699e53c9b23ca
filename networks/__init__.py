"""Networks, checkpoint files, exported forms, and what runs them."""
