import type { Schemas } from "../api/client";

export type State = Schemas["ModelState"];

export type Replica = Schemas["Replica"];
export type Model = Schemas["Model"];

/** An event of `/api/live`. */
export interface Live {
  models: Model[];
  time: number;
}

export type SpecProblem = Schemas["SpecProblem"];
export type Preview = Schemas["Preview"];
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
