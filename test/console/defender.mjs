// Drives what the console has for Defender: see console.mjs.
import assert from "node:assert/strict";

// defenderPages are looked at in every size and colour, after defender has run.
export const defenderPages = (device) => [
  ["alerts-chosen", "/console/alerts?status=open&severity=High"],
  ["contain", `/console/contain?device=${encodeURIComponent(device)}&level=telemetry-only`],
];

export const defender = async ({ page, ask, address, shoot, live, step, device }) => {
  const alert = page.locator(".alert").first();
  const filter = () => page.getByRole("button", { name: "Filter" }).click();

  step("alerts are chosen, and stay live");
  await page.goto(address("/console/alerts"));
  await page.getByLabel("Severity").selectOption("Low");
  await filter();
  await page.getByText("No alert fits.").waitFor();
  await page.getByLabel("Severity").selectOption("High");
  await page.getByLabel("Type").selectOption("IoT_TiConnection");
  await page.getByLabel("Device").fill(device);
  await page.getByLabel("Security group").fill("default");
  await filter();
  await live(page);
  const seen = await alert.locator("dd").first().textContent();
  await ask({ do: "security" });
  await page.waitForFunction((before) => document.querySelector(".alert dd").textContent !== before, seen);
  assert.equal(new URL(page.url()).searchParams.get("group"), "default");

  step("an alert leads to its device, which is cut off and let in again");
  await alert.getByRole("link", { name: "Suspicious IP address communication" }).click();
  await page.getByRole("heading", { name: "Evidence" }).waitFor();
  await page.getByText("Command and Control").waitFor();
  await shoot(page, "alert");
  await page.getByRole("link", { name: "Contain this device" }).click();
  await page.getByText("Nothing changes before you confirm it.").waitFor();
  await page.getByRole("link", { name: "cut", exact: true }).click();
  await page.getByRole("heading", { name: "What cut does at this moment" }).waitFor();
  await page.locator("dd").getByText("connecting").waitFor();
  await page.locator("dd").getByText(device, { exact: true }).waitFor();
  await page.getByLabel("Reason").fill('"><img src=x onerror=alert(1)>');
  await page.getByRole("button", { name: "Set it to cut" }).click();
  await page.getByText("Contained: cut").waitFor();
  assert.equal(await page.locator("img").count(), 0, "a reason became an element");
  await shoot(page, "contained");
  await page.goto(address(`/console/device?id=${encodeURIComponent(device)}`));
  await page.getByText("Disconnected", { exact: true }).waitFor();
  await page.getByText("Contained: cut").waitFor();
  await page.getByRole("link", { name: "Change or undo" }).click();
  await page.getByRole("button", { name: "Back to none" }).click();
  await page.getByText("Not contained").waitFor();
  await ask({ do: "connect" });
};
