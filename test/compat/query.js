'use strict';

// azure-iothub's Registry: queries over twins.

const { Client: Device } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Registry } = require('azure-iothub');
const { assert, cleanup, connection, host, poll, rejected, test, unique } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);

async function fleet(sites) {
  const run = unique('run');
  const ids = [];
  for (const [i, site] of sites.entries()) {
    const deviceId = unique('query');
    await registry.create({ deviceId });
    await registry.updateTwin(deviceId, { tags: { run, site, floor: i }, properties: { desired: { level: i } } }, '*');
    ids.push(deviceId);
  }
  return { run, ids: ids.sort() };
}

async function all(query, next = 'next') {
  const pages = [];
  while (query.hasMoreResults) {
    const { result, message: response } = await query[next](query.continuationToken); // a promise needs the token told
    pages.push({ result, type: response.headers['x-ms-item-type'], more: response.headers['x-ms-continuation'] });
  }
  return pages;
}

const rows = async (text, size) => (await all(registry.createQuery(text, size))).flatMap((p) => p.result);

test('pages, and rows as twins', ['HS-061'], async () => {
  const { run, ids } = await fleet(['a', 'b', 'c', 'd', 'e']);
  const query = registry.createQuery(`SELECT * FROM devices WHERE tags.run = '${run}'`, 2);
  const pages = await all(query, 'nextAsTwin');
  assert.deepEqual(pages.map((p) => p.result.length), [2, 2, 1]);
  assert.equal(query.hasMoreResults, false);
  assert.equal(pages[2].more, undefined);
  assert.ok(pages.every((p) => p.type === 'Twin'));
  const twins = pages.flatMap((p) => p.result);
  assert.deepEqual(twins.map((t) => t.deviceId), ids);
  assert.ok(twins.every((t) => t.constructor.name === 'Twin'));
  await twins[0].update({ tags: { seen: true } });
  assert.equal((await registry.getTwin(ids[0])).responseBody.tags.seen, true);
});

test('projections, aggregates and conditions', ['HS-060', 'HS-063', 'HS-064', 'HS-065', 'HS-068'], async () => {
  const { run, ids } = await fleet(['a', 'a', 'b']);
  const where = `tags.run = "${run}"`;
  assert.deepEqual((await rows(`select DEVICEID,\n tags.floor as f from devices\n where ${where} and tags.floor > 0 and tags.floor <= 1 + 1`)).map((r) => [Object.keys(r), r.f]).sort(),
    [[['deviceId', 'f'], 1], [['deviceId', 'f'], 2]]);
  assert.deepEqual((await rows(`SELECT tags.site AS site, COUNT() AS n, MAX(tags.floor) AS top FROM devices WHERE ${where} GROUP BY tags.site`)).sort((x, y) => x.site.localeCompare(y.site)),
    [{ site: 'a', n: 2, top: 1 }, { site: 'b', n: 1, top: 2 }]);
  const count = async (condition) => (await rows(`SELECT COUNT() AS n FROM devices WHERE ${where} AND (${condition})`))[0].n;
  assert.equal(await count("tags.site IN ['a', 'c']"), 2);
  assert.equal(await count("tags.site NIN ['a', 'c']"), 1);
  assert.equal(await count("NOT tags.site = 'a'"), 1);
  assert.equal(await count('is_defined(tags.site) AND NOT is_defined(tags.nothing)'), 3);
  assert.equal(await count(`STARTSWITH(devices.deviceId, '${ids[0]}')`), 1);
  assert.equal(await count('properties.desired.level * 2 = 4'), 1);
  assert.equal(await count('properties.desired.$version = 2 AND properties.reported.$version = 1'), 3);
  assert.equal(await count("configurations.[[a b]].status = 'Applied'"), 0);
  assert.equal(await count("tags.floor > 'a'"), 0);
  assert.equal(await count('tags.nothing > 1 OR tags.nothing <= 1'), 0);
  const wrong = await rejected(registry.createQuery('SELECT * FROM devices WHERE').next());
  assert.equal(wrong.name, 'ArgumentError');
  assert.equal(wrong.response.statusCode, 400);
});

test('a reported change shows in queries', ['HS-047'], async () => {
  const { run, ids: [deviceId] } = await fleet(['a']);
  const { responseBody } = await registry.get(deviceId);
  const client = Device.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${responseBody.authentication.symmetricKey.primaryKey}`, Mqtt);
  cleanup(() => client.close());
  await client.open();
  const twin = await client.getTwin();
  const desired = [];
  twin.on('properties.desired', (d) => desired.push(d));
  const report = (patch) => new Promise((resolve, reject) => { twin.properties.reported.update(patch, (e) => (e ? reject(e) : resolve())); });
  await report({ temperature: 21.5, nested: { deep: [1, { x: 'y' }] } });
  const find = (condition) => rows(`SELECT * FROM devices WHERE tags.run = '${run}' AND ${condition}`);
  const [row] = await find('properties.reported.temperature > 21 AND properties.reported.nested.deep[1].x = "y"');
  assert.equal(row.properties.reported.temperature, 21.5);
  assert.equal((await registry.getTwin(deviceId)).responseBody.properties.reported.temperature, 21.5);
  await report({ temperature: null });
  assert.deepEqual(await find('is_defined(properties.reported.temperature)'), []);
  await registry.updateTwin(deviceId, { properties: { desired: { level: 99 } } }, '*');
  await poll('the desired change', () => desired.find((d) => d.level === 99));
  assert.equal((await find('properties.desired.level = 99')).length, 1);
});
