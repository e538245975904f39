'use strict';

// Modules: azure-iothub's Registry and Client manage them, azure-iot-device's ModuleClient is one, over TLS and in a
// WebSocket.

const { NoRetry } = require('azure-iot-common');
const { Client: DeviceClient, Message, ModuleClient } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Client, Registry } = require('azure-iothub');
const { assert, cleanup, connection, host, poll, rejected, telemetry, test, unique } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const service = Client.fromConnectionString(connection.hub.connectionString);

async function device(prefix, more = {}) {
  const deviceId = unique(prefix);
  await registry.create({ deviceId, ...more });
  return deviceId;
}

async function module(deviceId, moduleId) {
  const { responseBody } = await registry.addModule({ deviceId, moduleId });
  return { deviceId, moduleId, key: responseBody.authentication.symmetricKey.primaryKey };
}

test('Registry adds, reads, lists, updates and removes modules', [], async () => {
  const deviceId = await device('modules');
  const moduleId = 'm#1%';
  const added = await registry.addModule({ deviceId, moduleId });
  assert.equal(added.httpResponse.statusCode, 201);
  assert.equal(added.responseBody.deviceId, deviceId);
  assert.equal(added.responseBody.moduleId, moduleId);
  assert.equal(added.responseBody.authentication.type, 'sas');
  assert.match(added.responseBody.authentication.symmetricKey.primaryKey, /^.{44}$/);
  assert.equal((await rejected(registry.addModule({ deviceId, moduleId }))).name, 'DeviceAlreadyExistsError');

  const { responseBody: got } = await registry.getModule(deviceId, moduleId);
  assert.deepEqual(JSON.parse(JSON.stringify(got)), added.responseBody);
  await registry.addModule({ deviceId, moduleId: 'a', managedBy: 'tests' });
  const { responseBody: list } = await registry.getModulesOnDevice(deviceId);
  assert.deepEqual(list.map((m) => [m.moduleId, m.managedBy]), [['a', 'tests'], [moduleId, null]]);

  // With the ETag it read, and with an old one.
  const { responseBody: updated } = await registry.updateModule({ ...added.responseBody, managedBy: 'operator' });
  assert.equal(updated.managedBy, 'operator');
  assert.deepEqual(updated.authentication, added.responseBody.authentication);
  assert.notEqual(updated.etag, added.responseBody.etag);
  assert.equal((await rejected(registry.updateModule({ ...added.responseBody, managedBy: 'late' }))).name, 'InvalidEtagError');
  const { responseBody: forced } = await registry.updateModule({ ...added.responseBody, managedBy: 'forced' }, true);
  assert.equal(forced.managedBy, 'forced');

  await registry.removeModule(deviceId, 'a');
  const remove = (m) => new Promise((resolve, reject) => { registry.removeModule(m, (err) => (err ? reject(err) : resolve())); }); // its promise form takes ids only
  assert.equal((await rejected(remove(added.responseBody))).name, 'InvalidEtagError');
  await remove(forced);
  const gone = await rejected(registry.getModule(deviceId, moduleId)); // the SDK has no class for ModuleNotFound
  assert.equal(gone.response.statusCode, 404);
  assert.equal(gone.response.headers['iothub-errorcode'], 'ModuleNotFound');
  assert.deepEqual((await registry.getModulesOnDevice(deviceId)).responseBody, []);
  const nobody = await rejected(registry.getModulesOnDevice(unique('nobody')));
  assert.equal(nobody.name, 'DeviceNotFoundError');
  await rejected(registry.addModule({ deviceId: unique('nobody'), moduleId: 'm' }));

  for (let n = 0; n < 20; n++) {
    await registry.addModule({ deviceId, moduleId: `m${n}` });
  }
  assert.equal((await rejected(registry.addModule({ deviceId, moduleId: 'm20' }))).response.headers['iothub-errorcode'], 'TooManyModulesOnDevice');
});

test('an edge device has the modules of its runtime', [], async () => {
  const deviceId = await device('edge', { capabilities: { iotEdge: true } });
  const { responseBody: list } = await registry.getModulesOnDevice(deviceId);
  assert.deepEqual(list.map((m) => [m.moduleId, m.authentication.type, m.managedBy]), [['$edgeAgent', 'none', 'iotEdge'], ['$edgeHub', 'none', 'iotEdge']]);
});

test('Registry reads and writes module twins', [], async () => {
  const m = await module(await device('module-twin'), 'm');
  const { responseBody: twin } = await registry.getModuleTwin(m.deviceId, m.moduleId);
  assert.equal(twin.moduleId, 'm');
  assert.equal(twin.properties.desired.$version, 1);
  const { responseBody: patched } = await registry.updateModuleTwin(m.deviceId, m.moduleId, { tags: { site: 'north' }, properties: { desired: { rate: 5 } } }, '*');
  assert.equal(patched.tags.site, 'north');
  assert.equal(patched.properties.desired.rate, 5);
  assert.equal((await rejected(registry.updateModuleTwin(m.deviceId, m.moduleId, { tags: { site: 'south' } }, twin.etag))).name, 'InvalidEtagError');
  assert.equal((await registry.getTwin(m.deviceId)).responseBody.tags?.site, undefined); // the device has its own

  const own = await registry.getModuleTwin(m.deviceId, m.moduleId); // the twin object has methods of its own
  await own.responseBody.update({ properties: { desired: { rate: null, mode: 'eco' } } });
  const { responseBody: again } = await registry.getModuleTwin(m.deviceId, m.moduleId);
  assert.deepEqual({ rate: again.properties.desired.rate, mode: again.properties.desired.mode }, { rate: undefined, mode: 'eco' });

  const query = registry.createQuery(`SELECT * FROM devices.modules WHERE deviceId = '${m.deviceId}'`);
  const { result } = await query.nextAsTwin();
  assert.deepEqual(result.map((t) => t.moduleId), ['m']);
});

for (const [name, transport] of [['TLS', Mqtt], ['a WebSocket', MqttWs]]) {
  test(`ModuleClient over ${name}`, [], async () => {
    const m = await module(await device('module-client'), 'filter');
    const connectionString = `HostName=${host};DeviceId=${m.deviceId};ModuleId=${m.moduleId};SharedAccessKey=${m.key}`;
    const client = ModuleClient.fromConnectionString(connectionString, transport);
    client.setRetryPolicy(new NoRetry());
    cleanup(() => client.close());
    await client.open();
    await poll('the module to be connected', async () => (await registry.getModule(m.deviceId, m.moduleId)).responseBody.connectionState === 'Connected');
    assert.equal((await registry.get(m.deviceId)).responseBody.connectionState, 'Disconnected');

    const stream = await telemetry(m.deviceId);
    const message = new Message('{"n":1}');
    message.properties.add('k', 'v');
    await client.sendEvent(message);
    const plain = await stream.next();
    assert.deepEqual([plain.deviceId, plain.moduleId, plain.properties], [m.deviceId, m.moduleId, { k: 'v' }]);
    await client.sendOutputEvent('alerts', new Message('{"n":2}'));
    const output = await stream.next();
    assert.equal(output.moduleId, m.moduleId);
    assert.equal(output.systemProperties['iothub-outputname'], 'alerts');

    const twin = await client.getTwin();
    await new Promise((resolve, reject) => { twin.properties.reported.update({ firmware: '3' }, (err) => (err ? reject(err) : resolve())); });
    assert.equal((await registry.getModuleTwin(m.deviceId, m.moduleId)).responseBody.properties.reported.firmware, '3');
    const patches = [];
    twin.on('properties.desired', (patch) => patches.push(patch));
    await twin.get();
    await registry.updateModuleTwin(m.deviceId, m.moduleId, { properties: { desired: { rate: 9 } } }, '*');
    await poll('the desired patch', () => patches.find((p) => p.rate === 9));

    client.onMethod('reset', (request, response) => { response.send(202, { was: request.payload }, () => {}); });
    const { result } = await poll('an answer to the method', async () => {
      try {
        return await service.invokeDeviceMethod(m.deviceId, m.moduleId, { methodName: 'reset', payload: { why: 'test' }, responseTimeoutInSeconds: 10 });
      } catch (e) {
        assert.match(e.message, /not found/i, e.stack); // the subscription may not be there yet
        return undefined;
      }
    });
    assert.deepEqual(result, { status: 202, payload: { was: { why: 'test' } } });

    // Its device and its neighbours have credentials of their own.
    const other = await module(m.deviceId, 'other');
    const stranger = ModuleClient.fromConnectionString(`HostName=${host};DeviceId=${m.deviceId};ModuleId=${m.moduleId};SharedAccessKey=${other.key}`, transport);
    stranger.setRetryPolicy(new NoRetry());
    cleanup(() => stranger.close());
    assert.equal((await rejected(stranger.open())).name, 'UnauthorizedError');
    const asDevice = DeviceClient.fromConnectionString(`HostName=${host};DeviceId=${m.deviceId};SharedAccessKey=${m.key}`, transport);
    asDevice.setRetryPolicy(new NoRetry());
    cleanup(() => asDevice.close());
    assert.equal((await rejected(asDevice.open())).name, 'UnauthorizedError');

    // Disabling the device reaches the module.
    const lost = new Promise((resolve) => { client.once('disconnect', resolve); });
    await registry.update({ deviceId: m.deviceId, status: 'disabled' });
    await lost;
    await poll('the module to be gone', async () => (await registry.getModule(m.deviceId, m.moduleId)).responseBody.connectionState === 'Disconnected');
  });
}
