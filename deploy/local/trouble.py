"""What can go wrong on somebody's machine, told in one plain line."""

import errno


class Trouble(Exception):
    """The local stack cannot go on. The text is one line for a person: what is wrong, and what to do about it."""


def is_disk_full(error: OSError) -> bool:
    """Whether a failed write met a full disk or a used-up quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


DISK_FULL = "the disk is full: free about 1 GB (the local stack writes below .local/ and, as root, /var/tmp), then start again"
