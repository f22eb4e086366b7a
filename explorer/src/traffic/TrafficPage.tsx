import { Page } from "../shell/Page";

export function TrafficPage() {
  return <Page title="Traffic">…</Page>;
}
