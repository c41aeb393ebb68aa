"""Attributes of spans for RPCs. OTEL_SEMCONV_STABILITY_OPT_IN selects their names, as OpenTelemetry defines it.

`rpc` selects the names of the stable conventions, `rpc/dup` both these and the earlier names. The sidecar's spans have
the same attributes.
"""

from __future__ import annotations

import os
from enum import Enum

_OPT_IN = {value.strip() for value in os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")}
_STABLE = not _OPT_IN.isdisjoint({"rpc", "rpc/dup"})
_EARLIER = "rpc/dup" in _OPT_IN or not _STABLE


def method_attributes(service: str, method: str) -> dict[str, str]:
    """Return the attributes of a call's method. With both names, `rpc.method` has the meaning of the stable one."""
    attributes: dict[str, str] = {}
    if _EARLIER:
        attributes |= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    if _STABLE:
        attributes |= {"rpc.system.name": "grpc", "rpc.method": f"{service}/{method}"}
    return attributes


def status_attributes(code: Enum) -> dict[str, str | int]:
    """Return the attributes of a gRPC status code."""
    attributes: dict[str, str | int] = {}
    if _EARLIER:
        attributes["rpc.grpc.status_code"] = code.value[0]
    if _STABLE:
        attributes["rpc.response.status_code"] = code.name
    return attributes
