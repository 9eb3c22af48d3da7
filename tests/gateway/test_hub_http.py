"""The wire to a hub, against a server that answers whatever the test says: what each answer means, and where the key goes."""

import socket
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from payre_mcp.errors import InvalidRequest, PayreError, PayreUnavailable, Unauthorized
from payre_mcp.gateway import hub_http
from payre_mcp.gateway.hub_address import HubAddress
from payre_mcp.gateway.hub_http import Failed, HubHttp, put_prices
from payre_mcp.gateway.remote import RemoteGateway
from payre_mcp.gateway.schemas import PriceListRequest
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.pricing import Target, load_price
from tests.broken_line import read_message
from tests.fakes import PATIENCE_S

SECRET = new_key(Role.DEVELOPER, Mode.TEST).text


class Answering:
    """A server that gives every request the same answer, in pieces, and keeps what it was asked."""

    def __init__(self, *pieces: bytes, tls: ssl.SSLContext | None = None) -> None:
        self._pieces, self._tls = pieces, tls
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://localhost:{self._listener.getsockname()[1]}"
        self.said = threading.Event()
        self.may_go_on = threading.Event()

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                self._serve_one(self._listener.accept()[0])

    def _serve_one(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            wrapped = client if self._tls is None else self._tls.wrap_socket(client, server_side=True)
            with wrapped:
                while request := read_message(wrapped):
                    self.asked.append(request)
                    for piece in self._pieces:
                        wrapped.sendall(piece)
                        self.said.set()
                        if piece != self._pieces[-1]:
                            self.may_go_on.wait(PATIENCE_S)

    def close(self) -> None:
        self.may_go_on.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def answering(*pieces: bytes, tls: ssl.SSLContext | None = None) -> Generator[Answering]:
    server = Answering(*pieces, tls=tls)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


@contextmanager
def line_to(server: Answering, *, timeout_s: float = PATIENCE_S) -> Generator[HubHttp]:
    line = HubHttp(HubAddress.parse(server.url, SECRET), timeout_s=timeout_s, within_s=PATIENCE_S)
    try:
        yield line
    finally:
        line.close()


def response(status: int, body: bytes = b"", **headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join(head).replace("_", "-").encode() + b"\r\n\r\n" + body


def failure_of(server: Answering) -> Failed:
    with line_to(server) as line, pytest.raises(Failed) as caught:
        line.post_batch([b"{}"])
    assert SECRET not in repr(caught.value)
    return caught.value


DOCUMENT = b'{"error": "invalid_request", "message": "no such act; nothing was done"}'


def test_answers_come_in_the_order_of_what_was_asked() -> None:
    body = b'{"answers":[{"id":"a","status":200,"body":{}},{"id":"b","status":404,"body":{"error":"x"}}],"newer":1}'
    with answering(response(200, body)) as server, line_to(server) as line:
        answers = line.post_batch([b'{"id":"a"}', b'{"id":"b"}'])
    assert [(each.id, each.status) for each in answers] == [("a", 200), ("b", 404)]
    assert server.asked[0].endswith(b'{"requests":[{"id":"a"},{"id":"b"}]}')


def test_one_connection_is_kept_open() -> None:
    with answering(response(200, b'{"answers":[]}')) as server, line_to(server) as line:
        for _ in range(3):
            line.post_batch([b"{}"])
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "may_have_arrived", "is_refused"),
    [
        (response(400, DOCUMENT), False, True),
        (response(413, DOCUMENT), False, True),
        (response(404, b"<html>nothing here</html>"), True, False),
        (response(404, b'{"detail": "Not Found"}'), True, False),
        (response(500, DOCUMENT), True, False),
        (response(502), True, False),
        (response(307, Location="/elsewhere"), True, False),
        (response(200, b"<html>welcome</html>"), True, False),
        (response(200, b'{"answers": 7}'), True, False),
        (response(200, b"[" * 100_000), True, False),
        (response(204), True, False),
    ],
)
def test_only_a_hub_that_says_so_has_refused(answer: bytes, may_have_arrived: bool, is_refused: bool) -> None:
    with answering(answer) as server:
        failure = failure_of(server)
    assert (failure.may_have_arrived, failure.is_refused) == (may_have_arrived, is_refused)
    assert isinstance(failure.error, InvalidRequest) == is_refused
    assert len(server.asked) == 1, "a redirect was followed"


@pytest.mark.parametrize(("said", "wait_s"), [("7", 7), ("0", 0), ("86400", 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 1), ("-3", 1)])
@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_asks_for_patience_says_how_much(status: int, said: str, wait_s: float) -> None:
    with answering(response(status, Retry_After=said)) as server:
        failure = failure_of(server)
    assert failure.wait_s == wait_s
    assert failure.may_have_arrived == (status == 503)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_told_apart(status: int) -> None:
    with answering(response(status, b'{"error": "unauthorized", "message": "revoked"}')) as server:
        failure = failure_of(server)
    assert failure.is_key_refused
    assert isinstance(failure.error, Unauthorized)


def test_what_nobody_listens_to_has_surely_not_arrived() -> None:
    with answering() as server:
        pass
    failure = failure_of(server)
    assert not failure.may_have_arrived


def test_an_answer_larger_than_any_hub_sends_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_http, "LARGEST_ANSWER", 100)
    with answering(response(200, b"x" * 1_000)) as server:
        assert failure_of(server).may_have_arrived


def test_a_request_that_takes_too_long_can_be_broken_off_from_another_thread() -> None:
    """Its head drips, so that no single byte is late."""
    with answering(b"HTTP/1.1 200", b" OK\r\n\r\n") as server, line_to(server) as line:
        failed: list[Failed] = []

        def ask() -> None:
            with pytest.raises(Failed) as caught:
                line.post_batch([b"{}"])
            failed.append(caught.value)

        thread = threading.Thread(target=ask)
        thread.start()
        assert server.said.wait(PATIENCE_S)
        line.cut()
        assert thread.is_alive(), "it was broken off before its time was over"
        line.cut(at_once=True)
        thread.join(PATIENCE_S)
    assert failed[0].may_have_arrived


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(response(200, b'{"answers":[]}')) as proxy, answering(response(200, b'{"answers":[]}')) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with line_to(server) as line:
            line.post_batch([b"{}"])
        assert (len(server.asked), len(proxy.asked)) == (1, 0)


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """The certificate of somebody who only says that they are localhost."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=3_650)).not_valid_after(now + timedelta(days=3_650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = tmp_path / "server.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_a_certificate_that_nobody_signed_is_not_believed_and_the_key_not_sent(self_signed: ssl.SSLContext) -> None:
    with answering(response(200, b'{"answers":[]}'), tls=self_signed) as server:
        failure = failure_of(server)
    assert not failure.may_have_arrived
    assert server.asked == []


@pytest.mark.parametrize("answer", [response(200, b"<html>welcome</html>"), response(404, b"nothing here"), response(500)])
def test_prices_cannot_be_published_where_no_hub_is(answer: bytes) -> None:
    with answering(answer) as server, pytest.raises(PayreUnavailable) as refusal:
        put_prices(HubAddress.parse(server.url, SECRET), "weather", PriceListRequest(prices=[]))
    assert server.url in refusal.value.message
    assert SECRET not in refusal.value.message


async def test_a_hub_that_reads_prices_otherwise_is_no_hub_for_this_seller() -> None:
    other = b'{"server":"weather","prices":[{"kind":"tool","name":"forecast","version":"another"}]}'
    with answering(response(200, other)) as server:
        gateway = RemoteGateway(HubAddress.parse(server.url, SECRET))
        with pytest.raises(PayreError, match="the same version"):
            await gateway.publish("weather", {Target("tool", "forecast"): load_price("0.01")})
        await gateway.aclose()


def test_the_name_of_a_server_is_one_part_of_the_address_whatever_it_holds() -> None:
    with answering(response(404)) as server, pytest.raises(PayreUnavailable):
        put_prices(HubAddress.parse(f"{server.url}/payre/", SECRET), "../a b?", PriceListRequest(prices=[]))
    assert server.asked[0].startswith(b"PUT /payre/v1/servers/..%2Fa%20b%3F/prices HTTP/1.1\r\n")
