"""A control plane as upstream's was in July 2025: the older service and nothing else.

    old_server.py       prints the port that it took
"""

from concurrent import futures

import grpc
from flowctl import control_plane_pb2 as wire
from flowctl import control_plane_pb2_grpc as service


class Old(service.ControlPlaneServicer):
    def ListServices(self, request, context):
        ill = wire.ServiceStatus(service_id="ill", service_type=3)
        well = wire.ServiceStatus(
            service_id="well", service_type=1, is_healthy=True, metrics={"success_count": 7}
        )
        well.last_heartbeat.GetCurrentTime()
        return wire.ServiceList(services=[ill, well])


server = grpc.server(futures.ThreadPoolExecutor(2))
service.add_ControlPlaneServicer_to_server(Old(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
