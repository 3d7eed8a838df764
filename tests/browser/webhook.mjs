// Somebody sets a webhook, sees it work, sees why one failed, mends it and sends it again: within a minute, by mouse,
// with and without JavaScript, and by keyboard.

import assert from "node:assert/strict";
import { shot, stage, tabTo, url, withBrowser, withPage } from "./common.mjs";

// The words before a field for one say how it begins.
const SECRET = /whsec_[A-Za-z0-9+/]{20,}/;

const METADATA = /169\.254\.169\.254.*webhooks never go there/;
const BAD = [
  ["", /missing/],
  ["ci.example.com/hook", /not a URL/],
  ["ftp://ci.example.com/hook", /neither http:\/\/ nor https:\/\//],
  ["javascript:alert(1)", /neither http:\/\/ nor https:\/\//],
  ["https://", /host/],
  ["https://ci example.com/hook", /not a URL/],
  ["https://ci.example.com:0/hook", /port is 0/],
  ["https://ci.example.com:99999/hook", /port/],
  ["https://ci.example.com/#part", /fragment/],
  [`https://ci.example.com/${"x".repeat(5_000)}`, /too long/],
  // Addresses, in every spelling that a browser takes for one.
  ["http://10.1.2.3/hook", /private network.*allow_networks/],
  ["http://167838211/hook", /10\.1\.2\.3.*private network/],
  ["http://012.01.02.03/hook", /10\.1\.2\.3.*private network/],
  ["http://0x0a.1/hook", /10\.0\.0\.1.*private network/],
  ["http://[::ffff:10.1.2.3]/hook", /IPv4 address written as an IPv6 one/],
  ["http://169.254.169.254/latest/meta-data", METADATA],
  ["http://2852039166/", METADATA],
  ["http://0251.0376.0251.0376/", METADATA],
  ["http://0xa9fea9fe/", METADATA],
  ["http://[::ffff:169.254.169.254]/", /credentials.*webhooks never go there/],
  ["http://[fe80::1]/", /link's own address.*webhooks never go there/],
  ["http://[::1]/hook", /loopback/],
  ["http://[fd00::1]/hook", /private network \(RFC 4193\)/],
  ["http://100.64.0.1/hook", /carrier/],
  ["http://224.0.0.1/hook", /multicast/],
  ["http://240.0.0.1/hook", /reserved/],
  ["http://0.0.0.0/hook", /no address of a host/],
  [`${url}/hook`, /shipbell's own listener.*webhooks never go there/],
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
    // What may be secret is asked for again.
    await field.fill("http://somebody:hunter1@10.1.2.3/hook?token=hunter1");
    await page.getByRole("button", { name: "Save" }).click();
    await page.locator("#url-error").getByText(/type it once more/).waitFor();
    assert.equal(await field.inputValue(), "http://10.1.2.3/hook?…");
    assert.doesNotMatch(await page.content(), /hunter1/);
    await shot(page, `${label}-bad-url`);

    // A name that nobody knows yet may be saved, and a test says that nobody does.
    await field.fill("https://nobody.invalid/hook");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("status").getByText(/saved/i).waitFor();
    await page.getByRole("button", { name: "Send a test" }).click();
    await page.getByText(/the name nobody.invalid can't be resolved/).first().waitFor();

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

/** Somebody without a mouse sees a push fail, reads why, mends the URL and sends that push again. */
async function byKeyboard(browser, { repository, label }) {
  const { good, broken } = await stage("receiver", { label });
  await stage("push", { image: `${repository}:1` });
  await withPage(browser, {}, async (page) => {
    const press = async (locator, what) => {
      await tabTo(page, locator, what);
      await page.keyboard.press("Enter");
    };
    const save = async (typed) => {
      await tabTo(page, page.getByLabel("URL", { exact: true }), "the URL");
      await page.keyboard.press("Control+A");
      await page.keyboard.type(typed);
      await page.keyboard.press("Enter");
      await page.getByRole("status").getByText(/saved/i).waitFor();
    };
    await page.goto("/repositories");
    const there = page.getByRole("link", { name: repository, exact: true });
    await press(there, "the repository");
    await page.getByRole("heading", { level: 1, name: repository }).waitFor();
    await save(broken);
    await stage("push", { image: `${repository}:2` });
    const row = page.getByRole("row").filter({ hasText: `${repository}:2` }).filter({ hasText: `repository:${repository}` });
    await row.getByText(/404/).waitFor();
    await press(row.getByRole("link"), "the delivery");
    await page.getByRole("heading", { level: 1, name: `${repository}:2` }).waitFor();
    assert.match(await page.locator("main").innerText(), /Attempt 1: answered 404/);
    await press(there, "the way back");
    await page.getByRole("heading", { level: 1, name: repository }).waitFor();
    await save(good);
    await press(row.getByRole("link"), "the delivery");
    await page.getByRole("heading", { level: 1, name: `${repository}:2` }).waitFor();
    await press(page.getByRole("button", { name: /Send/ }), "sending it again");
    await stage("arrived", { image: `${repository}:2` });
    await page.getByRole("status").or(page.getByText("taken", { exact: true })).first().waitFor();
  });
}

await withBrowser(async (browser) => {
  await flow(browser, { javaScriptEnabled: true, repository: "acme/app", label: "js" });
  await flow(browser, { javaScriptEnabled: false, repository: "acme/web", label: "nojs" });
  await byKeyboard(browser, { repository: "acme/keys", label: "keys" });
});
