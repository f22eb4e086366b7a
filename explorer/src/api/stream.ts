import { EventSourceParserStream } from "eventsource-parser/stream";
import { ApiError, errorOf } from "./client";
import { authorization } from "./key";

/**
 * The JSON events of an event stream, as they come. Not by `EventSource`, which can neither send a
 * key nor a body.
 *
 * @throws ApiError when the server refuses or the connection breaks; AbortError when `signal` fires.
 */
export async function* events<T>(
  path: string,
  options: {
    body?: unknown;
    signal?: AbortSignal;
    /** The server has begun to answer, though nothing may have come yet. */
    onOpen?: () => void;
    /** The server says that it is still there. */
    onComment?: () => void;
  } = {},
): AsyncGenerator<T, void, undefined> {
  const { body, signal, onOpen, onComment } = options;
  const init: RequestInit = {
    method: body === undefined ? "GET" : "POST",
    headers: {
      accept: "text/event-stream",
      "content-type": "application/json",
      ...authorization(),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    ...(signal ? { signal } : {}),
  };
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("Aviary cannot be reached.", 0, "unreachable");
  }
  if (!response.ok || response.body === null) throw await errorOf(response);
  onOpen?.();
  const pieces = response.body
    .pipeThrough(new TextDecoderStream() as unknown as TransformStream<Uint8Array, string>)
    .pipeThrough(new EventSourceParserStream(onComment ? { onComment } : {}));
  const reader = pieces.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield JSON.parse(value.data) as T;
    }
  } catch (error) {
    if (signal?.aborted || error instanceof SyntaxError) throw error;
    throw new ApiError("The connection to Aviary broke off.", 0, "broken_off");
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}
