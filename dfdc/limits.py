"""How long the work on one file may take; light, so that a process that decodes needs no pool for it."""

# Ten minutes, and a second for each 10 KB. The slowest steps need a hundredth of it.
_LEAST_SECONDS = 600.0
_BYTES_A_SECOND = 10_000


def time_limit(size: int) -> float:
    """Seconds that the work on an item of `size` bytes may take, generously."""
    return _LEAST_SECONDS + size / _BYTES_A_SECOND
