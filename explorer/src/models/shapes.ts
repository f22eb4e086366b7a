import type { Schemas } from "../api/client";

// What the models' routes answer beyond what schema.d.ts has of them.

export type State = Schemas["ModelState"];

export interface Replica extends Omit<Schemas["Replica"], "state"> {
  state: Schemas["ReplicaState"];
  running?: number;
  waiting?: number;
  memory_bytes?: number | null;
  tokens_per_s?: number | null;
}

export interface Model extends Omit<Schemas["Model"], "replicas"> {
  replicas: Replica[];
  memory_bytes?: number | null;
  tokens_per_s?: number | null;
}

export interface Live {
  models: Model[];
  time: number;
}

export interface SpecProblem {
  message: string;
  line: number | null;
  column: number | null;
  field: string | null;
}

export interface Preview {
  spec: Record<string, unknown> | null;
  model: string | null;
  changes: Schemas["Change"][];
  errors: SpecProblem[];
}

export type Applied = Schemas["Applied"];
export type Application = Schemas["Application"];
export type FieldChange = Schemas["FieldChange"];

/** Of `/api/events`, or of a model's own events, which name the kind `state`. */
export interface FleetEvent {
  seq: number;
  time: number;
  kind?: string;
  state?: string;
  replica: string;
  detail: string;
  changed_by: string;
}
