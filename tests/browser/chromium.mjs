// A real Chromium that talks to nobody but the page under test.
import { chromium } from "playwright-core";

/** Starts the browser that the tests found (CHROMIUM). */
export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: [
      "--no-sandbox",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-dev-shm-usage",
      "--disable-sync",
      "--no-first-run",
    ],
  });
}
