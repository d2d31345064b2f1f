"""Memory that a client and a server on the same machine share: tensors are put there instead of being sent.

A region is made below /dev/shm, the server is told of it, and its name is removed there at once: both have it mapped by
then. So a client that is killed leaves nothing in /dev/shm; the server keeps what it mapped until it ends itself.

A region serves one request at a time, is used again by the next of its thread, and is given back when a larger one is
needed, when a request fails, and when the client closes. What the server still uses then is given back later.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import ServerError, StorageError

SHARED = Path("/dev/shm")
SMALLEST_BYTES = 1 << 16
# Triton may refuse to let go of a region for a moment after its answer, and does while a request given up on runs.
IN_USE = "currently in use"
RELEASE_WITHIN_S = 0.2
RELEASE_EVERY_S = 0.01

Ask = Callable[..., Any]


class Region:
    """A piece of memory with a name. Raises StorageError when the machine has not so much of it to share."""

    def __init__(self, size_bytes: int) -> None:
        self.name, self.size_bytes = f"tldeploy-client-{os.getpid()}-{uuid.uuid4().hex[:12]}", size_bytes
        try:
            handle = os.open(SHARED / self.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                # Memory that is only promised would kill the process when it is written to and there is none.
                os.posix_fallocate(handle, 0, size_bytes)
                self._map = mmap.mmap(handle, size_bytes)
            finally:
                os.close(handle)
        except OSError as error:
            self.unlink()
            found = f"{SHARED} does not give {size_bytes} bytes ({error.strerror})"
            fix = "free some of it (in Docker, --shm-size makes it larger), or ask for fewer rows at a time"
            raise StorageError("share memory with the server", found, fix) from error

    def unlink(self) -> None:
        (SHARED / self.name).unlink(missing_ok=True)

    def close(self) -> None:
        self._map.close()

    def write(self, offset: int, content: memoryview) -> None:
        self._map[offset : offset + content.nbytes] = content

    def read(self, dtype: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
        """A copy of the array at the region's start."""
        count = int(np.prod(shape))
        return np.frombuffer(self._map[: count * dtype.itemsize], dtype).reshape(shape)


class SharedMemory:
    """The regions of a client: one for each of its threads, and those that the server has not let go of yet.

    ask: calls a method of the server, of that name and with those arguments, on the calling thread's connection.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._local = threading.local()
        self._held: set[Region] = set()
        self._left: set[Region] = set()
        self._lock = threading.Lock()

    @contextmanager
    def region(self, size_bytes: int) -> Iterator[Region]:
        """This thread's region, of `size_bytes` at least.

        A region with which a request failed is given back: the server may still write its answer there.

        Raises ServerError when the server does not share memory with us, StorageError when there is none to share.
        """
        region: Region | None = getattr(self._local, "region", None)
        if region is None or region.size_bytes < size_bytes:
            self._give_back(region)
            region = self._local.region = self._registered(size_bytes)
        try:
            yield region
        except BaseException:
            self._give_back(region)
            raise

    def close(self) -> None:
        """Give back the regions of all threads, and those that the server held on to."""
        with self._lock:
            self._left |= self._held
            self._held.clear()
        self._retry(RELEASE_WITHIN_S)
        with self._lock:
            while self._left:
                self._left.pop().close()
        self._local = threading.local()

    def _registered(self, size_bytes: int) -> Region:
        self._retry(0)
        region = Region(max(SMALLEST_BYTES, 1 << (size_bytes - 1).bit_length()))
        try:
            self._ask("register_system_shared_memory", region.name, f"/{region.name}", region.size_bytes)
        except BaseException:
            region.close()
            raise
        finally:
            region.unlink()
        with self._lock:
            self._held.add(region)
        return region

    def _give_back(self, region: Region | None) -> None:
        self._local.region = None
        if region is not None:
            with self._lock:
                self._held.discard(region)
                self._left.add(region)
            self._retry(RELEASE_WITHIN_S)

    def _retry(self, within_s: float) -> None:
        """Give back what is left, as far as the server lets go of it within that time."""
        deadline = time.monotonic() + within_s
        with self._lock:
            left = list(self._left)
        for region in left:
            try:
                released = self._release(region, deadline)
            except ServerError:
                return  # nobody answers
            if released:
                with self._lock:
                    self._left.discard(region)
                region.close()

    def _release(self, region: Region, deadline: float) -> bool:
        """Let the server forget a region; False when it goes on using it. Raises ServerError when nobody answers."""
        while True:
            try:
                self._ask("unregister_system_shared_memory", region.name)
            except ServerError as error:
                if IN_USE not in error.found:
                    raise
            else:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(RELEASE_EVERY_S)
