import { Link, Outlet } from "@tanstack/react-router";
import { ChartNoAxesColumn, Columns3, Layers, Trophy } from "lucide-react";
import { KeyDialog } from "./KeyDialog";
import styles from "./Shell.module.css";
import { ThemeSwitch } from "./ThemeSwitch";

const PAGES = [
  { to: "/", name: "Compare", Icon: Columns3 },
  { to: "/leaderboard", name: "Leaderboard", Icon: Trophy },
  { to: "/models", name: "Models", Icon: Layers },
  { to: "/traffic", name: "Traffic", Icon: ChartNoAxesColumn },
] as const;

/** What stands around every page. */
export function Shell() {
  return (
    <div className={styles.shell}>
      <a className={styles.skip} href="#main">
        Skip to content
      </a>
      <header className={styles.bar}>
        <Link to="/" className={styles.brand} activeProps={{}}>
          <img src="/assets/aviary.svg" alt="" width={22} height={22} />
          Aviary
        </Link>
        <nav className={styles.nav} aria-label="Pages">
          {PAGES.map(({ to, name, Icon }) => (
            <Link key={to} to={to} activeOptions={{ exact: true, includeSearch: false }}>
              <Icon aria-hidden="true" />
              {name}
            </Link>
          ))}
        </nav>
        <ThemeSwitch />
        <KeyDialog />
      </header>
      <main id="main" className={styles.main} tabIndex={-1}>
        <Outlet />
      </main>
    </div>
  );
}
