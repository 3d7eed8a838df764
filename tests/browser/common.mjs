// What every test in a browser has: Debian's Chromium by playwright, a line to the test that set the stage, axe, and
// an eye on what the pages ask for.
//
// The test in Rust runs `node FILE` with SHIPBELL_URL, TOOLS (the folder with the npm packages) and SHOTS (where
// screenshots go). `stage(what, details)` has it do something and answers what came of it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const { SHIPBELL_URL, TOOLS, SHOTS } = process.env;
const require = createRequire(`${TOOLS}/`);
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

export const url = SHIPBELL_URL;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the stage for something, such as a push. */
export async function stage(what, details = {}) {
  process.stdout.write(`${JSON.stringify({ do: what, ...details })}\n`);
  const { value, done } = await answers.next();
  assert(!done, "the stage is gone");
  return JSON.parse(value);
}

/** Runs `test` with a browser that ends with it. */
export async function withBrowser(test) {
  mkdirSync(SHOTS, { recursive: true });
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    await test(browser);
  } finally {
    await browser.close();
  }
  // The line to the stage would hold the process.
  process.exit(0);
}

/** What pages do that they must not: ask another origin for anything, offend against their own policy, throw. */
function faultsOf(context) {
  const faults = [];
  context.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) faults.push(`asks for ${request.url()}`);
  });
  context.on("console", (message) => {
    if (/Content.Security.Policy|Refused to/i.test(message.text())) faults.push(message.text());
  });
  context.on("weberror", (error) => faults.push(`throws ${error.error()}`));
  return faults;
}

/** Opens a tab, and calls `use` with its page. What the page does that it must not is an error. */
export async function withPage(browser, options, use) {
  const context = await browser.newContext({ baseURL: url, viewport: { width: 1200, height: 900 }, ...options });
  context.setDefaultTimeout(15_000);
  const faults = faultsOf(context);
  const page = await context.newPage();
  try {
    await use(page);
  } catch (error) {
    await page.screenshot({ path: `${SHOTS}/failed.png`, fullPage: true }).catch(() => {});
    throw error;
  }
  assert.deepEqual(faults, []);
  await context.close();
}

/**
 * Runs `test` in a window whose tabs can't all be seen at once, as people have it: playwright's own browsers take every
 * page for one that is looked at.
 */
export async function withTabs(test) {
  const profile = mkdtempSync(join(tmpdir(), "shipbell-tabs-"));
  // Without a tab of its own, which would come to be while playwright looks at what there is.
  const settings = ["--headless", "--no-sandbox", "--no-first-run", "--no-startup-window", "--remote-debugging-port=0"];
  const window = spawn("/usr/bin/chromium", [...settings, `--user-data-dir=${profile}`], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const ended = new Promise((resolve) => window.once("exit", resolve));
  try {
    const address = await new Promise((resolve, reject) => {
      let told = "";
      window.stderr.on("data", (text) => {
        told += text;
        const [, found] = /listening on (ws:\S+)/.exec(told) ?? [];
        if (found) resolve(found);
      });
      window.once("exit", () => reject(new Error(told)));
      window.once("error", reject);
    });
    const browser = await chromium.connectOverCDP(address, { noDefaults: true });
    const [context] = browser.contexts();
    context.setDefaultTimeout(15_000);
    const faults = faultsOf(context);
    await test(context);
    assert.deepEqual(faults, []);
    // By itself it ends all of its processes, which write into the profile until then.
    const all = await browser.newBrowserCDPSession();
    await all.send("Browser.close");
    await ended;
  } finally {
    window.kill();
    await ended;
    rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
  // The line to the stage would hold the process.
  process.exit(0);
}

/** A picture of the whole page. */
export async function shot(page, name) {
  await page.screenshot({ path: `${SHOTS}/${name}.png`, fullPage: true });
}

/** Asserts that axe finds nothing on the page: WCAG 2 to AA, and its best practices. */
export async function accessible(page, name) {
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document);
    return violations.flatMap(({ id, help, nodes }) => nodes.map((node) => `${id}: ${help}: ${node.html}`));
  });
  assert.deepEqual(found, [], `axe on ${name}`);
}

/** Asserts that the page has no sidewards scroll bar of its own. */
export async function fits(page, name) {
  const { content, window } = await page.evaluate(() => ({
    content: document.documentElement.scrollWidth,
    window: document.documentElement.clientWidth,
  }));
  assert(content <= window, `${name} is ${content} px wide, in ${window}`);
}

/** Presses Tab until what has the focus is this, which must show. */
export async function tabTo(page, locator, what) {
  for (let presses = 0; presses < 200; presses += 1) {
    await page.keyboard.press("Tab");
    if (await locator.evaluate((element) => element === document.activeElement).catch(() => false)) {
      const shows = await locator.evaluate((element) => {
        const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(element);
        return (outlineStyle !== "none" && outlineWidth !== "0px") || boxShadow !== "none";
      });
      assert(shows, `the focus on ${what} can't be seen`);
      return;
    }
  }
  assert.fail(`${what} can't be reached by Tab`);
}
