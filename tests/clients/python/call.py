"""Calls one method of a control plane and prints its answer as JSON.

    call.py HOST:PORT SERVICE/METHOD [JSON]

With CALL_CA, the file of an authority, over TLS; CALL_CERT and CALL_KEY are the client's own.
CALL_TOKEN travels along. A refusal is printed as its code and message, and ends with 1.
"""

import json
import os
import sys

import grpc
from flowctl import control_plane_pb2
from flowctl.v1 import control_plane_pb2 as _
from google.protobuf import descriptor_pool, json_format, message_factory


def read(variable):
    path = os.environ.get(variable)
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def main():
    address, path = sys.argv[1], sys.argv[2]
    text = sys.argv[3] if len(sys.argv) > 3 else "{}"
    service, method = path.split("/")
    found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]
    request = message_factory.GetMessageClass(found.input_type)()
    json_format.ParseDict(json.loads(text), request)
    if "CALL_CA" in os.environ:
        credentials = grpc.ssl_channel_credentials(
            read("CALL_CA"), read("CALL_KEY"), read("CALL_CERT")
        )
        # Certificates of tests are made out to this name.
        options = [("grpc.ssl_target_name_override", "localhost")]
        channel = grpc.secure_channel(address, credentials, options)
    else:
        channel = grpc.insecure_channel(address)
    call = channel.unary_unary(
        f"/{path}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(found.output_type).FromString,
    )
    metadata = []
    if "CALL_TOKEN" in os.environ:
        metadata.append(("authorization", f"Bearer {os.environ['CALL_TOKEN']}"))
    try:
        answer = call(request, timeout=20, metadata=metadata)
    except grpc.RpcError as error:
        print(json.dumps({"code": error.code().name, "message": error.details()}))
        sys.exit(1)
    print(json_format.MessageToJson(answer))


assert control_plane_pb2 and _
main()
