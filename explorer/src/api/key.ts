// The API key that a person typed in: kept in this browser, sent with every request to this Aviary.

const NAME = "aviary.key";
const SESSION = "aviary.session";

function read(name: string): string {
  try {
    return localStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

function write(name: string, value: string): void {
  try {
    if (value) localStorage.setItem(name, value);
    else localStorage.removeItem(name);
  } catch {
    // Storage is switched off: it lives as long as the page then.
  }
}

let key = read(NAME);
let session = read(SESSION);

export function apiKey(): string {
  return key;
}

export function setApiKey(value: string): void {
  key = value.trim();
  write(NAME, key);
}

/** A name that this browser made up; votes are counted once for each. */
export function sessionName(): string {
  if (!session) {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    session = `s-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
    write(SESSION, session);
  }
  return session;
}

export function authorization(): Record<string, string> {
  return key ? { authorization: `Bearer ${key}` } : {};
}
