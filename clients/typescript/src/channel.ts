/** The one place that makes channels: where to, and with which options. */

import { Client, type ChannelOptions } from "@grpc/grpc-js";

import type { Credentials } from "./credentials.js";

const OPTIONS: ChannelOptions = {
  // gRPC's own would leave a sidecar that is back unnoticed for seconds, up to two minutes after a long outage.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  // The sidecar bounds what is sent to it; a whole session with its transcript may be larger than gRPC's 4 MiB.
  "grpc.max_receive_message_length": -1,
  // A sidecar is next door; a proxy for the outside world, set for everybody, has no business in between.
  "grpc.enable_http_proxy": 0,
  // No TXT look-up for a service config that is not there.
  "grpc.service_config_disable_resolution": 1,
};

/** A channel; it connects at the first call. */
export function openChannel(target: string, credentials: Credentials): Client {
  return new Client(target, credentials.forChannel(), OPTIONS);
}
