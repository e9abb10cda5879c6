def readable_by(fd: int, until_ns: int) -> bool:
    """Whether a file descriptor can be read, or has failed, before `until_ns` of the monotonic clock.

    Watches it awake, because waking up a sleeping processor takes longer than a short wait. Holds no GIL, and yields
    the core to any thread that wants it.
    """
