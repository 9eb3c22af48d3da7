"""A TCP proxy between a seller and a hub that spoils a part of what passes: what networks and hosts do at their worst.

It knows just enough HTTP to tell one message from the next. Everything happens in threads, so either event loop may test.
"""

import random
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal[
    "reset", "drop", "lose", "cut", "stall", "late", "drip", "garbage", "error", "strange", "duplicate", "busy", "moved"
]  # fmt: skip
_BUFFER = 65_536
_SPOILT: Mapping[str, bytes] = {
    "garbage": b"\x15\x03\x01\x00\x02 this is not HTTP \x00\xff\r\n\r\n",
    "error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops",
    "strange": b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"answers":[]}',
    "busy": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "moved": b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
}
"""Answers in place of the hub's. To all but `busy` and `moved` the hub has done what it was asked."""


class BrokenLine:
    """The proxy. `spoils` says of each exchange whether it goes wrong; `mode` says how."""

    def __init__(self, url: str, mode: Mode, seed: int) -> None:
        self._hub = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        self.mode: Mode = mode
        self.random = random.Random(seed)
        self.spoils: Callable[[], bool] = lambda: self.random.random() < 0.5
        self.exchanges = self.spoilt = 0
        self.healed = threading.Event()
        """Nothing goes wrong from then on; what stands still goes on."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []

    def heal(self) -> None:
        """From now on everything passes."""
        self.healed.set()

    def serve(self) -> None:
        """Take connections until closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve_one, args=(client,), name="test-line")
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        """Take no more; connections end when their clients leave."""
        self.heal()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def join(self) -> None:
        """Wait for the connections to end."""
        for thread in self._threads:
            thread.join()

    def _serve_one(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while request := read_message(client):
                self.exchanges += 1
                if self.healed.is_set() or not self.spoils():
                    client.sendall(self._asked(request))
                    continue
                self.spoilt += 1
                if not self._spoil(client, request):
                    return

    def _spoil(self, client: socket.socket, request: bytes) -> bool:
        """One exchange that goes wrong; whether the connection lives on."""
        if self.mode == "reset":  # as a host that has just gone down
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            return False
        if self.mode == "drop":
            return False
        if self.mode in {"busy", "moved"}:
            client.sendall(_SPOILT[self.mode])
            return True
        if self.mode == "late":
            self.healed.wait()
        answer = self._asked(request)
        if self.mode in _SPOILT:
            client.sendall(_SPOILT[self.mode])
            return self.mode != "garbage"
        if self.mode == "cut":
            client.sendall(answer[: self.random.randrange(len(answer))])
        elif self.mode == "stall":
            self.healed.wait()
            client.sendall(answer)
        elif self.mode == "drip":
            for place in range(len(answer)):
                client.sendall(answer[place : place + 1])
                if self.healed.wait(0.1):
                    break
        elif self.mode == "duplicate":
            client.sendall(self._asked(request))
            return True
        return False

    def _asked(self, request: bytes) -> bytes:
        """What the hub answers."""
        with socket.create_connection(self._hub) as hub:
            hub.sendall(request)
            return read_message(hub)


def read_message(sender: socket.socket) -> bytes:
    """One whole HTTP/1.1 message with a length; empty where the sender has left."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sender.recv(_BUFFER)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    wanted = int(lengths[0]) if lengths else 0
    while len(body) < wanted:
        part = sender.recv(_BUFFER)
        if not part:
            return b""
        body += part
    return head + b"\r\n\r\n" + body


@contextmanager
def broken_line(url: str, mode: Mode, seed: int = 0) -> Generator[BrokenLine]:
    """Stand before the hub at `url` until the block ends."""
    line = BrokenLine(url, mode, seed)
    thread = threading.Thread(target=line.serve, name="test-broken-line")
    thread.start()
    try:
        yield line
    finally:
        line.close()
        thread.join()
        line.join()
