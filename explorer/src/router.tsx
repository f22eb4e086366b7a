import type { QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
} from "@tanstack/react-router";
import { ComparePage } from "./compare/ComparePage";
import { leaderboardSearch } from "./leaderboard/search";
import { modelsSearch } from "./models/search";
import { NotFound } from "./shell/NotFound";
import { Shell } from "./shell/Shell";
import { trafficSearch } from "./traffic/search";

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
    validateSearch: leaderboardSearch,
    component: lazyRouteComponent(() => import("./leaderboard/LeaderboardPage"), "LeaderboardPage"),
  }),
  createRoute({
    getParentRoute: () => root,
    path: "/models",
    validateSearch: modelsSearch,
    component: lazyRouteComponent(() => import("./models/ModelsPage"), "ModelsPage"),
  }),
  createRoute({
    getParentRoute: () => root,
    path: "/traffic",
    validateSearch: trafficSearch,
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
