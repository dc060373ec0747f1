# SPDX-License-Identifier: Apache-2.0
"""
Read a trace off Jaeger's page, as a person does: rows, how they are nested, and what a click on each shows.

In: a browser and the address of the page.  Out: what is shown of each span, in the page's order.
"""

from dataclasses import dataclass

from .chromium import Chromium

ROWS = "document.querySelectorAll('.span-row')"
DETAILS = "document.querySelectorAll('.detail-row')"
READ = f"""
const pairs = list => Object.fromEntries([...list.querySelectorAll('.AccordianKeyValues--summaryItem')].map(item => {{
    const name = item.querySelector('.AccordianKeyValues--summaryLabel').textContent;
    return [name, item.textContent.slice(name.length + '='.length)];
}}));
const lists = (detail, label) => [...detail.querySelectorAll('.AccordianKeyValues--header')]
    .filter(header => header.querySelector('[data-test=label]').textContent === label).map(pairs);
const details = [...{DETAILS}];
return [...{ROWS}].map((row, index) => ({{
    span_id: [...details[index].querySelector('.SpanDetail--debugInfo').childNodes]
        .filter(node => node.nodeType === Node.TEXT_NODE).map(node => node.textContent).join('').trim(),
    parent_id: [...row.querySelectorAll('.SpanTreeOffset--indentGuide')].at(-1).dataset.ancestorId,
    service: row.querySelector('.span-svc-name').textContent,
    name: row.querySelector('.endpoint-name').textContent,
    duration: row.querySelector('.SpanBar--bar').getAttribute('aria-label'),
    attributes: lists(details[index], 'Tags:')[0],
    resource: lists(details[index], 'Process:')[0],
}}));
"""
UNITS_NS = {"μs": 1e3, "ms": 1e6, "s": 1e9}
NO_PARENT = "root"


@dataclass(frozen=True)
class ShownSpan:
    """
    What the page shows of a span, all of it text.

    Attributes:
        parent_id: NO_PARENT where it hangs below nothing.
        duration: rounded, with its unit, such as ``54.71ms``.
    """

    span_id: str
    parent_id: str
    service: str
    name: str
    duration: str
    attributes: dict[str, str]
    resource: dict[str, str]

    @property
    def duration_ns(self) -> float:
        """
        The rounded duration as a number.
        """
        unit = next(unit for unit in UNITS_NS if self.duration.endswith(unit))
        return float(self.duration.removesuffix(unit)) * UNITS_NS[unit]


def open_trace(browser: Chromium, url: str, spans: int) -> None:
    """
    Open the page of a trace, and wait until it shows as many spans.
    """
    browser.open(url)
    browser.wait_for(f"return {ROWS}.length === {spans}", f"{spans} spans in {url}")


def read_trace(browser: Chromium, url: str, spans: int) -> list[ShownSpan]:
    """
    Open the page of a trace and the details of each of its spans, and return what is shown.
    """
    open_trace(browser, url, spans)
    browser.script(f"{ROWS}.forEach(row => row.querySelector('.span-view').click())")
    browser.wait_for(f"return {DETAILS}.length === {spans}", "the details of each span")
    return [ShownSpan(**row) for row in browser.script(READ)]
