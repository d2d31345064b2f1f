"""Networks that learnt something, made once for all files; one that needs other settings overrides them."""

from __future__ import annotations

import pytest

from tests.exporting.tiny_source import image_source, text_source
from tldeploy.exporting.source import Source


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return text_source(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return image_source(tmp_path_factory.mktemp("images"))
