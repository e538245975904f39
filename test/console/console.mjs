// Drives Chromium through the console. The Go test beside this file starts it with the
// installation's address and password in its environment, and does what a device would do: each
// line on standard output is a request to it ({"do": ...}), answered by a line on standard input.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import { defender, defenderPages } from "./defender.mjs";

const { CONSOLE_URL, CONSOLE_PASSWORD, CHROMIUM, SCREENSHOTS } = process.env;
const address = (path) => new URL(path, CONSOLE_URL).href;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const ask = async (request) => {
  process.stdout.write(JSON.stringify(request) + "\n");
  const { value, done } = await answers.next();
  assert(!done, "the test ended");
  const answer = JSON.parse(value);
  assert(!answer.error, answer.error);
  return answer;
};
const step = (name) => process.stderr.write(`console: ${name}\n`);

mkdirSync(SCREENSHOTS, { recursive: true });
const browser = await chromium.launch({
  executablePath: CHROMIUM,
  headless: true,
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});

// What no page may ever do: complain, or try what its policy forbids.
const complaints = [];
const refusals = { expected: false }; // whether a form may be refused at this moment
const watch = (page) => {
  page.on("console", (m) => {
    if (m.type() !== "error" && m.type() !== "warning") return;
    if (refusals.expected && /40[01]/.test(m.text())) return;
    complaints.push(`${page.url()}: ${m.text()}`);
  });
  page.on("pageerror", (e) => complaints.push(`${page.url()}: ${e}`));
  page.on("dialog", (d) => {
    complaints.push(`${page.url()}: a dialog opened: ${d.message()}`);
    d.dismiss();
  });
  page.on("response", (r) => {
    if (r.status() >= 400 && !(refusals.expected && (r.status() === 401 || r.status() === 400))) complaints.push(`${r.status()} of ${r.url()}`);
  });
};
const violations = () => {
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (e) => window.violations.push(`${e.violatedDirective}: ${e.blockedURI} ${e.sample}`));
};

const check = async (page, what) => {
  assert.deepEqual(await page.evaluate(() => window.violations), [], `${what} violates its content security policy`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(wide, 0, `${what} is ${wide} pixels wider than the screen`);
  assert.deepEqual(complaints, [], `${what} complains`);
};

// contrast looks at every visible text and returns those under WCAG's AA.
const contrast = () => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const bad = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const el = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !el.checkVisibility() || el.closest(".hidden, .skip")) continue;
    const layers = [];
    for (let e = el; e; e = e.parentElement) layers.unshift(rgba(getComputedStyle(e).backgroundColor));
    const below = layers.reduce((c, layer) => over(layer, c), [255, 255, 255, 1]);
    const style = getComputedStyle(el);
    const [a, b] = [luminance(over(rgba(style.color), below)), luminance(below)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) bad.push(`${texts.currentNode.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return bad;
};

// names returns the controls that a screen reader could not name.
const names = () =>
  Array.from(document.querySelectorAll("a, button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"))
    .filter((el) => !(el.textContent.trim() || el.getAttribute("aria-label") || el.getAttribute("aria-labelledby") || el.labels?.length))
    .map((el) => el.outerHTML);

const settle = (page) => page.evaluate(() => Promise.all(document.getAnimations().map((a) => a.finished.catch(() => {}))));

const shoot = async (page, name) => {
  await settle(page);
  assert.deepEqual(await page.evaluate(contrast), [], `${name}: text that is hard to read`);
  assert.deepEqual(await page.evaluate(names), [], `${name}: controls without a name`);
  await page.screenshot({ path: `${SCREENSHOTS}/${name}.png`, fullPage: true });
  await check(page, name);
};

const live = (page) => page.locator("html[data-state=live]").waitFor({ state: "attached" });

try {
  const context = await browser.newContext({
    ignoreHTTPSErrors: true, colorScheme: "light", viewport: { width: 1280, height: 860 }, locale: "en-GB",
  });
  await context.addInitScript(violations);
  context.setDefaultTimeout(15000);
  const page = await context.newPage();
  watch(page);

  step("a stranger is sent to the gate and back");
  await page.goto(address("/console/alerts"));
  await page.getByRole("heading", { name: "Vauban" }).waitFor();
  assert.equal(new URL(page.url()).pathname, "/console/sign-in");
  await shoot(page, "sign-in");
  refusals.expected = true;
  await page.getByLabel("Password").fill("not the password");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").waitFor();
  await shoot(page, "sign-in-refused");
  assert.deepEqual(await context.cookies(), [], "a refused stranger got a cookie");
  refusals.expected = false;
  await page.getByLabel("Password").fill(CONSOLE_PASSWORD);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Alerts", exact: true }).waitFor();
  const [cookie] = await context.cookies();
  assert.deepEqual(
    { httpOnly: cookie.httpOnly, secure: cookie.secure, sameSite: cookie.sameSite, path: cookie.path, expires: cookie.expires },
    { httpOnly: true, secure: true, sameSite: "Strict", path: "/", expires: -1 },
  );
  await page.getByText("The walls hold.").waitFor();
  await live(page);
  await shoot(page, "alerts-empty");

  step("an empty installation teaches the next command");
  await page.getByRole("link", { name: "Devices" }).click();
  await page.getByText("vauban device create lamp-1").waitFor();
  await live(page);
  await shoot(page, "devices-empty");

  step("devices appear and connect, without a reload");
  await page.evaluate(() => { window.untouched = true; });
  const { device, others } = await ask({ do: "create" });
  const row = page.getByRole("row").filter({ has: page.getByRole("link", { name: device, exact: true }) });
  await row.getByText("Disconnected").waitFor();
  await ask({ do: "connect" });
  await row.getByText("Connected", { exact: true }).waitFor();
  await page.locator(".counts div").filter({ hasText: "Connected" }).getByText("1", { exact: true }).waitFor();
  assert.equal(await page.getByRole("row").count(), others.length + 2);
  await shoot(page, "devices");

  step("the filter works while it is typed");
  await page.getByLabel("Filter by device id").pressSequentially("LAMP-");
  await page.getByRole("row").nth(2).waitFor({ state: "detached" });
  await row.waitFor();
  assert(page.url().endsWith("?q=LAMP-"), page.url());
  await page.getByLabel("Filter by device id").fill("nothing like it");
  await page.getByText("No device id contains").waitFor();
  await page.getByLabel("Filter by device id").fill("");
  await page.getByRole("row").nth(others.length).waitFor();
  assert(await page.evaluate(() => window.untouched), "the page was reloaded");

  step("messages arrive on the device's page");
  await page.getByRole("link", { name: device, exact: true }).click();
  await page.getByRole("heading", { name: device }).waitFor();
  await live(page);
  await page.getByText(`vauban monitor --device ${device}`).waitFor();
  await ask({ do: "telemetry", body: JSON.stringify({ temperature: 21.5, unit: "°C" }), count: 1 });
  const messages = page.locator("[data-messages] > li");
  await messages.getByText('"temperature": 21.5').waitFor();
  await ask({ do: "report", body: JSON.stringify({ firmware: "1.4.2", battery: { volts: 3.71, charging: false } }) });
  await page.getByLabel("Reported properties").getByText('"firmware": "1.4.2"').waitFor();

  step("hostile text stays text");
  const attack = `<img src=x onerror=alert(1)><script>alert(2)</script>"'</code></pre><svg onload=alert(3)>`;
  await ask({ do: "telemetry", body: JSON.stringify({ attack }), count: 1, properties: { [attack]: attack, level: "warn" } });
  await ask({ do: "telemetry", body: attack, count: 1 });
  await ask({ do: "report", body: JSON.stringify({ attack }) });
  await page.getByLabel("Reported properties").getByText("onerror=alert(1)").waitFor();
  await messages.getByText("Text,").waitFor();
  assert.equal(await page.locator("img, main script, main svg").count(), 0, "a device put elements into the page");

  step("an alert appears");
  await ask({ do: "security" });
  const alert = page.getByRole("listitem").filter({ has: page.getByRole("heading", { name: "Suspicious IP address communication" }) });
  await alert.getByText("203.0.113.66", { exact: true }).first().waitFor();
  await alert.getByText("1 flow", { exact: true }).waitFor();
  await page.locator("[data-say]").getByText(/^New alert/).waitFor({ state: "attached" });
  await page.evaluate(() => { document.querySelector(".alert a, .alert pre, .messages pre")?.focus(); });
  await ask({ do: "security" });
  await alert.getByText("2 flows", { exact: true }).waitFor();
  await messages.getByText("Security", { exact: true }).first().waitFor();
  await shoot(page, "device");

  step("pausing stops the page, resuming brings it up to date");
  await page.getByRole("button", { name: "Pause" }).click();
  await ask({ do: "report", body: JSON.stringify({ firmware: "1.5.0" }) });
  await page.getByText("Paused", { exact: true }).waitFor();
  assert.equal(await page.getByLabel("Reported properties").getByText("1.5.0").count(), 0);
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByLabel("Reported properties").getByText("1.5.0").waitFor();

  step("a flood is thinned out and counted");
  await ask({ do: "telemetry", body: JSON.stringify({ flood: true }), count: 600 });
  await page.getByText(/were left out/).waitFor();
  assert((await messages.count()) <= 100, "the page keeps too many messages");

  step("the list of alerts, newest first");
  await page.getByRole("link", { name: "Alerts", exact: true }).click();
  await page.locator(".alert").getByRole("link", { name: device }).waitFor();
  await live(page);
  await shoot(page, "alerts");

  await defender({ page, ask, address, shoot, live, step, device, refusals });

  step("dark, and on a phone");
  for (const colorScheme of ["light", "dark"]) {
    for (const [size, width] of [["wide", 1280], ["phone", 320]]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 720 });
      for (const [name, path] of [["devices", "/console/devices"], ["device", `/console/device?id=${encodeURIComponent(device)}`], ["alerts", "/console/alerts"], ...defenderPages(device)]) {
        await page.goto(address(path));
        if (await page.locator("html[data-stream]").count()) await live(page);
        if (name === "device") {
          await ask({ do: "telemetry", body: JSON.stringify({ temperature: 21.5, humidity: 40.25, state: "running" }), count: 2, properties: { level: "info", line: "2" } });
          await messages.nth(1).waitFor();
        }
        await shoot(page, `${name}-${size}-${colorScheme}`);
      }
    }
  }
  assert.notEqual(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(244, 241, 233)", "dark is not dark");
  await page.setViewportSize({ width: 1280, height: 860 });

  step("an id of the widest kind");
  for (const id of others) {
    await page.goto(address("/console/devices"));
    await page.getByRole("link", { name: id, exact: true }).click();
    await page.getByRole("heading", { name: id, exact: true }).waitFor();
    await live(page);
    await page.setViewportSize({ width: 320, height: 720 });
    await check(page, id);
    await page.setViewportSize({ width: 1280, height: 860 });
  }

  step("the keyboard reaches everything, starting with a way past the navigation");
  await page.goto(address("/console/devices"));
  await live(page);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");

  step("a device that goes is seen to go");
  await page.goto(address("/console/devices"));
  await live(page);
  await ask({ do: "disconnect" });
  await row.getByText("Disconnected").waitFor();
  await ask({ do: "delete", device: others[0] });
  await page.getByRole("link", { name: others[0], exact: true }).waitFor({ state: "detached" });

  step("without script the pages can still be read");
  const plain = await browser.newContext({
    ignoreHTTPSErrors: true, javaScriptEnabled: false, storageState: await context.storageState(), viewport: { width: 1280, height: 860 },
  });
  const reader = await plain.newPage();
  await reader.goto(address("/console/devices"));
  await reader.getByLabel("Filter by device id").fill(device);
  await reader.getByRole("button", { name: "Filter" }).click();
  await reader.getByRole("link", { name: device, exact: true }).click();
  await reader.getByLabel("Reported properties").waitFor();
  await plain.close();

  step("signing out ends every tab");
  const second = await context.newPage();
  watch(second);
  await second.goto(address("/console/alerts"));
  await live(second);
  await page.bringToFront();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("button", { name: "Sign in" }).waitFor();
  await second.bringToFront();
  await second.getByRole("button", { name: "Sign in" }).waitFor();
  await page.bringToFront();
  assert.deepEqual(await context.cookies(), []);
  await check(page, "the end");
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 320, height: 640 });
  await shoot(page, "sign-in-phone-dark");
  await ask({ do: "done" });
} finally {
  await browser.close();
}
