import { queryOptions } from "@tanstack/react-query";
import { client, data } from "./client";

/** Who this browser is to Aviary. */
export const me = queryOptions({
  queryKey: ["me"],
  queryFn: ({ signal }) => data(client.GET("/api/me", { signal })),
  staleTime: 60_000,
});

/** All models, looked at now and then; the Models page follows them live. */
export const models = queryOptions({
  queryKey: ["models"],
  queryFn: async ({ signal }) => (await data(client.GET("/api/models", { signal }))).models,
  refetchInterval: 5_000,
});
