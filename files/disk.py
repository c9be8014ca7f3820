"""Disks that are full or cannot be written to, whatever the error says that a library makes of it."""

from __future__ import annotations

import errno

#: No space, no quota left, a file too large for the file system, or a disk that is read only.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def disk_error(error: BaseException | None) -> OSError | None:
    """The error of the disk that an error is, or that it was raised while handling; None where there is none.

    PyTorch's zip writer, for one, ends a file that it could not write with a RuntimeError about positions in it.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        error = error.__cause__ or error.__context__
    return None
