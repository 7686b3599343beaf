// Runs a script in a page until it has written COUNT events to the console; prints those. What it writes beside them is
// passed over. usage: script.mjs URL FILE COUNT
import { readFileSync } from "node:fs";
import { launch } from "./chromium.mjs";

const [url, file, count] = process.argv.slice(2);
const browser = await launch();
// A page of one's own has no policy that keeps its scripts out.
const page = await browser.newPage({ bypassCSP: true });
const events = [];
const enough = new Promise((resolve, reject) => {
  page.on("pageerror", reject);
  // One after the other, since looking at what was written takes its time.
  let looked = Promise.resolve();
  page.on("console", (message) => {
    looked = looked.then(async () => {
      const [value] = await Promise.all(message.args().map((argument) => argument.jsonValue()));
      if (message.type() === "error" || value?.type === "error") throw new Error(message.text());
      if (value?.op && events.length < Number(count)) events.push(value);
      if (events.length === Number(count)) resolve();
    });
    looked.catch(reject);
  });
});
try {
  await page.goto(url);
  await page.addScriptTag({ content: readFileSync(file, "utf8") });
  await enough;
  events.forEach((event) => console.log(JSON.stringify(event)));
} finally {
  await browser.close();
}
