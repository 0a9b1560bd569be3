"""A test that needs a program is skipped without it, and fails in CI."""

import pytest
from programs import needs


@pytest.fixture(autouse=True)
def sought(monkeypatch, tmp_path):
    """Where a program `one` is, and nothing else but what a system has in its own folders."""
    (tmp_path / "one").write_text("#!/bin/sh\n")
    (tmp_path / "one").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VANISHING_EVERY_TEST", raising=False)


def test_a_program_and_a_package_are_found(monkeypatch):
    monkeypatch.setenv("VANISHING_EVERY_TEST", "1")
    needs("one", "pytest")


@pytest.mark.parametrize(
    ("variable", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)], ids=["skipped", "failed"]
)
def test_what_is_missing_is_named(monkeypatch, variable, outcome):
    monkeypatch.setenv("VANISHING_EVERY_TEST", variable)
    with pytest.raises(outcome, match=r"^not installed: no_such_thing, nor_this$"):
        needs("no_such_thing", "one", "nor_this")
