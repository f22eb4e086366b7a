import { Monitor, Moon, Sun } from "lucide-react";
import { useState } from "react";
import { Button } from "../ui/Button";

const THEMES = ["system", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];
const ICONS = { system: Monitor, light: Sun, dark: Moon };

function chosen(): Theme {
  const theme = document.documentElement.dataset.theme;
  return theme === "light" || theme === "dark" ? theme : "system";
}

function choose(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("aviary.theme", theme);
  } catch {
    // Storage is switched off: it holds as long as the page does.
  }
}

export function ThemeSwitch() {
  const [theme, setTheme] = useState(chosen);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] as Theme;
  const Icon = ICONS[theme];
  return (
    <Button
      kind="plain"
      icon={<Icon size={17} aria-hidden="true" />}
      label={`Theme: ${theme}. Switch to ${next}`}
      onClick={() => {
        choose(next);
        setTheme(next);
      }}
    />
  );
}
