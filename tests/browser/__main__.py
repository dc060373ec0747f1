# SPDX-License-Identifier: Apache-2.0
"""
`python3 -m tests.browser URL FILE.png`: a picture of a trace on Jaeger's page, with the attributes of its last span.

The picture of the README is made so, of a trace in a recording of the demo, which `otel-qemu replay --otlp` had sent.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.backends.query import Reader

from .chromium import Chromium
from .trace_page import DETAILS, ROWS, open_trace

SIZE = (1280, 746)


def main() -> int:
    parser = argparse.ArgumentParser("python3 -m tests.browser", description="Take a picture of a trace in Jaeger.")
    parser.add_argument("url", help="of the trace's page, such as http://127.0.0.1:16686/trace/ID")
    parser.add_argument("file", type=Path, help="where the PNG goes")
    options = parser.parse_args()
    query, _, trace_id = options.url.partition("/trace/")
    trace = Reader(query).trace(trace_id)
    if trace is None:
        parser.error(f"no such trace there, {options.url}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with Chromium.start(Path(folder), SIZE) as browser:
            open_trace(browser, options.url, len(trace.spans))
            browser.script(f"[...{ROWS}].at(-1).querySelector('.span-view').click()")
            browser.wait_for(f"return {DETAILS}.length === 1", "the details of the last span")
            browser.script(f"{DETAILS}[0].querySelector('.AccordianKeyValues--header').click()")
            browser.wait_for(f"return {DETAILS}[0].querySelector('table')", "its attributes")
            options.file.write_bytes(browser.screenshot())
    return 0


if __name__ == "__main__":
    sys.exit(main())
