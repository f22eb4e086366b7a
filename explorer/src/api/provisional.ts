// Types of routes that the back end does not have yet; replaced by generated ones (schema.d.ts).

export interface Me {
  role: "admin" | "user" | "visitor";
  keys: boolean;
  visitors: boolean;
}
