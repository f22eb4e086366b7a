import type { Schemas } from "../api/client";

// What `GET /api/traffic` answers.

export type Traffic = Schemas["TrafficAnswer"];
export type Figures = Schemas["TrafficFigures"];
export type Point = Schemas["TrafficPoint"];
export type ModelFigures = Schemas["TrafficModel"];
export type LengthCount = Schemas["LengthCount"];
export type ReplicaPoint = Schemas["ReplicaPoint"];
export type ReplicaHistory = Schemas["ReplicaHistory"];
