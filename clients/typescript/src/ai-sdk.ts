/**
 * Vercel AI SDK: notes as a tool or in the model's prompt, and the recording of turns.
 *
 * ```ts
 * const model = wrapLanguageModel({
 *   model: openai("gpt-5"),
 *   middleware: [recordingMiddleware(recorder, "session-1"), notesMiddleware(primary, "session-1", { maxTurnsBehind: 4 })],
 * });
 * const result = streamText({ model, messages, abortSignal, tools: { notes: notesTool(primary, "session-1") } });
 * ```
 *
 * Both are middleware because a model call has everything that they need. The SDK calls `onFinish` without the user's messages, and not
 * after an abort; `prepareStep` has a different effect in each version. The same middleware works in `generateText`, `streamText`,
 * agents and UI message streams of AI SDK 5, 6 and 7.
 *
 * @packageDocumentation
 */

import { jsonSchema, type Tool, tool } from "ai";

import { checked, flag, isSessionId, kindOf, refusal } from "./arguments.js";
import {
  type CallParameters,
  Exchange,
  guarded,
  latestUserMessage,
  type Middleware,
  type Prompt,
  type Recorder,
  recordedStream,
  SCHEMA,
  Sessions,
  textOf,
} from "./ai-sdk-calls.js";
import { type FeedOptions, NotesFeed } from "./feed.js";
import type { PrimaryClient } from "./primary.js";
import { FRAMEWORK_TOOL, NotesTool, type NotesToolResult, type ToolOptions } from "./tool.js";

export type { CallParameters, Middleware, Recorder };

/** Options of a tool call, such as its context. */
export type ToolCallOptions = Parameters<NonNullable<Tool["execute"]>>[1];

/** A session id, or a function that returns the session id of a tool call or a model call. */
export type SessionId<Call> = string | ((call: Call) => string);

/** Options of `recordingMiddleware`. */
export interface RecordingOptions {
  /** Whether to record tool calls and their results, with the speaker `tool`. Absent: false. */
  readonly toolCalls?: boolean | undefined;
}

/**
 * Returns a tool that reads a session's notes, for `tools`. It has no parameters and ignores any arguments from the model. Its result is
 * that of `NotesTool`, including `{ ready: false, reason: "unavailable" }` during an outage.
 *
 * @param primary Reads the notes. It is not closed.
 * @param sessionId A session id, or a function of the options of a tool call.
 * @throws InvalidArgument An argument is invalid.
 */
export function notesTool(
  primary: PrimaryClient,
  sessionId: SessionId<ToolCallOptions>,
  options: Omit<ToolOptions, "currentTurn" | "name"> = {},
): Tool<Record<string, never>, NotesToolResult> {
  const sessionOf = sessionFunction(sessionId);
  const { description } = new NotesTool(primary, "any", checked(options, FRAMEWORK_TOOL));
  const tools = new Sessions((id) => new NotesTool(primary, id, options));
  return tool({
    description,
    inputSchema: jsonSchema<Record<string, never>>(SCHEMA),
    execute: (_, call) => tools.get(sessionOf(call)).call(),
  });
}

/**
 * Returns middleware that adds a session's notes to the prompt, for `wrapLanguageModel`.
 *
 * The notes are a message of their own after the user's latest message. They are read once per message of the user and stay the same in
 * all steps of a tool loop, and everything before them is unchanged, so that prompt caches stay valid. They never enter the
 * application's messages. The message has the role `user`, because some providers reject system messages at this position.
 *
 * Reading takes at most the client's `timeoutMs`, and never rejects. During an outage, the last notes stay.
 *
 * @param primary Reads the notes. It is not closed.
 * @param sessionId A session id, or a function of the parameters of a model call, such as their `providerOptions`.
 * @throws InvalidArgument An argument is invalid.
 */
export function notesMiddleware(
  primary: PrimaryClient,
  sessionId: SessionId<CallParameters>,
  options: FeedOptions = {},
): Middleware {
  const sessionOf = sessionFunction(sessionId);
  const feedOf = (id: string): NotesFeed => new NotesFeed(primary, id, options);
  feedOf("any"); // Rejects invalid arguments.
  const sessions = new Sessions((id) => ({ feed: feedOf(id), turn: "", notes: "" }));

  const notesFor = async (params: CallParameters, end: number): Promise<string> => {
    const session = sessions.get(sessionOf(params));
    const turn = `${end} ${textOf(params.prompt[end - 1])}`;
    // In later steps of a tool loop, other messages follow the user's.
    if (turn !== session.turn || params.prompt.slice(end).every(({ role }) => role === "system")) {
      session.turn = turn;
      session.notes = (await guarded("no notes for the prompt", () => session.feed.next())) ?? session.notes;
    }
    return session.notes;
  };

  return {
    specificationVersion: "v3",
    transformParams: async ({ params }) => {
      const end = latestUserMessage(params.prompt) + 1;
      const notes = end > 0 && (await guarded("no notes for the prompt", () => notesFor(params, end)));
      if (!notes) {
        return params;
      }
      const message: Prompt[number] = { role: "user", content: [{ type: "text", text: notes }] };
      return { ...params, prompt: params.prompt.toSpliced(end, 0, message) };
    },
  };
}

/**
 * Returns middleware that records a conversation, for `wrapLanguageModel`. Wrap only the model that talks to the user.
 *
 * After each model call, it records the user's messages since the last answer, then the text of the model. Unless the model calls tools,
 * an observer run is submitted. If a stream is aborted, the text so far is recorded with `extra: { interrupted: true }`. A call that
 * fails is not recorded: the next prompt contains its messages again. If the application drops an answer and sends its messages again,
 * for another answer, they are not recorded again, unless the prompt has no earlier answer.
 *
 * Not recorded: reasoning, files, notes, and by default tool calls and their results. The middleware never delays a call, changes it, or
 * rejects.
 *
 * @param recorder A `TurnRecorder`. It is not closed.
 * @param sessionId A session id, or a function of the parameters of a model call, such as their `providerOptions`.
 * @throws InvalidArgument An argument is invalid.
 */
export function recordingMiddleware(
  recorder: Recorder,
  sessionId: SessionId<CallParameters>,
  options: RecordingOptions = {},
): Middleware {
  if (typeof (recorder as Partial<Recorder> | null)?.record !== "function") {
    throw refusal("recorder", `must be a TurnRecorder, not ${kindOf(recorder)}`);
  }
  const sessionOf = sessionFunction(sessionId);
  const { toolCalls = false } = checked(options, { toolCalls: flag });
  const recording = { recorder, sessionOf, toolCalls };
  return {
    specificationVersion: "v3",
    wrapGenerate: async ({ doGenerate, params }) => {
      const result = await doGenerate();
      const exchange = new Exchange(recording, params);
      exchange.add(result.content);
      exchange.end();
      return result;
    },
    wrapStream: async ({ doStream, params }) => {
      const result = await doStream();
      return { ...result, stream: recordedStream(result.stream, new Exchange(recording, params), params.abortSignal) };
    },
  };
}

/** Checks a session id, and returns it as a function. */
function sessionFunction<Call>(sessionId: SessionId<Call>): (call: Call) => string {
  if (typeof sessionId === "string") {
    if (!isSessionId(sessionId)) {
      throw refusal("sessionId", "must be 1 to 256 bytes of printable ASCII without space, '{' or '}'");
    }
    return () => sessionId;
  }
  if (typeof sessionId !== "function") {
    throw refusal("sessionId", `must be a string, or a function that returns one, not ${kindOf(sessionId)}`);
  }
  return sessionId;
}
