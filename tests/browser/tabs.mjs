// Eight tabs of pages that are kept up to date, in one window: each loads, the one that is looked at is kept up to date,
// and those out of sight say that they aren't.

import assert from "node:assert/strict";
import { stage, url, withTabs } from "./common.mjs";

const KEPT = "Kept up to date as things happen.";
const RESTS = "Not kept up to date just now.";
const TABS = 8;

await stage("push", { image: "acme/app:one" });

await withTabs(async (context) => {
  const says = (tab, text) => tab.locator(".live").getByText(text).waitFor();
  const tabs = [];
  for (let number = 0; number < TABS; number += 1) {
    const tab = await context.newPage();
    await tab.goto(`${url}${number % 2 ? "/overview" : "/deliveries"}`);
    await says(tab, KEPT);
    tabs.push(tab);
  }
  const hidden = await Promise.all(tabs.map((tab) => tab.evaluate(() => document.hidden)));
  assert.deepEqual(hidden, [...Array(TABS - 1).fill(true), false], "all but the last are out of sight");
  for (const tab of tabs.slice(0, -1)) {
    assert.equal(await tab.locator(".live [sse-swap]").textContent(), RESTS);
  }

  // Nothing comes to a tab out of sight; once it is looked at it has what happened meanwhile, and what happens then.
  const [first] = tabs;
  await stage("push", { image: "acme/app:two" });
  const table = first.getByRole("table");
  assert.doesNotMatch(await table.textContent(), /app:two/);
  await first.bringToFront();
  await table.getByText("acme/app:two").waitFor();
  await says(first, KEPT);
  await stage("push", { image: "acme/app:three" });
  await table.getByText("acme/app:three").waitFor();

  for (const tab of tabs) {
    await tab.bringToFront();
    await says(tab, KEPT);
  }
});
