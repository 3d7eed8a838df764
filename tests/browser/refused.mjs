// A page whose stream is refused for a while, as by a proxy whose server restarts: it is asked for again, soon enough to
// notice when it is there. And one whose stream may not be had any more: it says so, and doesn't ask.

import assert from "node:assert/strict";
import { withBrowser, withPage } from "./common.mjs";

const KEPT = "Kept up to date as things happen.";
const OVER = "Not kept up to date any more. Reload the page.";

await withBrowser(async (browser) => {
  await withPage(browser, {}, async (page) => {
    await page.clock.install();
    const asked = [];
    await page.route("**/live/**", async (route) => {
      if (route.request().resourceType() === "eventsource") asked.push(await page.evaluate(() => Date.now()));
      await route.fulfill({ status: 503, body: "" });
    });
    await page.goto("/deliveries");
    for (let seconds = 0; seconds < 60; seconds += 1) {
      await page.clock.runFor(1_000);
      // What was asked for is answered outside of the clock.
      await new Promise((resolve) => { setTimeout(resolve, 30); });
    }
    const waits = asked.slice(1).map((at, index) => at - asked[index]);
    assert(waits.length >= 8, `it was asked for again after ${waits} ms`);
    // Eight seconds at most, and what it took until the refusal had come; not twice as long each time.
    assert(waits.every((wait) => wait >= 900 && wait <= 14_000), `it was asked for again after ${waits} ms`);
    await page.unroute("**/live/**");
    await page.clock.runFor(8_000);
    await page.getByText(KEPT).waitFor();
  });
  for (const status of [401, 403, 404]) {
    await withPage(browser, {}, async (page) => {
      const asked = [];
      await page.route("**/live/**", async (route) => {
        if (route.request().resourceType() === "eventsource") asked.push(status);
        await route.fulfill({ status, body: "" });
      });
      await page.clock.install();
      await page.goto("/deliveries");
      await page.getByText(OVER).waitFor();
      await page.clock.runFor(60_000);
      assert.deepEqual(asked, [status]);
    });
  }
});
