from __future__ import annotations

import pytest

from tldeploy.progress import progress


def test_lines_tell_how_long_the_rest_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = [0.0]
    monkeypatch.setattr("tldeploy.progress.time.monotonic", lambda: now_s[0])
    with progress("bench", 100) as advance:
        for steps, took_s in ((2, 6.0), (48, 6.0), (50, 1.0)):
            now_s[0] += took_s
            advance(steps)
    assert capsys.readouterr().err.splitlines() == [
        "bench: 2/100 (2%), about 5 min left",
        "bench: 50/100 (50%), about 12 s left",
        "bench: 100 in 13.0 s",
    ]
