"""Clients that misbehave leave nothing behind; a server that is to end finishes what it has begun."""

import os
import signal
import socket
import sys
import time

import pytest

from colour_model import colour_model
from serving import BOXES, RED_BOX, Serving, mask_png, png, request, scene

FORM = {"image": png(scene()), "regions": BOXES}
IDLE_S = 1.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(colour_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def serving(model):
    with Serving("--model", model, "--limits.idle-s", str(IDLE_S), "--limits.max-upload-mb", "1") as serving:
        yield serving


def connect(serving):
    return socket.create_connection(("localhost", serving.port), timeout=20)


def answer_of(connection):
    """Return everything that a server sends until it closes the connection."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts).decode()


def open_files(serving):
    return len(os.listdir(f"/proc/{serving.process.pid}/fd"))


def settled(serving, files):
    """Wait until a server has no more open files than before, and nothing that waits or holds memory."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        waiting = serving.number("maskwise_waiting_regions") + serving.number("maskwise_request_bytes")
        if not waiting and open_files(serving) <= files:
            return True
        time.sleep(0.05)
    return False


def ready(serving):
    serving.get("/healthz")
    time.sleep(0.1)
    return open_files(serving)


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_half_sent_heads_and_bodies_are_given_up(serving):
    files, whole = ready(serving), request(FORM)
    pieces = [b"", b"POST /v1/pre", whole[:80], whole[:-20], whole[:250]]
    connections = [connect(serving) for _ in range(4) for _ in pieces]
    for number, connection in enumerate(connections):
        connection.sendall(pieces[number % len(pieces)])
    started = time.monotonic()
    answers = [answer_of(connection) for connection in connections]
    assert time.monotonic() - started < 8 * IDLE_S
    assert [answer[:12] for answer in answers[:5]] == ["", "", "", "HTTP/1.1 408", "HTTP/1.1 408"]
    assert "send the request again" in answers[3]
    for connection in connections:
        connection.close()
    assert settled(serving, files)


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_killed_clients_leave_nothing(serving):
    files, whole = (
        ready(serving),
        request({"image": FORM["image"], "regions": f"[{BOXES[1:-1]}" + ',{"box": [1,1,9,9]}' * 90 + "]"}),
    )
    for number in range(30):
        connection = connect(serving)
        connection.sendall(whole if number % 2 else whole[: len(whole) // 2])
        if number % 3 == 0:  # Reset, not closed.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    assert settled(serving, files)
    assert '"status":"ok"' in serving.get("/healthz")


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_readers_that_stall_are_cut_off(serving):
    files = ready(serving)
    stalled = []
    for _ in range(3):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", serving.port))
        connection.sendall(b"GET /examples/astronaut.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400)
        stalled.append(connection)
    time.sleep(3 * IDLE_S)
    assert settled(serving, files)
    for connection in stalled:
        connection.close()


def test_slow_but_steady_clients_are_served(serving):
    whole = request(FORM)
    with connect(serving) as connection:
        for start in range(0, len(whole), len(whole) // 6):
            connection.sendall(whole[start : start + len(whole) // 6])
            time.sleep(0.4 * IDLE_S)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(serving):
    with connect(serving) as connection:
        connection.sendall(request(FORM, length=2_000_000))
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_nonsense_is_a_bad_request(serving):
    with connect(serving) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_many_clients_at_once_are_asked_to_come_back(model):
    with Serving("--model", model, "--limits.max-requests", "2") as serving:
        half = [connect(serving) for _ in range(2)]
        for connection in half:
            connection.sendall(request(FORM)[:-20])
        time.sleep(0.3)
        with connect(serving) as connection:
            connection.sendall(request(FORM))
            answer = connection.recv(4096).decode().lower()
            assert answer.startswith("http/1.1 503")
            assert "retry-after: 2" in answer
        for connection in half:
            connection.sendall(request(FORM)[-20:])
            assert connection.recv(12) == b"HTTP/1.1 200"
            connection.close()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")
def test_sigterm_finishes_running_requests(model):
    with Serving("--model", model) as serving:
        whole = request({**FORM, "masks": mask_png(RED_BOX)})
        begun = connect(serving)
        begun.sendall(whole[:-20])
        idle = connect(serving)
        time.sleep(0.3)
        serving.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(ConnectionRefusedError):
            connect(serving)
        begun.sendall(whole[-20:])
        answer = answer_of(begun)
        assert answer.startswith("HTTP/1.1 200")
        assert answer.count('"bbox"') == 3
        assert serving.process.wait(20) == 0
        begun.close()
        idle.close()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_with_130(model):
    with Serving("--model", model) as serving:
        serving.process.send_signal(signal.SIGINT)
        assert serving.process.wait(20) == 130
        assert "Traceback" not in serving.process.stderr.read()


def test_other_networks_get_a_token_of_their_own(model):
    with Serving("--model", model, "--host", "0.0.0.0") as serving:
        assert "#token=" in serving.line
        token = serving.line.split("#token=")[1].split()[0]
        with connect(serving) as connection:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 401"
        with connect(serving) as connection:
            head = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
