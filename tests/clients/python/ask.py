"""Asks a control plane what a stranger can ask, and prints the answers as one JSON object.

    ask.py HOST:PORT
"""

import json
import sys

import grpc
from flowctl import control_plane_pb2_grpc as legacy
from flowctl.v1 import control_plane_pb2 as v1
from flowctl.v1 import control_plane_pb2_grpc as v1_service
from google.protobuf import descriptor_pool, empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


def main():
    channel = grpc.insecure_channel(sys.argv[1])
    grpc.channel_ready_future(channel).result(timeout=20)
    reflection = ProtoReflectionDescriptorDatabase(channel)
    pool = descriptor_pool.DescriptorPool(reflection)
    services = sorted(reflection.get_services())
    methods = {
        name: [method.name for method in pool.FindServiceByName(name).methods]
        for name in services
        if name.startswith("flowctl")
    }
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    listed = legacy.ControlPlaneStub(channel).ListServices(empty_pb2.Empty()).services
    components = v1_service.ControlPlaneServiceStub(channel).ListComponents(
        v1.ListComponentsRequest(include_unhealthy=True)
    )
    answer = {
        "services": services,
        "methods": methods,
        "health": health_pb2.HealthCheckResponse.ServingStatus.Name(health.status),
        "listed": {
            status.service_id: {
                "component": status.component_id,
                "type": status.service_type,
                "healthy": status.is_healthy,
                "heartbeat": status.last_heartbeat.ToMilliseconds(),
                "metrics": dict(status.metrics),
            }
            for status in listed
        },
        "components": [
            {
                "id": component.component.id,
                "type": component.component.type,
                "endpoint": component.component.endpoint,
                "status": component.status,
                "metrics": dict(component.metrics),
            }
            for component in components.components
        ],
    }
    print(json.dumps(answer))


main()
