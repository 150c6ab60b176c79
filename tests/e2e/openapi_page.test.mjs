// The reference page in a real browser: it shows the operations, finds them, asks nothing of other
// hosts, and breaks no rule of its own policy.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

import { Gateway } from './lib/gateway.mjs';

const LIMIT = { timeout: 120_000 };
const BROWSER = process.env.CHROMIUM_BIN ?? '/usr/bin/chromium';
const QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

let gw, browser;
before(async () => {
  gw = await Gateway.start();
  browser = await chromium.launch({ executablePath: BROWSER, args: QUIET, chromiumSandbox: false });
});
after(async () => {
  await browser?.close();
  await gw.stop();
});

/** The page, once it shows the document. What it asked for and what went wrong is noted in it. */
async function open(t, path = '/docs') {
  const page = await browser.newPage({ viewport: { width: 1280, height: 1400 } });
  t.after(() => page.close());
  const seen = { requests: [], faults: [] };
  await page.route('**/*', (route) => {
    seen.requests.push(route.request().url());
    return route.request().url().startsWith(gw.url) ? route.continue() : route.abort();
  });
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') seen.faults.push(message.text());
  });
  page.on('pageerror', (error) => seen.faults.push(error.message));
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (event) =>
      window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.goto(gw.url + path);
  await page.waitForSelector('.opblock', { timeout: 30_000 });
  return { page, seen };
}

async function assertClean(page, seen) {
  assert.deepEqual(seen.faults, []);
  assert.deepEqual(await page.evaluate(() => window.violations), []);
  assert.deepEqual(seen.requests.filter((url) => !url.startsWith(`${gw.url}/`) && !/^(data|blob):/.test(url)), []);
}

test('it shows every operation and loads nothing else', LIMIT, async (t) => {
  const { page, seen } = await open(t);
  const { body: doc } = await gw.request('GET', '/openapi.json');
  const wanted = Object.entries(doc.paths).flatMap(([path, item]) => Object.entries(item)
    .filter(([, operation]) => operation.operationId)
    .flatMap(([method, { tags }]) => tags.map(() => `${method} ${path}`)));
  const shown = await page.$$eval('.opblock', (blocks) => blocks.map((block) =>
    `${block.querySelector('.opblock-summary-method').textContent.toLowerCase()} ` +
    `${block.querySelector('.opblock-summary-path').dataset.path}`));
  assert.deepEqual(shown.sort(), wanted.sort());
  assert.equal((await page.textContent('.info .version')).trim(), doc.info.version);
  assert.doesNotMatch(await page.textContent('#reference'), /warning|error occurred/i);
  await assertClean(page, seen);
  assert.deepEqual(seen.requests.map((url) => url.slice(gw.url.length)).filter((path) => path.startsWith('/')).sort(),
    ['/docs', '/docs/page.js', '/docs/swagger-ui.css', '/docs/swagger-ui.js', '/openapi.json']);
});

test('it finds operations by path and by words', LIMIT, async (t) => {
  const { page, seen } = await open(t);
  const paths = () => page.$$eval('.opblock-summary-path', (all) => all.map((one) => one.dataset.path));
  for (const [phrase, found] of [['count_tokens', '/v1/messages/count_tokens'], ['PROMETHEUS', '/metrics']]) {
    await page.fill('.operation-filter-input', phrase);
    await page.waitForFunction((path) => [...document.querySelectorAll('.opblock-summary-path')]
      .every((one) => one.dataset.path === path), found);
    assert.deepEqual([...new Set(await paths())], [found]);
  }
  await page.fill('.operation-filter-input', '');
  await page.waitForFunction(() => document.querySelectorAll('.opblock').length > 10);
  await assertClean(page, seen);
});

test('a request can be tried from it', LIMIT, async (t) => {
  const { page, seen } = await open(t);
  await page.click('.btn.authorize');
  const bearer = page.locator('.auth-container form').filter({ hasText: 'A claudegate key' });
  await bearer.locator('input').fill(await gw.key());
  await bearer.locator('.btn.authorize').click();
  await page.locator('.btn-done').first().click();
  const me = page.locator('.opblock', { has: page.locator('[data-path="/api/me"]') });
  await me.locator('.opblock-summary-control').click();
  await me.locator('.try-out__btn').click();
  await me.locator('.btn.execute').click();
  await me.locator('.live-responses-table .response-col_status').first().waitFor();
  assert.match(await me.locator('.live-responses-table tbody .response-col_status').first().textContent(), /^200/);
  await assertClean(page, seen);
});
