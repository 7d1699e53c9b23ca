"""The generated dataset, and the pictures of the README."""
