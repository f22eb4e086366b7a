import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// `AVIARY_URL=http://127.0.0.1:8000 npm run dev` shows a running Aviary with the page as it is here.
const aviary = process.env.AVIARY_URL ?? "http://127.0.0.1:8000";

export default defineConfig({
  plugins: [react()],
  build: {
    outDir: "../src/aviary/web/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    sourcemap: false,
  },
  server: { proxy: { "/api": aviary, "/v1": aviary } },
});
