"""Services of other projects, from their descriptors instead of generated code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from session_notes_server.rpc.engines import Engine

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

CODES = {code.value[0]: code for code in grpc.StatusCode}


class Contract:
    """The services and messages in a file with descriptors."""

    def __init__(self, descriptors: Path) -> None:
        self._pool = DescriptorPool()
        for file in FileDescriptorSet.FromString(descriptors.read_bytes()).file:
            self._pool.AddSerializedFile(file.SerializeToString())

    def message(self, name: str) -> Any:
        """Return the class of a message."""
        return GetMessageClass(self._pool.FindMessageTypeByName(name))

    def add_to(self, engine: Engine, service: str, servicer: object) -> None:
        """Register the methods that a servicer has, like a generated `add_..._to_server`."""
        handlers = {
            method.name: _HANDLERS[method.client_streaming, method.server_streaming](
                getattr(servicer, method.name),
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for method in self._pool.FindServiceByName(service).methods
            if hasattr(servicer, method.name)
        }
        engine.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        engine.add_registered_method_handlers(service, handlers)


_HANDLERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
