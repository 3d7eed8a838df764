// Everything by keyboard, among 10,000 repositories.

import assert from "node:assert/strict";
import { shot, stage, tabTo, withBrowser, withPage } from "./common.mjs";

const { url: target } = await stage("receiver", {});

await withBrowser(async (browser) => {
  await withPage(browser, {}, async (page) => {
    await page.goto("/repositories");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    const atContent = await page.evaluate(() => location.hash);
    assert.equal(atContent, "#content", "the first Tab skips to the content");

    await tabTo(page, page.getByLabel("Search by name"), "the search");
    await page.keyboard.type("app7777");
    await page.keyboard.press("Enter");
    const link = page.getByRole("link", { name: "team77/app7777", exact: true });
    await link.waitFor();
    assert.equal(await page.getByRole("row").count(), 2, "its own row and the head");
    await shot(page, "search");
    await tabTo(page, link, "the repository");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "team77/app7777" }).waitFor();
    await tabTo(page, page.getByLabel("URL", { exact: true }), "the URL");
    await page.keyboard.type(target);
    await page.keyboard.press("Enter");
    await page.getByRole("status").getByText(/saved/i).waitFor();
    await tabTo(page, page.getByRole("button", { name: "Send a test" }), "the test");
    await page.keyboard.press("Space");
    await page.getByText("taken", { exact: true }).waitFor();
    await tabTo(page, page.getByRole("link", { name: /Remove/ }), "Remove");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1 }).waitFor();
    await tabTo(page, page.getByRole("button", { name: /Remove/ }), "the confirmation");
    await page.keyboard.press("Enter");
    await page.getByRole("status").waitFor();
    assert.equal(await page.getByLabel("URL", { exact: true }).inputValue(), "");
  });
  // Page after page: nothing is left out, nothing is there twice.
  await withPage(browser, {}, async (page) => {
    await page.goto("/repositories?q=app12");
    const seen = new Set();
    for (;;) {
      for (const name of await page.locator("tbody th a").allInnerTexts()) {
        assert(!seen.has(name), `${name} is there twice`);
        seen.add(name);
      }
      const next = page.getByRole("link", { name: "Next page" });
      if ((await next.count()) === 0) break;
      await next.click();
    }
    assert.equal(seen.size, 111, "app12, app120 to app129, app1200 to app1299");
  });
});
