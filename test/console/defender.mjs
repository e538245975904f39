// Drives what the console has for Defender: see console.mjs.
import assert from "node:assert/strict";

// defenderPages are looked at in every size and colour, after defender has run.
export const defenderPages = (device) => [
  ["alerts-chosen", "/console/alerts?status=open&severity=High"],
  ["contain", `/console/contain?device=${encodeURIComponent(device)}&level=telemetry-only`],
  ["hygiene", "/console/recommendations"],
  ["hygiene-types", "/console/recommendation-types"],
];

// ports is what an agent says of a port that is open.
const ports = (address) => JSON.stringify({
  AgentVersion: "0.0.5", AgentId: "a8cd1d2c-5b9f-4f0e-8b7c-000000000001", MessageSchemaVersion: "1.0",
  Events: [{
    EventType: "Security", Category: "Periodic", Name: "ListeningPorts", IsEmpty: false, PayloadSchemaVersion: "1.0", Id: "a8cd1d2c-5b9f-4f0e-8b7c-000000000002",
    TimestampLocal: "2026-01-01T00:00:00Z", TimestampUTC: "2026-01-01T00:00:00Z",
    Payload: [{ Protocol: "tcp", LocalAddress: address, LocalPort: "8888", RemoteAddress: "0.0.0.0", RemotePort: "*" }],
  }],
});

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

  step("what an agent reports is recommended against, and costs points");
  await page.getByRole("link", { name: "Hygiene", exact: true }).click();
  await page.getByRole("heading", { name: /^The fleet:/ }).waitFor();
  await page.goto(address(`/console/device?id=${encodeURIComponent(device)}`));
  await live(page);
  await ask({ do: "agent", body: ports("0.0.0.0") });
  const hygiene = page.locator("[data-region=device-hygiene]");
  await hygiene.getByRole("link", { name: "Open ports on the device" }).click();
  await page.getByLabel("Facts it was judged by").getByText('"LocalPort": 8888').waitFor();
  await shoot(page, "recommendation");
  await page.getByRole("link", { name: "Hygiene", exact: true }).first().click();
  await page.getByLabel("Type").selectOption({ label: "Open ports on the device" });
  await page.getByLabel("Device").fill(device);
  await filter();
  const row = page.getByRole("table", { name: "Recommendations" }).getByRole("row");
  await row.nth(1).getByText("Medium").waitFor();
  assert.equal(await row.count(), 2);
  const sum = (await page.locator(".sum tbody td:last-child").allTextContents()).map((t) => Number(t.replace("\u2212", "-").replace("+", "")));
  assert.equal(Math.round(sum.slice(0, -1).reduce((a, b) => a + b)), sum.at(-1), `the arithmetic is wrong: ${sum}`);

  step("a type is switched off, and what was active of it resolved");
  await page.getByRole("link", { name: "What is looked at" }).click();
  await page.getByRole("button", { name: "Disable Open ports on the device" }).click();
  await page.getByRole("button", { name: "Enable Open ports on the device" }).waitFor();
  await page.goto(address(`/console/recommendations?type=IoT_OpenPorts&device=${encodeURIComponent(device)}`));
  await page.getByText("Nothing fits.").waitFor();
  await page.goto(address("/console/recommendation-types"));
  await page.getByRole("button", { name: "Enable Open ports on the device" }).click();
  await page.getByRole("button", { name: "Disable Open ports on the device" }).waitFor();
};
