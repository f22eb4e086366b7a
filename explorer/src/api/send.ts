import { ApiError, errorOf } from "./client";
import { authorization } from "./key";

/** A change: sends `body` as JSON, with the key, and reads the JSON answer. */
export async function sendJson<T>(
  method: "POST" | "DELETE",
  path: string,
  body?: unknown,
): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers: { "content-type": "application/json", ...authorization() },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  } catch {
    throw new ApiError("Aviary cannot be reached.", 0, "unreachable");
  }
  if (!response.ok) throw await errorOf(response);
  return (await response.json()) as T;
}
