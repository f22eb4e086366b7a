import { describe, expect, it } from "vitest";
import { ApiError } from "../api/client";
import { keyLabel } from "./keyLabel";

const denied = (status: number) => ({ error: new ApiError("No.", status, ""), data: undefined });
const known = (role: string, keys: boolean) => ({ error: null, data: { role, keys } });

describe("the key's button", () => {
  it("is there for those who are not let in", () => {
    expect(keyLabel(denied(401), "")).toBe("give a key");
    expect(keyLabel(denied(401), "sk-aviary-x")).toBe("key refused");
    expect(keyLabel(denied(403), "sk-aviary-x")).toBe("key refused");
  });

  it("takes a server that cannot be reached for no refusal", () => {
    expect(keyLabel(denied(0), "sk-aviary-x")).toBeNull();
    expect(keyLabel(denied(503), "sk-aviary-x")).toBeNull();
    const before = { ...known("admin", true), error: new ApiError("Gone.", 0, "unreachable") };
    expect(keyLabel(before, "sk-aviary-x")).toBe("admin");
  });

  it("says who one is where keys are in use", () => {
    expect(keyLabel(known("visitor", true), "")).toBe("visitor");
    expect(keyLabel(known("admin", false), "")).toBeNull();
  });
});
