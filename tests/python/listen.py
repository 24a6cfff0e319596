"""One who listens to a topic by WebSocket and is not ours: the package `websockets`, and CloudEvents' SDK.

listen.py ADDRESS PORT HOST TARGET COUNT   prints the subprotocol, so many events, and how it is closed once it
                                           has sent a message itself
"""

import json
import socket
import sys

from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

JSON = JSONFormat()


def say(what):
    print(json.dumps(what, default=str), flush=True)


def event(text):
    headers = {"content-type": "application/cloudevents+json"}
    read = http.from_http(http.HTTPMessage(headers=headers, body=text.encode()), JSON)
    return {"attributes": dict(read.get_attributes()), "data": read.get_data()}


def main(address, port, host, target, count):
    to = socket.create_connection((address, int(port)), timeout=30)
    with connect(f"ws://{host}{target}", sock=to, subprotocols=["cloudevents.json"], proxy=None) as listening:
        say({"subprotocol": listening.subprotocol})
        for _ in range(int(count)):
            say(event(listening.recv(timeout=30)))
        listening.send("{}")
        try:
            listening.recv(timeout=30)
        except ConnectionClosed as closed:
            say({"code": closed.rcvd.code, "reason": closed.rcvd.reason})


main(*sys.argv[1:])
