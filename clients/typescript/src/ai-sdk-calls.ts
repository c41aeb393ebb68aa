/** Model calls of the AI SDK: their turns, and what integrations remember of a session between them. */

import { createHash } from "node:crypto";

import type { wrapLanguageModel } from "ai";

import { forLogs } from "./failures.js";
import { RepeatedWarnings } from "./logs.js";
import { withoutPrompts } from "./prompt.js";
import { parameters } from "./tool.js";
import type { Turn } from "./types.js";

/** Middleware of a language model. The first versions of AI SDK 5 do not export the type. */
export type Middleware = Exclude<Parameters<typeof wrapLanguageModel>[0]["middleware"], readonly unknown[]>;

/** Parameters of a model call. */
export type CallParameters = Parameters<NonNullable<Middleware["transformParams"]>>[0]["params"];

export type Prompt = CallParameters["prompt"];

type Stream = Awaited<ReturnType<NonNullable<Middleware["wrapStream"]>>>["stream"];
type StreamPart = Stream extends ReadableStream<infer Part> ? Part : never;
type ContentPart = Awaited<ReturnType<NonNullable<Middleware["wrapGenerate"]>>>["content"][number];

/** A `TurnRecorder`, or any object with the same `record` method. */
export interface Recorder {
  record(sessionId: string, turns: readonly Turn[], options: { readonly observe: boolean }): unknown;
}

/** The schema of all notes tools. It identifies them in a model call, where the application chooses their names. */
export const SCHEMA = parameters();

/** Number of sessions whose state is kept. A session that was dropped gets its notes again. */
const MAX_SESSIONS = 1000;

const warnings = new RepeatedWarnings();

/** Performs an action. If it fails, resolves to undefined, with a process warning that names the class of the error, and an invalid argument. */
export async function guarded<T>(failure: string, action: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await action();
  } catch (error) {
    warnings.warn("AI SDK", `${failure}: ${forLogs(error)}`);
    return undefined;
  }
}

/** Returns the index of the user's latest message, or -1. */
export function latestUserMessage(prompt: Prompt): number {
  return prompt.findLastIndex(({ role }) => role === "user");
}

/**
 * Whether a message ends an exchange that was recorded: the model said or did something, or got the results of tools. An answer that
 * was aborted before its first word may have nothing.
 */
function isAnswer({ role, content }: Prompt[number], index: number, prompt: Prompt): boolean {
  return (
    role === "assistant" &&
    (prompt[index - 1]?.role === "tool" ||
      content.some((part) => part.type !== "reasoning" && (part.type !== "text" || part.text.trim() !== "")))
  );
}

/** Returns the text of a message, without files. */
export function textOf(message: Prompt[number] | undefined): string {
  const content = message?.content ?? "";
  return typeof content === "string" ? content : textsOf(content);
}

/** How to record the calls of a model. */
export interface Recording {
  readonly recorder: Recorder;
  readonly sessionOf: (params: CallParameters) => string;
  readonly toolCalls: boolean;
}

/** A model call: the messages that it answers, and its answer so far. Its methods never throw. */
export class Exchange {
  readonly #recording: Recording;
  readonly #params: CallParameters;
  readonly #answer: Turn[] = [];
  /** Whether the model waits for the results of tools. */
  #calling = false;
  #over = false;

  constructor(recording: Recording, params: CallParameters) {
    this.#recording = recording;
    this.#params = params;
  }

  /** Adds parts to the answer. */
  add(parts: readonly (ContentPart | StreamPart)[]): void {
    void guarded("an answer is not recorded", () => {
      for (const part of parts) {
        this.#add(part);
      }
    });
  }

  /** Records the exchange, unless it has failed or was recorded before. */
  end({ interrupted = false } = {}): void {
    if (!this.#over) {
      this.#over = true;
      void guarded("turns are not recorded", () => this.#record(interrupted));
    }
  }

  #add(part: ContentPart | StreamPart): void {
    if (part.type === "text" || part.type === "text-delta") {
      const text = part.type === "text" ? part.text : part.delta;
      const last = this.#answer.at(-1);
      if (last?.speaker === "primary") {
        this.#answer.splice(-1, 1, { ...last, text: last.text + text });
      } else {
        this.#answer.push({ speaker: "primary", text });
      }
    } else if (part.type === "tool-call") {
      this.#calling ||= part.providerExecuted !== true;
      if (this.#records(part.toolName)) {
        const text = `${part.toolName}(${part.input})`;
        this.#answer.push({ speaker: "tool", text, extra: { call_id: part.toolCallId } });
      }
    } else if (part.type === "tool-result") {
      if (this.#records(part.toolName) && part.preliminary !== true) {
        this.#answer.push(resultTurn(part.toolCallId, part.result));
      }
    } else if (part.type === "error") {
      this.#over = true;
    }
  }

  #record(interrupted: boolean): unknown {
    const start = this.#params.prompt.findLastIndex(isAnswer) + 1;
    const messages = this.#params.prompt.slice(start).flatMap((message) => this.#turns(message));
    const answer = this.#answer.filter(({ text }) => text.trim() !== "");
    const isNew = messages.some(({ speaker }) => speaker === "user");
    if (isNew && answer.length === 0 && !this.#calling) {
      return undefined; // The next prompt contains the messages again.
    }
    const last = answer.at(-1);
    if (interrupted && last?.speaker === "primary") {
      answer.splice(-1, 1, { ...last, extra: { interrupted: true } });
    }
    const { recorder, sessionOf } = this.#recording;
    const sessionId = sessionOf(this.#params);
    // The application may drop an answer, and send its messages again.
    const latest = latestMessages(recorder).get(sessionId);
    const history = digest(this.#params.prompt.slice(0, start));
    const before = latest.history === history ? latest.texts : [];
    const known = before.findIndex((text, index) => text !== messages[index]?.text);
    const turns = [...messages.slice(known < 0 ? before.length : known), ...answer];
    if (isNew) {
      Object.assign(latest, { history, texts: messages.map(({ text }) => text) });
    }
    if (latest.history === "" && !this.#calling && !interrupted) {
      latest.texts = []; // Without a history, an equal message may be a new one.
    }
    return recorder.record(sessionId, turns, { observe: !this.#calling || interrupted });
  }

  /** Returns the turns of a message that the call answers. */
  #turns(message: Prompt[number]): Turn[] {
    if (message.role === "user") {
      const text = withoutPrompts(textOf(message));
      return text.trim() === "" ? [] : [{ speaker: "user", text }];
    }
    const results = message.role === "tool" ? message.content.filter((part) => part.type === "tool-result") : [];
    return results
      .filter(({ toolName }) => this.#records(toolName))
      .map(({ toolCallId, output }) => {
        if (output.type === "execution-denied") {
          return resultTurn(toolCallId, output.reason ?? "denied");
        }
        return resultTurn(toolCallId, output.type === "content" ? textsOf(output.value) : output.value);
      });
  }

  /** Whether to record the calls of a tool. */
  #records(name: string): boolean {
    const tools = this.#params.tools ?? [];
    const isNotesTool = tools.some(
      (tool) => tool.name === name && "inputSchema" in tool && tool.inputSchema === SCHEMA,
    );
    return this.#recording.toolCalls && !isNotesTool;
  }
}

/** Returns a stream with the same parts, which adds them to an exchange and ends it. */
export function recordedStream(stream: Stream, exchange: Exchange, signal: AbortSignal | undefined): Stream {
  const end = (interrupted: boolean): void => {
    signal?.removeEventListener("abort", interrupt);
    exchange.end({ interrupted });
  };
  const interrupt = (): void => {
    end(true);
  };
  // After an abort, not every version of the SDK cancels the stream.
  signal?.addEventListener("abort", interrupt);
  const reader = stream.getReader();
  return new ReadableStream<StreamPart>(
    {
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (done) {
            end(false);
            controller.close();
            return;
          }
          exchange.add([value]);
          if (value.type === "finish") {
            end(false);
          }
          controller.enqueue(value);
        } catch (error) {
          signal?.removeEventListener("abort", interrupt);
          controller.error(error);
        }
      },
      cancel(reason) {
        end(true);
        return reader.cancel(reason);
      },
    },
    { highWaterMark: 0 }, // Reads a part only when the SDK asks for it.
  );
}

/** The state of the latest sessions. */
export class Sessions<State> {
  readonly #make: (sessionId: string) => State;
  readonly #states = new Map<string, State>();

  constructor(make: (sessionId: string) => State) {
    this.#make = make;
  }

  get(sessionId: string): State {
    const state = this.#states.get(sessionId) ?? this.#make(sessionId);
    // The latest sessions are last.
    this.#states.delete(sessionId);
    this.#states.set(sessionId, state);
    const [oldest] = this.#states.keys();
    if (this.#states.size > MAX_SESSIONS && oldest !== undefined) {
      this.#states.delete(oldest);
    }
    return state;
  }
}

/** The user's latest messages in a session: a digest of the prompt before them, and their texts. */
interface Latest {
  history: string;
  texts: readonly string[];
}

/** The latest messages by recorder, because applications make middleware per request. */
const latest = new WeakMap<Recorder, Sessions<Latest>>();

function latestMessages(recorder: Recorder): Sessions<Latest> {
  const sessions = latest.get(recorder) ?? new Sessions(() => ({ history: "", texts: [] }));
  latest.set(recorder, sessions);
  return sessions;
}

/** Returns a digest of the texts of messages, without notes and system messages, which may change; empty if there are none. */
function digest(messages: Prompt): string {
  const conversation = messages.filter(({ role }) => role !== "system");
  const texts = conversation.map((message) => withoutPrompts(textOf(message))).filter((text) => text !== "");
  return texts.length > 0 ? createHash("sha256").update(JSON.stringify(texts)).digest("base64") : "";
}

function textsOf(parts: readonly { readonly type: string; readonly text?: string }[]): string {
  return parts.flatMap(({ type, text }) => (type === "text" && text !== undefined ? [text] : [])).join("\n");
}

function resultTurn(callId: string, result: unknown): Turn {
  const text = typeof result === "string" ? result : JSON.stringify(result);
  return { speaker: "tool", text, extra: { result_of: callId } };
}
