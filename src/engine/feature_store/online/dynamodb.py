"""The online store on DynamoDB: one table, one packed row an item, shared by any number of machines.

A row is written if the stored row is still the one that it was compared with, and compared again otherwise. So two
writers never leave an older row behind.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from engine._common import arguments, optional
from engine.errors import ConfigError, InputTypeError, StoreError
from engine.feature_store._codec import supersedes
from engine.feature_store.online.base import OnlineStore, is_plain, remade
from engine.feature_store.online.dynamodb_wire import (
    KEYS_MAX,
    THREADS_MAX,
    DynamoDBWire,
    batch_of,
    code_of,
    reason_of,
    row_of,
    rows_of,
)

WRITE_THREADS = 16
ATTEMPTS_MAX = 4
TIMEOUT_S_MAX = 3600.0
# The table forgets a row this long after its TTL, because the clocks of writers differ. Readers check the TTL.
SLACK_S = 86_400
# The rows of a deletion in one transaction; the entry of the log is one item more.
TRANSACTION_MAX = 99
PAUSE_S = 0.05
_TTL = "ttl"
_TABLE = re.compile(r"[A-Za-z0-9._-]{3,255}")


class DynamoDBOnline(OnlineStore):
    """Keep rows in a table of DynamoDB, each in an item: the key `k`, the row `r`, `w`, which says namespace and view,
    and `ttl`, the second from which the table may forget it.

    Args:
        table: its name. Its partition key is `k`, binary, and it has no sort key; `create_table` makes it so.
        region: of the table; None for the one that boto3 finds.
        endpoint_url: of another server than the region's, http://127.0.0.1:8000 say.
        consistent: whether a read sees every write that has ended. It costs twice the read units; without it a read may
            be some milliseconds behind. Writing always reads so.
        namespace: the beginning of every key, so that several stores can share a table: letters, digits, "-", "." and
            "_".
        timeout_s: the longest wait for one call to the table; above 0, at most 3,600. A read waits until its request's
            deadline.
        client: a client to use instead of boto3's: of DAX (`amazondax.AmazonDaxClient`), or boto3's own with other
            settings. Reads and writes both go through it, and no other setting of a connection counts.

    Attributes:
        table, region, endpoint_url, consistent, namespace: as given.

    Credentials are found as boto3 finds them. Thread-safe, and safe across forks unless `client` is given.

    Raises:
        ConfigError: a name of another form, no region, or a client without the methods that are needed.
        InputError: timeout_s is out of range.
        MissingDependencyError: boto3 is not installed.
    """

    def __init__(
        self,
        table: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        consistent: bool = False,
        namespace: str = "engine",
        timeout_s: float = 5.0,
        client: Any = None,
    ) -> None:
        if client is None:
            optional.need("boto3", "the DynamoDB online store", "dynamodb")
        if not isinstance(table, str) or not _TABLE.fullmatch(table):
            raise ConfigError(
                f"table: expected 3 to 255 letters, digits, '-', '.' and '_', got {table!r:.80}"
            )
        if not is_plain(namespace):
            raise ConfigError(f"namespace: expected letters, digits, '-', '.' and '_', got {namespace!r}")
        arguments.number("timeout_s", timeout_s, 0.0, TIMEOUT_S_MAX, above=True, type_error=InputTypeError)
        for name in ("get_item", "batch_get_item", "put_item"):
            if client is not None and not callable(getattr(client, name, None)):
                raise ConfigError(
                    f"client: expected one like boto3.client('dynamodb'), {client!r:.80} has no {name}"
                )
        self.table = table
        self.region = region
        self.endpoint_url = endpoint_url
        self.consistent = bool(consistent)
        self.namespace = namespace
        self._timeout_s = timeout_s
        self._given = client
        self._made: tuple[int, Any] = (0, None)
        if client is None:
            self._writer()

    def __repr__(self) -> str:
        place = self.endpoint_url or self.region
        return f"DynamoDBOnline({self.table!r}{f', {place!r}' if place else ''})"

    def __reduce__(self) -> Any:
        if self._given is not None:
            raise TypeError(f"{self}: another process cannot have its client")
        options = {
            "region": self.region, "endpoint_url": self.endpoint_url, "consistent": self.consistent,
            "namespace": self.namespace, "timeout_s": self._timeout_s,
        }  # fmt: skip
        return remade, (DynamoDBOnline, self.table, options)

    def prefix(self, view: str) -> bytes:
        """The beginning of every stored key of a view: `namespace:view:`. No name has a colon."""
        return f"{self.namespace}:{view}:".encode()

    def wire(self) -> DynamoDBWire:
        """A new reader with connections of its own."""
        return DynamoDBWire(self.table, self._reader, self.consistent)

    def create_table(self, **options: Any) -> bool:
        """Create the table unless it is there, billed on demand, and let it forget rows after their TTL.

        Args:
            options: more arguments of boto3's `create_table`: Tags, SSESpecification, DeletionProtectionEnabled, …

        Returns:
            Whether it was created. Blocks until it can be used.

        Raises:
            StoreError: the server refused.
        """
        client = self._writer()
        with self._mapped():
            try:
                client.create_table(
                    TableName=self.table,
                    AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "B"}],
                    KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
                    **{"BillingMode": "PAY_PER_REQUEST", **options},
                )
            except Exception as error:
                if code_of(error) != "ResourceInUseException":
                    raise
                return False
            client.get_waiter("table_exists").wait(
                TableName=self.table, WaiterConfig={"Delay": 1, "MaxAttempts": 300}
            )
            try:
                client.update_time_to_live(
                    TableName=self.table,
                    TimeToLiveSpecification={"Enabled": True, "AttributeName": _TTL},
                )
            except Exception as error:
                # Some servers of the protocol forget nothing, and readers check the TTL anyway.
                if code_of(error) != "UnknownOperationException":
                    raise
        return True

    def ping(self) -> None:
        """Raise StoreError if the table cannot be read: not there, refused, out of reach."""
        self.note("revision")

    def next_revision(self) -> int:
        """A number above every earlier one, from any machine. Raises StoreError if the table cannot be written."""
        with self._mapped():
            reply = self._writer().update_item(
                TableName=self.table,
                Key=self._own("revision"),
                UpdateExpression="ADD c :one",
                ExpressionAttributeValues={":one": {"N": "1"}},
                ReturnValues="UPDATED_NEW",
            )
        return int(reply["Attributes"]["c"]["N"])

    def note(self, name: str) -> bytes | None:
        """A small record beside the rows, None if there is none. Raises StoreError if the table cannot be read."""
        item = self._item(self._own(name))
        if item is None:
            return None
        return item["c"]["N"].encode() if "c" in item else row_of(item)

    def write(
        self, pairs: Sequence[tuple[bytes, bytes]], ttl_ns: int | None, notes: Mapping[str, bytes | None]
    ) -> tuple[int, int, int, bytes | None]:
        """Write rows, then notes, as `OnlineStore.write` says. A kill between the two repeats rows and loses none."""
        # Rows of one key are written in their order.
        rows: dict[bytes, list[bytes]] = {}
        for key, row in pairs:
            rows.setdefault(key, []).append(row)
        each = list(rows.items())
        parts = [each[at : at + KEYS_MAX] for at in range(0, len(each), KEYS_MAX)]
        if 1 < len(each) < WRITE_THREADS * KEYS_MAX:
            # A few rows are spread over the threads too.
            size = -(-len(each) // WRITE_THREADS)
            parts = [each[at : at + size] for at in range(0, len(each), size)]
        counts = [0, 0, 0]
        client, expires = self._writer(), _expires(ttl_ns)
        with self._mapped():
            if len(parts) <= 1:
                done = [self._put(client, part, expires) for part in parts]
            else:
                with ThreadPoolExecutor(min(WRITE_THREADS, len(parts)), "engine-dynamodb-write") as pool:
                    done = list(pool.map(lambda part: self._put(client, part, expires), parts))
            for part_counts, _ in done:
                counts = [total + more for total, more in zip(counts, part_counts, strict=True)]
            foreign = next((key for _, key in done if key is not None), None)
            if foreign is not None:
                return counts[0], counts[1], counts[2], foreign
            for name, value in notes.items():
                if value is None:
                    client.delete_item(TableName=self.table, Key=self._own(name))
                else:
                    self._note_view(client, name)
                    client.put_item(TableName=self.table, Item={**self._own(name), "r": {"B": value}})
        return counts[0], counts[1], counts[2], None

    def _note_view(self, client: Any, name: str) -> None:
        """Add the view to the set of names that `views` reads, because listing a table's keys reads all of it."""
        kind, _, view = name.partition(":")
        if kind == "schema":
            client.update_item(
                TableName=self.table,
                Key=self._own("views"),
                UpdateExpression="ADD s :view",
                ExpressionAttributeValues={":view": {"SS": [view]}},
            )

    def _put(
        self, client: Any, rows: Sequence[tuple[bytes, list[bytes]]], expires: int | None
    ) -> tuple[list[int], bytes | None]:
        """Put rows of up to KEYS_MAX keys. Returns the counts, and a key that holds something else."""
        stored = self._stored(client, [key for key, _ in rows])
        counts = [0, 0, 0]
        for key, news in rows:
            old = stored.get(key)
            for new in news:
                while True:
                    order = 1 if old is None else supersedes(new, old)
                    if order == -2:
                        return counts, key
                    if order != 1 or self._replaced(client, key, old, new, expires):
                        break
                    # Another writer was faster: compare with its row.
                    old = self._stored(client, [key]).get(key)
                counts[{1: 0, 0: 1, -1: 2}[order]] += 1
                old = new if order == 1 else old
        return counts, None

    def _stored(self, client: Any, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The rows as they are now. A read that lags could take a row that was deleted for one that is there."""
        found: dict[bytes, bytes] = {}
        wanted: dict[str, Any] = batch_of(self.table, keys, True)
        while wanted:
            reply = client.batch_get_item(RequestItems=wanted)
            more = rows_of(reply["Responses"].get(self.table, ()))
            found.update(more)
            wanted = reply.get("UnprocessedKeys") or {}
            if wanted and not more:
                time.sleep(PAUSE_S)
        return found

    def _replaced(self, client: Any, key: bytes, old: bytes | None, new: bytes, expires: int | None) -> bool:
        """Put a row where `old` still is. Returns whether it was."""
        item = _item_of(key, new, expires)
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(k)"}
        if old is not None:
            condition = {"ConditionExpression": "r = :old", "ExpressionAttributeValues": {":old": {"B": old}}}
        try:
            client.put_item(TableName=self.table, Item=item, **condition)
        except Exception as error:
            if code_of(error) != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def keep(self, view: str, ttl_ns: int | None) -> None:
        """Let the table keep rows that are there already for this TTL, where it grew or was taken away.

        Reads the whole table when the TTL has changed, and then only. Raises StoreError.
        """
        name = f"ttl:{view}"
        before = self.note(name)
        now = b"none" if ttl_ns is None else b"%d" % ttl_ns
        if before == now:
            return
        grew = before is not None and before != b"none" and (ttl_ns is None or int(before) < ttl_ns)
        client, expires = self._writer(), _expires(ttl_ns)
        with self._mapped():
            for key in self._keys_that_expire(view) if grew else ():
                change: dict[str, Any] = {
                    "UpdateExpression": "REMOVE #ttl",
                    "ConditionExpression": "attribute_exists(#ttl)",
                }
                if expires is not None:
                    change = {
                        "UpdateExpression": "SET #ttl = :later",
                        "ConditionExpression": "#ttl < :later",
                        "ExpressionAttributeValues": {":later": {"N": str(expires)}},
                    }
                try:
                    client.update_item(
                        TableName=self.table,
                        Key={"k": {"B": key}},
                        ExpressionAttributeNames={"#ttl": _TTL},
                        **change,
                    )
                except Exception as error:
                    # It was written again meanwhile, or is gone.
                    if code_of(error) != "ConditionalCheckFailedException":
                        raise
            client.put_item(TableName=self.table, Item={**self._own(name), "r": {"B": now}})

    def _keys_that_expire(self, view: str) -> Iterator[bytes]:
        names = {"#ttl": _TTL}
        for item in self._scanned(view, "k", "attribute_exists(#ttl)", ExpressionAttributeNames=names):
            yield bytes(item["k"]["B"])

    def note_key(self, name: str) -> bytes:
        """The key that a note is read by."""
        return f"{self.namespace}::{name}".encode()

    def rows(self, view: str) -> Iterator[tuple[bytes, bytes]]:
        """The stored (key, row) of every entity of a view. Reads the whole table."""
        with self._mapped():
            for item in self._scanned(view, "k, r"):
                yield bytes(item["k"]["B"]), row_of(item)

    def _scanned(self, view: str, names: str, also: str = "", **options: Any) -> Iterator[Any]:
        client = self._writer()
        start: dict[str, Any] = {}
        where = f"w = :view AND {also}" if also else "w = :view"
        while True:
            reply = client.scan(
                TableName=self.table,
                FilterExpression=where,
                ExpressionAttributeValues={":view": {"S": f"{self.namespace}:{view}"}},
                ProjectionExpression=names,
                ConsistentRead=True,
                **start,
                **options,
            )
            yield from reply["Items"]
            if not reply.get("LastEvaluatedKey"):
                return
            start = {"ExclusiveStartKey": reply["LastEvaluatedKey"]}

    def views(self) -> list[str]:
        """The names of the views that were ever written, sorted. Raises StoreError if the table cannot be read."""
        item = self._item(self._own("views"))
        return [] if item is None else sorted(item["s"]["SS"])

    def erase(self, rows: Mapping[bytes, bytes | None], ttl_ns: int | None, entry: bytes) -> None:
        """As `OnlineStore.erase` says, in one transaction of up to TRANSACTION_MAX rows.

        Of more rows, each part is a transaction, and the entry of the log is in the last; so it is where the server has
        no transactions. If it fails before, the log has no entry: delete again.
        """
        client, expires = self._writer(), _expires(ttl_ns)
        with self._mapped():
            reply = client.update_item(
                TableName=self.table,
                Key=self._own("log"),
                UpdateExpression="ADD c :one",
                ExpressionAttributeValues={":one": {"N": "1"}},
                ReturnValues="UPDATED_NEW",
            )
            logged = {**self._own(f"log:{reply['Attributes']['c']['N']}"), "r": {"B": entry}}
            steps: list[dict[str, Any]] = []
            for key, row in rows.items():
                if row is None:
                    steps.append({"Delete": {"TableName": self.table, "Key": {"k": {"B": key}}}})
                    continue
                steps.append({"Put": {"TableName": self.table, "Item": _item_of(key, row, expires)}})
            parts = [steps[at : at + TRANSACTION_MAX] for at in range(0, len(steps), TRANSACTION_MAX)] or [[]]
            parts[-1].append({"Put": {"TableName": self.table, "Item": logged}})
            for part in parts:
                _together(client, part)

    def log(self) -> list[bytes]:
        """The entries that `erase` added, oldest first. Raises StoreError if the table cannot be read."""
        counter = self._item(self._own("log"))
        last = 0 if counter is None else int(counter["c"]["N"])
        keys = [self._own(f"log:{number}")["k"]["B"] for number in range(1, last + 1)]
        found: dict[bytes, bytes] = {}
        with self._mapped():
            for at in range(0, len(keys), KEYS_MAX):
                found.update(self._stored(self._writer(), keys[at : at + KEYS_MAX]))
        return [found[key] for key in keys if key in found]

    def close(self) -> None:
        """Close the connections that writing opened. A later call opens new ones."""
        pid, client = self._made
        self._made = (0, None)
        if client is not None and pid == os.getpid():
            client.close()

    def _own(self, name: str) -> dict[str, Any]:
        """The key of a note. It is no row's key, because no view has an empty name."""
        return {"k": {"B": f"{self.namespace}::{name}".encode()}}

    def _item(self, key: dict[str, Any]) -> Any:
        with self._mapped():
            return self._writer().get_item(TableName=self.table, Key=key, ConsistentRead=True).get("Item")

    def _reader(self) -> Any:
        """A client that tries once, because a request repeats inside its own deadline."""
        return self._connected(THREADS_MAX, {"total_max_attempts": 1})

    def _writer(self) -> Any:
        pid, client = self._made
        if client is None or pid != os.getpid():
            # A child must not use its parent's connections.
            client = self._connected(WRITE_THREADS, {"mode": "standard", "total_max_attempts": ATTEMPTS_MAX})
            self._made = (os.getpid(), client)
        return client

    def _connected(self, connections: int, retries: dict[str, Any]) -> Any:
        if self._given is not None:
            return self._given
        boto3 = optional.need("boto3", "the DynamoDB online store", "dynamodb")
        config, errors = optional.need("botocore.config", ""), optional.need("botocore.exceptions", "")
        made = config.Config(
            connect_timeout=self._timeout_s,
            read_timeout=self._timeout_s,
            max_pool_connections=connections,
            retries=retries,
            tcp_keepalive=True,
        )
        try:
            # A session of its own, because boto3's shared one is not thread-safe.
            return boto3.session.Session().client(
                "dynamodb", region_name=self.region, endpoint_url=self.endpoint_url, config=made
            )
        except errors.NoRegionError:
            raise ConfigError(
                "region: none was given and boto3 finds none; give region='eu-west-1' or set AWS_DEFAULT_REGION"
            ) from None
        except (errors.BotoCoreError, ValueError) as error:
            raise ConfigError(f"{self}: no client can be made: {error}") from error

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if not code_of(error) and not type(error).__module__.startswith(
                ("botocore", "boto3", "amazondax")
            ):
                raise
            raise StoreError(f"{self}: {self._explained(error)}") from error

    def _explained(self, error: Exception) -> str:
        code = code_of(error)
        if code == "ResourceNotFoundException":
            return f"there is no table {self.table!r} there: create_table() makes it, billed on demand"
        if code == "ValidationException" and "size" in str(error).lower():
            return f"a row is larger than the 400 KB of an item: {error}"
        reason, text = reason_of(error)
        return f"refused: {text}" if reason == "refused" else text


def _item_of(key: bytes, row: bytes, expires: int | None) -> dict[str, Any]:
    """The item of a row. `w` is the namespace and the view, because not every server searches binary keys."""
    place = b":".join(key.split(b":", 2)[:2]).decode()
    item: dict[str, Any] = {"k": {"B": key}, "w": {"S": place}, "r": {"B": row}}
    if expires is not None:
        item[_TTL] = {"N": str(expires)}
    return item


def _expires(ttl_ns: int | None) -> int | None:
    """The second of 1970 from which a row written now may be forgotten; None for never."""
    return None if ttl_ns is None else int(time.time()) + -(-ttl_ns // 10**9) + SLACK_S


def _together(client: Any, steps: list[dict[str, Any]]) -> None:
    """All steps or none; one after the other on a server without transactions."""
    try:
        client.transact_write_items(TransactItems=steps, ClientRequestToken=uuid4().hex)
        return
    except Exception as error:
        if code_of(error) != "UnknownOperationException":
            raise
    for step in steps:
        if "Put" in step:
            client.put_item(**step["Put"])
        else:
            client.delete_item(**step["Delete"])
