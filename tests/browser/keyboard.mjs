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
    const field = page.getByLabel("URL", { exact: true });
    await tabTo(page, field, "the URL");
    await page.keyboard.type("http://10.1.2.3/hook");
    await page.keyboard.press("Enter");
    // Whoever can't see the page begins in the field that is wrong, and is told why.
    await page.locator("#url-error").waitFor();
    // A browser looks for it when it first paints the page, which may be after the text is there.
    await page.waitForFunction(() => document.activeElement.id === "url");
    const described = await field.evaluate((element) => {
      const ids = element.getAttribute("aria-describedby").split(" ");
      return ids.map((id) => document.getElementById(id).textContent).join(" ");
    });
    assert.match(described, /10\.1\.2\.3.*private network.*Pushes are sent there/s);
    assert.equal(await field.getAttribute("aria-invalid"), "true");
    await page.keyboard.press("Control+A");
    await page.keyboard.type(target);
    await page.keyboard.press("Enter");
    await page.getByRole("status").getByText(/saved/i).waitFor();
    await tabTo(page, page.getByRole("button", { name: "Send a test" }), "the test");
    await page.keyboard.press("Space");
    await page.getByText("taken", { exact: true }).waitFor();
    // A secret, and the one after it.
    const made = page.getByRole("status").locator("code");
    await tabTo(page, page.getByRole("button", { name: "Make a secret" }), "the secret");
    await page.keyboard.press("Enter");
    await made.waitFor();
    const first = await made.innerText();
    await tabTo(page, page.getByRole("button", { name: "Rotate the secret" }), "the rotation");
    await page.keyboard.press("Space");
    await page.getByText("The secret before signs too").waitFor();
    const second = await made.innerText();
    assert.match(first, /^whsec_/);
    assert.match(second, /^whsec_/);
    assert.notEqual(first, second);
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
      // The click alone waits for no page: its rows, and whether another follows, stand there once it is loaded.
      const href = await next.getAttribute("href");
      await next.click();
      await page.waitForURL((url) => url.pathname + url.search === href);
    }
    assert.equal(seen.size, 111, "app12, app120 to app129, app1200 to app1299");
  });
});
