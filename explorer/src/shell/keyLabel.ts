import { ApiError } from "../api/client";

/** What the button that takes a key says; null where no keys are in use, or nobody knows. */
export function keyLabel(
  who: { error: Error | null; data: { role: string | null; keys: boolean } | undefined },
  key: string,
): string | null {
  const denied = who.error instanceof ApiError && [401, 403].includes(who.error.status);
  if (denied) return key === "" ? "give a key" : "key refused";
  return who.data?.keys ? (who.data.role ?? "visitor") : null;
}
