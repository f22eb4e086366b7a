import { Page } from "../shell/Page";

export function ComparePage() {
  return <Page title="Compare">…</Page>;
}
