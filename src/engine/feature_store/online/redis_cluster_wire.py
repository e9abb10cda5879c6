"""Reads from a Redis Cluster inside a deadline: an MGET for each slot, all nodes asked at the same time, on the sockets
that a single Redis is read by.

A slot that has moved says where to: MOVED for good, ASK while it is on its way. Both are followed inside the deadline.
Nobody asks a node for the whole map of slots during a request; a thread does when a slot has moved or a node failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import threading
import time
import weakref
from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any

from engine.feature_store.online.base import Unavailable
from engine.feature_store.online.breaker import Breaker
from engine.feature_store.online.redis_address import Address
from engine.feature_store.online.redis_wire import (
    IDLE_CONNECTIONS_MAX,
    OUTSTANDING_MAX,
    PATIENCE_NS,
    WORTH_WAITING_NS,
    Connection,
    LoopConnection,
)

SLOTS = 16384
# Redirections of one read: a slot may move twice while it is looked for, and be asked for key by key.
ROUNDS_MAX = 6
LOOK_S_MAX = 1.0
LOOK_AGAIN_S = 0.05
Place = tuple[str, int]


def slot_of(key: bytes) -> int:
    """The slot of a key: by what is between its first brace and the next closing one, if that is anything."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


class Node:
    """One node: its address, its breaker and its connections."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.breaker = Breaker()
        self._idle: list[Connection] = []
        self.loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopConnection] = (
            weakref.WeakKeyDictionary()
        )

    def sent(self, commands: Sequence[tuple[Any, ...]], deadline_ns: int) -> tuple[Connection, bool]:
        """A connection on which these commands were sent, and whether it was idle before."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return self.sent_anew(commands, deadline_ns), False
        try:
            connection.send(commands, deadline_ns)
        except TimeoutError:
            self.keep(connection)
            raise
        except OSError:
            # The server closes a connection that was idle, or was restarted.
            connection.close()
            return self.sent_anew(commands, deadline_ns), False
        return connection, True

    def sent_anew(self, commands: Sequence[tuple[Any, ...]], deadline_ns: int) -> Connection:
        """A new connection on which these commands were sent."""
        connection = Connection(self.address, deadline_ns)
        connection.send(commands, deadline_ns)
        return connection

    def keep(self, connection: Connection) -> None:
        """Keep a connection for other requests, unless it has become too dear."""
        if len(self._idle) < IDLE_CONNECTIONS_MAX and connection.outstanding <= OUTSTANDING_MAX:
            self._idle.append(connection)
        else:
            connection.close()

    def drop(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        self.drop()
        for loop, pipeline in list(self.loops.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(pipeline.close)


class Slots:
    """Which node has which slot. Thread-safe.

    Args:
        seeds: some nodes, which know the others.
    """

    def __init__(self, seeds: Sequence[Address]) -> None:
        self._seeds = seeds
        self._nodes: dict[Place, Node] = {}
        self._owners: list[Node | None] = [None] * SLOTS
        self._looking = threading.Lock()
        self.look()

    def owner(self, slot: int) -> Node:
        """The node of a slot. Raises Unavailable if nobody has named one."""
        node = self._owners[slot]
        if node is None:
            self.look_again()
            raise Unavailable("store_down", "no node of the cluster has said where the rows are")
        return node

    def node(self, place: Place) -> Node:
        """The node at a place."""
        node = self._nodes.get(place)
        if node is None:
            address = self._seeds[0].at(*place)
            # A node is named by its IP address as a rule, and to look that up takes no time.
            node = self._nodes.setdefault(place, Node(address.look()))
        return node

    def moved(self, slot: int, place: Place) -> Node:
        """A slot has moved: take note, and look at the whole map soon."""
        node = self._owners[slot] = self.node(place)
        self.look_again()
        return node

    def look(self) -> None:
        """Ask the nodes for the map. Where none answers, it stays as it was."""
        known = [node.address for node in list(self._nodes.values())]
        for address in [*known, *self._seeds]:
            with contextlib.suppress(Exception):
                self._take(address, self._asked(address))
                return

    @staticmethod
    def _asked(address: Address) -> Any:
        deadline_ns = time.monotonic_ns() + int(LOOK_S_MAX * 1e9)
        connection = Connection(address.look(), deadline_ns)
        try:
            return connection.ask(("CLUSTER", "SLOTS"), deadline_ns)
        finally:
            connection.close()

    def _take(self, asked: Address, reply: Any) -> None:
        owners: list[Node | None] = [None] * SLOTS
        for first, last, master, *_ in reply:
            # A node that does not know its own address leaves it out.
            host = master[0].decode() if master[0] else asked.host
            owners[first : last + 1] = [self.node((host, int(master[1])))] * (last + 1 - first)
        if any(owner is not None for owner in owners):
            self._owners = owners

    def look_again(self) -> None:
        """`look` on another thread, unless one does so already. Returns at once."""
        if not self._looking.acquire(blocking=False):
            return

        def look() -> None:
            try:
                self.look()
                # A failover takes a while, and every request that fails would ask again.
                time.sleep(LOOK_AGAIN_S)
            finally:
                self._looking.release()

        threading.Thread(target=look, name="engine-redis-slots", daemon=True).start()

    def close(self) -> None:
        """Close all connections."""
        for node in list(self._nodes.values()):
            node.close()


@dataclasses.dataclass(slots=True)
class Part:
    """Keys of one slot, and the node to ask next.

    Attributes:
        keys: as the server has them.
        slot: their slot.
        node: the node to ask.
        asking: whether the slot is on its way there.
    """

    keys: list[bytes]
    slot: int
    node: Node
    asking: bool = False

    @property
    def commands(self) -> list[tuple[Any, ...]]:
        """The commands to send."""
        asked = ("MGET", *self.keys)
        return [("ASKING",), asked] if self.asking else [asked]


class ClusterWire:
    """Read rows from the nodes that have them. Thread-safe, and safe across forks.

    Args:
        seeds: some nodes.
        notes: the beginning of the keys of notes, which the server has as they are; a row's key is closed by a brace.
    """

    blocking = True

    def __init__(self, seeds: Sequence[Address], notes: bytes) -> None:
        self._seeds, self._notes = seeds, notes
        self._slots, self._pid = Slots(seeds), os.getpid()

    # Hot: once per request.
    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """The stored row of each key. Blocks until `deadline_ns` of `time.monotonic_ns` at most.

        Raises:
            Unavailable: no answer; its reason says why.
        """
        began_ns = time.monotonic_ns()
        self._admit(began_ns, deadline_ns)
        named, parts = self._parts(keys)
        rows: dict[bytes, Any] = {}
        for _ in range(ROUNDS_MAX):
            replies = self._round(parts, began_ns, deadline_ns)
            parts = self._taken(parts, replies, rows)
            if not parts:
                return list(map(rows.get, named))
        raise Unavailable("store_down", "slots of the cluster move faster than they can be followed")

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """`read` that does not block the running event loop."""
        began_ns = time.monotonic_ns()
        self._admit(began_ns, deadline_ns)
        named, parts = self._parts(keys)
        rows: dict[bytes, Any] = {}
        for _ in range(ROUNDS_MAX):
            replies = await self._round_async(parts, began_ns, deadline_ns)
            parts = self._taken(parts, replies, rows)
            if not parts:
                return list(map(rows.get, named))
        raise Unavailable("store_down", "slots of the cluster move faster than they can be followed")

    def close(self) -> None:
        """Close the connections. A later read opens new ones."""
        self._slots.close()

    def _admit(self, now_ns: int, deadline_ns: int) -> None:
        if deadline_ns - now_ns < WORTH_WAITING_NS:
            raise Unavailable("out_of_time", "the deadline leaves no time to ask the store")
        if self._pid != os.getpid():
            # A child must not use its parent's sockets.
            self._slots, self._pid = Slots(self._seeds), os.getpid()

    def _parts(self, keys: list[bytes]) -> tuple[list[bytes], list[Part]]:
        """The keys as the server has them, and the parts to ask for."""
        named = [key if key.startswith(self._notes) else key + b"}" for key in keys]
        by_slot: dict[int, list[bytes]] = {}
        for key in dict.fromkeys(named):
            by_slot.setdefault(slot_of(key), []).append(key)
        return named, [Part(each, slot, self._slots.owner(slot)) for slot, each in by_slot.items()]

    def _round(self, parts: list[Part], began_ns: int, deadline_ns: int) -> list[Any]:
        """The reply to each part, errors as exceptions. All nodes are asked before the first is waited for."""
        by_node = _by_node(parts)
        for node in by_node:
            _require(node)
        under_way: list[tuple[Node, list[Part], Connection, bool]] = []
        replies: dict[int, Any] = {}
        try:
            for node, own in by_node.items():
                try:
                    connection, reused = node.sent(_commands(own), deadline_ns)
                except Exception as error:
                    raise self._failed(node, error, began_ns, deadline_ns) from None
                under_way.append((node, own, connection, reused))
            while under_way:
                node, own, connection, reused = under_way.pop()
                found = self._collected(node, own, connection, reused, began_ns, deadline_ns)
                replies.update(zip(map(id, own), found, strict=True))
        finally:
            # Their replies are dropped when the connection is used again.
            for node, _, connection, _ in under_way:
                node.keep(connection)
        return [replies[id(part)] for part in parts]

    def _collected(
        self,
        node: Node,
        own: list[Part],
        connection: Connection,
        reused: bool,
        began_ns: int,
        deadline_ns: int,
    ) -> list[Any]:
        commands = _commands(own)
        try:
            try:
                replies = connection.replies(len(commands), deadline_ns)
            except TimeoutError:
                node.keep(connection)
                raise
            except OSError:
                connection.close()
                if not reused:
                    raise
                connection = node.sent_anew(commands, deadline_ns)
                replies = connection.replies(len(commands), deadline_ns)
        except Exception as error:
            raise self._failed(node, error, began_ns, deadline_ns) from None
        node.breaker.succeeded()
        node.keep(connection)
        found, at = [], 0
        for part in own:
            at += len(part.commands)
            found.append(replies[at - 1])
        return found

    async def _round_async(self, parts: list[Part], began_ns: int, deadline_ns: int) -> list[Any]:
        by_node = _by_node(parts)
        for node in by_node:
            _require(node)
        try:
            async with asyncio.timeout(max(deadline_ns - time.monotonic_ns(), 0) * 1e-9):
                found = await asyncio.gather(
                    *(self._asked(node, own, began_ns, deadline_ns) for node, own in by_node.items())
                )
        except TimeoutError:
            error = TimeoutError("the deadline has passed")
            failed = [self._failed(node, error, began_ns, deadline_ns) for node in by_node]
            raise failed[0] from None
        replies = {
            id(part): reply
            for own, node_replies in zip(by_node.values(), found, strict=True)
            for part, reply in zip(own, node_replies, strict=True)
        }
        return [replies[id(part)] for part in parts]

    async def _asked(self, node: Node, own: list[Part], began_ns: int, deadline_ns: int) -> list[Any]:
        loop = asyncio.get_running_loop()
        pipeline = node.loops.get(loop)
        if pipeline is None or pipeline.pid != os.getpid():
            pipeline = node.loops[loop] = LoopConnection(node.address)
        try:
            replies = await pipeline.ask_many(_commands(own))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise self._failed(node, error, began_ns, deadline_ns) from None
        node.breaker.succeeded()
        found, at = [], 0
        for part in own:
            at += len(part.commands)
            found.append(replies[at - 1])
        return found

    def _taken(self, parts: list[Part], replies: list[Any], rows: dict[bytes, Any]) -> list[Part]:
        """Take the rows, and return the parts that must be asked for again."""
        again: list[Part] = []
        for part, reply in zip(parts, replies, strict=True):
            if isinstance(reply, list):
                rows.update(zip(part.keys, reply, strict=True))
                continue
            word, *words = str(reply).split(" ")
            if word == "MOVED":
                again.append(Part(part.keys, part.slot, self._slots.moved(part.slot, _place(words[1], part))))
            elif word == "ASK" and len(part.keys) == 1:
                node = self._slots.node(_place(words[1], part))
                again.append(Part(part.keys, part.slot, node, asking=True))
            elif word in ("ASK", "TRYAGAIN"):
                # Some keys of a slot that is on its way are here and some are there.
                owner = self._slots.owner(part.slot)
                again += [Part([key], part.slot, owner) for key in part.keys]
            elif word in ("CLUSTERDOWN", "LOADING", "MASTERDOWN"):
                self._slots.look_again()
                raise Unavailable("store_down", f"the store failed: {reply}")
            else:
                part.node.breaker.failed(certain=True)
                raise Unavailable("refused", str(reply))
        return again

    def _failed(self, node: Node, error: Exception, began_ns: int, deadline_ns: int) -> Unavailable:
        """The error of a read, counted by the node's breaker."""
        if isinstance(error, TimeoutError):
            if deadline_ns - began_ns >= PATIENCE_NS:
                node.breaker.failed(certain=False)
            if node.breaker.open:
                # Another node may have taken its place, while its connections stay open.
                node.close()
                self._slots.look_again()
            return Unavailable("timeout", f"the store did not answer in time: {error}")
        node.breaker.failed(certain=True)
        node.drop()
        if isinstance(error, Unavailable):
            return error
        self._slots.look_again()
        return Unavailable(
            "store_down", f"node {node.address.host}:{node.address.target[1]} cannot be reached: {error}"
        )


def _by_node(parts: list[Part]) -> dict[Node, list[Part]]:
    by_node: dict[Node, list[Part]] = {}
    for part in parts:
        by_node.setdefault(part.node, []).append(part)
    return by_node


def _require(node: Node) -> None:
    if not node.breaker.admits():
        raise Unavailable("store_down", "a node of the store failed a moment ago and is left alone for now")


def _commands(parts: list[Part]) -> list[tuple[Any, ...]]:
    return [command for part in parts for command in part.commands]


def _place(text: str, part: Part) -> Place:
    """The place in a redirection, host:port. An empty host is the node's own."""
    host, _, port = text.rpartition(":")
    return host or part.node.address.host, int(port)
