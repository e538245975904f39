// Drives what the console has for Defender: see console.mjs.
import assert from "node:assert/strict";

// defenderPages are looked at in every size and colour, after defender has run.
export const defenderPages = (device) => [
  ["alerts-chosen", "/console/alerts?status=open&severity=High"],
  ["contain", `/console/contain?device=${encodeURIComponent(device)}&level=telemetry-only`],
  ["hygiene", "/console/recommendations"],
  ["hygiene-types", "/console/recommendation-types"],
  ["groups", "/console/groups"],
  ["group", "/console/group?name=default"],
  ["baseline", "/console/baseline?group=default"],
  ["feeds", "/console/feeds?value=203.0.113.66"],
  ["detectors", "/console/detectors"],
  ["exports", "/console/exports?tested=disk"],
  ["events", `/console/events?id=${encodeURIComponent(device)}`],
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

export const defender = async ({ page, ask, address, shoot, live, step, device, refusals }) => {
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

  step("a rule of a group is set by its form, and raises an alert");
  await page.getByRole("link", { name: "Groups", exact: true }).click();
  await page.getByRole("link", { name: "default", exact: true }).click();
  assert.equal(await page.locator("input[name=window]").count(), 16);
  const ruleOf = (title) => page.locator("details").filter({ hasText: title });
  const rule = ruleOf("Outbound connection to a denied ip");
  await rule.locator("summary").click();
  await rule.getByLabel("Addresses and ranges").fill("not an address");
  await rule.getByLabel("On", { exact: true }).check();
  refusals.expected = true;
  await rule.getByRole("button", { name: "Save" }).click();
  await page.getByText("is no range of addresses").waitFor();
  refusals.expected = false;
  await page.goBack();
  await rule.locator("summary").click();
  await rule.getByLabel("Addresses and ranges").fill("203.0.113.0/24");
  await rule.getByLabel("On", { exact: true }).check();
  await rule.getByRole("button", { name: "Save" }).click();
  await rule.locator("summary").getByText("On", { exact: true }).waitFor();
  await page.getByLabel("User names become pseudonyms").check();
  await page.locator("section").filter({ hasText: "Privacy" }).getByRole("button", { name: "Save" }).click();
  await page.waitForURL(/group/);
  await shoot(page, "group");
  await page.goto(address("/console/groups"));
  await page.getByRole("row").filter({ hasText: "default" }).getByText("user names").waitFor();
  await page.goto(address("/console/alerts?group=default"));
  await live(page);
  await ask({ do: "security" });
  await page.getByRole("heading", { name: "Custom rule: ConnectionToIpDenied" }).waitFor();

  step("a baseline begins to learn, a maker's file is reviewed, and enforced after its preview");
  await page.goto(address("/console/baseline?group=default"));
  await page.getByText("Nothing is learned yet").waitFor();
  await shoot(page, "baseline-off");
  await page.getByRole("button", { name: "Learn", exact: true }).click();
  await page.getByRole("heading", { name: "It waits for" }).waitFor();
  await page.getByLabel("What the maker says").setInputFiles("../../wire/mud/testdata/thermostat.json");
  await page.getByRole("button", { name: "Upload" }).click();
  await page.getByRole("heading", { name: "What devices do" }).waitFor();
  const entries = page.locator(".entries input[name=id]");
  const all = await entries.count();
  assert(all > 1, "the file has too few entries for this test");
  await entries.first().check();
  await page.getByRole("button", { name: "Reject", exact: true }).click();
  await page.getByText("1 rejected").click();
  await page.getByText("by admin").first().waitFor();
  assert.equal(await entries.count(), 1);
  await page.getByRole("button", { name: "Preview" }).click();
  await page.getByRole("heading", { name: /alerts? about/ }).waitFor();
  await shoot(page, "baseline-preview");
  await page.getByRole("button", { name: "Enforce" }).click();
  await page.getByText("enforced", { exact: true }).waitFor();
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "Download it as a MUD file" }).click()]);
  assert.equal(download.suggestedFilename(), "mud.json");
  await page.getByRole("button", { name: /^Relax/ }).click();
  await page.getByText("proposed", { exact: true }).waitFor();

  step("feeds, their health, a lookup, and detectors");
  await page.getByRole("link", { name: "Feeds", exact: true }).click();
  await page.getByText("vauban intel feed add").waitFor();
  await page.getByLabel("Look up").fill("203.0.113.66");
  await page.getByRole("button", { name: "Look up" }).click();
  await page.getByText("Traffic with it is an alert").waitFor();
  await ask({ do: "feed" });
  await page.goto(address("/console/feeds"));
  const feed = page.getByRole("row").filter({ hasText: "broken" });
  await feed.getByRole("button", { name: "Refresh broken" }).click();
  for (let left = 50; !(await feed.getByText(/^Failed/).count()); left--) {
    assert(left > 0, "the feed never fails");
    await page.waitForTimeout(200);
    await page.reload();
  }
  assert(!(await page.content()).includes("s3cret"), "a page shows the secret of a feed");
  await page.getByRole("link", { name: "Detectors of behaviour" }).click();
  const off = page.getByRole("button", { name: /^Switch off/ });
  const on = await off.count();
  await off.first().click();
  await page.getByRole("button", { name: /^Switch on/ }).click();
  await page.getByRole("button", { name: /^Switch on/ }).waitFor({ state: "detached" });
  assert.equal(await off.count(), on);

  step("exports, their health and a test; what agents said of a device");
  await page.goto(address("/console/feeds"));
  await page.getByRole("link", { name: "Exports", exact: true }).click();
  await page.getByText("vauban export create").waitFor();
  await ask({ do: "exports" });
  await page.goto(address("/console/exports"));
  await page.getByRole("button", { name: "Test disk" }).click();
  await page.getByText("The test of disk was taken.").waitFor();
  const failing = page.getByRole("row").filter({ hasText: "nobody" });
  for (let left = 50; !(await failing.getByText(/^Failed/).count()); left--) {
    assert(left > 0, "the export never fails");
    await page.waitForTimeout(200);
    await page.reload();
  }
  assert(!(await page.content()).includes("s3cret"), "a page shows the path or the token of an export");
  await page.goto(address(`/console/device?id=${encodeURIComponent(device)}`));
  await page.getByRole("link", { name: "Security events" }).click();
  const event = page.getByRole("row").filter({ hasText: "NetworkActivity" }).first();
  await event.getByText("1 item").click();
  await event.getByText("203.0.113.66").waitFor();
  await shoot(page, "event");
  await page.getByLabel("Event", { exact: true }).fill("ListeningPorts");
  await filter();
  await page.getByRole("row").filter({ hasText: "ListeningPorts" }).first().waitFor();
  assert.equal(await page.getByRole("row").filter({ hasText: "NetworkActivity" }).count(), 0);
};
