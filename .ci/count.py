"""Fails unless the namespace tests ran: a suite that skips what matters must not look green."""

import sys
from pathlib import Path
from xml.etree import ElementTree

FEWEST_NAMESPACE_TESTS = 200  # about half of what there is; none or a handful means that they did not run


def main(reports: list[Path]) -> int:
    """Count the cases of JUnit reports; 0 when enough namespace tests ran and none was skipped."""
    roots = [ElementTree.parse(report).getroot() for report in reports]  # noqa: S314 - our own reports
    cases = [case for root in roots for case in root.findall(".//testcase")]
    namespaces = [case for case in cases if "netns" in case.get("classname", "")]
    skipped = [case for case in namespaces if case.find("skipped") is not None]
    ran = len(namespaces) - len(skipped)
    print(f"{len(cases)} tests, {ran} of them in namespaces, {len(skipped)} of these skipped")
    if skipped or ran < FEWEST_NAMESPACE_TESTS:
        names = ", ".join(case.get("name", "?") for case in skipped[:5])
        print(
            f"the namespace tests did not all run: {ran} ran, at least {FEWEST_NAMESPACE_TESTS} must; skipped: {names}"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
