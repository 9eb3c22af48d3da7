"""Slow, endless and crowding clients over raw sockets against a real server: reliability.md section 9.

Where a test has to let a deadline pass, it waits for the server to close a stalled connection opened for that.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace

import anyio
import httpx2
import pytest
import uvicorn
from anyio.abc import ByteStream
from starlette.types import ASGIApp, Receive, Scope, Send

from payre_mcp.dev.web import HOST, listen, serving
from payre_mcp.guard import LIMITS, BodyGuard, Limits
from tests.fakes import PATIENCE_S

LIMIT = 1_000
SHORT = Limits(header_s=0.2, body_s=0.2, body_bytes=LIMIT, connections_per_address=None)
HEAD = b"POST / HTTP/1.1\r\nHost: shop\r\n"
ASKS = HEAD + b"Content-Length: 2\r\n\r\n{}"


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


class Counter:
    """An application that answers with the size of the body it got."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await started(receive, send)
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(message["body"])
        answer = b"%d" % len(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
        return await send({"type": "http.response.body", "body": answer})


async def started(receive: Receive, send: Send) -> None:
    for step in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{step}"
        await send({"type": f"lifespan.{step}.complete"})


class Door:
    """A server that is being served, and connections to it."""

    def __init__(self, port: int) -> None:
        self.port = port

    @asynccontextmanager
    async def connection(self, first: bytes = b"") -> AsyncGenerator[ByteStream]:
        async with await anyio.connect_tcp(HOST, self.port) as stream:
            await stream.send(first)
            yield stream

    async def say(self, text: bytes) -> bytes:
        """Say this, then nothing, and hear what comes until the server hangs up."""
        async with self.connection(text) as stream:
            return await until_closed(stream)


@asynccontextmanager
async def door(app: ASGIApp, limits: Limits = SHORT) -> AsyncGenerator[Door]:
    with anyio.fail_after(PATIENCE_S), closing(listen()) as listener:
        async with serving(app, listener, limits):
            yield Door(listener.getsockname()[1])


async def until_closed(stream: ByteStream) -> bytes:
    heard = b""
    try:
        while True:
            heard += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return heard


async def drip(stream: ByteStream, drops: Iterable[bytes]) -> bytes:
    """Send drop after drop, much faster than any deadline, until the server hangs up; what it said."""
    heard = b""
    for drop in drops:
        try:
            with anyio.move_on_after(SHORT.header_s / 20):
                heard += await stream.receive()
            await stream.send(drop)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return heard
    raise AssertionError("a dripping client was served to its end")


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer, which must say that it is the connection's last, and what it means."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    said = json.loads(body)
    assert "nothing was charged" in said["message"]
    return int(head.split()[1]), said["error"]


# Heads.


async def test_a_client_that_says_nothing_is_hung_up_on() -> None:
    async with door(Counter()) as it:
        assert await it.say(b"") == b""


async def test_a_stalled_head_is_hung_up_on() -> None:
    async with door(Counter()) as it:
        assert await it.say(HEAD) == b""


async def test_dripping_a_head_wins_no_time() -> None:
    async with door(Counter()) as it, it.connection(HEAD + b"X-Slow: ") as stream:
        assert await drip(stream, [b"a"] * 1_000) == b""


async def test_a_stalled_second_request_on_a_connection_is_hung_up_on() -> None:
    app = Counter()
    async with door(app) as it, it.connection(ASKS) as stream:
        first = await stream.receive()
        await stream.send(HEAD)
        rest = await until_closed(stream)
    assert (app.bodies, first.count(b"200 OK"), rest) == ([b"{}"], 1, b"")


async def test_a_second_request_on_a_connection_is_answered() -> None:
    app = Counter()
    async with door(app) as it, it.connection(ASKS) as stream:
        for _ in range(3):
            assert b"200 OK" in await stream.receive()
            await stream.send(ASKS)
    assert len(app.bodies) >= 3


async def test_pipelined_requests_are_all_answered() -> None:
    app = Counter()
    async with door(app) as it:
        heard = await it.say(ASKS * 2 + ASKS.replace(b"Host", b"Connection: close\r\nHost"))
    assert (heard.count(b"200 OK"), app.bodies) == (3, [b"{}"] * 3)


async def test_without_the_guard_a_stalled_head_is_waited_for() -> None:
    """The control: what the guard is there for. uvicorn itself has no such deadline."""
    with anyio.fail_after(PATIENCE_S), closing(listen()) as listener:
        plain = uvicorn.Server(uvicorn.Config(Counter(), http="h11", log_config=None, access_log=False))
        async with anyio.create_task_group() as tasks, door(Counter()) as guarded:
            tasks.start_soon(plain.serve, [listener])
            async with Door(listener.getsockname()[1]).connection(HEAD) as stream:
                for _ in range(3):
                    assert await guarded.say(HEAD) == b""
                await stream.send(b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
                assert b"200 OK" in await until_closed(stream)
            plain.should_exit = True


# Bodies.


@pytest.mark.parametrize("framing", [b"Content-Length: 500", b"Transfer-Encoding: chunked"])
async def test_a_stalled_body_is_answered_and_never_reaches_the_application(framing: bytes) -> None:
    app = Counter()
    async with door(app) as it:
        assert refusal(await it.say(HEAD + framing + b"\r\n\r\n")) == (408, "body_too_slow")
    assert app.bodies == []


@pytest.mark.parametrize(("framing", "drop"), [(b"Content-Length: 900", b"x"), (b"Transfer-Encoding: chunked", b"1\r\nx\r\n")])
async def test_dripping_a_body_wins_no_time(framing: bytes, drop: bytes) -> None:
    app = Counter()
    async with door(app) as it, it.connection(HEAD + framing + b"\r\n\r\n") as stream:
        assert refusal(await drip(stream, [drop] * 900)) == (408, "body_too_slow")
    assert app.bodies == []


def chunked(size: int) -> bytes:
    """A request with a body in chunks, complete."""
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (b"x" * min(400, size - at) for at in range(0, size, 400))]
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"


def announced(size: int) -> bytes:
    """A request whose head says how long its body is, complete."""
    return HEAD + b"Content-Length: %d\r\n\r\n" % size + b"x" * size


@pytest.mark.parametrize("request_of", [announced, chunked])
async def test_a_body_may_be_as_large_as_the_limit_and_no_larger(request_of: Callable[[int], bytes]) -> None:
    app = Counter()
    async with door(app) as it:
        async with it.connection(request_of(LIMIT)) as stream:
            assert (await stream.receive()).endswith(b"\r\n1000")
        assert refusal(await it.say(request_of(LIMIT + 1))) == (413, "body_too_large")
    assert app.bodies == [b"x" * LIMIT]


@pytest.mark.parametrize("request_of", [announced, chunked])
async def test_who_sends_far_too_much_in_one_go_can_read_why_it_was_refused(request_of: Callable[[int], bytes]) -> None:
    """Hanging up on what is still coming would reset the connection, and the answer with it."""
    async with door(Counter(), replace(SHORT, body_s=PATIENCE_S)) as it:
        assert refusal(await it.say(request_of(8 << 20))) == (413, "body_too_large")


async def test_an_announced_length_is_refused_before_the_body_is_sent() -> None:
    """As curl asks, with `Expect: 100-continue`."""
    head = HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    async with door(Counter(), replace(SHORT, body_s=PATIENCE_S)) as it:
        async with it.connection(head % (LIMIT + 1)) as stream:
            assert b"413 Request Entity Too Large" in await stream.receive()
        async with it.connection(head % 2) as stream:
            assert b"100 Continue" in await stream.receive()
            await stream.send(b"{}")
            assert b"200 OK" in await stream.receive()


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_forgotten() -> None:
    app = Counter()
    async with door(app) as it:
        async with it.connection(HEAD + b"Content-Length: 500\r\n\r\nx"):
            pass
        async with it.connection(ASKS) as stream:
            assert b"200 OK" in await stream.receive()
    assert app.bodies == [b"{}"]


# Answers.


class Stream:
    """An application that streams events, as many as it is told to, and notes when its client has left."""

    def __init__(self) -> None:
        self.go_on, self.left = anyio.Event(), anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await started(receive, send)
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
        await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"data: last\n\n", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        return self.left.set()


@pytest.mark.parametrize("request_text", [b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n", ASKS], ids=["poll", "call"])
async def test_a_long_answer_is_never_cut_and_its_application_learns_that_the_client_left(request_text: bytes) -> None:
    app = Stream()
    async with door(app) as it:
        async with it.connection(request_text) as stream:
            heard = b""
            while b"data: first" not in heard:
                heard += await stream.receive()
            for _ in range(3):  # each waits for both deadlines
                assert await it.say(HEAD) == b""
                assert refusal(await it.say(HEAD + b"Content-Length: 9\r\n\r\n")) == (408, "body_too_slow")
            app.go_on.set()
            while b"data: last" not in heard:
                heard += await stream.receive()
            assert not app.left.is_set()
        await app.left.wait()


# Crowds.


async def test_two_hundred_stalled_connections_are_closed_while_good_requests_are_answered() -> None:
    app, closed, answers = Counter(), list[bytes](), list[httpx2.Response]()

    async def stall(it: Door, text: bytes) -> None:
        closed.append(await it.say(text))

    async with door(app) as it, anyio.create_task_group() as tasks:
        for text in (HEAD, HEAD + b"Content-Length: 500\r\n\r\nx") * 100:
            tasks.start_soon(stall, it, text)
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
            answers += [await http.post(f"http://{HOST}:{it.port}/", content=b"{}") for _ in range(50)]
    assert {answer.text for answer in answers} == {"2"}
    assert (len(closed), closed.count(b"")) == (200, 100)
    assert {refusal(each) for each in closed if each} == {(408, "body_too_slow")}
    assert app.bodies == [b"{}"] * 50


async def test_one_address_opens_no_more_connections_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    app = Stream()
    async with door(app, replace(LIMITS, connections_per_address=2)) as it:
        async with AsyncExitStack() as held:
            streams = [await held.enter_async_context(it.connection(ASKS)) for _ in range(2)]
            for stream in streams:
                assert b"200 OK" in await stream.receive()
            assert await it.say(ASKS) == b""
            app.go_on.set()
        await app.left.wait()
        await answered(lambda: it.say(b"bad\r\n\r\n"))
    assert "connections_per_address" in caplog.text


async def answered(ask: Callable[[], Awaitable[bytes]]) -> bytes:
    """The answer, as soon as there is one: the server learns a little later than the client that a connection is closed."""
    while not (answer := await ask()):
        pass
    return answer


# What is not HTTP.


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_what_has_no_body_passes_untouched(kind: str) -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    async def receive() -> dict[str, str]:
        raise AssertionError("nobody reads here")

    async def send(message: object) -> None:
        raise AssertionError(message)

    scope = {"type": kind}
    await BodyGuard(app)(scope, receive, send)
    assert seen == [(scope, receive, send)]
