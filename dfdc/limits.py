"""Time limit for the work on one file. Separate from workers.py, so that a decoding process need not import it."""

# Ten minutes plus one second per 10 KB. The slowest steps need a hundredth of that.
_LEAST_SECONDS = 600.0
_BYTES_A_SECOND = 10_000


def time_limit(size: int) -> float:
    """Generous time limit in seconds for an item of `size` bytes."""
    return _LEAST_SECONDS + size / _BYTES_A_SECOND
