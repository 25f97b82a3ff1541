"""How many threads the linear algebra may use.

Matrices of a few hundred rows are finished faster than two threads can agree on who does what, and
on a busy machine their waiting costs a hundred times the work (measured: 0.5 s became 31 s for a
rank curve at 64 channels with four other processes on two cores). One thread also makes results
independent of the number of cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

# Features (C * K) from which a second thread pays: 256 channels with a 3x3 kernel.
_LARGE = 2304


@contextlib.contextmanager
def blas_threads_for(features: int) -> Iterator[None]:
    """One BLAS thread inside the block, or all of them if matrices have ``features`` or more."""
    if features >= _LARGE:
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield
