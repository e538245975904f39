'use strict';

// azure-iothub's JobClient over devices that are there and some that are not.

const { Client: Device } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Client, JobClient, Registry } = require('azure-iothub');
const { assert, cleanup, connection, host, poll, rejected, test, unique } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const service = Client.fromConnectionString(connection.hub.connectionString);
const jobs = JobClient.fromConnectionString(connection.hub.connectionString);

async function fleet(n) {
  const site = unique('site');
  const ids = [];
  for (let i = 0; i < n; i++) {
    const deviceId = unique('job');
    await registry.create({ deviceId });
    await registry.updateTwin(deviceId, { tags: { site } }, '*');
    ids.push(deviceId);
  }
  return { site, ids };
}

async function online(deviceId, name, handler) {
  const { responseBody } = await registry.get(deviceId);
  const client = Device.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${responseBody.authentication.symmetricKey.primaryKey}`, Mqtt);
  cleanup(() => client.close());
  await client.open();
  client.onDeviceMethod(name, handler);
  client.onDeviceMethod('ready', (request, response) => response.send(200));
  await service.invokeDeviceMethod(deviceId, { methodName: 'ready', connectTimeoutInSeconds: 10 });
  return client;
}

const get = async (id) => (await jobs.getJob(id)).jobStatus;

// finished polls as the package's own tests do: any end but completed is an error.
const finished = (id) => poll(`job ${id} to complete`, async () => {
  const j = await get(id);
  assert.ok(!['failed', 'cancelled'].includes(j.status), j.status);
  return j.status === 'completed' && j;
});

async function all(query) {
  const rows = [];
  while (query.hasMoreResults) {
    rows.push(...(await query.next(query.continuationToken)).result); // a promise needs the token told
  }
  return rows;
}

test('a twin update', ['HS-074'], async () => {
  const { site, ids } = await fleet(3);
  const id = unique('update');
  const patch = { etag: '*', tags: { job: id }, properties: { desired: { level: 7 } } };
  const { jobStatus, response } = await jobs.scheduleTwinUpdate(id, `tags.site = '${site}'`, patch, new Date(), 60);
  assert.equal(response.statusCode, 200);
  assert.equal(jobStatus.jobId, id);
  assert.equal(jobStatus.status, 'queued');
  assert.equal(jobStatus.type, 'scheduleUpdateTwin');
  const done = await finished(id);
  assert.deepEqual(done.deviceJobStatistics, { deviceCount: 3, failedCount: 0, succeededCount: 3, runningCount: 0, pendingCount: 0 });
  for (const deviceId of ids) {
    const { responseBody: twin } = await registry.getTwin(deviceId);
    assert.deepEqual(twin.tags, { site, job: id });
    assert.equal(twin.properties.desired.level, 7);
  }
  const again = await rejected(jobs.scheduleTwinUpdate(id, '*', patch, new Date(), 60));
  assert.equal(again.response.statusCode, 409);
  assert.equal(again.response.headers['iothub-errorcode'], 'JobAlreadyExists');
});

test('a direct method, with an outcome for each device', ['HS-066', 'HS-074'], async () => {
  const { ids: [on, off] } = await fleet(2);
  const asked = [];
  await online(on, 'work', (request, response) => {
    asked.push(request.payload);
    response.send(207, { did: request.payload });
  });
  const id = unique('method');
  const { jobStatus } = await jobs.scheduleDeviceMethod(id, `deviceId IN ['${on}', '${off}']`, { methodName: 'work', payload: { n: 1 }, responseTimeoutInSeconds: 10 }, new Date(), 60);
  assert.equal(jobStatus.status, 'queued');
  const done = await finished(id);
  assert.deepEqual(done.deviceJobStatistics, { deviceCount: 2, failedCount: 1, succeededCount: 1, runningCount: 0, pendingCount: 0 });
  assert.deepEqual(asked, [{ n: 1 }]);
  const query = registry.createQuery(`SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '${id}'`);
  const rows = await all(query);
  const [good, bad] = [on, off].map((deviceId) => rows.find((r) => r.deviceId === deviceId));
  assert.equal(rows.length, 2);
  assert.equal(good.status, 'completed');
  assert.equal(good.jobType, 'scheduleDeviceMethod');
  assert.deepEqual(good.outcome, { deviceMethodResponse: { status: 207, payload: { did: { n: 1 } } } });
  assert.equal(good.error, null);
  assert.equal(bad.status, 'failed');
  assert.equal(bad.error.code, '404103');
});

test('a job of tomorrow waits, and is cancelled', ['HS-075'], async () => {
  const { site, ids: [deviceId] } = await fleet(1);
  const soon = unique('soon');
  const start = new Date(Date.now() + 1500);
  await jobs.scheduleTwinUpdate(soon, `deviceId = '${deviceId}'`, { tags: { soon } }, start, 60);
  const id = unique('tomorrow');
  await jobs.scheduleTwinUpdate(id, `tags.site = '${site}'`, { tags: { never: true } }, new Date(Date.now() + 86_400_000), 60);
  assert.equal((await get(id)).status, 'scheduled');
  assert.equal((await jobs.cancelJob(id)).jobStatus.status, 'cancelled');
  assert.equal((await get(id)).status, 'cancelled');
  const over = await rejected(jobs.cancelJob(id));
  assert.ok([409, 412].includes(over.response.statusCode), over.stack);
  assert.equal((await registry.getTwin(deviceId)).responseBody.tags.soon, undefined);
  await finished(soon);
  assert.ok(Date.now() >= start.getTime());
  assert.deepEqual((await registry.getTwin(deviceId)).responseBody.tags, { site, soon });
  const unknown = await rejected(jobs.getJob('nobody'));
  assert.equal(unknown.response.statusCode, 404);
  assert.equal(unknown.response.headers['iothub-errorcode'], 'JobNotFound');
});

test('the list of jobs', ['HS-076'], async () => {
  const made = [];
  for (let i = 0; i < 3; i++) {
    const id = unique('list');
    made.push(id);
    await jobs.scheduleTwinUpdate(id, "deviceId = 'nobody'", { tags: {} }, new Date(), 60);
    await finished(id);
  }
  const call = unique('list');
  await jobs.scheduleDeviceMethod(call, "deviceId = 'nobody'", { methodName: 'm' }, new Date(), 60);
  await finished(call);
  const query = jobs.createQuery('scheduleUpdateTwin', 'completed', 2);
  const found = await all(query);
  assert.equal(query.hasMoreResults, false);
  assert.deepEqual(found.map((j) => j.jobId).filter((id) => made.includes(id)), made);
  assert.ok(found.every((j) => j.type === 'scheduleUpdateTwin' && j.status === 'completed'));
  assert.ok((await all(jobs.createQuery('scheduleDeviceMethod'))).some((j) => j.jobId === call));
});

test('conditions select devices and modules', ['HS-077'], async () => {
  const { site, ids: [a, b] } = await fleet(2);
  const run = async (condition) => {
    const id = unique('where');
    await jobs.scheduleTwinUpdate(id, condition, { tags: {} }, new Date(), 60); // changes nothing: other scripts use this server, too
    await finished(id);
    return (await all(registry.createQuery(`SELECT * FROM devices.jobs WHERE jobId = '${id}'`))).map((r) => (r.moduleId ? `${r.deviceId}/${r.moduleId}` : r.deviceId)).sort();
  };
  assert.deepEqual(await run(`deviceId = '${a}'`), [a]);
  assert.deepEqual(await run(`deviceId IN ['${a}','${b}']`), [a, b].sort());
  assert.deepEqual(await run(`tags.site = '${site}' AND deviceId != '${a}'`), [b]);
  const everyone = await run('*');
  assert.ok([a, b].every((id) => everyone.includes(id)) && everyone.every((id) => !id.includes('/')));
  const bad = await rejected(jobs.scheduleTwinUpdate(unique('bad'), 'tags.site == 1', { tags: {} }, new Date(), 60));
  assert.equal(bad.response.statusCode, 400);
});
