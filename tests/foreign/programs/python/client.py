"""Clients of Python: requests, http.client and urllib."""

import hashlib
import http.client
import os
import sys
import urllib.request

import requests

URL = os.environ["URL"]


def show(status, headers, body):
    print("status", status)
    for name, value in headers:
        print(f"{name}: {value}")
    print()
    print(len(body), hashlib.sha256(body).hexdigest())


def of_requests():
    with requests.Session() as session:
        for method, path, more in [
            ("GET", "/a?b=c d&e=é", {}),
            ("GET", "/old", {}),
            ("HEAD", "/", {}),
            ("POST", "/json", {"json": {"a": [1, None, "é"]}}),
            ("POST", "/form", {"data": {"a": "1", "b": "&"}}),
            ("PUT", "/stream", {"data": (b"x" * 1000 for _ in range(100))}),
            ("PATCH", "/large", {"data": bytes(range(256)) * 8192}),
            ("DELETE", "/gone", {"auth": ("user", "word")}),
            ("GET", "/until-the-end", {}),
        ]:
            answer = session.request(method, URL + path, timeout=30, **more)
            show(answer.status_code, answer.headers.items(), answer.content)


def of_http_client():
    connection = http.client.HTTPConnection(os.environ["HOST"], int(os.environ["PORT"]), timeout=30)
    for method, path, body in [("GET", "/", None), ("POST", "/b", b"body"), ("PUT", "/c", iter([b"a", b"b"]))]:
        connection.request(method, path, body, encode_chunked=False)
        answer = connection.getresponse()
        show(answer.status, answer.getheaders(), answer.read())


def of_urllib():
    with urllib.request.urlopen(URL + "/old", data=b"posted", timeout=30) as answer:
        print(answer.geturl())
        show(answer.status, answer.getheaders(), answer.read())


{"requests": of_requests, "http.client": of_http_client, "urllib": of_urllib}[sys.argv[1]]()
