// Somebody finds one of 10,000 repositories, gives it a webhook, tests it, and sees the next push go there: in a few steps,
// with and without JavaScript. A step is what a hand does: a click, or a field that is filled.

import assert from "node:assert/strict";
import { stage, withBrowser, withPage } from "./common.mjs";

async function flow(browser, { javaScriptEnabled, repository, steps_max }) {
  const { url } = await stage("receiver", {});
  await withPage(browser, { javaScriptEnabled }, async (page) => {
    let steps = 0;
    const click = (locator) => ((steps += 1), locator.click());
    const fill = (locator, text) => ((steps += 1), locator.fill(text));

    await page.goto("/repositories");
    await fill(page.getByLabel("Search by name"), repository.split("/")[1]);
    await click(page.getByRole("button", { name: "Show" }));
    const link = page.getByRole("link", { name: repository, exact: true });
    await link.waitFor();
    assert.equal(await page.getByRole("row").count(), 2, "its own row and the head");
    await click(link);
    await fill(page.getByLabel("URL", { exact: true }), url);
    await click(page.getByRole("button", { name: "Save" }));
    await page.getByRole("status").getByText(/saved/i).waitFor();
    await click(page.getByRole("button", { name: "Send a test" }));
    await page.getByText("taken", { exact: true }).waitFor();
    await stage("push", { repository });
    const row = page.getByRole("row").filter({ hasText: `${repository}:pushed` });
    if (!javaScriptEnabled) {
      steps += 1;
      await page.goto(`/repositories/${encodeURIComponent(repository)}`);
    }
    await row.getByText("delivered").waitFor();
    assert(steps <= steps_max, `${steps} steps`);
  });
}

await withBrowser(async (browser) => {
  await flow(browser, { javaScriptEnabled: true, repository: "team78/app7878", steps_max: 6 });
  await flow(browser, { javaScriptEnabled: false, repository: "team79/app7979", steps_max: 7 });
});
