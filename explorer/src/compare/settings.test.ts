import { beforeEach, describe, expect, it } from "vitest";
import {
  addColumn,
  change,
  firstModels,
  NO_PARAMETERS,
  numberOf,
  removeColumn,
  requestOf,
  restored,
  setParameter,
  setSync,
  settings,
} from "./settings";

beforeEach(() => settings.set(() => restored(null)));
const temperatures = () => settings.get().columns.map(({ parameters }) => parameters.temperature);

describe("parameters", () => {
  it("are sent when they are set and right", () => {
    const typed = { ...NO_PARAMETERS, temperature: "0", top_p: "7", seed: "1.5", stop: "a\n\nb c" };
    expect(requestOf(typed)).toEqual({ temperature: 0, stop: ["a", "b c"] });
    expect(numberOf("max_tokens", "12")).toBe(12);
    expect(numberOf("max_tokens", "x")).toBeUndefined();
    expect(numberOf("seed", " ")).toBeNull();
  });

  it("go in step, or do not", () => {
    for (const model of ["a", "b"]) addColumn(model);
    const [first, second] = settings.get().columns.map(({ id }) => id) as [string, string];
    setParameter(second, "temperature", "0.5");
    expect(temperatures()).toEqual(["0.5", "0.5"]);
    setSync(false);
    setParameter(first, "temperature", "1");
    expect(temperatures()).toEqual(["1", "0.5"]);
    setSync(true);
    expect(temperatures()).toEqual(["1", "1"]);
  });
});

describe("columns", () => {
  it("are one to six", () => {
    for (let made = 0; made < 9; made++) addColumn("m");
    expect(settings.get().columns).toHaveLength(6);
    for (const { id } of settings.get().columns) removeColumn(id);
    expect(settings.get().columns).toHaveLength(1);
  });

  it("are blind or have turns, not both", () => {
    change({ multi: true });
    change({ blind: true });
    expect(settings.get()).toMatchObject({ blind: true, multi: false });
    change({ multi: true });
    expect(settings.get()).toMatchObject({ blind: false, multi: true });
  });

  it("are at first three models that can answer", () => {
    const models = ["failed", "sleeping", "ready", "ready", "ready", "ready"];
    const all = models.map((state, index) => ({ id: `m${index}`, state }));
    expect(firstModels(all)).toEqual(["m2", "m3", "m4"]);
    expect(firstModels(all.slice(0, 3))).toEqual(["m2", "m1"]);
  });
});

describe("what was kept", () => {
  it("comes back", () => {
    addColumn("a");
    change({ system: "Be brief.", blind: true });
    const kept = restored(JSON.parse(JSON.stringify(settings.get())));
    expect(kept).toMatchObject({ system: "Be brief.", blind: true, columns: [{ model: "a" }] });
  });

  it("does no harm, whatever it is", () => {
    for (const kept of [7, "x", [], { columns: [null, 3, { parameters: 5 }], task: {} }])
      expect(restored(kept).task).toBe("");
  });
});
