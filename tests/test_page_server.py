"""The server of demo.py: whom it answers, forged and odd requests, its command; nothing leaves the machine."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from fastmask_jax.apps.command_line import demo
from fastmask_jax.configuration import run_command
from tests import tiny
from tests.browser_page import HeldGenerator, free_port, needs_chromium, opened, says, shown


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}], ids=["bare", "as gradio writes it"])
def test_a_forged_message_reads_no_file_of_the_machine(served, photo, meta):
    events = json.loads(urlopen(f"{served.address}config").read())["dependencies"]
    number = next(event["id"] for event in events if len(event["inputs"]) == 6 and len(event["outputs"]) == 12)
    message = {
        "data": [{"path": str(photo), **meta}, None, "off", 0, 1, 6],
        "fn_index": number,
        "session_hash": photo.parent.name,
    }
    join = Request(f"{served.address}gradio_api/queue/join", json.dumps(message).encode())
    join.add_header("Content-Type", "application/json")
    before = len(served.seen)
    urlopen(join).read()
    answer = urlopen(f"{served.address}gradio_api/queue/data?session_hash={photo.parent.name}", timeout=30)
    done = next(line.decode() for line in answer if b"process_completed" in line)
    assert "proposals" not in done
    assert len(served.seen) == before


@pytest.mark.parametrize(
    "value", [None, "x", -1, [], {}, {"path": None}, {"path": "\0"}, {"path": "/etc/passwd"}], ids=str
)
def test_odd_requests_leave_no_traceback(served, value, capfd):
    events = json.loads(urlopen(f"{served.address}config").read())["dependencies"]
    asked = [(event["id"], [value] * len(event["inputs"])) for event in events] + [(999, []), (-1, [value])]
    for number, (event, data) in enumerate(asked):
        session = f"odd{number}{value}"
        message = json.dumps({"data": data, "fn_index": event, "session_hash": session}).encode()
        join = Request(f"{served.address}gradio_api/queue/join", message, {"Content-Type": "application/json"})
        try:
            urlopen(join, timeout=30).read()
        except HTTPError as error:
            assert error.code >= 400
            continue
        query = urlencode({"session_hash": session})
        for line in urlopen(f"{served.address}gradio_api/queue/data?{query}", timeout=30):
            if b"process_completed" in line:
                break
    with pytest.raises((HTTPError, http.client.HTTPException, OSError)):
        urlopen(f"{served.address}gradio_api/queue/data?session_hash=unknown", timeout=30).read()
    assert "Traceback" not in capfd.readouterr().err


def test_nothing_is_asked_of_other_machines(served):
    """Neither while gradio is imported nor while the page is built and used; the browser's requests: `problems`."""
    assert not served.blocks.analytics_enabled and not served.blocks.share
    hosts = {address[0] for address in served.connections if isinstance(address, tuple)}
    assert {host.decode() if isinstance(host, bytes) else host for host in hosts} <= {"127.0.0.1", "localhost", None}
    with socket.socket() as probe:
        probe.settimeout(5)
        own = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), served.port, socket.AF_INET)]
        others = [host for host in own if not host.startswith("127.")]
        assert all(probe.connect_ex((host, served.port)) for host in others), "it listens beyond this machine"


def test_names_of_other_hosts_are_refused(served):
    """A page of another site, whose name is made to lead here, must not use this one."""
    for host, status in (("evil.example", 400), (f"localhost:{served.port}", 200), (f"127.0.0.1:{served.port}", 200)):
        asked = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        asked.request("GET", "/config", headers={"Host": host})
        assert asked.getresponse().status == status, host
        asked.close()


def test_the_own_address_is_not_asked_through_a_proxy(monkeypatch):
    from fastmask_jax.apps.page.blocks import build_page
    from fastmask_jax.apps.page.serving import serve

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    page = build_page(HeldGenerator(), "")
    port = free_port()
    assert serve(page, "127.0.0.1", port) == f"http://127.0.0.1:{port}/"
    page.close(verbose=False)
    assert "NO_PROXY" not in os.environ or "::1" not in os.environ["NO_PROXY"]


def test_a_port_in_use_is_one_line(served):
    from fastmask_jax.apps.page.blocks import build_page
    from fastmask_jax.apps.page.serving import serve

    line = f"^--host 127.0.0.1 --port {served.port}: cannot be served there; another --port may be free$"
    with pytest.raises(ValueError, match=line):
        serve(build_page(HeldGenerator(), ""), "127.0.0.1", served.port)


def test_mistakes_on_the_command_line(capsys):
    with pytest.raises(SystemExit) as exit_:
        demo.main(["--port", "70000"])
    assert exit_.value.code == 2 and "--port: 70000: expected an integer from 1 to 65535" in capsys.readouterr().err
    assert run_command(lambda: demo.main(["--weights", "nowhere"])) == 2
    assert "--weights nowhere: no file or folder nowhere" in capsys.readouterr().err


@needs_chromium
def test_the_command_alone(tmp_path):
    """python demo.py with the network that comes along, on an example that the page draws; Ctrl-C ends it."""
    port = free_port()
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(tiny.ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(tiny.ROOT / "demo.py"), "--port", str(port), "--config.evaluation.proposals=200"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/ shows the page; Ctrl-C ends it\n"
        with opened(f"http://127.0.0.1:{port}/") as (page, problems):
            assert "3,199 partly labeled photographs" in page.inner_text("body")
            page.set_default_timeout(240_000)  # for compiling, beside other tests
            page.click("#example")
            says(page, "status", "of 200 proposals")
            # Gradio may still show the seconds that it took, above the text.
            assert re.search(r"^Proposal 1 · objectness 0\.\d{3}", page.inner_text("#description"), re.MULTILINE)
            assert shown(page, "overview")[1].std() > 20
            assert not problems
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in errors, errors
        assert "left at initial values: nothing" in errors
    finally:
        process.kill()
        process.wait()
