"""A file service written from the reference design alone: four fields in, four fields out, no code of filemill.

It uses the environment variables of the reference design. It fails for titles that begin with "bad".
"""

import json
import os
from datetime import UTC, datetime

import boto3
from confluent_kafka import Consumer, Producer

group, create, created, bucket = (os.environ[name] for name in ("GROUP", "CREATE", "CREATED", "BUCKET"))
broker = {"bootstrap.servers": os.environ["KAFKA_BROKER"]}
consumer = Consumer(broker | {"group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False})
producer = Producer(broker)
s3 = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"], region_name="us-east-1")
consumer.subscribe([create])
print("ready", flush=True)
while True:
    message = consumer.poll(0.2)
    if message is None or message.error():
        continue
    request = json.loads(message.value() or b"{}")
    answer = {"fileId": request["fileId"], "s3Location": None, "status": "failed"}
    if not request["title"].startswith("bad"):
        key = f"foreign/{request['fileId']}.txt"
        s3.put_object(Bucket=bucket, Key=key, Body=f"{request['title']}\n{request['timestamp']}".encode())
        answer |= {"s3Location": key, "status": "completed"}
    producer.produce(created, json.dumps(answer | {"timestamp": datetime.now(UTC).isoformat()}))
    producer.flush()
    consumer.commit(message=message, asynchronous=False)
