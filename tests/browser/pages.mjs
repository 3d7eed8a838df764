// Every page: axe finds nothing on it, it fits a narrow screen, in light and dark, and is worth a look.

import assert from "node:assert/strict";
import { accessible, fits, shot, stage, withBrowser, withPage } from "./common.mjs";

const { pages } = await stage("pages");

/** Asserts that nobody has to move a table sideways to see a column. */
async function isSeen(page, heading) {
  const place = await page.getByRole("columnheader", { name: heading }).boundingBox();
  const { width } = page.viewportSize();
  assert(place.x + place.width <= width, `${heading} ends at ${place.x + place.width} px, of ${width}`);
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
