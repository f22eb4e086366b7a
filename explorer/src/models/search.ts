export const TABS = ["replicas", "spec", "logs", "events"] as const;
export type Tab = (typeof TABS)[number];

/** Which model is open, and on which tab. */
export interface ModelsSearch {
  model?: string | undefined;
  tab?: Tab | undefined;
}

export function modelsSearch(search: Record<string, unknown>): ModelsSearch {
  const { model, tab } = search;
  const kept: ModelsSearch = {};
  if (typeof model === "string" || typeof model === "number") kept.model = String(model);
  if (TABS.includes(tab as Tab)) kept.tab = tab as Tab;
  return kept;
}
