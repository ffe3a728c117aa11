"""A component whose health is green whatever happens.

    ledgers.py FILE

It sends the number in FILE as `last_processed_ledger` with each heartbeat.
"""

import os
import signal
import sys
import threading
import time
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


def ledger(path):
    try:
        with open(path) as file:
            return float(file.read())
    except (OSError, ValueError):
        return None


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = HTTPServer(("", int(os.environ["HEALTH_PORT"])), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = service.ControlPlaneStub(grpc.insecure_channel(os.environ["FLOWCTL_ENDPOINT"]))
    info = wire.ServiceInfo(
        service_id=os.environ["FLOWCTL_SERVICE_ID"],
        service_type=3,
        health_endpoint=os.environ["HEALTH_ENDPOINT"],
    )
    service_id = client.Register(info).service_id
    while True:
        at = ledger(sys.argv[1])
        metrics = {} if at is None else {"last_processed_ledger": at}
        try:
            client.Heartbeat(wire.ServiceHeartbeat(service_id=service_id, metrics=metrics))
        except grpc.RpcError as error:
            print(f"heartbeat failed: {error.code()}", flush=True)
        time.sleep(int(os.environ["FLOWCTL_HEARTBEAT_INTERVAL_MS"]) / 1000)


main()
