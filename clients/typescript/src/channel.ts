/** Channels: the target and the gRPC options. */

import { Client, type ChannelOptions } from "@grpc/grpc-js";

import type { Credentials } from "./credentials.js";

const OPTIONS: ChannelOptions = {
  // With gRPC's defaults, a client reconnects seconds after the sidecar restarts, and up to two minutes after a long outage.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  // A response with a whole session can exceed gRPC's default limit of 4 MiB.
  "grpc.max_receive_message_length": -1,
  // The sidecar is local; a proxy configured for internet access must not carry its calls.
  "grpc.enable_http_proxy": 0,
  // Skip the DNS lookup for a service config, since none exists.
  "grpc.service_config_disable_resolution": 1,
  // A host that loses power, or a firewall that forgets a connection, closes nothing. Without pings, calls would time out until TCP
  // gives up, after 15 minutes. The sidecar accepts a ping every 10 s.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.keepalive_permit_without_calls": 1,
};

/** Opens a channel, which connects on the first call. */
export function openChannel(target: string, credentials: Credentials): Client {
  return new Client(target, credentials.forChannel(), OPTIONS);
}
