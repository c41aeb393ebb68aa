/** A gRPC server that rejects every call with the same status, for errors that are hard to provoke in a sidecar. */

import { Metadata, Server, ServerCredentials, status as Code } from "@grpc/grpc-js";

import { SessionNotes } from "../dist/gen/session_notes/v1/session_notes_pb.js";
import { SessionState } from "../dist/gen/session_notes/v1/session_state_pb.js";

export class Refusing {
  code: Code = Code.UNAVAILABLE;
  message = "the store is away";
  /** `grpc-status-details-bin`. */
  details: Uint8Array | undefined;
  /** Number of calls that get a response; later ones get none. */
  answers = Infinity;
  /** Responses of the next calls, and statuses other than `code`. */
  readonly responses: (Uint8Array | { readonly code: Code; readonly details?: Uint8Array })[] = [];
  /** The request of each call. */
  readonly requests: Buffer[] = [];
  readonly #server = new Server();
  target = "";

  static async start(): Promise<Refusing> {
    const refusing = new Refusing();
    for (const service of [SessionNotes, SessionState]) {
      refusing.#serve(service.typeName, service.methods);
    }
    const port = await new Promise<number>((resolve, reject) => {
      refusing.#server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) => {
        if (error === null) {
          resolve(bound);
        } else {
          reject(error);
        }
      });
    });
    refusing.target = `127.0.0.1:${port}`;
    return refusing;
  }

  stop(): void {
    this.#server.forceShutdown();
  }

  #serve(service: string, methods: readonly { readonly name: string }[]): void {
    for (const { name } of methods) {
      const definition = {
        path: `/${service}/${name}`,
        requestStream: false,
        responseStream: false,
        requestSerialize: (bytes: Buffer) => bytes,
        requestDeserialize: (bytes: Buffer) => bytes,
        responseSerialize: (bytes: Buffer) => bytes,
        responseDeserialize: (bytes: Buffer) => bytes,
      };
      this.#server.addService(
        { [name]: definition },
        {
          [name]: (call: { request: Buffer }, answer: (error: object | null, response?: Buffer) => void) => {
            this.requests.push(call.request);
            const response = this.responses.shift() ?? this;
            if (response instanceof Uint8Array) {
              answer(null, Buffer.from(response));
              return;
            }
            if (this.requests.length > this.answers) {
              return;
            }
            const metadata = new Metadata();
            if (response.details !== undefined) {
              metadata.set("grpc-status-details-bin", Buffer.from(response.details));
            }
            answer({ code: response.code, details: this.message, metadata });
          },
        },
      );
    }
  }
}
