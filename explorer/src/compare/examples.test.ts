import { expect, it } from "vitest";
import { TASKS, tasksWith } from "./examples";

it("A task that is none of the list can be seen, too", () => {
  expect(tasksWith("")).toEqual(TASKS);
  expect(tasksWith("code")).toEqual(TASKS);
  expect(tasksWith("haiku")).toEqual(["haiku", ...TASKS]);
});
