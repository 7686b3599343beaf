// Looks at the page while rows change, and prints what it saw. usage: page.mjs URL SCREENSHOT
import { launch } from "./chromium.mjs";

const [url, screenshot] = process.argv.slice(2);
const browser = await launch();
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  const foreign = [];
  const errors = [];
  page.on("request", (request) => {
    const to = new URL(request.url());
    if (to.protocol !== "data:" && to.origin !== new URL(url).origin) foreign.push(request.url());
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error") errors.push(message.text()); });
  const text = (selector) => page.locator(selector).textContent();
  const live = (op) => page.waitForSelector(`#events tr.event[data-op=${op}]`);

  await page.goto(url);
  for (const op of ["insert", "update", "delete", "message"]) await live(op);
  // It falls to 0 again whenever nothing comes for a second.
  const rate = await page.waitForFunction(() => {
    const shown = document.getElementById("rate").textContent;
    return Number(shown) > 0 && shown;
  });
  await page.waitForFunction(() => document.getElementById("health").textContent === "Changes flow");
  await page.waitForFunction(() => document.getElementById("doors").textContent.includes("1 sse"));
  const hostile = await page.locator("#events tr.event[data-op=insert]").first().textContent();
  const seen = {
    hostile, title: await page.title(), health: await text("#health"), source: await text("#source-state"),
    rate: await rate.jsonValue(), lag: await text("#lag"), doors: await text("#doors"),
    images: await page.locator("#events img, #events script").count(),
  };
  await page.screenshot({ path: screenshot });

  await page.fill("#channel", "greetings");
  await page.press("#channel", "Enter");
  await page.locator("#channel").blur();
  await live("message");
  const channels = () => page.locator("#events tr.event").evaluateAll((rows) => [...new Set(rows.map((row) => row.dataset.channel))]);
  seen.filtered = await channels();
  await page.click("#pause");
  await page.locator("#events tr.event").first().click();
  seen.whole = await text("#events tr.whole pre");

  // The browser logs the refusal that is asked for here.
  const before = errors.length;
  await page.fill("#channel", "a*b");
  await page.locator("#channel").blur();
  await page.waitForSelector("#refused:visible");
  seen.refused = await text("#refused");
  console.log(JSON.stringify({ ...seen, foreign, errors: errors.slice(0, before) }));
} finally {
  await browser.close();
}
