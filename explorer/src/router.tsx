import type { QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
} from "@tanstack/react-router";
import { ComparePage } from "./compare/ComparePage";
import { NotFound } from "./shell/NotFound";
import { Shell } from "./shell/Shell";

const root = createRootRouteWithContext<{ queries: QueryClient }>()({
  component: Shell,
  notFoundComponent: NotFound,
});

// Compare is the first page and comes with the first script; the others, and their charts, when asked for.
const routes = [
  createRoute({ getParentRoute: () => root, path: "/", component: ComparePage }),
  createRoute({
    getParentRoute: () => root,
    path: "/battles/$battle",
    component: lazyRouteComponent(() => import("./compare/StoredPage"), "StoredPage"),
  }),
  createRoute({
    getParentRoute: () => root,
    path: "/leaderboard",
    component: lazyRouteComponent(() => import("./leaderboard/LeaderboardPage"), "LeaderboardPage"),
  }),
  createRoute({
    getParentRoute: () => root,
    path: "/models",
    component: lazyRouteComponent(() => import("./models/ModelsPage"), "ModelsPage"),
  }),
  createRoute({
    getParentRoute: () => root,
    path: "/traffic",
    component: lazyRouteComponent(() => import("./traffic/TrafficPage"), "TrafficPage"),
  }),
];

export function makeRouter(queries: QueryClient) {
  return createRouter({
    routeTree: root.addChildren(routes),
    context: { queries },
    defaultPreload: "intent",
    scrollRestoration: true,
  });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof makeRouter>;
  }
}
