import { Page } from "../shell/Page";

export function StoredPage() {
  return <Page title="Comparison">…</Page>;
}
