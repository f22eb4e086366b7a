// Before the first paint, so that a chosen theme never flashes. A file, since no inline script may run.
try {
  const theme = localStorage.getItem("aviary.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be switched off: then the system's theme is right.
}
