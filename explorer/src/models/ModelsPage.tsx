import { Page } from "../shell/Page";

export function ModelsPage() {
  return <Page title="Models">…</Page>;
}
