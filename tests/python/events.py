"""Producers and consumers of events that are not ours: CloudEvents' SDK, and the usual client of each broker.

events.py message MODE                          an event (stdin) as a request: {"headers", "body"}
events.py read                                  a request or a message (stdin: {"headers", "body"}) as an event
events.py produce BROKER HOST PORT TOPIC MODE   publishes an event (stdin)
events.py group BROKER HOST PORT TOPIC          makes what holds events from now on, where a broker needs that
events.py consume BROKER HOST PORT TOPIC        prints the events that are held, and takes them
"""

import asyncio
import json
import sys
from datetime import datetime

import nats
import pika
import redis
from cloudevents.core.bindings import http, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

JSON = JSONFormat()
USER, PASSWORD = "mesh", "s3cret"
QUEUE = "theirs"


def written(event):
    """An event as the tests compare it."""
    attributes = dict(event.get_attributes())
    attributes["time"] = attributes["time"].isoformat().replace("+00:00", "Z")
    data = event.get_data()
    if isinstance(data, (bytes, str)):
        data = json.loads(data)
    return {"attributes": attributes, "data": data}


def given():
    event = json.load(sys.stdin)
    time = event["attributes"]["time"].replace("Z", "+00:00")
    event["attributes"]["time"] = datetime.fromisoformat(time)
    return CloudEvent(attributes=event["attributes"], data=event["data"])


def as_request(event, mode):
    return {"binary": http.to_binary, "structured": http.to_structured}[mode](event, JSON)


def of_request(headers, body):
    return written(http.from_http(http.HTTPMessage(headers=headers, body=body), JSON))


class Nats:
    def __init__(self, host, port, topic):
        self.url, self.topic = f"nats://{USER}:{PASSWORD}@{host}:{port}", topic

    async def connected(self, use):
        client = await nats.connect(self.url)
        try:
            return await use(client.jetstream())
        finally:
            await client.close()

    def produce(self, event, mode):
        sent = as_request(event, mode)
        headers = {"Nats-Msg-Id": event.get_id(), **sent.headers}
        asyncio.run(self.connected(lambda js: js.publish(self.topic, sent.body, headers=headers)))

    def group(self):
        async def use(js):
            await js.pull_subscribe(self.topic, durable=QUEUE)

        asyncio.run(self.connected(use))

    def consume(self):
        async def use(js):
            group = await js.pull_subscribe(self.topic, durable=QUEUE)
            for message in await group.fetch(100, timeout=2):
                say(of_request(message.headers, message.data))
                await message.ack()

        asyncio.run(self.connected(use))


class Redis:
    def __init__(self, host, port, topic):
        self.client, self.topic = redis.Redis(host=host, port=int(port), password=PASSWORD), topic

    def produce(self, event, mode):
        sent = as_request(event, mode)
        self.client.xadd(self.topic, {**sent.headers, "data": sent.body})

    def group(self):
        self.client.xgroup_create(self.topic, QUEUE, id="$", mkstream=True)

    def consume(self):
        for _, entries in self.client.xreadgroup(QUEUE, "one", {self.topic: ">"}, count=100, block=2000):
            for entry, fields in entries:
                fields = {name.decode(): value for name, value in fields.items()}
                body = fields.pop("data")
                say(of_request({name: value.decode() for name, value in fields.items()}, body))
                self.client.xack(self.topic, QUEUE, entry)


class RabbitMQ:
    def __init__(self, host, port, topic):
        credentials = pika.PlainCredentials(USER, PASSWORD)
        parameters = pika.ConnectionParameters(host, int(port), "shop", credentials)
        self.channel, self.topic = pika.BlockingConnection(parameters).channel(), topic
        self.channel.confirm_delivery()

    def produce(self, event, mode):
        convert = {"binary": rabbitmq.to_binary, "structured": rabbitmq.to_structured}[mode]
        sent = convert(event, JSON)
        properties = pika.BasicProperties(
            message_id=event.get_id(),
            delivery_mode=2,
            content_type=sent.content_type,
            headers=sent.headers,
        )
        self.channel.basic_publish(self.topic, "", sent.body, properties, mandatory=True)

    def group(self):
        self.channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        self.channel.queue_bind(QUEUE, self.topic)

    def consume(self):
        for method, properties, body in self.channel.consume(QUEUE, inactivity_timeout=2):
            if method is None:
                return
            message = rabbitmq.RabbitMQMessage(
                headers=properties.headers or {}, body=body, content_type=properties.content_type
            )
            say(written(rabbitmq.from_rabbitmq(message, JSON)))
            self.channel.basic_ack(method.delivery_tag)


def say(event):
    print(json.dumps(event), flush=True)


BROKERS = {"nats": Nats, "redis": Redis, "rabbitmq": RabbitMQ}


def main(command, *arguments):
    if command == "message":
        sent = as_request(given(), *arguments)
        print(json.dumps({"headers": sent.headers, "body": sent.body.decode()}))
    elif command == "read":
        sent = json.load(sys.stdin)
        print(json.dumps(of_request(sent["headers"], sent["body"].encode())))
    elif command == "produce":
        broker, host, port, topic, mode = arguments
        BROKERS[broker](host, port, topic).produce(given(), mode)
    else:
        broker, host, port, topic = arguments
        getattr(BROKERS[broker](host, port, topic), command)()


main(*sys.argv[1:])
