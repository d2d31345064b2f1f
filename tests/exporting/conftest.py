"""Networks that learnt something, made once for all files; one that needs other settings overrides them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.exporting.tiny_source import image_source, text_source
from tldeploy.exporting.source import Source


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return text_source(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return image_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="package", autouse=True)
def loaded_once() -> Iterator[None]:
    """Loading takes a process each time, and has tests of its own: here once is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tldeploy.measuring.loading.TURNS", 1)
        yield
