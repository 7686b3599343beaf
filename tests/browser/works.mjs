// Prints what a page's script writes into its title.
import { launch } from "./chromium.mjs";

const browser = await launch();
try {
  const page = await browser.newPage();
  await page.goto("data:text/html,<title>no</title><script>document.title = 6 * 7</script>");
  console.log(JSON.stringify({ title: await page.title() }));
} finally {
  await browser.close();
}
