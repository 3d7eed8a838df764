// Every page: axe finds nothing on it, it fits a narrow screen, in light and dark, and is worth a look.

import assert from "node:assert/strict";
import { accessible, fits, shot, stage, withBrowser, withPage } from "./common.mjs";

const { pages } = await stage("pages");

/** Asserts that nobody has to move a table sideways to see a column. */
async function isSeen(page, heading) {
  // Found and measured at once: the part of the page that it is in may be brought anew at any moment.
  const right = await page.evaluate((heading) => {
    const cells = [...document.querySelectorAll("th")];
    return cells.find((cell) => cell.textContent.includes(heading))?.getBoundingClientRect().right;
  }, heading);
  const { width } = page.viewportSize();
  assert(right <= width, `${heading} ends at ${right} px, of ${width}`);
}

await withBrowser(async (browser) => {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1200, 360]) {
      await withPage(browser, { colorScheme, viewport: { width, height: 800 } }, async (page) => {
        for (const [name, path] of pages) {
          const answered = await page.goto(path);
          assert(answered.status() < 500, `${path} answers ${answered.status()}`);
          await accessible(page, `${name}, ${colorScheme}, ${width}`);
          await fits(page, `${name} (${path})`);
          if (name === "endpoints") await isSeen(page, "State");
          await shot(page, `${name}-${colorScheme}-${width}`);
        }
      });
    }
  }
});
