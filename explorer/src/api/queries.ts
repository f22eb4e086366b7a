import { queryOptions } from "@tanstack/react-query";
import { client, data, getJson } from "./client";
import type { Me } from "./provisional";

/** Who this browser is to Aviary. */
export const me = queryOptions({
  queryKey: ["me"],
  queryFn: ({ signal }) => getJson<Me>("/api/me", signal),
  staleTime: 60_000,
});

/** All models, looked at now and then; the Models page follows them live. */
export const models = queryOptions({
  queryKey: ["models"],
  queryFn: async ({ signal }) => (await data(client.GET("/api/models", { signal }))).models,
  refetchInterval: 5_000,
});
