// What somebody meets who has to log in: every state is for everybody, with and without JavaScript.

import assert from "node:assert/strict";
import { accessible, fits, shot, stage, withBrowser, withPage } from "./common.mjs";

const { admin, editor, viewer, url } = await stage("people");
const OWN = "/repositories/acme%2Fapp";
const FOREIGN = "/repositories/other%2Fapp";

async function logIn(page, token) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
}

async function logOut(page) {
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("heading", { level: 1, name: "Log in" }).waitFor();
}

async function flow(browser, javaScriptEnabled) {
  const label = javaScriptEnabled ? "js" : "nojs";
  const look = async (page, name) => {
    await shot(page, `${label}-${name}`);
    await fits(page, name);
    if (javaScriptEnabled) {
      await accessible(page, name);
    }
  };
  await withPage(browser, { javaScriptEnabled }, async (page) => {
    await page.goto(OWN);
    await page.getByRole("heading", { level: 1, name: "Log in" }).waitFor();
    await look(page, "login");
    await logIn(page, "none of them");
    await page.locator("#token-error").waitFor();
    await look(page, "login-refused");

    // Led back to where they wanted to go.
    await logIn(page, admin);
    await page.getByRole("heading", { level: 1, name: "acme/app" }).waitFor();
    await look(page, "admin");
    const field = page.getByLabel("URL", { exact: true });
    const save = page.getByRole("button", { name: "Save" });
    await field.fill("http://10.1.2.3/");
    await save.click();
    await page.locator("#url-error").waitFor();
    await look(page, "url-refused");
    await field.fill(url);
    await save.click();
    await page.getByRole("status").getByText(/saved/i).waitFor();
    await look(page, "saved");
    await page.getByRole("button", { name: "Send a test" }).click();
    const test = page.getByRole("heading", { name: "The test" });
    await test.waitFor();
    assert((await test.boundingBox()).y < page.viewportSize().height, "its answer is in sight");
    await look(page, "tested");
    await page.getByRole("button", { name: "Make a secret" }).click();
    await page.getByText(/shown this once/).waitFor();
    await look(page, "secret");
    // Somebody else saves meanwhile.
    await page.goto(OWN);
    await stage("saved by somebody else");
    await page.getByLabel("Tags", { exact: true }).fill("2.*");
    await save.click();
    await page.getByText("What differs").waitFor();
    await look(page, "differs");
    await logOut(page);

    await page.goto("/repositories");
    await logIn(page, editor);
    await page.getByRole("heading", { level: 1, name: "Repositories" }).waitFor();
    const refused = await page.goto(FOREIGN);
    assert([403, 404].includes(refused.status()), `${refused.status()}`);
    await look(page, "foreign");
    await page.goto("/overview");
    await logOut(page);

    await page.goto(OWN);
    await logIn(page, viewer);
    await page.getByRole("heading", { level: 1, name: "acme/app" }).waitFor();
    assert.equal(await page.getByRole("button", { name: "Save" }).count(), 0, "nothing to change");
    await look(page, "viewer");
    for (const path of ["/overview", "/repositories", "/deliveries", "/endpoints", "/dead-letters"]) {
      const answered = await page.goto(path);
      assert([200, 403].includes(answered.status()), `${path}: ${answered.status()}`);
      await look(page, `viewer${path.replace("/", "-")}`);
    }
    await logOut(page);
    await page.goto(OWN);
    await page.getByRole("heading", { level: 1, name: "Log in" }).waitFor();
  });
  await stage("removed");
}

await withBrowser(async (browser) => {
  await flow(browser, true);
  await flow(browser, false);
});
