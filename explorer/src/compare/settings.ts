// What a person has set up to compare; kept in this browser.

import { makeStore } from "../ui/store";

export const MOST_COLUMNS = 6;
const NAME = "aviary.compare";

/** As typed; empty is the model's own default. */
export interface Parameters {
  temperature: string;
  max_tokens: string;
  top_p: string;
  seed: string;
  /** One to a line. */
  stop: string;
}

export interface Contender {
  /** Stays the same while models and places change. */
  id: string;
  model: string;
  parameters: Parameters;
}

export interface Settings {
  columns: Contender[];
  sync: boolean;
  multi: boolean;
  blind: boolean;
  system: string;
  task: string;
  prompt: string;
}

export const NO_PARAMETERS: Parameters = {
  temperature: "",
  max_tokens: "",
  top_p: "",
  seed: "",
  stop: "",
};

const START: Settings = {
  columns: [],
  sync: true,
  multi: false,
  blind: false,
  system: "",
  task: "",
  prompt: "",
};

export const LIMITS = {
  temperature: { label: "Temperature", min: 0, max: 2, step: 0.1, whole: false },
  max_tokens: { label: "Max tokens", min: 1, max: 1_000_000, step: 1, whole: true },
  top_p: { label: "Top P", min: 0, max: 1, step: 0.05, whole: false },
  seed: { label: "Seed", min: 0, max: 4_294_967_295, step: 1, whole: true },
} as const;
export type NumberName = keyof typeof LIMITS;
export const NUMBERS = Object.keys(LIMITS) as NumberName[];

/** The number that was typed, null for nothing, undefined for what is none or out of bounds. */
export function numberOf(name: NumberName, typed: string): number | null | undefined {
  if (typed.trim() === "") return null;
  const value = Number(typed);
  const { min, max, whole } = LIMITS[name];
  if (!(value >= min && value <= max) || (whole && !Number.isInteger(value))) return undefined;
  return value;
}

/** Fields of a request; what is left empty or is wrong is left out. */
export function requestOf(parameters: Parameters): Record<string, unknown> {
  const fields: Record<string, unknown> = {};
  for (const name of NUMBERS) {
    const value = numberOf(name, parameters[name]);
    if (value != null) fields[name] = value;
  }
  const stop = parameters.stop.split("\n").filter((line) => line !== "");
  if (stop.length > 0) fields.stop = stop;
  return fields;
}

/** In few words, what differs from the defaults. */
export function summaryOf(parameters: Parameters): string {
  const short = { temperature: "T", max_tokens: "max", top_p: "P", seed: "seed" };
  const parts = NUMBERS.filter((name) => numberOf(name, parameters[name]) != null).map(
    (name) => `${short[name]} ${parameters[name]}`,
  );
  if (parameters.stop.trim() !== "") parts.push("stop");
  return parts.join(" · ");
}

/** Settings from what was kept, whatever that is by now. */
export function restored(kept: unknown): Settings {
  if (typeof kept !== "object" || kept === null) return START;
  const from = kept as Partial<Record<keyof Settings, unknown>>;
  const text = (value: unknown) => (typeof value === "string" ? value : "");
  const columns = Array.isArray(from.columns) ? from.columns : [];
  return {
    columns: columns.slice(0, MOST_COLUMNS).map((column: Partial<Contender> | null) => {
      const parameters: Parameters = { ...NO_PARAMETERS };
      for (const name of Object.keys(parameters) as (keyof Parameters)[])
        parameters[name] = text(column?.parameters?.[name]);
      return { id: newId(), model: text(column?.model), parameters };
    }),
    sync: from.sync !== false,
    multi: from.multi === true && from.blind !== true,
    blind: from.blind === true,
    system: text(from.system),
    task: text(from.task),
    prompt: text(from.prompt),
  };
}

let made = 0;
function newId(): string {
  made += 1;
  return `c${made}`;
}

function read(): Settings {
  try {
    return restored(JSON.parse(localStorage.getItem(NAME) ?? "null"));
  } catch {
    // Storage is switched off, or holds something else: start anew.
    return START;
  }
}

export const settings = makeStore<Settings>(read());

let timer: ReturnType<typeof setTimeout> | undefined;
function keep(): void {
  clearTimeout(timer);
  timer = undefined;
  try {
    localStorage.setItem(NAME, JSON.stringify(settings.get()));
  } catch {
    // Storage is switched off or full: it lives as long as the page then.
  }
}
settings.subscribe(() => {
  timer ??= setTimeout(keep, 300);
});
if (typeof window !== "undefined")
  window.addEventListener("pagehide", () => {
    if (timer !== undefined) keep();
  });

export function change(part: Partial<Settings>): void {
  settings.set((now) => {
    const next = { ...now, ...part };
    // Which answer was whose is hidden in a blind comparison, so none can go on with its own.
    if (part.blind) next.multi = false;
    if (part.multi) next.blind = false;
    return next;
  });
}

export function setModel(id: string, model: string): void {
  settings.set((now) => ({
    ...now,
    columns: now.columns.map((column) => (column.id === id ? { ...column, model } : column)),
  }));
}

/** Whether there is something to ask, and somebody. */
export function isReady({ prompt, columns }: Settings): boolean {
  return prompt.trim() !== "" && columns.some(({ model }) => model !== "");
}

/** Sets a parameter of one column, or of all while they are in step. */
export function setParameter(id: string, name: keyof Parameters, value: string): void {
  settings.set((now) => ({
    ...now,
    columns: now.columns.map((column) =>
      now.sync || column.id === id
        ? { ...column, parameters: { ...column.parameters, [name]: value } }
        : column,
    ),
  }));
}

/** In step from now on: all columns take the first one's parameters. */
export function setSync(sync: boolean): void {
  settings.set((now) => {
    const first = now.columns[0]?.parameters ?? NO_PARAMETERS;
    const columns = sync
      ? now.columns.map((column) => ({ ...column, parameters: first }))
      : now.columns;
    return { ...now, sync, columns };
  });
}

export function addColumn(model: string): void {
  settings.set((now) => {
    if (now.columns.length >= MOST_COLUMNS) return now;
    const parameters = (now.sync && now.columns[0]?.parameters) || NO_PARAMETERS;
    return { ...now, columns: [...now.columns, { id: newId(), model, parameters }] };
  });
}

export function removeColumn(id: string): void {
  settings.set((now) => {
    const columns = now.columns.filter((column) => column.id !== id);
    return columns.length === 0 ? now : { ...now, columns };
  });
}

/** Columns for a first visit: models that can answer at once come first. */
export function firstModels(models: readonly { id: string; state: string }[]): string[] {
  const order = ["ready", "sleeping", "starting"];
  const usable = models.filter(({ state }) => order.includes(state));
  usable.sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
  return usable.slice(0, 3).map(({ id }) => id);
}
