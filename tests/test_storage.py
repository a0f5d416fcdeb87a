"""Bytes from object storage: every fault is retried or named, nothing is mixed up, no secret is shown."""

import hashlib
import logging
import os
import pickle
import random
import re
import string
import subprocess
import sys
import textwrap
import threading
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import FAULTS, FaultProxy, FolderServer, S3Server
from tiny import free_port

from wildstream.errors import ConfigError, EnvironmentProblem, StorageError
from wildstream.storage import credentials, objects, urls
from wildstream.storage.access import Storage
from wildstream.storage.faults import MissingObjectError
from wildstream.storage.objects import Objects, Version

ROOT = Path(__file__).parents[1]
CONTENT = np.random.default_rng(0).bytes(100_000)
names = st.text(string.ascii_letters + string.digits + "._-=+ ", min_size=1, max_size=8).filter(lambda s: s.strip("."))


@pytest.fixture
def quick(monkeypatch):
    """Pauses between attempts that a test can wait for."""
    monkeypatch.setattr(objects, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(objects, "LONGEST_PAUSE_SECONDS", 0.005)


# --- locations


@pytest.mark.parametrize(
    ("location", "remote"),
    [
        ("shards/train", False),
        ("/data/train", False),
        ("C:\\data\\train", False),
        ("C:/data/train", False),
        ("a:b/c", False),
        ("camera:1.tar", False),
        ("file:///data/x", False),
        ("FILE:///data/x", False),
        (Path("pipe:x"), False),
        ("s3://bucket/x", True),
        ("S3://bucket/x", True),
        ("gs://bucket", True),
        ("az://box/x", True),
        ("http://host/x", True),
        ("https://host:8000/x", True),
    ],
)
def test_what_is_a_path_and_what_is_a_url(location, remote):
    assert urls.is_remote(location) is remote


@pytest.mark.parametrize("location", ["ftp://host/x", "hdfs://x", "s3a://bucket/x", "webhdfs://u:SECRET@host/x?SECRET"])
def test_unknown_schemes_are_refused(location):
    with pytest.raises(ConfigError, match=r"scheme '\w+' is not known.*s3, gs, az, http, https") as caught:
        urls.is_remote(location)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("location", ["pipe:curl -H 'Token: SECRET' http://x", "PIPE:cat x"])
def test_commands_are_refused(location):
    for take in (urls.is_remote, urls.normal, Storage().read, Storage().exists, lambda x: urls.join("s3://b", x)):
        with pytest.raises(ConfigError, match="would run a command") as caught:
            take(location)
        assert "SECRET" not in str(caught.value)


def test_urls_of_files_are_paths(tmp_path):
    path = tmp_path / "a b#c?d%.bin"
    path.write_bytes(b"0123")
    url = path.as_uri()
    assert urls.local_path(url) == path
    assert urls.normal(url) == str(path)
    assert bytes(Storage().read(url, 1, 3)) == b"12"
    assert urls.local_path(url.replace("file://", "file://localhost")) == path
    with pytest.raises(ConfigError, match="names a server, 'data'"):  # file://data/x is a slip of the pen for a folder
        urls.local_path("file://data/x")


@given(st.lists(names, min_size=1, max_size=3), st.lists(names, max_size=3))
def test_join_normal_and_split_agree(folder, rest):
    url = "s3://bucket/" + "/".join(folder)
    joined = urls.join(url + "/", "/".join([*rest, "x"]))
    assert joined == "/".join([url, *rest, "x"])
    assert urls.normal(joined + "/") == urls.normal(joined) == joined
    assert urls.split(joined) == ("s3://bucket", "/".join([*folder, *rest, "x"]))
    assert urls.join(url, joined) == joined
    assert urls.join("/a/" + folder[0], "x") == f"/a/{folder[0]}/x"
    assert urls.join("anywhere", "/abs/x") == "/abs/x"
    assert urls.join("https://h/a", "file:///abs/x") == "/abs/x"


def test_split_names_what_is_missing_or_lost():
    assert urls.split("S3://Bucket/a/b/") == ("s3://Bucket", "a/b")
    assert urls.split("az://box") == ("az://box", "")
    with pytest.raises(ConfigError, match="names no bucket"):
        urls.split("s3:///a/b")
    for url in ("https://h/a?sig=SECRET", "https://h/a#SECRET", "https://u:SECRET@h/a?x"):
        with pytest.raises(ConfigError, match=r"has a \? or #, and what stands behind it") as caught:
            urls.split(url)
        assert "SECRET" not in str(caught.value)
    with pytest.raises(ConfigError, match="is no URL"):
        urls.split("s3://[x/a")
    for url in ("s3://b/a//c", "https://h/x/../train", "s3://b/./c"):
        with pytest.raises(ConfigError, match="has an empty part"):
            urls.split(url)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("skip_signature", False),
        ("aws_skip_signature", False),
        ("sse_kms_key_id", False),
        ("web_identity_token_file", False),
        ("region", False),
        ("endpoint", False),
        ("access_key_id", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("session_token", True),
        ("sas_token", True),
        ("service_account_key", True),
        ("client_secret", True),
    ],
)
def test_it_is_known_which_options_are_secret(name, secret):
    assert urls.is_secret(name) == secret


@given(st.integers(0, 99_999), st.integers(0, 300), st.integers(0, 6), names)
def test_braces_are_all_numbers_in_order(first, more, width, name):
    name = name.replace("{", "")
    left, right = f"{first:0{width}d}", f"{first + more:0{width}d}"
    found = urls.expand(f"{name}/{{{left}..{right}}}.tar")
    assert [int(x.removeprefix(f"{name}/").removesuffix(".tar")) for x in found] == list(range(first, first + more + 1))
    if len(left) == len(right):
        assert len({len(x) for x in found}) == 1
    assert found[0] == f"{name}/{left}.tar"
    assert found[-1] == f"{name}/{right}.tar"


@given(st.lists(st.lists(names, min_size=2, max_size=4), max_size=3))
def test_alternatives_are_nested_loops(alternatives):
    pattern = "x".join("{" + ",".join(some) + "}" for some in alternatives)
    expected = [""]
    for number, some in enumerate(alternatives):
        expected = [begun + ("x" if number else "") + one for begun in expected for one in some]
    assert urls.expand(pattern) == expected


@pytest.mark.parametrize("pattern", ["a{}", "{5..3}", "{a}", "{a..c}", "{1..}", "https://h/x?sig={SECRET}"])
def test_braces_that_mean_nothing_are_refused(pattern):
    with pytest.raises(ConfigError, match="braces must hold numbers") as caught:
        urls.expand(pattern)
    assert "SECRET" not in str(caught.value)


def test_too_many_names_are_refused():
    with pytest.raises(ConfigError, match="are the most"):
        urls.expand("{0000..9999}{0000..9999}")


signs = string.ascii_letters + string.digits + "!$&'()*+,;=:._~@%-"
secrets = st.text(signs, min_size=6, max_size=20).map("q7Z{}".format)


@given(secrets, secrets, st.sampled_from(["{}", "'{}'", '"{}".', "for url ({}) in 3 ms", "GET {} failed", "{}, {}"]))
def test_redact_hides_logins_and_queries_wherever_a_url_stands(password, signature, around):
    for url in (
        f"https://user:{password}@host:9000/a/b.tar?X-Amz-Signature={signature}&x=1",
        f"s3://{password}@bucket/a#{signature}",
        f"https://host/?sig={signature}",
    ):
        shown = urls.redact(around.replace("{}", url))
        assert password not in shown
        assert signature not in shown
        assert "://" in shown
    plain = around.replace("{}", "s3://bucket/a-b_c/d.tar")
    assert urls.redact(plain) == plain


# --- what S3 answers


def test_an_object_is_read_whole_and_in_ranges(s3):
    url = s3.put("a/b c+d=é%20.tar", CONTENT)
    reader = Objects()
    whole, version = reader.read(url)
    assert whole == CONTENT
    assert version == reader.version(url) == Version(len(CONTENT), version.tag)
    for start, stop in ((0, 1), (5, 99), (99_999, 100_000), (0, 100_000), (7, 7), (100_000, 100_000)):
        assert reader.read(url, start, stop, version=version)[0] == CONTENT[start:stop]
        assert reader.read(url, start, stop)[0] == CONTENT[start:stop]
    assert reader.read(url, 60_000)[0] == CONTENT[60_000:]
    assert reader.traffic["retries"] == 0
    with pytest.raises(ValueError, match="no range"):
        reader.read(url, 9, 8)
    empty = s3.put("empty", b"")
    assert reader.read(empty)[0] == b""
    assert reader.version(empty).size == 0


def test_radosgw_answers_alike(radosgw, tmp_path):
    url = radosgw.put("a/b c+d=é%20.tar", CONTENT)
    reader = Objects()
    whole, version = reader.read(url)
    assert whole == CONTENT
    assert reader.read(url, 5, 99, version=version)[0] == CONTENT[5:99]
    assert reader.list(radosgw.url) == {"a/b c+d=é%20.tar": len(CONTENT)}
    with pytest.raises(StorageError, match="another packing"):
        reader.read(url, 200_000, 200_001)
    with pytest.raises(MissingObjectError, match="there is no a/none"):
        reader.read(f"{radosgw.url}/a/none")
    with pytest.raises(StorageError, match="there is no bucket s3://nobody-has-this"):
        reader.read("s3://nobody-has-this/x")
    wrong = Objects({"access_key_id": radosgw.server.key, "secret_access_key": "wrong"})
    with pytest.raises(StorageError, match=r"not permitted.*SignatureDoesNotMatch"):
        wrong.read(url)
    big = tmp_path / "big"
    big.write_bytes(random.Random(0).randbytes(13 << 20))
    assert reader.write(url, big) == reader.version(url) != version
    with pytest.raises(StorageError, match="was changed"):
        reader.read(url, 5, 99, version=version)
    reader.delete(url)
    assert radosgw.list() == {}


@pytest.mark.parametrize(
    ("start", "stop"), [(99_990, 100_001), (100_000, 100_001), (200_000, 200_010), (200_000, None)]
)
def test_a_range_beyond_the_end_says_so_at_once(faulty_s3, start, stop):
    url = faulty_s3.put("a", CONTENT)
    with pytest.raises(StorageError, match=re.escape(url) + ".*truncated or of another packing"):
        Objects().read(url, start, stop)
    assert len(faulty_s3.proxy.requests) == 1


def test_what_is_not_there_is_asked_for_once(faulty_s3):
    reader = Objects()
    for ask in (reader.read, reader.version, lambda url: reader.read(url, 3, 9)):
        faulty_s3.proxy.inject()
        with pytest.raises(MissingObjectError, match=f"there is no a/none in {faulty_s3.url}. Check the name"):
            ask(f"{faulty_s3.url}/a/none")
        assert len(faulty_s3.proxy.requests) == 1
    for ask in (reader.read, reader.list, reader.delete, lambda url: reader.write(url, b"x")):
        faulty_s3.proxy.inject()
        with pytest.raises(StorageError, match=r"there is no bucket s3://nobody-has-this\. Check") as caught:
            ask("s3://nobody-has-this/x")
        assert not isinstance(caught.value, MissingObjectError)
        assert len(faulty_s3.proxy.requests) == 1


@pytest.mark.parametrize(("fault", "words"), [("forbidden", "AccessDenied"), ("unauthorised", "InvalidToken")])
def test_what_is_forbidden_is_asked_for_once(faulty_s3, fault, words):
    url = faulty_s3.put("a", CONTENT)
    faulty_s3.proxy.inject({fault: 1.0})
    reader = Objects()
    for number, ask in enumerate((reader.read, reader.list, lambda url: reader.write(url, b"x"), reader.delete), 1):
        with pytest.raises(StorageError, match=rf"not permitted: .*{words}.*AWS_ACCESS_KEY_ID.*skip_signature"):
            ask(url)
        assert len(faulty_s3.proxy.requests) == number
    with pytest.raises(StorageError, match="not permitted"):  # HEAD has no body, so no code
        Storage().exists(url)


def test_wrong_keys_and_missing_rights_are_named(s3, monkeypatch):
    url = s3.put("a", CONTENT)
    iam = s3.server.service("iam")
    iam.create_user(UserName=s3.name)
    key = iam.create_access_key(UserName=s3.name)["AccessKey"]
    iam.close()
    good = {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}
    with s3.server.permissions():
        with pytest.raises(StorageError, match=r"not permitted: a in s3://.*InvalidAccessKeyId"):
            Objects({"access_key_id": "AKIANOBODY", "secret_access_key": "x"}).read(url)
        with pytest.raises(StorageError, match=r"not permitted: a in s3://.*SignatureDoesNotMatch"):
            Objects(good | {"secret_access_key": "wrong-secret"}).read(url)
        with pytest.raises(StorageError, match=r"not permitted: a in s3://.*AccessDenied"):
            Objects(good).read(url)
    assert Objects(good).read(url)[0] == CONTENT


def test_no_keys_at_all_are_an_error_at_once(s3, monkeypatch):
    url = s3.put("a", CONTENT)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    refused = f"http://127.0.0.1:{free_port()}"  # instead of asking 169.254.169.254, which may hang in a test's network
    with pytest.raises(StorageError, match="not permitted"):
        Objects({"skip_signature": True}).read(url)
    s3.server.client.put_object_acl(Bucket=s3.name, Key="a", ACL="public-read")
    assert Objects({"skip_signature": True}).read(url)[0] == CONTENT
    with pytest.raises(StorageError, match=r"not permitted.*AWS_PROFILE"):
        Objects({"metadata_endpoint": refused}, attempts=1).read(url)
    with pytest.raises(ConfigError, match="Missing SecretAccessKey"):
        Objects({"access_key_id": "half"}).read(url)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"acces_key_id": "SECRETVALUE"}, r"'acces_key_id' is not valid.*\(acces_key_id, access_key_id"),
        ({"region": 5}, r"not an instance of 'str'.*\(access_key_id, region"),
        ({"client_options": {}}, "client_options"),
        ({"read_timeout": "soon"}, "read_timeout='soon' must be a positive number"),
        ({"connect_timeout": -1}, "connect_timeout=-1 must be"),
        ({"timeout": float("inf")}, "timeout=inf must be"),
        ({"endpoint": "127.0.0.1:9000"}, "endpoint='127.0.0.1:9000' must be an address such as https://"),
        ({"aws_endpoint_url": "user:SECRETVALUE@minio:9000?SECRETVALUE"}, "aws_endpoint_url='minio:9000' must be"),
        ({"endpoint": "http://"}, "must be an address"),
        ({"endpoint": "http://user:SECRETVALUE@:80/"}, "must be an address"),
        ({"endpoint": "http://[::1/"}, "must be an address"),
        ({"session_token": "SECRET\nVALUE"}, "a token has a character that cannot be sent"),
    ],
)
def test_options_that_cannot_be_are_refused(s3, options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Objects({"access_key_id": "AKIA", "secret_access_key": "x", **options}).read(f"{s3.url}/a")
    assert "SECRET" not in "".join(traceback.format_exception(caught.value)).split("_given", maxsplit=1)[0]


def test_an_endpoint_of_the_environment_is_checked_too(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL='localhost:9000' must be an address"):
        Objects().read(f"{s3.url}/a")


def test_objects_are_written_listed_and_deleted(s3, tmp_path):
    writer = Objects()
    big = tmp_path / "big"
    big.write_bytes(random.Random(0).randbytes(13 << 20))
    writer.write(f"{s3.url}/t/a", b"123")
    writer.write(f"{s3.url}/t/deep/b", big)
    writer.write(f"{s3.url}/tt/c", b"")
    assert s3.get("t/a") == b"123"
    assert hashlib.sha256(s3.get("t/deep/b")).digest() == hashlib.sha256(big.read_bytes()).digest()
    assert s3.list() == {"t/a": 3, "t/deep/b": 13 << 20, "tt/c": 0}
    assert writer.list(f"{s3.url}/t") == writer.list(f"{s3.url}/t/") == {"a": 3, "deep/b": 13 << 20}
    assert writer.list(s3.url) == {"t/a": 3, "t/deep/b": 13 << 20, "tt/c": 0}
    assert writer.list(f"{s3.url}/none") == {}
    writer.write(f"{s3.url}/t/a", b"4567")
    assert s3.get("t/a") == b"4567"
    writer.delete(f"{s3.url}/t/a")
    writer.delete(f"{s3.url}/t/a")  # it is well if there is none
    assert s3.list() == {"t/deep/b": 13 << 20, "tt/c": 0}


def test_a_long_list_has_all_pages(s3):
    expected = {f"{number:04d}": 1 for number in range(1005)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: s3.put(f"p/{key}", b"x"), expected))
    assert Objects().list(f"{s3.url}/p") == expected


# --- other content


def test_an_object_that_is_overwritten_is_an_error(s3):
    url = s3.put("a", b"old content")
    storage, objects_ = Storage(), Objects()
    assert storage.read(url, 0, 3) == b"old"
    version = objects_.version(url)
    s3.put("a", b"new content")
    for read in (
        lambda: storage.read(url, 0, 3),
        lambda: storage.read(url),
        lambda: objects_.read(url, 4, 5, version=version),
    ):
        with pytest.raises(StorageError, match=re.escape(url) + " was changed while it was being read.*Leave shards"):
            read()
    with pytest.raises(StorageError, match="was changed"):
        storage.exists(url)
    assert Storage().read(url, 0, 3) == b"new"


@pytest.mark.parametrize(
    "kind", [{}, {"if_match": False}, {"etags": "weak"}, {"etags": "none"}], ids=["tags", "ignores", "weak", "dates"]
)
def test_plain_http_gives_ranges_and_notices_changes(http_folder, kind):
    path = http_folder.root / "a b"
    path.write_bytes(CONTENT)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    with FolderServer(http_folder.root, **kind) as server:
        storage, url = Storage(), f"{server.url}/a b"
        assert storage.size(url) == len(CONTENT)
        assert storage.read(url, 10, 99) == CONTENT[10:99]
        assert storage.read(url, 99_000, 100_000) == CONTENT[99_000:]
        assert storage.read(url) == CONTENT
        path.write_bytes(CONTENT[::-1])
        with pytest.raises(StorageError, match="was changed"):
            storage.read(url, 10, 99)
        assert Storage().read(url, 10, 99) == CONTENT[::-1][10:99]


def test_plain_http_is_asked_once_for_what_it_does_not_have(http_folder):
    (http_folder.root / "a").write_bytes(CONTENT)
    storage = Storage()
    assert not storage.exists(f"{http_folder.url}/none")
    with pytest.raises(StorageError, match="cannot be listed; plain HTTP has no lists"):
        storage.list(http_folder.url)
    with pytest.raises(StorageError, match="truncated"):
        storage.read(f"{http_folder.url}/a", 200_000, 200_001)
    with pytest.raises(StorageError, match="cannot be read or written: status 501"):
        storage.objects.write(f"{http_folder.url}/b", b"x")
    assert [command for command, _ in http_folder.requests] == ["HEAD", "GET"]  # it has no PUT, and notes none


def test_a_server_without_ranges_is_refused_at_once(http_folder):
    (http_folder.root / "a").write_bytes(CONTENT)
    with FolderServer(http_folder.root, ranges=False) as server:
        with pytest.raises(StorageError, match=r"does not answer requests for ranges of bytes. Take one that does"):
            Storage().read(f"{server.url}/a", 10, 99)
        assert len(server.requests) == 1
        assert Storage().read(f"{server.url}/a") == CONTENT


def test_s3_without_ranges_is_refused_at_once(faulty_s3):
    url = faulty_s3.put("a", CONTENT)
    faulty_s3.proxy.inject({"no_ranges": 1.0})
    with pytest.raises(StorageError, match="does not answer requests for ranges"):
        Objects().read(url, 10, 99)
    assert len(faulty_s3.proxy.requests) == 1


# --- faults

PASSING = [
    "slow_down",
    "too_many",
    "internal",
    "reset",
    "slow_first_byte",
    "reset_midway",
    "stall",
    "truncated",
    "short",
]


def read_many(reader: Objects, url: str, *, count: int = 200, threads: int = 8, seed: int = 0) -> list[StorageError]:
    """Read ranges in several threads; what comes must be right, what does not come is given back."""
    version = reader.version(url)
    rng = random.Random(seed)
    ranges = [sorted(rng.sample(range(len(CONTENT)), 2)) for _ in range(count)]

    def read(span: list[int]) -> StorageError | None:
        try:
            data, found = reader.read(url, *span, version=version)
        except StorageError as error:
            return error
        assert data == CONTENT[span[0] : span[1]]
        assert found == version
        return None

    with ThreadPoolExecutor(threads) as pool:
        return [error for error in pool.map(read, ranges) if error is not None]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.usefixtures("quick")
def test_ranges_come_back_right_through_faults(faulty_s3, fault, rate):
    url = faulty_s3.put("a", CONTENT)
    reader = Objects({"read_timeout": 0.3})
    proxy = faulty_s3.proxy
    proxy.inject({fault: rate}, seed=PASSING.index(fault), latency_ms=1, slow_seconds=0.02, stall_seconds=5)
    assert read_many(reader, url, count=100) == []
    assert proxy.injected[fault] > 0 or rate == 0.01
    assert set(proxy.injected) <= {fault}
    if fault != "slow_first_byte":
        assert reader.traffic["retries"] >= proxy.injected[fault]
    assert reader.traffic["requests"] == 101 + reader.traffic["retries"]


@pytest.mark.usefixtures("quick")
def test_ranges_come_back_right_through_all_faults_together(faulty_s3):
    url = faulty_s3.put("a", CONTENT)
    reader = Objects({"read_timeout": 0.3})
    faulty_s3.proxy.inject(dict.fromkeys(PASSING, 0.05), seed=1, stall_seconds=5, slow_seconds=0.6)
    assert read_many(reader, url, count=300) == []
    assert set(faulty_s3.proxy.injected) == set(PASSING)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
@pytest.mark.usefixtures("quick")
def test_another_etag_is_never_taken_for_the_same_content(faulty_s3, rate):
    url = faulty_s3.put("a", CONTENT)
    reader = Objects()
    faulty_s3.proxy.inject({"etag": rate}, seed=4)
    errors = read_many(reader, url, count=200)
    assert len(errors) == faulty_s3.proxy.injected["etag"] > 0
    assert all("was changed" in str(error) for error in errors)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("slow_down", "4 attempts failed, the last with: status 503 SlowDown. Try again"),
        ("too_many", "4 attempts failed, the last with: status 429 TooManyRequests"),
        ("internal", "4 attempts failed, the last with: status 500 InternalError"),
        ("reset", "4 attempts failed, the last with: .*reset by peer"),
        ("reset_midway", "4 attempts failed, the last with: .*reset by peer"),
        ("truncated", "4 attempts failed, the last with: .*IncompleteBody"),
        ("stall", "4 attempts failed, the last with: .*TimedOut"),
        ("slow_first_byte", "4 attempts failed, the last with: .*TimedOut"),
        ("short", "4 attempts failed, the last with: the body has 500 of 1,000 bytes"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_faults_that_stay_name_attempts_and_cause(faulty_s3, fault, words):
    url = faulty_s3.put("a", CONTENT)
    faulty_s3.proxy.inject({fault: 1.0}, stall_seconds=1, slow_seconds=1)
    with pytest.raises(StorageError, match=re.escape(url) + " cannot be read or written: " + words):
        Objects({"read_timeout": 0.2}, attempts=4).read(url, 1000, 2000)
    assert faulty_s3.proxy.injected[fault] == 4


@pytest.mark.usefixtures("quick")
def test_a_whole_object_that_comes_short_is_noticed_where_its_size_is_known(faulty_s3):
    url = faulty_s3.put("a", CONTENT)
    reader = Objects(attempts=3)
    version = reader.version(url)
    faulty_s3.proxy.inject({"short": 1.0})
    with pytest.raises(StorageError, match=r"3 attempts failed.*50,000 bytes, the object has 100,000"):
        reader.read(url, version=version)


@pytest.mark.usefixtures("quick")
def test_what_is_wrong_with_the_request_is_not_tried_again(faulty_s3):
    url = faulty_s3.put("a", CONTENT)
    faulty_s3.proxy.inject({"bad_request": 1.0})
    with pytest.raises(StorageError, match="status 400 InvalidArgument"):
        Objects().read(url)
    assert len(faulty_s3.proxy.requests) == 1


@pytest.mark.usefixtures("quick")
def test_a_write_that_never_succeeds_ends(faulty_s3):
    faulty_s3.proxy.inject({"slow_down": 1.0})
    with pytest.raises(StorageError, match=r"3 attempts failed, the last with: .*503"):
        Objects(attempts=4).write(f"{faulty_s3.url}/a", b"x")
    assert len(faulty_s3.proxy.requests) == 15  # three are begun, and obstore tries each four times more
    assert faulty_s3.list() == {}


@pytest.mark.parametrize("fault", ["slow_down", "reset"])
@pytest.mark.usefixtures("quick")
def test_writing_listing_and_deleting_pass_through_faults(faulty_s3, tmp_path, fault):
    big = tmp_path / "big"
    big.write_bytes(random.Random(0).randbytes(13 << 20))
    faulty_s3.proxy.inject({fault: 0.3}, seed=5)
    writer = Objects()
    for number in range(10):
        writer.write(f"{faulty_s3.url}/p/{number}", bytes(number))
    writer.write(f"{faulty_s3.url}/p/big", big)
    assert writer.list(f"{faulty_s3.url}/p") == {str(number): number for number in range(10)} | {"big": 13 << 20}
    assert faulty_s3.get("p/big") == big.read_bytes()
    for number in range(10):
        writer.delete(f"{faulty_s3.url}/p/{number}")
    assert list(faulty_s3.list()) == ["p/big"]
    assert faulty_s3.proxy.injected[fault] > 3


def test_pauses_double_and_are_random(faulty_s3, monkeypatch):
    url = faulty_s3.put("a", CONTENT)
    faulty_s3.proxy.inject({"slow_down": 1.0})
    pauses: list[float] = []
    monkeypatch.setattr(objects.time, "sleep", pauses.append)
    with pytest.raises(StorageError, match="12 attempts failed"):
        Objects().read(url)
    assert len(pauses) == 11  # none before the first, none after the last
    longest = [min(10.0, 0.1 * 2**attempt) for attempt in range(1, 12)]
    assert all(0.1 * most <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert len({pause / most for pause, most in zip(pauses, longest, strict=True)}) == 11


def test_a_server_that_is_not_there_is_named(s3, quick):
    endpoint = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StorageError, match=r"2 attempts failed, the last with: .*refused"):
        Objects({"endpoint": endpoint}, attempts=2).read(f"{s3.url}/a")


def test_a_server_without_tls_is_named_at_once(faulty_s3):
    with pytest.raises(StorageError, match=r"InvalidContentType\). It does not speak TLS; write http://"):
        Objects({"endpoint": faulty_s3.proxy.endpoint.replace("http:", "https:")}).read(f"{faulty_s3.url}/a")


def test_the_proxy_is_seeded_and_counts(s3):
    with FaultProxy(s3.server.endpoint) as proxy:
        drawn = []
        for _ in range(2):
            proxy.inject(dict.fromkeys(FAULTS, 0.5 / len(FAULTS)), seed=3)
            drawn.append([proxy.draw("/x") for _ in range(500)])
        assert drawn[0] == drawn[1]
        assert set(drawn[0]) == {*FAULTS, None}
        assert 200 < Counter(drawn[0])[None] < 300
        proxy.inject({"missing": 1.0}, keys=r"shard.*\.tar")
        assert proxy.draw("/b/shard-0.tar") == "missing"
        assert proxy.draw("/b/index") is None


# --- secrets


def secrets_everywhere(endpoint: str) -> dict[str, str]:
    return {
        "access_key_id": "AKIAHUSHOPTION",
        "secret_access_key": "hush-secret-option",
        "session_token": "hush-token-option",
        "endpoint": endpoint.replace("//", "//hushuser:hush-password@"),
    }


def test_no_error_shows_a_secret(faulty_s3, http_folder, monkeypatch, quick, caplog, recwarn):
    """Provokes every kind of error, with secrets wherever they can be, and looks at all that a user could see."""
    caplog.set_level(logging.DEBUG)
    for name, value in faulty_s3.server.environment.items():  # http_folder has cleared them
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-secret-environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hush-token-environment")
    url = faulty_s3.put("a", CONTENT)
    proxy = faulty_s3.proxy
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint.replace("//", "//hushuser:hush-password@"))
    (http_folder.root / "a").write_bytes(CONTENT)
    with_login = url.replace("s3://", "s3://hushuser:hush-p@ss@")
    web = http_folder.url.replace("//", "//hushuser:hush-password@")
    shown: list[str] = []

    def provoke(action) -> None:
        with pytest.raises((StorageError, ConfigError)) as caught:
            action()
        shown.extend([str(caught.value), repr(caught.value), *traceback.format_exception(caught.value)])

    def provoke_all(options: dict) -> None:
        reader = Objects({**options, "read_timeout": 0.2}, attempts=2)
        storage = Storage(options=options)
        shown.extend(map(repr, [reader, storage]))
        version = Version(len(CONTENT), '"another"')
        for fault in FAULTS:
            proxy.inject({fault: 1.0}, stall_seconds=0.5, slow_seconds=0.5)
            for location in (url, with_login):
                if fault == "etag":
                    provoke(lambda place=location: reader.read(place, 10, 20, version=version))
                else:
                    provoke(lambda place=location: reader.read(place, 10, 20))
        proxy.inject()
        for location in (url, with_login):
            provoke(lambda place=location: reader.read(place, 200_000, 200_001))
            provoke(lambda place=location: reader.read(place + "/none"))
            provoke(lambda place=location: reader.read(place + "?X-Amz-Signature=hush-signature&X-Amz-Credential=hush"))
            provoke(lambda place=location: reader.read(place + "#hush-fragment"))
        for wrong in (
            {"unknown": "hush-option"},
            {"endpoint": f"http://hushuser:hush-password@127.0.0.1:{free_port()}/?hush-query"},
            {"endpoint": "hushuser:hush-password@127.0.0.1"},
            {"session_token": "hush-token\n"},
            {"secret_access_key": "hush-secret", "access_key_id": None},
        ):
            provoke(lambda wrong=wrong: Objects({**options, **wrong}, attempts=1).read(url))
        provoke(lambda: reader.read(f"{web}/none"))
        provoke(lambda: reader.read(f"{web}/a", 200_000, 200_001))
        provoke(lambda: reader.list(web))
        provoke(lambda: reader.write(f"{web}/b", b"x"))
        provoke(lambda: storage.read(f"{web}/a?token=hush-token"))
        assert storage.read(f"{web}/a", 0, 9) == CONTENT[:9]
        (http_folder.root / "a").write_bytes(CONTENT[::-1])
        provoke(lambda: storage.read(f"{web}/a", 0, 9))
        (http_folder.root / "a").write_bytes(CONTENT)

    provoke_all({})
    provoke_all(secrets_everywhere(proxy.endpoint))
    for server, options in (
        ("az://box/x", {"account_name": "acc", "account_key": "hush not base64"}),
        ("az://box/x", {"account_name": "acc", "sas_token": "hush"}),
        (
            "az://box/x",
            {"account_name": "acc", "sas_token": "sig=hush%3D", "endpoint": f"http://127.0.0.1:{free_port()}"},
        ),
        ("gs://bucket/x", {"service_account_key": "{hush not json"}),
    ):
        provoke(lambda server=server, options=options: Objects(options, attempts=1).read(server))
    shown.extend(record.getMessage() for record in caplog.records)
    shown.extend(str(warning.message) for warning in recwarn)
    leaks = [text for text in shown if "hush" in text.lower() and not _is_source(text)]
    assert leaks == []


def _is_source(text: str) -> bool:
    """Whether a part of a traceback only quotes this file, where the secrets are written down."""
    return text.startswith(f'  File "{__file__}"')


# --- GCS and Azure can only be opened here


def test_gcs_and_azure_open_with_options_and_name_what_is_missing(s3, quick):
    nobody = f"http://127.0.0.1:{free_port()}"
    gcs = Objects({"skip_signature": True, "base_url": nobody}, attempts=2)
    with pytest.raises(StorageError, match=r"gs://bucket/x cannot be read or written: 2 attempts failed.*refused"):
        gcs.read("gs://bucket/x")
    azure = Objects({"account_name": "acc", "account_key": "a2V5", "endpoint": nobody}, attempts=2)
    with pytest.raises(StorageError, match=r"az://box/x cannot be read or written: 2 attempts failed.*refused"):
        azure.read("az://box/x")
    with pytest.raises(ConfigError, match=r"az://box cannot be opened: .*Account must be specified"):
        Objects().read("az://box/x")
    with pytest.raises(ConfigError, match=r"gs://bucket cannot be opened: .*not valid for store.*account_name"):
        Objects({"account_name": "acc"}).read("gs://bucket/x")


# --- profiles


@pytest.fixture
def profiles(s3, monkeypatch, tmp_path):
    """Writes the two files that AWS tools keep profiles in; no keys are in the environment."""
    for name in s3.server.environment:
        monkeypatch.delenv(name)

    def write(config: str = "", keys: str = "") -> None:
        for variable, text in (("AWS_CONFIG_FILE", config), ("AWS_SHARED_CREDENTIALS_FILE", keys)):
            path = tmp_path / variable.lower()
            path.write_text(textwrap.dedent(text))
            monkeypatch.setenv(variable, str(path))

    return write


def test_a_profile_is_enough(profiles, s3, monkeypatch):
    url = s3.put("a", CONTENT)
    iam = s3.server.service("iam")
    iam.create_user(UserName=s3.name)
    key = iam.create_access_key(UserName=s3.name)["AccessKey"]
    everything = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
    iam.put_user_policy(UserName=s3.name, PolicyName="all", PolicyDocument=everything)
    iam.close()
    profiles(
        f"""
        [profile lab]
        region = us-east-1
        endpoint_url = {s3.server.endpoint}
        s3 =
            addressing_style = path
        """,
        f"""
        [lab]
        aws_access_key_id = {key["AccessKeyId"]}
        aws_secret_access_key = {key["SecretAccessKey"]}
        [other]
        aws_access_key_id = AKIAOTHER
        aws_secret_access_key = 50%off
        """,
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with s3.server.permissions():  # so that the keys matter
        assert Objects().read(url)[0] == CONTENT
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")  # the environment comes before the profile
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        with pytest.raises(StorageError, match="InvalidAccessKeyId"):
            Objects().read(url)
        own = {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}
        assert Objects(own).read(url)[0] == CONTENT  # and options before both


LAB = """
[profile lab]
region = from-profile
endpoint_url = http://profile:1
aws_access_key_id = AKIAPROFILE
aws_secret_access_key = secret-of-profile
aws_session_token = token-of-profile
"""
LAB_PLACES = {"region": "from-profile", "endpoint": "http://profile:1"}
LAB_KEYS = {
    "access_key_id": "AKIAPROFILE",
    "secret_access_key": "secret-of-profile",
    "session_token": "token-of-profile",
}


def test_options_come_before_the_environment_and_that_before_the_profile(profiles, monkeypatch):
    profiles(LAB)
    assert credentials.s3_options({}) == {}  # nobody named it
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert credentials.s3_options({}) == LAB_PLACES | LAB_KEYS
    for given_options in ({"access_key_id": "x"}, {"AWS_ACCESS_KEY_ID": "x"}, {"skip_signature": True}):
        assert credentials.s3_options(given_options) == LAB_PLACES
    for given_options in ({"endpoint": "x"}, {"aws_endpoint_url": "x"}, {"endpoint_url": "x"}):
        assert credentials.s3_options(given_options) == LAB_KEYS | {"region": "from-profile"}
    assert credentials.s3_options({"aws_region": "x"}) == LAB_KEYS | {"endpoint": "http://profile:1"}
    monkeypatch.setenv("AWS_ENDPOINT", "http://x")
    monkeypatch.setenv("AWS_REGION", "x")
    assert credentials.s3_options({}) == LAB_KEYS
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    assert credentials.s3_options({}) == {}


def test_the_default_profile_needs_no_name(profiles, monkeypatch):
    profiles(LAB.replace("profile lab", "default"))
    assert credentials.s3_options({}) == LAB_PLACES | LAB_KEYS
    monkeypatch.delenv("AWS_CONFIG_FILE")
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)  # a container's user may have none
    assert credentials.s3_options({}) == {}


def test_profiles_that_are_missing_or_broken_are_named(profiles, s3, monkeypatch, tmp_path):
    profiles(LAB)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match=f"AWS_PROFILE=nobody is not in {tmp_path}/aws_config_file and "):
        Objects().read(f"{s3.url}/a")
    profiles("[profile lab\naws_secret_access_key = hush", "")
    with pytest.raises(ConfigError, match="aws_config_file cannot be read") as caught:
        Objects().read(f"{s3.url}/a")
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("how", ["role_arn = arn:aws:iam::1:role/x\nsource_profile = lab", "sso_session = x"])
def test_profiles_that_log_in_need_boto3(profiles, s3, monkeypatch, how):
    profiles(f"[profile lab]\n{how}\n" + ("aws_access_key_id = AKIAPLAIN" if "role" in how else ""))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setattr(credentials, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'lab' logs in .* which needs boto3. Install it with `pip install boto3`"):
        Objects().read(f"{s3.url}/a")


def test_a_command_logs_in_through_boto3(profiles, s3, monkeypatch, tmp_path):
    url = s3.put("a", CONTENT)
    answer = tmp_path / "answer.json"
    answer.write_text('{"Version": 1, "AccessKeyId": "AKIACOMMAND", "SecretAccessKey": "x"}')
    profiles(
        f"[profile lab]\nregion = us-east-1\nendpoint_url = {s3.server.endpoint}\ncredential_process = cat {answer}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert Objects().read(url)[0] == CONTENT
    with s3.server.permissions(), pytest.raises(StorageError, match="InvalidAccessKeyId"):
        Objects().read(url)


# --- processes and threads


def test_a_reader_can_be_pickled(s3):
    url = s3.put("a", CONTENT)
    for used in (False, True):
        reader, storage = Objects({"region": "us-east-1"}, attempts=3), Storage(options={"region": "us-east-1"})
        if used:
            assert reader.read(url, 0, 9)[0] == storage.read(url, 0, 9) == CONTENT[:9]
        again, storage_again = pickle.loads(pickle.dumps(reader)), pickle.loads(pickle.dumps(storage))  # noqa: S301
        assert again.read(url, 0, 9)[0] == storage_again.read(url, 0, 9) == CONTENT[:9]
        assert repr(again) == repr(reader) == "Objects(options=['region'])"
        assert again.traffic["requests"] == 1
    s3.put("a", CONTENT[::-1])
    for one in (storage, storage_again, pickle.loads(pickle.dumps(storage))):  # noqa: S301 - each knows what was read
        with pytest.raises(StorageError, match="was changed"):
            one.read(url, 0, 9)


FORK = """
import os, sys, threading
from wildstream.errors import EnvironmentProblem
from wildstream.storage.access import Storage

when, url = sys.argv[1:]
storage = Storage()
if when == "opened":
    storage.objects._store(url.rpartition("/")[0])
if when == "used":
    assert storage.read(url, 0, 4) == b"0123"
child = os.fork()
if child == 0:
    code = 1
    try:
        code = 0 if storage.read(url, 4, 8) == b"4567" else 2
    except EnvironmentProblem as error:
        code = 3 if "forked" in str(error) and "spawn" in str(error) else 4
    finally:
        os._exit(code)
_, status = os.waitpid(child, 0)
assert storage.read(url, 4, 8) == b"4567"
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize(("when", "code"), [("new", 0), ("opened", 0), ("used", 3)])
def test_a_fork_reads_or_says_why_it_cannot(s3, when, code):
    """obstore's threads stay behind in a fork; a child that used them would wait forever."""
    url = s3.put("a", b"0123456789")
    command = [sys.executable, "-W", "error", "-c", FORK, when, url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr


def test_fork_is_refused_before_any_lock_is_waited_for(s3, monkeypatch):
    url = s3.put("a", CONTENT)
    reader = Objects()
    assert reader.read(url)[0] == CONTENT
    monkeypatch.setattr(objects, "_user", os.getpid() + 1)
    with reader._lock, pytest.raises(EnvironmentProblem, match=r"forked.*'spawn' or 'forkserver'"):
        reader.read(url)


def test_traffic_is_counted_by_all_threads(s3):
    url = s3.put("a", CONTENT)
    reader = Objects()
    threads = [threading.Thread(target=lambda: [reader.read(url, 0, 10) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reader.traffic == {"requests": 80, "retries": 0, "bytes": 800}


# --- one face


def test_paths_and_urls_are_read_alike(s3, tmp_path):
    folder = tmp_path / "shards"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "0.tar").write_bytes(CONTENT)
    (folder / "index").write_bytes(b"index")
    url = s3.put_folder(folder, "my/shards")
    for place in (folder, str(folder), folder.as_uri(), url, f"{url}/"):
        storage = Storage()
        shard, none = urls.join(place, "train/0.tar"), urls.join(place, "none")
        assert storage.list(place) == {"index": 5, "train/0.tar": len(CONTENT)}
        assert storage.exists(shard)
        assert not storage.exists(none)
        assert storage.size(shard) == len(CONTENT)
        assert storage.read(shard) == CONTENT
        assert storage.read(shard, 7, 77) == CONTENT[7:77]
        assert storage.read(shard, 99_000) == CONTENT[99_000:]
        with pytest.raises(StorageError, match="truncated"):
            storage.read(shard, 99_000, 100_001)
        with pytest.raises(StorageError, match="none"):
            storage.read(none)
        with pytest.raises(StorageError, match="none"):
            storage.size(none)
    assert repr(Storage(options={"secret_access_key": "hush"})).count("hush") == 0


def test_what_cannot_be_known_does_not_count_as_missing(faulty_s3, quick, monkeypatch):
    url = faulty_s3.put("a", CONTENT)
    monkeypatch.setattr(objects, "ATTEMPTS", 2)
    faulty_s3.proxy.inject({"slow_down": 1.0})
    with pytest.raises(StorageError, match="attempts failed"):
        Storage().exists(url)


def test_the_environment_is_as_it_was(s3_server: S3Server):
    assert os.environ.get("AWS_ENDPOINT_URL") != s3_server.endpoint
    assert os.environ.get("AWS_ACCESS_KEY_ID") != s3_server.key
