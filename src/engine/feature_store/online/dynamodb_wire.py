"""Reads from DynamoDB inside a deadline: up to 100 keys in a BatchGetItem, all calls of a request at the same time.

The client is boto3's, on threads, for asyncio too: a request leaves its call behind at its deadline. What the table
throttles is asked for again inside the deadline, while there is time for another round trip, and while no more than a
small share of all calls are repeats, so that requests do not make an overload worse.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from engine.feature_store._codec import NO_KEY
from engine.feature_store.online.base import Unavailable
from engine.feature_store.online.breaker import Breaker
from engine.feature_store.online.calls import Calls, results, results_async

KEYS_MAX = 100  # of one BatchGetItem
THREADS_MAX, QUEUED_MAX = 64, 256
# With less time left nothing is sent: no table answers sooner.
WORTH_WAITING_NS = 200_000
# A read that waited this long in vain counts as a failure of the server. A shorter one had too tight a deadline.
PATIENCE_NS = 20_000_000
PAUSE_S_MIN, PAUSE_S_MAX = 0.002, 0.2
# Repeats are paid for: a call that succeeds earns a token, a repeat costs some.
TOKENS_MAX, REPEAT_COST = 100.0, 5.0

THROTTLED = frozenset(
    {
        "ProvisionedThroughputExceededException", "ThrottlingException", "Throttling", "RequestLimitExceeded",
        "LimitExceededException", "TooManyRequestsException",
    }
)  # fmt: skip
DOWN = frozenset(
    {"InternalServerError", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException"}
)


class Budget:
    """How many calls may be repeated, and how long a call usually takes. Thread-safe."""

    def __init__(self) -> None:
        self._tokens = TOKENS_MAX
        self._lock = threading.Lock()
        self.typical_ns = 0.0

    # Hot: once per call.
    def replied(self, taken_ns: int) -> None:
        """The server replied after this time, with an answer or an error."""
        self.typical_ns += 0.1 * (taken_ns - self.typical_ns) if self.typical_ns else taken_ns

    def succeeded(self) -> None:
        """A call had an answer."""
        if self._tokens < TOKENS_MAX:
            with self._lock:
                self._tokens = min(self._tokens + 1.0, TOKENS_MAX)

    def pause_s(self, repeats: int, deadline_ns: int) -> float | None:
        """The pause before the next repeat; None if there is no time for one by the deadline, or no token."""
        pause_s = random.uniform(0.5, 1.0) * min(PAUSE_S_MIN * 2**repeats, PAUSE_S_MAX)
        if time.monotonic_ns() + pause_s * 1e9 + self.typical_ns > deadline_ns:
            return None
        with self._lock:
            if self._tokens < REPEAT_COST:
                return None
            self._tokens -= REPEAT_COST
        return pause_s


class DynamoDBWire:
    """Read rows of one table. Thread-safe, and safe across forks unless the caller gave the client.

    Args:
        table: its name.
        connect: makes a client.
        consistent: whether a read sees every write that has ended.
    """

    blocking = True

    def __init__(self, table: str, connect: Callable[[], Any], consistent: bool) -> None:
        self._table = table
        self._connect = connect
        self._consistent = consistent
        self._calls = Calls("engine-dynamodb", THREADS_MAX, QUEUED_MAX)
        self._begun()

    def _begun(self) -> None:
        self._client, self._pid = self._connect(), os.getpid()
        self._breaker, self._budget = Breaker(), Budget()

    # Hot: once per request.
    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """The stored row of each key. Blocks until `deadline_ns` of `time.monotonic_ns` at most.

        Raises:
            Unavailable: no answer; its reason says why.
        """
        began_ns = time.monotonic_ns()
        self._admit(began_ns, deadline_ns)
        try:
            found = results(self._asked(keys, deadline_ns), deadline_ns)
        except Exception as error:
            raise self._failed(error, began_ns, deadline_ns) from None
        return self._ordered(keys, found)

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """`read` that does not block the running event loop."""
        began_ns = time.monotonic_ns()
        self._admit(began_ns, deadline_ns)
        try:
            found = await results_async(self._asked(keys, deadline_ns), deadline_ns)
        except Exception as error:
            raise self._failed(error, began_ns, deadline_ns) from None
        return self._ordered(keys, found)

    def close(self) -> None:
        """End the threads. A later read starts new ones."""
        self._calls.close()

    def _admit(self, now_ns: int, deadline_ns: int) -> None:
        if deadline_ns - now_ns < WORTH_WAITING_NS:
            raise Unavailable("out_of_time", "the deadline leaves no time to ask the store")
        if self._pid != os.getpid():
            # A child must not use its parent's connections.
            self._begun()
        if not self._breaker.admits():
            raise Unavailable("store_down", "the store failed a moment ago and is left alone for now")

    def _asked(self, keys: list[bytes], deadline_ns: int) -> list[Future[dict[bytes, bytes]]]:
        """A call for each part of the keys, all under way at once. A batch names no key twice."""
        if len(keys) == 1:
            if keys[0] is NO_KEY:
                return []
            return [self._calls.start(self._one, deadline_ns, keys[0], deadline_ns)]
        each = [key for key in dict.fromkeys(keys) if key != NO_KEY]
        parts = [each[at : at + KEYS_MAX] for at in range(0, len(each), KEYS_MAX)]
        return [self._calls.start(self._many, deadline_ns, part, deadline_ns) for part in parts]

    def _ordered(self, keys: list[bytes], found: Sequence[dict[bytes, bytes]]) -> Sequence[bytes | None]:
        self._breaker.succeeded()
        if len(found) == 1:
            return list(map(found[0].get, keys))
        rows = {key: row for part in found for key, row in part.items()}
        return list(map(rows.get, keys))

    def _one(self, key: bytes, deadline_ns: int) -> dict[bytes, bytes]:
        """The row of one key, by GetItem, which costs the client less than a batch."""
        reply = self._repeated(
            deadline_ns,
            lambda: self._client.get_item(
                TableName=self._table,
                Key={"k": {"B": key}},
                ProjectionExpression="r",
                ConsistentRead=self._consistent,
            ),
        )
        item = reply.get("Item")
        return {} if item is None else {key: row_of(item)}

    def _many(self, keys: list[bytes], deadline_ns: int) -> dict[bytes, bytes]:
        """The rows of up to KEYS_MAX keys. The table may leave some for another call."""
        found: dict[bytes, bytes] = {}
        wanted: dict[str, Any] = batch_of(self._table, keys, self._consistent)
        repeats = 0
        while wanted:
            reply = self._repeated(deadline_ns, partial(self._client.batch_get_item, RequestItems=wanted))
            more = rows_of(reply["Responses"].get(self._table, ()))
            found.update(more)
            wanted = reply.get("UnprocessedKeys") or {}
            # A reply is full at 16 MB; one without any row was throttled, and another would be too.
            if wanted and not more:
                self._pause(repeats, deadline_ns, "the table left keys unread: it is throttled")
                repeats += 1
        return found

    def _repeated(self, deadline_ns: int, call: Callable[[], Any]) -> Any:
        """The reply to a call, asked for again after a failure that passes, inside the deadline."""
        repeats = 0
        while True:
            began_ns = time.monotonic_ns()
            try:
                reply = call()
            except Exception as error:
                if not passes(error):
                    raise
                self._budget.replied(time.monotonic_ns() - began_ns)
                self._pause(repeats, deadline_ns, error)
                repeats += 1
                continue
            self._budget.replied(time.monotonic_ns() - began_ns)
            self._budget.succeeded()
            return reply

    def _pause(self, repeats: int, deadline_ns: int, why: Exception | str) -> None:
        """Sleep before a repeat. Raises `why` if there is no time for one, or if too many calls are repeats."""
        pause_s = self._budget.pause_s(repeats, deadline_ns)
        if pause_s is None:
            raise why if isinstance(why, Exception) else Unavailable("throttled", why)
        time.sleep(pause_s)

    def _failed(self, error: Exception, began_ns: int, deadline_ns: int) -> Unavailable:
        """The error of a read, counted by the breaker."""
        if isinstance(error, Unavailable):
            found = error
        elif isinstance(error, TimeoutError):
            found = Unavailable("timeout", f"the store did not answer in time: {error}")
        else:
            found = Unavailable(*reason_of(error))
        if found.reason != "timeout" or deadline_ns - began_ns >= PATIENCE_NS:
            # A throttled table is one that works, and may be asked for less.
            self._breaker.failed(certain=found.reason in ("refused", "store_down"))
        return found


def batch_of(table: str, keys: Iterable[bytes], consistent: bool) -> dict[str, Any]:
    """The `RequestItems` of BatchGetItem for these keys."""
    named = [{"k": {"B": key}} for key in keys]
    return {table: {"Keys": named, "ProjectionExpression": "k, r", "ConsistentRead": consistent}}


def rows_of(items: Iterable[Any]) -> dict[bytes, bytes]:
    """The row of each item by its key."""
    return {bytes(item["k"]["B"]): row_of(item) for item in items}


def row_of(item: Any) -> bytes:
    """The stored bytes of an item; for an item without any, bytes that are no row."""
    row = item.get("r", {}).get("B", b"")
    return row if type(row) is bytes else bytes(row)


def code_of(error: Exception) -> str:
    """The service's word for an error, "" for one of another kind."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def status_of(error: Exception) -> int:
    """The HTTP status of an error, 0 for one without."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    return found if isinstance(found, int) else 0


def passes(error: Exception) -> bool:
    """Whether the same call may succeed in a moment: throttled, the server's own error, a connection it closed."""
    code = code_of(error)
    return (
        code in THROTTLED
        or code in DOWN
        or status_of(error) >= 500
        or type(error).__name__ == "ConnectionClosedError"
    )


def reason_of(error: Exception) -> tuple[str, str]:
    """The reason and the sentence of `Unavailable` for an error of the client."""
    code, name = code_of(error), type(error).__name__
    if code in THROTTLED:
        return "throttled", f"the table is throttled: {error}"
    if code in DOWN or status_of(error) >= 500:
        return "store_down", f"the store failed: {error}"
    if code:
        return "refused", str(error)
    if name in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
    ):
        return "refused", f"no credentials: {error}"
    if name in ("ReadTimeoutError", "ConnectTimeoutError"):
        return "timeout", f"the store did not answer in time: {error}"
    return "store_down", f"the store cannot be reached: {error or name}"
