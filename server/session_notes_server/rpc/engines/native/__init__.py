"""The native engine: gRPC on libnghttp2, in the thread of the event loop.

`server` has the methods, `listener` accepts connections, `connection` speaks HTTP/2, `call` is one RPC, `request` its
messages as they arrive, and `wire` encodes headers and messages.
"""
