import { Page } from "../shell/Page";

export function LeaderboardPage() {
  return <Page title="Leaderboard">…</Page>;
}
