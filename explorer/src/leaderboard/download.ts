import { ApiError, errorOf } from "../api/client";
import { authorization } from "../api/key";

/** Fetches with the key, which a plain link could not send, and saves as a file. */
export async function download(path: string, name: string): Promise<void> {
  let response: Response;
  try {
    response = await fetch(path, { headers: authorization() });
  } catch {
    throw new ApiError("Aviary cannot be reached.", 0, "unreachable");
  }
  if (!response.ok) throw await errorOf(response);
  const address = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
