"""Memory of the CPU that is used again instead of given back."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep the memory of freed tensors, for the tensors that come next: whether it can (glibc).

    By default each large tensor is fresh memory, which the kernel clears page by page as it is first written. On a CPU
    that takes longer than the arithmetic of a convolutional network (`python -m benchmarks.host_memory`), and it is a
    part of the time in which a JPEG becomes a tensor, in loader processes too, which inherit the setting. Peak memory
    stays about what it was; what is freed stays with the process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, another system
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, LARGEST))
