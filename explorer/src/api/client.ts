import createClient from "openapi-fetch";
import { authorization } from "./key";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];

/** What the server says went wrong, in its own words. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
    readonly retryAfterS: number | null = null,
  ) {
    super(message);
  }
}

/** Makes an error of an answer that is none of 2xx, whatever its body is. */
export async function errorOf(response: Response): Promise<ApiError> {
  const after = Number(response.headers.get("retry-after") ?? Number.NaN);
  const retryAfterS = Number.isFinite(after) ? after : null;
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text) as { error: { message: string; code: string | null } };
    return new ApiError(error.message, response.status, error.code ?? "", retryAfterS);
  } catch {
    return new ApiError(
      `The server answered ${response.status}.`,
      response.status,
      "",
      retryAfterS,
    );
  }
}

export const client = createClient<paths>({ baseUrl: "/" });

client.use({
  onRequest({ request }) {
    for (const [name, value] of Object.entries(authorization())) request.headers.set(name, value);
    return request;
  },
  async onResponse({ response }) {
    if (!response.ok) throw await errorOf(response);
  },
  onError({ error }) {
    if (error instanceof ApiError) return error;
    return new ApiError("Aviary cannot be reached.", 0, "unreachable");
  },
});

/** The data of a call through `client`, which throws `ApiError` for everything else. */
export async function data<T>(call: Promise<{ data?: T }>): Promise<T> {
  return (await call).data as T;
}

/** A GET of a path that the OpenAPI document does not describe by type. */
export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  const init: RequestInit = { headers: authorization(), ...(signal ? { signal } : {}) };
  const response = await fetch(path, init).catch((error: unknown) => {
    if (signal?.aborted) throw error;
    throw new ApiError("Aviary cannot be reached.", 0, "unreachable");
  });
  if (!response.ok) throw await errorOf(response);
  return (await response.json()) as T;
}
