"""The URL of a Redis server, in every form of redis-py: rows are written and read in one place, on a real server with
users, databases, TLS and a unix socket."""

import asyncio
import socket
import ssl
import subprocess
import time
from urllib.parse import quote

import pyarrow as pa
import pytest
from tests.servers import RedisServer, free_port

from engine import transform as t
from engine.errors import ConfigError, StoreError
from engine.feature_store import DuckDBOffline, Entity, FeatureStore, FeatureView, RedisOnline, Source
from engine.feature_store.online.redis_address import Address, safe

END = "2013-02-01T00:00:00Z"
PASSWORD = "p@ss/w:rd %?"


def view(value):
    times = pa.array([1_357_000_000], pa.timestamp("s", "UTC"))
    return FeatureView("s", Entity("k"), Source(pa.table({"k": [1], "t": times, "v": [value]}), "t"), ["v"])


def fetched(url, way="blocking"):
    """The value that a new reader of this URL finds, and its last error."""
    store = FeatureStore(DuckDBOffline(threads=1), RedisOnline(url))
    features = store.online_features(t.FeatureProgram.fit([t.number("s__v")], {"s__v": [0.0]}), [view(0.0)])
    deadline_ns = time.monotonic_ns() + 10_000_000_000

    async def one():
        try:
            return await features.fetch_async({"k": 1}, deadline_ns)
        finally:
            features.close()
            await asyncio.sleep(0)

    out, _ = asyncio.run(one()) if way == "asyncio" else features.fetch({"k": 1}, deadline_ns)
    features.close()
    return out["s__v"], features.stats()["last_error"]


def write(url, value):
    store = FeatureStore(DuckDBOffline(threads=1), RedisOnline(url))
    store.materialize(view(value), None, END)
    store.online.close()


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and a server and a client with certificates of it; the client's key has a password too."""
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for name in ("server", "client"):
        openssl(
            folder, "req", *key[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"
        )
        openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "2", "-extfile", "names",
        )  # fmt: skip
    openssl(folder, "ec", "-in", "client.key", "-aes256", "-passout", "pass:word", "-out", "locked.key")
    return folder


@pytest.fixture(scope="module")
def server(certificates, tmp_path_factory):
    """A server with a default password, a user of its own, TLS that demands a certificate, and a unix socket."""
    folder = tmp_path_factory.mktemp("redis")
    tls_port = free_port()
    made = RedisServer(
        folder,
        *("--tls-port", str(tls_port), "--tls-cert-file", str(certificates / "server.pem")),
        *(
            "--tls-key-file",
            str(certificates / "server.key"),
            "--tls-ca-cert-file",
            str(certificates / "ca.pem"),
        ),
        *("--unixsocket", str(folder / "a socket")),
        password="default",
    )
    made.tls_port = tls_port
    client = made.client()
    client.acl_setuser("alice", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])
    client.acl_setuser("nobody", enabled=True, nopass=True, keys=["*"], commands=["+@all"])
    client.close()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def empty(server):
    client = server.client()
    client.flushall()
    client.close()


LOGIN = quote(PASSWORD, safe="")


@pytest.mark.parametrize("way", ["blocking", "asyncio"])
@pytest.mark.parametrize(
    ("form", "database"),
    [
        ("redis://:default@localhost:{port}", 0),
        ("redis://:default@localhost:{port}/", 0),
        ("redis://:default@localhost:{port}/3", 3),
        ("redis://:default@localhost:{port}?db=4", 4),
        ("redis://:default@localhost:{port}/3?db=4", 4),
        ("redis://localhost:{port}/2?password=default", 2),
        ("redis://localhost:{port}?username=alice&password={login}&db=5", 5),
        ("redis://alice:{login}@localhost:{port}/6", 6),
        ("redis://alice:{login}@localhost:{port}?username=bob&password=wrong", 0),
        ("redis://nobody@localhost:{port}", 0),
        ("redis://localhost:{port}?username=nobody", 0),
        ("redis://?host=localhost&port={port}&password=default", 0),
        (
            "redis://:default@localhost:{port}?client_name=reader&protocol=3&socket_timeout=3&max_connections=9",
            0,
        ),
        ("unix://{socket}?password=default", 0),
        ("unix://{socket}?db=7&username=alice&password={login}", 7),
        ("unix://alice:{login}@{socket}?db=8", 8),
        ("rediss://:default@localhost:{tls}?{ca}&{own}", 0),
        ("rediss://localhost:{tls}/1?db=9&username=alice&password={login}&{ca}&{own}", 9),
        ("rediss://:default@localhost:{tls}?{ca}&{locked}&ssl_password=word", 0),
        ("rediss://:default@127.0.0.1:{tls}?{ca}&{own}&ssl_check_hostname=false", 0),
        ("rediss://:default@127.0.0.1:{tls}?ssl_cert_reqs=none&{own}", 0),
        ("rediss://:default@localhost:{tls}?ssl_cert_reqs=required&ssl_min_version=772&{ca}&{own}", 0),
    ],
)
def test_what_is_written_through_a_url_is_read_through_it(form, database, way, server, certificates):
    place = {
        "port": server.port,
        "tls": server.tls_port,
        "socket": quote(str(server.folder / "a socket")),
        "login": LOGIN,
        "ca": f"ssl_ca_certs={certificates}/ca.pem",
        "own": f"ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client.key",
        "locked": f"ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/locked.key",
    }
    # An older row in every other database would be served if one of the two connections went astray.
    for other in range(10):
        if other != database:
            write(f"redis://:default@localhost:{server.port}/{other}", -1.0) if other in (0, 3) else None
    url = form.format(**place)
    write(url, 2.0)
    assert fetched(url, way) == (2.0, None)
    client = server.client()
    client.select(database)
    assert client.exists("engine:s:1")
    client.close()


def test_a_url_means_what_it_means_to_redis_py():
    from redis.connection import parse_url

    for url in (
        "redis://", "redis://example.org", "redis://example.org:1/2", "redis://a:b@example.org/2?db=3",
        "redis://a%40b:c%2Fd@[::1]:7?db=1", "redis://:pw@h?username=u", "redis://h?password=a%20b%2520",
        "rediss://h?ssl_check_hostname=no&ssl_ca_path=/tmp",
        "unix:///a%20b?db=2", "unix://u:p@/a", "redis://u@h?client_name=x&socket_timeout=2.5&socket_keepalive=1",
    ):  # fmt: skip
        wanted, made = parse_url(url), Address.of(url)
        wanted.pop("connection_class", None)
        if made.family == socket.AF_UNIX:
            assert made.target == wanted.pop("path")
        else:
            assert made.target == (wanted.pop("host", "localhost"), wanted.pop("port", 6379))
        assert made.options == wanted, url
        assert made.tls == url.startswith("rediss")


def test_certificates_that_do_not_fit_are_named_by_reader_and_writer(server, certificates):
    own = f"ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client.key"
    for url in (
        f"rediss://:default@localhost:{server.tls_port}?{own}",
        f"rediss://:default@127.0.0.1:{server.tls_port}?ssl_ca_certs={certificates}/ca.pem&{own}",
    ):
        with pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
            write(url, 1.0)
        value, error = fetched(url)
        assert value is None
        assert "CERTIFICATE_VERIFY_FAILED" in error
    with pytest.raises(ConfigError, match=r"the certificates of 'localhost' cannot be used .*none\.pem"):
        RedisOnline("rediss://localhost?ssl_ca_certs=/nowhere/none.pem")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:secret@h?dbs=4", "the query has an option 'dbs', which is none of: .*db, "),
        ("redis://h?password=secret&db=four", "option db cannot be read, got 'four'"),
        ("redis://h?password=secret&db=-1", "option db cannot be read"),
        ("redis://:secret@h/four", "expected the number of a database after the port, got 'four'"),
        ("redis://h?password=secret&ssl_ca_certs=x", "ssl_ca_certs needs a URL that begins with rediss://"),
        ("rediss://h?ssl_password=secret&ssl_cert_reqs=maybe", "option ssl_cert_reqs cannot be read"),
        ("redis://h?password=secret&port=0", "option port cannot be read"),
        ("redis://h?password=secret&decode_responses=true", "an option 'decode_responses'"),
        ("unix://?password=secret", "expected a URL like"),
        ("unix://:secret@host:5/path", "expected a URL like"),
        ("redis://[:secret@h", "expected a URL like"),
    ],
)
def test_what_cannot_be_read_is_refused_and_no_password_is_shown(url, message):
    with pytest.raises(ConfigError, match=message) as refused:
        RedisOnline(url)
    assert "secret" not in str(refused.value)


def test_no_password_of_a_url_is_shown():
    assert safe("redis://u:secret@h:1/2?db=3&password=secret&ssl_password=secret") == (
        "redis://u:***@h:1/2?db=3&password=***&ssl_password=***"
    )
    assert safe("redis://h?p%61ssword=secret") == "redis://h?p%61ssword=***"
    assert "secret" not in repr(RedisOnline("redis://h?password=secret&username=u"))
    assert safe(7) == 7


def test_a_context_follows_the_options():
    plain = Address.of("rediss://h").contexts[0]
    assert (plain.verify_mode, plain.check_hostname) == (ssl.CERT_REQUIRED, True)
    none = Address.of("rediss://h?ssl_cert_reqs=none").contexts[0]
    assert (none.verify_mode, none.check_hostname) == (ssl.CERT_NONE, False)
    strict = Address.of(
        "rediss://h?ssl_min_version=772&ssl_include_verify_flags=VERIFY_CRL_CHECK_LEAF"
    ).contexts[0]
    assert strict.minimum_version == ssl.TLSVersion.TLSv1_3
    assert strict.verify_flags & ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
