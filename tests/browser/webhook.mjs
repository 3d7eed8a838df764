// Somebody sets a webhook, sees it work, sees why one failed, mends it and sends it again: within a minute, by mouse,
// with and without JavaScript.

import assert from "node:assert/strict";
import { shot, stage, withBrowser, withPage } from "./common.mjs";

// The words before a field for one say how it begins.
const SECRET = /whsec_[A-Za-z0-9+/]{20,}/;

const BAD = [
  ["", /missing/],
  ["ci.example.com/hook", /http/],
  ["ftp://ci.example.com/hook", /http/],
  ["https://", /host/],
  ["https://ci.example.com/#part", /fragment|#/],
  ["http://10.1.2.3/hook", /private network.*allow_networks/],
  ["http://169.254.169.254/latest/meta-data", /169\.254/],
  ["http://0x0a.1/hook", /private network/],
];

async function flow(browser, { javaScriptEnabled, repository, label }) {
  const { good, broken } = await stage("receiver", { label });
  await stage("push", { image: `${repository}:1` });
  await withPage(browser, { javaScriptEnabled }, async (page) => {
    await page.goto("/repositories");
    await page.getByRole("link", { name: repository, exact: true }).click();
    await page.getByRole("heading", { level: 1, name: repository }).waitFor();

    const field = page.getByLabel("URL", { exact: true });
    for (const [typed, sentence] of BAD) {
      await field.fill(typed);
      await page.getByRole("button", { name: "Save" }).click();
      const told = page.locator("#url-error");
      await told.waitFor();
      assert.match(await told.innerText(), sentence, typed);
      assert.equal(await field.inputValue(), typed, "what was typed is still there");
      assert.equal(await field.getAttribute("aria-invalid"), "true");
    }
    await shot(page, `${label}-bad-url`);

    await field.fill(broken);
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("status").getByText(/saved/i).waitFor();
    assert.match(await field.inputValue(), /\?…$/, "the query is masked");

    // A push arrives, is refused, and the page says why; live where it can be.
    await stage("push", { image: `${repository}:2` });
    // The operator's endpoint gets it too, in a row of its own.
    const row = page.getByRole("row").filter({ hasText: `${repository}:2` }).filter({ hasText: `repository:${repository}` });
    if (javaScriptEnabled) {
      await row.getByText(/404/).waitFor();
    } else {
      await stage("refused", { image: `${repository}:2` });
      await page.reload();
    }
    assert.match(await row.innerText(), /404/);
    await page.getByRole("button", { name: "Send a test" }).click();
    await page.getByText(/failed/).first().waitFor();
    assert.match(await page.locator("main").innerText(), /answered 404/);
    await shot(page, `${label}-test-failed`);

    await row.getByRole("link").click();
    await page.getByRole("heading", { level: 1, name: `${repository}:2` }).waitFor();
    assert.match(await page.locator("main").innerText(), /Attempt 1: answered 404/);
    await shot(page, `${label}-delivery-failed`);

    // The URL is mended, and the push sent again.
    await page.getByRole("link", { name: repository, exact: true }).click();
    await page.getByLabel("URL", { exact: true }).fill(good);
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("status").getByText(/saved/i).waitFor();
    await page.getByRole("button", { name: "Send a test" }).click();
    await page.getByText("taken", { exact: true }).waitFor();
    await row.getByRole("link").click();
    await page.getByRole("button", { name: /Send/ }).click();
    await stage("arrived", { image: `${repository}:2` });
    await page.goto(page.url().replace("/redeliver", ""));
    await page.getByText("delivered", { exact: true }).waitFor();
    await shot(page, `${label}-delivered`);

    // A secret, shown once, and the one after it.
    await page.getByRole("link", { name: repository, exact: true }).click();
    await page.getByRole("button", { name: "Make a secret" }).click();
    const first = await page.locator("code", { hasText: SECRET }).innerText();
    await page.getByRole("button", { name: "Rotate the secret" }).click();
    const second = await page.locator("code", { hasText: SECRET }).innerText();
    assert.notEqual(first, second);
    assert.match(await page.locator("main").innerText(), /The secret before signs too/);
    await shot(page, `${label}-rotated`);
    await stage("push", { image: `${repository}:3` });
    await stage("signed", { image: `${repository}:3`, secrets: [first, second] });
    await page.goto("/repositories");
    await page.getByRole("link", { name: repository, exact: true }).click();
    assert.doesNotMatch(await page.content(), SECRET, "a secret is shown once");
  });
}

await withBrowser(async (browser) => {
  await flow(browser, { javaScriptEnabled: true, repository: "acme/app", label: "js" });
  await flow(browser, { javaScriptEnabled: false, repository: "acme/web", label: "nojs" });
});
