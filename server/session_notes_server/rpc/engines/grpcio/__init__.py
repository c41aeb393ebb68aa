"""The engine on grpc.aio."""
