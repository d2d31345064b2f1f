"""A running server looks at its repository: what was published while nobody could tell it is taken now.

That is so when a publisher was killed halfway, when the server was just starting, or when the publisher runs on another
machine that shares the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tldeploy import artifacts
from tldeploy.errors import StorageError, TldeployError
from tldeploy.triton import config
from tldeploy.triton.canary import parts
from tldeploy.triton.config import CONFIG_FILE
from tldeploy.triton.keeping import check_served
from tldeploy.triton.repository import Publication, live_version
from tldeploy.triton.running import Running, asked_by
from tldeploy.triton.transaction import alone_with


class Follower:
    """server: the one that follows its repository. log: is told what was done. published: what it serves already."""

    def __init__(self, server: Running, log: Callable[[str], None], published: Sequence[Publication]) -> None:
        self._server, self._log = server, log
        self._repository = Path(server.repository)
        self._refused: set[tuple[str, int, parts.Canary | None]] = set()
        self._known: set[str] = set()
        self._served = {publication.name: publication.version for publication in published}

    def look(self) -> list[str]:
        """Take what is live and not served so yet; the names of those that were taken.

        Nothing is done while another process publishes: it tells the server itself.
        """
        asked = "look for new versions"
        try:
            with alone_with(self._repository, asked, wait_s=0), self._server.hold(asked, wait_s=0):
                names = {path.parent.parent.name for path in self._repository.glob(f"*/*/{artifacts.MANIFEST}")}
                # A canary, which has a dot in its name, comes before what asks it.
                taken = [name for name in sorted(names, key=lambda name: ("." not in name, name)) if self._taken(name)]
                self._forget_what_is_gone()
                return taken
        except StorageError:
            return []
        except (TldeployError, OSError) as error:
            self._log(f"new versions cannot be looked for: {error}")
            return []

    def _taken(self, name: str) -> bool:
        version = live_version(self._repository / name)
        if version is None:
            return False
        canary = parts.running(self._repository, name)
        ensembles = [*([canary.stable_model] if canary else []), name]
        described = [config.read(self._repository / ensemble / CONFIG_FILE) for ensemble in ensembles]
        missing = [each for each in described if not self._server.serves(each)]
        if not missing:
            self._note(name, version)  # a publisher told the server
        if not missing or (name, version, canary) in self._refused:
            return False
        self._log(f"{name}: version {version} is live in {self._repository}, and is loaded")
        on_trial: list[str] = []
        try:
            check_served(self._repository, name)
            for each in missing:
                self._server.try_out(asked_by(each), version, [self._repository])
                on_trial = asked_by(each)
                self._server.settle(on_trial)
                on_trial = []
        except (TldeployError, OSError) as error:
            # Triton holds an ensemble whose steps are loaded again against its file, which is that of the new version:
            # going back from here would lose requests, and those on trial answer right.
            outcome = "it is served on trial" if on_trial else "what was served stays"
            if not on_trial:
                self._server.end_trial([model for each in missing for model in asked_by(each)])
            self._log(f"{name}: {outcome}: {error}")
            self._refused.add((name, version, canary))
            return False
        self._note(name, version)
        return True

    def _note(self, name: str, version: int) -> None:
        if self._served.get(name) != version:
            self._served[name] = version
            self._log(f"tldeploy: {name}, version {version}, is served now")

    def _forget_what_is_gone(self) -> None:
        """Unload what another machine took away, unless something that was refused might still ask it."""
        there = {path.parent.name for path in self._repository.glob(f"*/{CONFIG_FILE}")}
        if not self._refused:
            self._server.forget(sorted(self._known - there, reverse=True))
        self._known = there
        self._served = {name: version for name, version in self._served.items() if name in there}
