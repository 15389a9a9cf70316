"""Count skipped tests of a JUnit file; fail if one bound to existing shared data was skipped."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

SHARED_REASON = "needs ../shared"


def main(report: str, shared: str) -> int:
    cases = list(ET.parse(report).getroot().iter("testcase"))
    skips = [s.get("message") or "" for case in cases for s in case.iter("skipped")]
    print(f"{len(cases)} tests, {len(skips)} skipped")
    for reason, count in Counter(skips).items():
        print(f"  {count} x {reason}")
    if Path(shared).exists() and any(SHARED_REASON in reason for reason in skips):
        print("error: shared data exist, yet tests bound to them were skipped", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
