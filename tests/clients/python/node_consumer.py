"""A component as the Node consumer of the field is.

It reads the interval as parseInt does (`10s` is 10 milliseconds), waits for the answer to its
registration without an end, calls itself service type 4, sends no id, and after a failed
registration keeps a local id and sends no heartbeat at all.
"""

import os
import re
import signal
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
from flowctl import control_plane_pb2 as wire
from flowctl import control_plane_pb2_grpc as service


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"healthy"}')

    def log_message(self, *_):
        pass


def parse_int(text, otherwise):
    digits = re.match(r"\s*(\d+)", text)
    return int(digits.group(1)) if digits else otherwise


def say(text):
    print(text, flush=True)


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    port = int(os.environ.get("HEALTH_PORT", "8093"))
    server = HTTPServer(("", port), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if os.environ.get("ENABLE_FLOWCTL") != "true":
        signal.pause()
    channel = grpc.insecure_channel(os.environ.get("FLOWCTL_ENDPOINT", "localhost:8080"))
    client = service.ControlPlaneStub(channel)
    info = wire.ServiceInfo(
        service_type=4,
        input_event_types=["event_service.TokenTransferEvent"],
        health_endpoint=os.environ.get("HEALTH_ENDPOINT", "http://localhost:8093/health"),
        max_inflight=100,
        metadata={"network": "testnet", "consumer_type": "token_transfer"},
    )
    try:
        service_id = client.Register(info).service_id
    except grpc.RpcError as error:
        say(f"register failed: {error.code()}; using consumer-{uuid.uuid4().hex[:8]}")
        signal.pause()
        sys.exit(0)
    say(f"registered {service_id}")
    milliseconds = parse_int(os.environ.get("FLOWCTL_HEARTBEAT_INTERVAL", "10000"), 10000)
    sent = 0
    while True:
        time.sleep(milliseconds / 1000)
        sent += 1
        try:
            client.Heartbeat(
                wire.ServiceHeartbeat(
                    service_id=service_id,
                    metrics={"success_count": sent, "uptime_ms": sent * milliseconds},
                )
            )
        except grpc.RpcError as error:
            say(f"heartbeat failed: {error.code()}")


main()
