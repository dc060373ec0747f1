# SPDX-License-Identifier: Apache-2.0
"""
Read traces back through Jaeger's /api/v3, the only HTTP API that it keeps.

In: the query URL.  Out: services and decoded traces, as they were received.
"""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from .config import MAX_TRACES
from .otlp_json import Trace, decode_traces

POLL_S = 0.02
TIMEOUT_S = 120.0
READY_TIMEOUT_S = 10.0

T = TypeVar("T")

# A proxy from the environment has no business between two ends of loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class QueryFailed(Exception):
    """
    Jaeger refused a query; the text holds its reason.
    """


class Reader:
    """
    Asks the Jaeger at `query` (its URL, without a path).
    """

    def __init__(self, query: str) -> None:
        self.query = query

    def services(self) -> list[str]:
        """
        Return the service names seen so far.
        """
        answer = self._ask("services") or {}
        return sorted(answer.get("services", ()))

    def traces(
        self,
        service: str,
        start_unix_ns: int,
        end_unix_ns: int,
        operation: str | None = None,
        limit: int = MAX_TRACES,
    ) -> list[Trace]:
        """
        Return the traces with a span of `service` (and of that name) that starts between the two times.

        Past `limit` the newest are returned; by default nothing is left out.
        """
        query = {
            "query.service_name": service,
            "query.start_time_min": rfc3339(start_unix_ns),
            "query.start_time_max": rfc3339(end_unix_ns),
            "query.num_traces": str(limit),
            "query.raw_traces": "true",  # as received, not adjusted for display
        }
        if operation is not None:
            query["query.operation_name"] = operation
        return _traces(self._ask("traces", query))

    def trace(self, trace_id: str) -> Trace | None:
        """
        Return the trace with this hex id, or None.
        """
        found = _traces(self._ask(f"traces/{trace_id}", {"raw_traces": "true"}))
        return found[0] if found else None

    def _ask(self, path: str, query: dict[str, str] | None = None) -> dict[str, Any] | None:
        # None where nothing is found, which is no failure.
        url = f"{self.query}/api/v3/{path}?{urllib.parse.urlencode(query or {})}"
        try:
            with _opener.open(url, timeout=TIMEOUT_S) as answer:
                decoded: dict[str, Any] = json.load(answer)
                return decoded
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise QueryFailed(f"{url}: {error.code} {error.read().decode().strip()}") from None


def is_up(url: str) -> bool:
    """
    Tell whether something answers there, and answers well.
    """
    try:
        with _opener.open(url, timeout=READY_TIMEOUT_S):
            return True
    except OSError:
        return False


def rfc3339(unix_ns: int) -> str:
    """
    Write a time as Jaeger reads it, to the nanosecond.
    """
    seconds, fraction_ns = divmod(unix_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction_ns:09d}Z"


def wait_for(predicate: Callable[[], T], timeout_s: float, what: str = "the condition") -> T:
    """
    Ask again until the answer is true, and return it.

    Raises:
        TimeoutError: it was not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(POLL_S)
    return answer


def _traces(answer: dict[str, Any] | None) -> list[Trace]:
    return decode_traces((answer or {}).get("result", {}).get("resourceSpans", ()))
