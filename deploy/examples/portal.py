"""Makes a slice over the API for portals and prints its topology as it changes (see docs/api.md).

pip install grpcio-tools
python -m grpc_tools.protoc -I proto/rpc/proto --python_out=. --grpc_python_out=. proto/rpc/proto/slicewire/hub/v1alpha1/*.proto
HUB=localhost:9443 TOKEN=... python deploy/examples/portal.py demo green 10.88.0.0/16 east west
"""
import os, sys, grpc  # With --python_out=DIR the generated files are found by PYTHONPATH=DIR.
from slicewire.hub.v1alpha1 import common_pb2, live_pb2, live_pb2_grpc, slice_pb2, slice_pb2_grpc

project, name, prefix, *clusters = sys.argv[1:]
tls = grpc.ssl_channel_credentials(open("ca.crt", "rb").read())
person = grpc.access_token_call_credentials(os.environ["TOKEN"])
known_as = [("grpc.ssl_target_name_override", "slicewire-hub.slicewire-system.svc")]
channel = grpc.secure_channel(os.environ["HUB"], grpc.composite_channel_credentials(tls, person), known_as)

spec = slice_pb2.SliceSpec(prefixes=[prefix], clusters=[slice_pb2.SliceCluster(name=c) for c in clusters])
wanted = slice_pb2.Slice(metadata=common_pb2.Metadata(project=project, name=name), spec=spec)
slice_pb2_grpc.SliceServiceStub(channel).CreateSlice(slice_pb2.CreateSliceRequest(slice=wanted))
for told in live_pb2_grpc.LiveServiceStub(channel).WatchTopology(live_pb2.WatchTopologyRequest(project=project, slice=name)):
    topology = told.topology
    up = sum(tunnel.up for tunnel in topology.tunnels)
    print(f"{name}: ready {topology.ready}, {up} of {len(topology.tunnels)} tunnels up", flush=True)
