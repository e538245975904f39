'use strict';

// azure-iothub's Registry: twins, seen from the service.

const { Registry } = require('azure-iothub');
const { assert, connection, raw, rejected, test, unique } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const version = 'api-version=2021-04-12';

async function create() {
  const deviceId = unique('twin');
  await registry.create({ deviceId });
  return deviceId;
}

const read = async (deviceId) => (await registry.getTwin(deviceId)).responseBody;

function bare(section) {
  const { $metadata, $version, ...rest } = section;
  return rest;
}

async function refused(promise, name, status, code) {
  const error = await rejected(promise);
  assert.equal(error.name, name, error.stack);
  assert.equal(error.response.statusCode, status);
  assert.equal(error.response.headers['iothub-errorcode'], code);
  assert.match(JSON.parse(error.responseBody).Message, new RegExp(`^ErrorCode:${code};[^;]+$`));
}

test('a fresh twin has every member', [], async () => {
  const deviceId = await create();
  const { responseBody: twin, httpResponse } = await registry.getTwin(deviceId);
  assert.equal(httpResponse.statusCode, 200);
  assert.equal(httpResponse.headers.etag, `"${twin.etag}"`);
  assert.equal(twin.constructor.name, 'Twin');
  const { responseBody: identity } = await registry.get(deviceId);
  assert.equal(twin.deviceId, deviceId);
  assert.equal(twin.deviceEtag, identity.etag);
  assert.notEqual(twin.etag, identity.etag);
  assert.equal(twin.etag, 'AAAAAAAAAAE=');
  assert.equal(twin.version, 2);
  assert.equal(twin.status, 'enabled');
  assert.equal(twin.connectionState, 'Disconnected');
  assert.equal(twin.authenticationType, 'sas');
  assert.equal(twin.cloudToDeviceMessageCount, 0);
  assert.equal(twin.modelId, '');
  assert.deepEqual(twin.capabilities, { iotEdge: false });
  assert.deepEqual(twin.x509Thumbprint, { primaryThumbprint: null, secondaryThumbprint: null });
  for (const section of [twin.properties.desired, twin.properties.reported]) {
    assert.equal(section.$version, 1);
    assert.match(section.$metadata.$lastUpdated, /^0001-01-01T00:00:00(\.0+)?Z$/);
    assert.deepEqual(bare(section), {});
  }
  await refused(registry.getTwin('nobody'), 'DeviceNotFoundError', 404, 'DeviceNotFound');
});

test('update merges, null deletes, and every write counts', ['HS-041'], async () => {
  const deviceId = await create();
  const before = await read(deviceId);
  const { responseBody: one, httpResponse } = await registry.updateTwin(deviceId, {
    tags: { site: { floor: 1, room: 'a' }, owner: 'me' }, properties: { desired: { led: { red: 1, green: 2 }, list: [1, 2], keep: true } },
  }, before.etag);
  assert.equal(httpResponse.statusCode, 200);
  assert.equal(httpResponse.headers.etag, `"${one.etag}"`);
  assert.notEqual(one.etag, before.etag);
  assert.deepEqual(one.tags, { site: { floor: 1, room: 'a' }, owner: 'me' });
  const { responseBody: two } = await registry.updateTwin(deviceId, {
    tags: { site: { room: null, wing: 'w' }, owner: null }, properties: { desired: { led: { green: null, blue: 3 }, list: [3], gone: null } },
  }, one.etag);
  assert.deepEqual(two.tags, { site: { floor: 1, wing: 'w' } });
  assert.deepEqual(bare(two.properties.desired), { led: { red: 1, blue: 3 }, list: [3], keep: true });
  assert.notEqual(two.etag, one.etag);
  const { responseBody: three } = await registry.updateTwin(deviceId, { tags: null, properties: { desired: null } }, two.etag);
  assert.deepEqual(three.tags ?? {}, {});
  assert.deepEqual(bare(three.properties.desired), {});
  assert.notEqual(three.etag, two.etag);
  const kept = await read(deviceId);
  assert.equal(kept.etag, three.etag);
  assert.deepEqual(bare(kept.properties.desired), {});
  assert.deepEqual([one, two, three].map((t) => t.properties.desired.$version), [2, 3, 4]);
  assert.deepEqual([one, two, three].map((t) => t.version), [3, 4, 5]);
});

test('etags: stale and nonsense are refused, a star is not', ['HS-044'], async () => {
  const deviceId = await create();
  const first = (await read(deviceId)).etag;
  const { responseBody: second } = await registry.updateTwin(deviceId, { tags: { n: 1 } }, '*');
  for (const etag of [first, 'abc']) {
    await refused(registry.updateTwin(deviceId, { tags: { n: 2 } }, etag), 'InvalidEtagError', 412, 'PreconditionFailed');
    const put = await raw('PUT', `/twins/${deviceId}?${version}`, { headers: { 'If-Match': `"${etag}"`, 'Content-Type': 'application/json' }, body: { tags: {} } });
    assert.equal(put.status, 412);
  }
  assert.deepEqual((await read(deviceId)).tags, { n: 1 });
  assert.equal((await registry.updateTwin(deviceId, { tags: { n: 3 } }, second.etag)).responseBody.tags.n, 3);
  assert.equal((await registry.updateTwin(deviceId, { tags: { n: 4 } }, '*')).responseBody.tags.n, 4);
  const replaced = await raw('PUT', `/twins/${deviceId}?${version}`, { headers: { 'If-Match': '"*"', 'Content-Type': 'application/json' }, body: { tags: { n: 5 } } });
  assert.deepEqual(replaced.json().tags, { n: 5 });
  await refused(registry.updateTwin('nobody', { tags: {} }, '*'), 'DeviceNotFoundError', 404, 'DeviceNotFound');
});

test('a whole twin document as a patch changes tags and desired only', ['HS-042'], async () => {
  const deviceId = await create();
  await registry.updateTwin(deviceId, { tags: { a: 1 }, properties: { desired: { x: 1 } } }, '*');
  const whole = (await raw('GET', `/twins/${deviceId}?${version}`)).json();
  whole.tags.a = 2;
  whole.properties.desired.y = 2;
  whole.properties.reported.forged = true;
  Object.assign(whole, { status: 'disabled', connectionState: 'Connected', version: 99, etag: 'forged', unknown: { a: 1 }, deviceEtag: 'x' });
  const r = await raw('PATCH', `/twins/${deviceId}?${version}`, { headers: { 'Content-Type': 'application/json' }, body: whole });
  assert.equal(r.status, 200, r.text);
  const after = r.json();
  assert.deepEqual(after.tags, { a: 2 });
  assert.deepEqual(bare(after.properties.desired), { x: 1, y: 2 });
  assert.deepEqual(bare(after.properties.reported), {});
  assert.equal(after.properties.reported.$version, 1);
  assert.equal(after.status, 'enabled');
  assert.equal(after.connectionState, 'Disconnected');
  assert.equal(after.version, 4);
  assert.equal('unknown' in after, false);
  assert.equal((await registry.get(deviceId)).responseBody.status, 'enabled');
  // azure-iothub's Twin object sends itself, with reported:{}.
  const twin = await read(deviceId);
  const { responseBody } = await registry.updateTwin(deviceId, { properties: { reported: {}, desired: { z: 1 } } }, twin.etag);
  assert.equal(responseBody.properties.desired.z, 1);
});

test('Twin.update and Twin.get work on the object itself', [], async () => {
  const deviceId = await create();
  const twin = await read(deviceId);
  const { result: updated } = await twin.update({ tags: { by: 'object' }, properties: { desired: { d: 1 } } });
  assert.deepEqual(updated.tags, { by: 'object' });
  assert.equal(updated.properties.desired.d, 1);
  assert.equal(updated, twin);
  assert.equal(twin.etag, 'AAAAAAAAAAI=');
  await registry.updateTwin(deviceId, { tags: { by: 'another' } }, '*');
  await refused(twin.update({ tags: { by: 'stale' } }), 'InvalidEtagError', 412, 'PreconditionFailed');
  assert.deepEqual((await twin.get()).result.tags, { by: 'another' });
});

test('replace empties what it leaves out', [], async () => {
  const deviceId = await create();
  await registry.updateTwin(deviceId, { tags: { a: 1, b: 2 }, properties: { desired: { x: 1, y: 2 } } }, '*');
  const put = (body) => raw('PUT', `/twins/${deviceId}?${version}`, { headers: { 'Content-Type': 'application/json' }, body });
  const one = await put({ deviceId, tags: { c: 3 }, properties: { desired: { z: { deep: 1 } } }, unknown: 1 });
  assert.equal(one.status, 200, one.text);
  assert.deepEqual(one.json().tags, { c: 3 });
  assert.deepEqual(bare(one.json().properties.desired), { z: { deep: 1 } });
  const two = await put({ tags: { d: 4 } });
  assert.deepEqual(two.json().tags, { d: 4 });
  assert.deepEqual(bare(two.json().properties.desired), {});
  assert.deepEqual(two.json(), (await raw('GET', `/twins/${deviceId}?${version}`)).json());
});

test('what a twin cannot hold is refused', [], async () => {
  const deviceId = await create();
  const deep = (n) => (n === 0 ? 1 : { a: deep(n - 1) });
  for (const patch of [
    { tags: { 'a.b': 1 } }, { tags: { 'a b': 1 } }, { tags: { $a: 1 } }, { properties: { desired: { ['k'.repeat(1025)]: 1 } } },
    { properties: { desired: { s: 'x'.repeat(4097) } } }, { properties: { desired: deep(11) } }, { tags: 1 }, { properties: { desired: [] } },
    { properties: { desired: { n: 4503599627370497 } } }, { tags: Object.fromEntries(Array.from({ length: 3 }, (_, i) => [`k${i}`, 'x'.repeat(4000)])) },
  ]) {
    await refused(registry.updateTwin(deviceId, patch, '*'), 'ArgumentError', 400, 'ArgumentInvalid');
  }
  assert.equal((await read(deviceId)).etag, 'AAAAAAAAAAE=');
});
