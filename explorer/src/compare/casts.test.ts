import { describe, expect, it } from "vitest";
import { makeCasts } from "./casts";
import type { Vote } from "./run";

const best = (column: number): Vote => ({ verdict: "best", column, reason: "" });

/** Casts whose answers the test gives, and a record of what was sent and told. */
function recorded() {
  const log: string[] = [];
  const answers: ((error?: Error) => void)[] = [];
  const cast = makeCasts(
    (battle, { column }) => {
      log.push(`send ${battle} ${column}`);
      return new Promise<string>((resolve, reject) => {
        answers.push((error) => (error ? reject(error) : resolve(`${battle} ${column}`)));
      });
    },
    {
      stored: (what) => log.push(`stored ${what}`),
      failed: (battle, { column }) => log.push(`failed ${battle} ${column}`),
      settled: (battle) => log.push(`settled ${battle}`),
    },
  );
  const answer = async (error?: Error) => {
    answers.shift()?.(error);
    await new Promise((resolve) => setTimeout(resolve));
    return log.splice(0);
  };
  return { cast, answer };
}

describe("votes", () => {
  it("go one after another, the newest wish last", async () => {
    const { cast, answer } = recorded();
    for (const column of [0, 1, 2]) cast("a", best(column));
    expect(await answer()).toEqual(["send a 0", "stored a 0", "send a 2"]);
    expect(await answer()).toEqual(["stored a 2", "settled a"]);
    cast("a", best(3));
    expect(await answer()).toEqual(["send a 3", "stored a 3", "settled a"]);
  });

  it("fail by what was wished last", async () => {
    const { cast, answer } = recorded();
    cast("a", best(0));
    cast("a", best(1));
    expect(await answer(new Error("Full."))).toEqual(["send a 0", "send a 1"]);
    expect(await answer(new Error("Full."))).toEqual(["failed a 1", "settled a"]);
  });

  it("of one battle do not wait for another's", async () => {
    const { cast, answer } = recorded();
    cast("a", best(0));
    cast("b", best(1));
    expect(await answer()).toEqual(["send a 0", "send b 1", "stored a 0", "settled a"]);
    expect(await answer()).toEqual(["stored b 1", "settled b"]);
  });
});
