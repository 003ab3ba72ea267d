"""A client written for AWS: posts a frame and polls the response queue. `python client.py PHOTO` prints a name."""

import base64, json, os, sys, uuid

import boto3
import requests

request_id = str(uuid.uuid4())
with open(sys.argv[1], "rb") as photo:
    content = base64.b64encode(photo.read()).decode()
frame = {"content": content, "request_id": request_id, "filename": sys.argv[1]}
requests.post(os.environ["FUNCTION_URL"], json=frame).raise_for_status()

sqs, queue, result = boto3.client("sqs"), os.environ["RESPONSE_QUEUE_URL"], None
while result is None:
    for message in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5).get("Messages", []):
        answer = json.loads(message["Body"])
        if answer["request_id"] == request_id:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            result = answer["result"]
print(result)
