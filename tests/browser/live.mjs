// Pages that are kept up to date under somebody's hands: what is typed stays, the focus stays, what is open stays open,
// what is marked waits, and a page that answers a form pauses where it is.

import assert from "node:assert/strict";
import { accessible, fits, shot, stage, withBrowser, withPage } from "./common.mjs";

const KEPT = "Kept up to date as things happen.";
const { delivery } = await stage("begin");
const focused = (page) => page.evaluate(() => document.activeElement.id);

await withBrowser(async (browser) => {
  await withPage(browser, {}, async (page) => {
    await page.goto("/repositories/acme%2Fapp");
    await page.getByText(KEPT).waitFor();
    const field = page.getByLabel("URL", { exact: true });
    await field.fill("https://half-typ");
    await field.evaluate((element) => element.setSelectionRange(3, 5));
    await stage("hold", { endpoint: "repository:acme/app" });
    const state = page.getByRole("region", { name: "State", exact: true });
    await state.getByText("held", { exact: true }).first().waitFor();
    assert.equal(await field.inputValue(), "https://half-typ");
    assert.equal(await focused(page), "url");
    assert.deepEqual(await field.evaluate((element) => [element.selectionStart, element.selectionEnd]), [3, 5]);
    await stage("enable", { endpoint: "repository:acme/app" });
    await accessible(page, "a repository's page that changed");
    await fits(page, "a repository's page that changed");
    await shot(page, "repository");

    // What answers a form is kept up to date, and pauses where it is.
    await page.getByRole("button", { name: "Send a test" }).click();
    await page.getByRole("heading", { name: "The test" }).waitFor();
    await page.getByText(KEPT).waitFor();
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByText("Not kept up to date just now.").waitFor();
    await shot(page, "paused");
    await stage("hold", { endpoint: "repository:acme/app" });
    await page.getByRole("button", { name: "Keep it up to date" }).click();
    await state.getByText("held", { exact: true }).first().waitFor();
    await page.getByRole("heading", { name: "The test" }).waitFor();
    await accessible(page, "a test's page");
  });

  await withPage(browser, {}, async (page) => {
    await page.goto("/endpoints");
    await page.getByText(KEPT).waitFor();
    await page.locator("[id='hold-ci']").focus();
    await stage("hold", { endpoint: "other" });
    await page.getByRole("row").filter({ hasText: "other" }).getByText("held", { exact: true }).waitFor();
    assert.equal(await focused(page), "hold-ci");
    await accessible(page, "endpoints");
    await shot(page, "endpoints");
  });

  await withPage(browser, {}, async (page) => {
    await page.goto(`/deliveries/${delivery}`);
    await page.getByText(KEPT).waitFor();
    await page.getByText("What was sent").click();
    await stage("again", { delivery });
    await page.getByRole("heading", { name: /Attempt 2/ }).waitFor();
    assert.equal(await page.locator("#sent-1").evaluate((element) => element.open), true, "it stays open");
    assert.equal(await focused(page), "show-1");
    await accessible(page, "a delivery");
    // What is marked is not taken away; it goes on afterwards.
    await page.locator("#body-1").evaluate((element) => getSelection().selectAllChildren(element));
    await stage("again", { delivery });
    await page.getByText(/^3(, the next|$)/).waitFor();
    assert.equal(await page.getByRole("heading", { name: /Attempt 3/ }).count(), 0);
    assert.notEqual(await page.evaluate(() => getSelection().toString()), "");
    await page.evaluate(() => getSelection().removeAllRanges());
    await page.getByRole("heading", { name: /Attempt 3/ }).waitFor();
    await shot(page, "delivery");
  });
});
