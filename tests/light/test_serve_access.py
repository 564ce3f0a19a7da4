import pytest
from starlette.datastructures import Headers

from colour_model import colour_model
from maskwise.errors import InputError, SettingsError
from maskwise.serve.access import refusal_of
from maskwise.serve.server import address_of, listen, read_token
from maskwise.serve.settings import Access, Limits, access_for
from serving import client_of

TOKEN = "0123456789abcdef"
LOCAL = access_for("127.0.0.1", token=None)
EVERYWHERE = access_for("0.0.0.0", token=TOKEN)


def refused(access, path="/v1/predict", **headers):
    headers = {name.replace("_", "-"): value for name, value in {"host": "localhost:8000", **headers}.items()}
    refusal = refusal_of(access, path, Headers(headers))
    return refusal and refusal.status


def test_localhost_is_welcome_by_its_names():
    for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"):
        assert refused(LOCAL, host=host) is None, host


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "evil@localhost", "", "127.0.0.1.nip.io"])
def test_a_page_that_renames_itself_to_this_machine_is_refused(host):
    assert refused(LOCAL, host=host) == 403
    assert refused(LOCAL, "/", host=host) == 403


def test_pages_of_other_sites_are_refused():
    for origin in ("http://evil.example", "null", "http://localhost:9999", "http://localhost:8000.evil.example"):
        assert refused(LOCAL, origin=origin) == 403, origin
    assert refused(LOCAL, origin="http://localhost:8000") is None
    assert refused(LOCAL, sec_fetch_site="cross-site") == 403
    assert refused(LOCAL, sec_fetch_site="same-origin") is None
    assert refused(LOCAL, "/", sec_fetch_site="cross-site") is None  # A link to the page.


def test_allowed_sites_and_names_are_welcome():
    access = access_for("127.0.0.1", token=None, hosts=("maskwise.example",), origins=("https://app.example",))
    assert refused(access, origin="https://app.example") is None
    assert refused(access, host="maskwise.example") is None
    assert refused(access, host="other.example") == 403


def test_the_token_is_needed_for_everything_but_the_page():
    for path in ("/v1/models", "/v1/predict", "/metrics"):
        assert refused(EVERYWHERE, path, host="10.0.0.5:8000") == 401
        assert refused(EVERYWHERE, path, authorization=f"Bearer {TOKEN}") is None
        assert refused(EVERYWHERE, path, authorization=f"bearer {TOKEN}") is None
        for wrong in (TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", "Bearer é"):
            assert refused(EVERYWHERE, path, authorization=wrong) == 401, wrong
    for path in ("/", "/page/app.js", "/healthz"):
        assert refused(EVERYWHERE, path) is None


def test_other_machines_need_a_token():
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        with pytest.raises(SettingsError, match="give a token"):
            access_for(host, token=None)
    with pytest.raises(SettingsError, match="at least 16"):
        access_for("0.0.0.0", token="short")
    with pytest.raises(SettingsError, match="do not fit in a header"):
        access_for("0.0.0.0", token="with a space in it")
    with pytest.raises(SettingsError, match="like https"):
        access_for("127.0.0.1", token=None, origins=("example.org",))


def test_the_token_is_not_shown():
    assert TOKEN not in repr(EVERYWHERE)


def test_limits_are_positive():
    with pytest.raises(SettingsError, match="max-masks is 0"):
        Limits(max_masks=0)


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MASKWISE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("MASKWISE_TOKEN", TOKEN)
    assert read_token(None) == TOKEN
    path = tmp_path / "token"
    path.write_text(" abc \n")
    assert read_token(path) == "abc"
    path.write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_token(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_a_taken_port_is_one_line():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match="give another --port"):
            listen("127.0.0.1", port)
        assert address_of("127.0.0.1", port, None) == f"http://localhost:{port}/"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return colour_model(tmp_path_factory.mktemp("model"))


def test_refusals_reach_the_client(model):
    with client_of(model, access=EVERYWHERE) as client:
        answer = client.get("/v1/models")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in answer.json()["detail"]
        assert client.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_other_sites_get_no_cors_headers_unless_allowed(model):
    ask = {"origin": "https://app.example", "access-control-request-method": "POST"}
    with client_of(model) as client:
        for answer in (client.options("/v1/predict", headers=ask), client.get("/healthz", headers=ask)):
            assert answer.status_code in (403, 405)
            assert "access-control-allow-origin" not in answer.headers
    with client_of(model, access=Access(origins=("https://app.example",))) as client:
        answer = client.options("/v1/predict", headers=ask)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        other = client.options("/v1/predict", headers={**ask, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
