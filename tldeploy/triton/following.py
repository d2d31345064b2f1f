"""A running server looks at its repository: what was published while nobody could tell it is taken now.

That is so when a publisher was killed halfway, when the server was just starting, or when the publisher runs on another
machine that shares the folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tldeploy import artifacts
from tldeploy.errors import ServerError, StorageError, TldeployError
from tldeploy.triton.keeping import check_served
from tldeploy.triton.locks import locked
from tldeploy.triton.repository import live_version
from tldeploy.triton.running import Running
from tldeploy.triton.transaction import alone_with


class Follower:
    """server: the one that follows its repository. log: is told what was done."""

    def __init__(self, server: Running, log: Callable[[str], None]) -> None:
        self._server, self._log = server, log
        self._refused: set[tuple[str, int]] = set()

    def look(self) -> list[str]:
        """Take every live version that is not served yet; the names of those that were taken.

        Nothing is done while another process publishes: it tells the server itself.
        """
        repository, asked = Path(self._server.repository), "look for new versions"
        try:
            with alone_with(repository, asked, wait_s=0), locked(self._server.lock, asked, wait_s=0):
                names = sorted({path.parent.parent.name for path in repository.glob(f"*/*/{artifacts.MANIFEST}")})
                return [name for name in names if self._taken(repository, name)]
        except StorageError:
            return []
        except (TldeployError, OSError) as error:
            self._log(f"new versions cannot be looked for: {error}")
            return []

    def _taken(self, repository: Path, name: str) -> bool:
        version = live_version(repository / name)
        if version is None or (name, version) in self._refused or self._server.serves(name, version):
            return False
        self._log(f"{name}: version {version} is live in {repository}, and is loaded")
        try:
            check_served(repository, name)
            models = artifacts.read(repository / name / str(version), "deploy").details["models"]
            try:
                self._server.try_out(models, version, [repository])
            except ServerError:
                self._server.end_trial(models)
                raise
            self._server.settle(models)
        except (TldeployError, OSError) as error:
            self._log(f"{name}: what was served stays: {error}")
            self._refused.add((name, version))
            return False
        return True
