// Many deliveries are sent again, an endpoint is held and its history looked at, a secret is typed and removed: by mouse,
// by keyboard, and without JavaScript. And a page says that it is kept up to date only while it is.

import assert from "node:assert/strict";
import { accessible, fits, shot, stage, tabTo, withBrowser, withPage } from "./common.mjs";

const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const KEPT = "Kept up to date as things happen.";
const STALE = "Not kept up to date any more: load the page again.";

/** How somebody uses a page: presses what can be pressed, ticks and types. */
const mouse = (page) => ({
  press: (locator) => locator.click(),
  tick: (locator) => locator.check(),
  type: (locator, text) => locator.fill(text),
});

const keyboard = (page) => ({
  press: async (locator, what) => {
    await tabTo(page, locator, what);
    await page.keyboard.press("Enter");
  },
  tick: async (locator, what) => {
    await tabTo(page, locator, what);
    await page.keyboard.press("Space");
  },
  type: async (locator, text, what) => {
    await tabTo(page, locator, what);
    await page.keyboard.type(text);
  },
});

async function flow(browser, { options, hands, repository, label }) {
  await stage("pushes", { repository });
  await withPage(browser, options, async (page) => {
    const { press, tick, type } = hands(page);
    const looked = async (name) => {
      if (options.javaScriptEnabled !== false) await accessible(page, name);
      await fits(page, name);
      await shot(page, `${label}-${name}`);
    };

    await page.goto("/deliveries");
    await type(page.getByLabel("Repository", { exact: true }), repository, "the repository");
    await press(page.getByRole("button", { name: "Show" }), "Show");
    await press(page.getByRole("link", { name: "Send all that match again …" }), "all that match");
    await page.getByRole("heading", { level: 1, name: "Send deliveries again?" }).waitFor();
    const asked = await page.locator("main").innerText();
    assert.match(asked, /Meant\s+6/);
    assert.match(asked, /Passed over\s+2/);
    await looked("asked");
    await tick(page.getByLabel(/passed over as well: 6 in all/), "force");
    await press(page.getByRole("button", { name: "Send 4 again" }), "Send");
    await page.getByRole("status").getByText("6 are sent again now").waitFor();
    assert.equal(await page.getByLabel("Repository", { exact: true }).inputValue(), repository, "the filter stays");
    await looked("sent");
    await stage("arrived", { repository });
    await page.reload();
    assert.equal(await page.getByRole("status").count(), 0, "it is said once");

    await press(page.getByRole("link", { name: "Endpoints" }), "Endpoints");
    await press(page.getByRole("link", { name: "History of ci" }), "the history");
    await page.getByRole("heading", { level: 1, name: "ci" }).waitFor();
    await press(page.getByRole("button", { name: "Hold" }), "Hold");
    await page.getByRole("status").getByText("ci is held now.").waitFor();
    await press(page.getByRole("link", { name: "History of ci" }), "the history");
    await press(page.getByRole("button", { name: "Enable" }), "Enable");
    await page.getByRole("status").getByText("ci is healthy now.").waitFor();
    await press(page.getByRole("link", { name: "History of ci" }), "the history");
    await page.getByRole("cell", { name: "by local" }).first().waitFor();
    await looked("history");

    await page.goto(`/repositories/${encodeURIComponent(repository)}`);
    await type(page.getByLabel("Secret", { exact: true }), SECRET, "the secret");
    await press(page.getByRole("button", { name: "Save" }), "Save");
    await page.getByRole("status").getByText(/saved/i).waitFor();
    await page.getByText("Requests are signed.").waitFor();
    assert.doesNotMatch(await page.content(), /whsec_[A-Za-z0-9+/]{20,}/, "it is shown nowhere");
    await looked("signed");
    await tick(page.getByLabel(/Remove the secret/), "Remove the secret");
    await press(page.getByRole("button", { name: "Save" }), "Save");
    await page.getByRole("status").getByText(/saved/i).waitFor();
    await page.getByText("Requests are not signed.").waitFor();
    await looked("unsigned");
  });
}

await withBrowser(async (browser) => {
  await flow(browser, { options: {}, hands: mouse, repository: "acme/mouse", label: "mouse" });
  await flow(browser, { options: {}, hands: keyboard, repository: "acme/keys", label: "keyboard" });
  const options = { javaScriptEnabled: false };
  await flow(browser, { options, hands: mouse, repository: "acme/plain", label: "nojs" });

  for (const path of ["/overview", "/deliveries", "/repositories/acme%2Fmouse"]) {
    // Without a stream, and without a script, nothing of the kind is said.
    await withPage(browser, {}, async (page) => {
      await page.route("**/live/**", (route) => route.abort());
      await page.goto(path);
      await page.getByRole("link", { name: "Pause" }).waitFor();
      assert.equal(await page.getByText(KEPT).count(), 0, `${path} has no stream`);
    });
    await withPage(browser, options, async (page) => {
      await page.goto(path);
      assert.equal(await page.getByText(/up to date/i).filter({ visible: true }).count(), 0, `${path} has no script`);
    });
  }
  // It is said while events come, and not any more once none does.
  await withPage(browser, {}, async (page) => {
    await page.goto("/deliveries");
    await page.getByText(KEPT).waitFor();
    assert.equal(await page.getByText(STALE).isVisible(), false);
    await accessible(page, "a page that is kept up to date");
    await shot(page, "live");
    await stage("end");
    await page.getByText(STALE).waitFor({ timeout: 40_000 });
    assert.equal(await page.getByText(KEPT).isVisible(), false);
    await accessible(page, "a page that is not kept up to date any more");
    await shot(page, "stale");
  });
});
