"""The native engine: gRPC on libnghttp2, in the thread of the event loop.

`server` accepts connections, `connection` speaks HTTP/2, `call` is one RPC, and `wire` encodes headers and messages.
"""
