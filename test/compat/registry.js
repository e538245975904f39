'use strict';

// azure-iothub's Registry: identities. Where the wire has more forms than the package uses, raw
// requests stand beside it.

const { Client: Device } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Registry } = require('azure-iothub');
const { assert, cleanup, connection, host, owner, poll, raw, rejected, sign, test, unique } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);

const version = 'api-version=2021-04-12';
const json = { 'Content-Type': 'application/json; charset=utf-8' };
const keyOf = (n, size = 32) => Buffer.alloc(size, n).toString('base64');

// refused checks an error of the package and of the wire at once.
async function refused(promise, name, status, code) {
  const error = await rejected(promise);
  assert.equal(error.name, name, error.stack);
  assert.equal(error.response.statusCode, status);
  formA({ status, headers: error.response.headers, text: error.responseBody }, code);
  assert.match(error.message, /./);
  return error;
}

// formA checks the error form of everything but methods.
function formA({ headers, text }, code) {
  assert.match(headers['content-type'], /application\/json/);
  assert.equal(headers['iothub-errorcode'], code);
  const body = JSON.parse(text);
  assert.deepEqual(Object.keys(body), ['Message', 'ExceptionMessage']);
  assert.match(body.Message, new RegExp(`^ErrorCode:${code};[^;]+$`));
  assert.match(body.ExceptionMessage, /^Tracking ID:[0-9a-f]{32}-G:1-TimeStamp:\d\d\/\d\d\/\d{4} \d\d:\d\d:\d\d$/);
}

test('create: keys are made when missing, and a second create is refused', ['HS-020'], async () => {
  const deviceId = `${unique('create')}#1`;
  const { responseBody: d, httpResponse } = await registry.create({ deviceId });
  assert.equal(httpResponse.statusCode, 200);
  assert.match(httpResponse.headers['content-type'], /application\/json/);
  assert.equal(httpResponse.headers.etag, `"${d.etag}"`);
  assert.equal(d.deviceId, deviceId);
  assert.equal(d.status, 'enabled');
  assert.equal(d.connectionState, 'Disconnected');
  assert.match(d.generationId, /^\d{18}$/);
  const keys = d.authentication.symmetricKey;
  assert.equal(d.authentication.type, 'sas');
  assert.equal(Buffer.from(keys.primaryKey, 'base64').length, 32);
  assert.equal(Buffer.from(keys.secondaryKey, 'base64').length, 32);
  assert.notEqual(keys.primaryKey, keys.secondaryKey);
  await refused(registry.create({ deviceId }), 'DeviceAlreadyExistsError', 409, 'DeviceAlreadyExists');

  // Absent, null and empty: all are made. What is given stays.
  const material = [undefined, {}, { symmetricKey: null }, { symmetricKey: {} }, { symmetricKey: { primaryKey: null, secondaryKey: null } },
    { type: 'sas', symmetricKey: { primaryKey: '', secondaryKey: '' } }, null];
  for (const authentication of material) {
    const id = unique('keys');
    const r = await raw('PUT', `/devices/${id}?${version}`, { headers: json, body: { deviceId: id, authentication } });
    assert.equal(r.status, 200, r.text);
    const made = r.json().authentication.symmetricKey;
    assert.equal(Buffer.from(made.primaryKey, 'base64').length, 32, JSON.stringify(authentication));
    assert.equal(Buffer.from(made.secondaryKey, 'base64').length, 32, JSON.stringify(authentication));
  }
  const given = { type: 'sas', symmetricKey: { primaryKey: keyOf(1), secondaryKey: keyOf(2, 64) } };
  const { responseBody: own } = await registry.create({ deviceId: unique('own'), status: 'disabled', statusReason: 'new', authentication: given });
  assert.deepEqual(own.authentication.symmetricKey, given.symmetricKey);
  assert.equal(own.status, 'disabled');
  assert.equal(own.statusReason, 'new');
  const again = await raw('PUT', `/devices/${encodeURIComponent(own.deviceId)}?${version}`, { headers: json, body: { deviceId: own.deviceId } });
  assert.equal(again.status, 409);
  formA(again, 'DeviceAlreadyExists');
});

test('create: what cannot be is refused', [], async () => {
  for (const [device, code] of [
    [{ deviceId: 'a/b' }, 'ArgumentInvalid'], [{ deviceId: 'x'.repeat(129) }, 'ArgumentInvalid'], [{ deviceId: 'é' }, 'ArgumentInvalid'],
    [{ deviceId: unique('bad'), status: 'maybe' }, 'ArgumentInvalid'],
    [{ deviceId: unique('bad'), statusReason: 'x'.repeat(129) }, 'ArgumentInvalid'],
    [{ deviceId: unique('bad'), authentication: { type: 'sas', symmetricKey: { primaryKey: 'short', secondaryKey: '' } } }, 'ArgumentInvalid'],
    [{ deviceId: unique('bad'), authentication: { x509Thumbprint: { primaryThumbprint: 'xyz' } } }, 'ArgumentInvalid'],
    [{ deviceId: unique('bad'), deviceScope: 'ms-azure-iot-edge://nobody-1' }, 'InvalidDeviceScope'],
  ]) {
    await refused(registry.create(device), 'ArgumentError', 400, code);
  }
});

test('update: If-Match in every form', ['HS-021'], async () => {
  const deviceId = unique('update');
  const { responseBody: first } = await registry.create({ deviceId });
  const { responseBody: forced, httpResponse } = await registry.update({ deviceId, status: 'disabled', statusReason: 'why' });
  assert.equal(forced.status, 'disabled');
  assert.equal(forced.statusReason, 'why');
  assert.notEqual(forced.etag, first.etag);
  assert.equal(httpResponse.headers.etag, `"${forced.etag}"`);
  // The package's own update always sends a star; its transport takes any If-Match.
  const matching = (match, status) => new Promise((resolve, reject) => {
    registry._restApiClient.executeApiCall('PUT', `/devices/${deviceId}?${version}`, { ...json, 'If-Match': match }, { deviceId, status },
      (err, body) => (err ? reject(err) : resolve(body)));
  });
  const matched = await matching(`"${forced.etag}"`, 'enabled');
  assert.equal(matched.status, 'enabled');
  await refused(matching(`"${forced.etag}"`, 'disabled'), 'InvalidEtagError', 412, 'PreconditionFailed');
  await refused(matching('"abc"', 'disabled'), 'InvalidEtagError', 412, 'PreconditionFailed');
  let etag = matched.etag;
  const put = (match) => raw('PUT', `/devices/${deviceId}?${version}`, { headers: { ...json, 'If-Match': match }, body: { deviceId, etag: 'ignored' } });
  for (const form of [() => '*', () => '"*"', () => `"${etag}"`, () => etag, () => `W/"${etag}"`]) {
    const r = await put(form());
    assert.equal(r.status, 200, `${form()}: ${r.text}`);
    assert.notEqual(r.json().etag, etag);
    etag = r.json().etag;
  }
  for (const match of [`"${first.etag}"`, 'abc', '"abc"', '""', '"']) {
    const r = await put(match);
    assert.equal(r.status, 412, match);
    formA(r, 'PreconditionFailed');
  }
  assert.equal((await registry.get(deviceId)).responseBody.etag, etag); // refusals changed nothing
  await refused(registry.update({ deviceId: 'nobody', status: 'disabled' }), 'DeviceNotFoundError', 404, 'DeviceNotFound');
});

test('update: keys stay unless they are given', ['HS-022'], async () => {
  const deviceId = unique('rekey');
  const { responseBody: d } = await registry.create({ deviceId });
  const { responseBody: kept } = await registry.update({ deviceId, status: 'enabled' }); // the package sends empty keys
  assert.deepEqual(kept.authentication, d.authentication);
  assert.notEqual(kept.etag, d.etag);
  const absent = await raw('PUT', `/devices/${deviceId}?${version}`, { headers: { ...json, 'If-Match': '*' }, body: { deviceId } });
  assert.deepEqual(absent.json().authentication, d.authentication);
  assert.notEqual(absent.json().etag, kept.etag);
  const { responseBody: mixed } = await registry.update({ deviceId, authentication: { type: 'sas', symmetricKey: { primaryKey: keyOf(9), secondaryKey: '' } } });
  assert.deepEqual(mixed.authentication.symmetricKey, { primaryKey: keyOf(9), secondaryKey: d.authentication.symmetricKey.secondaryKey });
  const { responseBody: both } = await registry.update({ deviceId, authentication: { type: 'sas', symmetricKey: { primaryKey: keyOf(3), secondaryKey: keyOf(4) } } });
  assert.deepEqual(both.authentication.symmetricKey, { primaryKey: keyOf(3), secondaryKey: keyOf(4) });
  assert.notEqual(both.etag, mixed.etag);
  assert.deepEqual((await registry.get(deviceId)).responseBody.authentication, both.authentication);
});

test('get and delete: the unknown device', ['HS-023'], async () => {
  await refused(registry.get('nobody'), 'DeviceNotFoundError', 404, 'DeviceNotFound');
  await refused(registry.delete('nobody'), 'DeviceNotFoundError', 404, 'DeviceNotFound');
});

test('delete: the device is gone and a new one is another', [], async () => {
  const deviceId = unique('delete');
  const { responseBody: first } = await registry.create({ deviceId });
  await registry.updateTwin(deviceId, { tags: { a: 1 } }, '*');
  await raw('POST', `/devices/${deviceId}/messages/deviceBound?${version}`, { body: 'old' });
  const stale = await raw('DELETE', `/devices/${deviceId}?${version}`, { headers: { 'If-Match': '"abc"' } });
  assert.equal(stale.status, 412);
  formA(stale, 'PreconditionFailed');
  const { httpResponse } = await registry.delete(deviceId);
  assert.equal(httpResponse.statusCode, 204);
  await refused(registry.get(deviceId), 'DeviceNotFoundError', 404, 'DeviceNotFound');
  await refused(registry.getTwin(deviceId), 'DeviceNotFoundError', 404, 'DeviceNotFound');
  const { responseBody: second } = await registry.create({ deviceId });
  assert.notEqual(second.generationId, first.generationId);
  assert.equal(second.cloudToDeviceMessageCount, 0);
  const { responseBody: twin } = await registry.getTwin(deviceId);
  assert.equal(twin.properties.desired.$version, 1);
  assert.notEqual(twin.tags?.a, 1);
  assert.equal((await raw('DELETE', `/devices/${deviceId}?${version}`)).status, 204); // without If-Match, too
});

test('bulk: add, update and remove', [], async () => {
  const [a, b, c] = [unique('bulk'), unique('bulk'), unique('bulk')];
  const { responseBody: added, httpResponse } = await registry.addDevices([{ deviceId: a }, { deviceId: b, status: 'disabled' }]);
  assert.equal(httpResponse.statusCode, 200);
  assert.deepEqual(added, { isSuccessful: true, errors: [], warnings: [] });
  const { responseBody: first } = await registry.get(a);
  assert.equal(Buffer.from(first.authentication.symmetricKey.primaryKey, 'base64').length, 32);
  assert.equal((await registry.get(b)).responseBody.status, 'disabled');

  const partly = await rejected(registry.addDevices([{ deviceId: b }, { deviceId: c }]));
  assert.equal(partly.name, 'ArgumentError');
  assert.equal(partly.response.statusCode, 400);
  const { isSuccessful, errors } = JSON.parse(partly.responseBody);
  assert.equal(isSuccessful, false);
  assert.equal(errors.length, 1);
  assert.equal(errors[0].deviceId, b);
  assert.equal(errors[0].errorCode, 'DeviceAlreadyExists');
  await registry.get(c); // the other row was carried out

  assert.deepEqual((await registry.updateDevices([{ deviceId: a, status: 'disabled' }], true)).responseBody.errors, []);
  const { responseBody: second } = await registry.get(a);
  assert.equal(second.status, 'disabled');
  assert.deepEqual(second.authentication, first.authentication);
  const stale = await rejected(registry.updateDevices([{ deviceId: a, status: 'enabled', etag: first.etag }], false));
  assert.equal(JSON.parse(stale.responseBody).errors[0].errorCode, 'PreconditionFailed');
  assert.deepEqual((await registry.updateDevices([{ deviceId: a, status: 'enabled', etag: second.etag }], false)).responseBody.isSuccessful, true);

  const kept = await rejected(registry.removeDevices([{ deviceId: a, etag: first.etag }], false));
  assert.equal(JSON.parse(kept.responseBody).errors[0].errorCode, 'PreconditionFailed');
  assert.deepEqual((await registry.removeDevices([{ deviceId: a }, { deviceId: b }, { deviceId: c }], true)).responseBody, { isSuccessful: true, errors: [], warnings: [] });
  for (const deviceId of [a, b, c]) {
    await refused(registry.get(deviceId), 'DeviceNotFoundError', 404, 'DeviceNotFound');
  }
});

test('list: devices are there with all their members', [], async () => {
  const ids = [unique('list'), unique('list')];
  for (const deviceId of ids) {
    await registry.create({ deviceId });
  }
  const { responseBody: all, httpResponse } = await registry.list();
  assert.equal(httpResponse.statusCode, 200);
  for (const deviceId of ids) {
    const listed = all.find((d) => d.deviceId === deviceId);
    const { responseBody: got } = await registry.get(deviceId);
    assert.deepEqual(listed, got);
  }
});

test('statistics count devices', [], async () => {
  const count = async () => (await registry.getRegistryStatistics()).responseBody;
  const service = async () => (await raw('GET', `/statistics/service?${version}`)).json().connectedDeviceCount;
  const { totalDeviceCount, enabledDeviceCount, disabledDeviceCount } = await count();
  assert.equal(totalDeviceCount, enabledDeviceCount + disabledDeviceCount);
  assert.equal(typeof await service(), 'number');
});

test('every member of an identity', [], async () => {
  const deviceId = unique('members');
  await registry.create({ deviceId });
  const { responseBody } = await registry.get(deviceId);
  assert.deepEqual(Object.keys(responseBody).filter((k) => k !== 'deviceScope').sort(), ['authentication', 'capabilities', 'cloudToDeviceMessageCount',
    'connectionState', 'connectionStateUpdatedTime', 'deviceId', 'etag', 'generationId', 'lastActivityTime', 'parentScopes', 'status', 'statusReason', 'statusUpdatedTime']);
  assert.equal(responseBody.statusReason, null);
  assert.deepEqual(responseBody.capabilities, { iotEdge: false });
  assert.deepEqual(responseBody.parentScopes, []);
  assert.match(responseBody.lastActivityTime, /^0001-01-01T00:00:00/);

  const client = Device.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${responseBody.authentication.symmetricKey.primaryKey}`, Mqtt);
  cleanup(() => client.close());
  await client.open();
  const now = await poll('the connection to show', async () => {
    const d = (await registry.get(deviceId)).responseBody;
    return d.connectionState === 'Connected' && d;
  });
  assert.ok(Math.abs(Date.parse(now.connectionStateUpdatedTime) - Date.now()) < 60_000, now.connectionStateUpdatedTime);
  assert.ok(Math.abs(Date.parse(now.lastActivityTime) - Date.now()) < 60_000, now.lastActivityTime);
  assert.equal(now.etag, responseBody.etag);
});

test('an edge device and its child', [], async () => {
  const parent = unique('edge');
  const { responseBody: edge } = await registry.create({ deviceId: parent, capabilities: { iotEdge: true } });
  assert.deepEqual(edge.capabilities, { iotEdge: true });
  assert.equal(edge.deviceScope, `ms-azure-iot-edge://${parent}-${edge.generationId}`);
  const { responseBody: leaf } = await registry.create({ deviceId: unique('leaf'), deviceScope: edge.deviceScope });
  assert.equal(leaf.deviceScope, edge.deviceScope);
  assert.deepEqual(leaf.parentScopes, [edge.deviceScope]);
  await refused(registry.update({ ...leaf, deviceScope: 'ms-azure-iot-edge://nobody-1' }), 'ArgumentError', 400, 'InvalidDeviceScope');
});

test('credentials: strangers and expired tokens are refused', [], async () => {
  const with_ = (key) => Registry.fromConnectionString(`HostName=${host};SharedAccessKeyName=iothubowner;SharedAccessKey=${key}`);
  await refused(with_(keyOf(7)).get('nobody'), 'UnauthorizedError', 401, 'IotHubUnauthorized');
  const unknown = Registry.fromConnectionString(`HostName=${host};SharedAccessKeyName=nobody;SharedAccessKey=${keyOf(7)}`);
  await refused(unknown.list(), 'UnauthorizedError', 401, 'IotHubUnauthorized');
  const expired = Registry.fromSharedAccessSignature(sign(host, owner.SharedAccessKey, owner.SharedAccessKeyName, -3600));
  await refused(expired.list(), 'UnauthorizedError', 401, 'IotHubUnauthorized');
  const valid = Registry.fromSharedAccessSignature(sign(host, owner.SharedAccessKey, owner.SharedAccessKeyName));
  assert.ok(Array.isArray((await valid.list()).responseBody));
});
