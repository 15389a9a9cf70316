"""The count of skips that continuous integration relies on."""

from __future__ import annotations

import pytest
import skips

REPORT = """<testsuites><testsuite>
<testcase name="a"/>
<testcase name="b"><skipped message="{reason}"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("reason", "present", "code"),
    [
        ("needs ../shared/data (real scans)", True, 1),
        ("needs ../shared/data (real scans)", False, 0),
        ("needs a GPU", True, 0),
    ],
)
def test_skips_are_counted_and_judged(tmp_path, capsys, reason, present, code):
    report = tmp_path / "junit.xml"
    report.write_text(REPORT.format(reason=reason))
    shared = tmp_path / ("." if present else "absent")
    assert skips.main(str(report), str(shared)) == code
    said = capsys.readouterr().out
    assert "2 tests, 1 skipped" in said
    assert f"1 x {reason}" in said


def test_shared_data_tests_skip_with_that_reason():
    """The words that skips.py looks for are those the fixture gives."""
    from pathlib import Path

    text = (Path(__file__).parent / "conftest.py").read_text()
    assert skips.SHARED_REASON in text
