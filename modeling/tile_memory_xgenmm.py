"""Memory of tiles that is used again: the system's handing out of large results anew takes as long as filling them.

One block is kept for a process, up to a size; it is lent out again only when no array or tensor shares it any more.
"""

import weakref

import numpy as np


MOST_BYTES = 256 * 2**20
# Taken and put back by single operations on the list, so that threads need no lock.
_free: list[np.ndarray] = []


def borrow(count: int) -> np.ndarray:
    """Returns memory for so many float32 values, with anything in it.

    Args:
        count: Number of values.

    Returns:
        (count,) values; the memory is kept for another call once this array and all that share it are gone.
    """
    try:
        memory = _free.pop()
    except IndexError:
        memory = None
    if memory is None or memory.size < count:
        memory = np.empty(count, dtype=np.float32)
    # Views of this array hold it and not its memory, because that is given as a memoryview: it lives as long as they.
    lent = np.frombuffer(memory.data, dtype=np.float32, count=count)
    if memory.nbytes <= MOST_BYTES:
        weakref.finalize(lent, _give_back, memory).atexit = False
    return lent


def _give_back(memory: np.ndarray) -> None:
    if not _free:
        _free.append(memory)
