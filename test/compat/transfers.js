'use strict';

// azure-iothub's import and export jobs over a container of the hub's own, which @azure/storage-blob fills and reads.

const { Registry } = require('azure-iothub');
const { AnonymousCredential, ContainerClient, newPipeline } = require('@azure/storage-blob');
const { assert, connection, host, owner, poll, raw, rejected, sign, test, unique } = require('./harness.js');

const registry = Registry.fromConnectionString(connection.hub.connectionString);

// container is a URI with a token for the hub's own container, and a client of it.
async function container(permissions = 'rcwdl') {
  const response = await raw('POST', `/vauban-transfers?restype=container&comp=sas&permissions=${permissions}`);
  assert.equal(response.status, 200, response.text);
  const { containerUri } = response.json();
  assert.match(containerUri, new RegExp(`^https://${host}/vauban-transfers\\?.*sr=c&`));
  return { uri: containerUri, client: new ContainerClient(containerUri, newPipeline(new AnonymousCredential(), { retryOptions: { maxTries: 1 } })) };
}

const text = async (client, name) => (await client.getBlobClient(name).downloadToBuffer()).toString();
const lines = async (client, name) => (await text(client, name)).split('\n').filter((l) => l !== '').map((l) => JSON.parse(l));
const write = (client, name, objects) => {
  const data = objects.map((o) => JSON.stringify(o)).join('\r\n');
  return client.getBlockBlobClient(name).upload(data, Buffer.byteLength(data));
};

// finished polls as the documentation's samples do: any end but completed is an error.
const finished = (id) => poll(`job ${id} to complete`, async () => {
  const job = await registry.getJob(id);
  assert.ok(!['failed', 'cancelled'].includes(job.status), `${job.status}: ${job.failureReason}`);
  return job.status === 'completed' && job;
}, 30_000);

const key = Buffer.from('0123456789abcdef0123456789abcdef').toString('base64');

test('import, export and everything about jobs', ['HS-035'], async () => {
  const { uri, client } = await container();
  const [a, b, missing] = [unique('import'), unique('import'), unique('import')];
  await write(client, 'devices.txt', [
    { id: a, importMode: 'create', status: 'disabled', authentication: { symmetricKey: { primaryKey: key, secondaryKey: key } }, tags: { site: 'lyon' }, properties: { desired: { level: 3 } } },
    { id: b },
    { id: missing, importMode: 'update', status: 'enabled' },
  ]);
  const job = await registry.importDevicesFromBlob(uri, uri);
  assert.equal(job.type, 'import');
  assert.equal(job.status, 'enqueued');
  assert.ok(job.jobId);
  const done = await finished(job.jobId);
  assert.equal(done.progress, 100);
  assert.ok(new Date(done.startTimeUtc) <= new Date(done.endTimeUtc));
  assert.match(done.failureReason, /1 of 3 lines/);
  assert.ok(!JSON.stringify(done).includes(encodeURIComponent(new URL(uri).searchParams.get('sig'))), 'the token is shown');

  const { responseBody: device } = await registry.get(a);
  assert.equal(device.status, 'disabled');
  assert.equal(device.authentication.symmetricKey.primaryKey, key);
  const { responseBody: twin } = await registry.getTwin(a);
  assert.equal(twin.tags.site, 'lyon');
  assert.equal(twin.properties.desired.level, 3);
  assert.ok((await registry.get(b)).responseBody.authentication.symmetricKey.primaryKey);
  const refused = await lines(client, 'importErrors.log');
  assert.deepEqual(refused.map((r) => [r.lineNumber, r.id, r.errorCode]), [[3, missing, 'DeviceNotFound']]);

  // Exports, with keys and without.
  for (const exclude of [false, true]) {
    const out = await registry.exportDevicesToBlob(uri, exclude);
    const ended = await finished(out.jobId);
    assert.equal(ended.type, 'export');
    assert.equal(ended.excludeKeysInExport, exclude);
    assert.equal(ended.failureReason, null);
    const all = await lines(client, 'devices.txt');
    const one = all.find((l) => l.id === a);
    assert.equal(one.authentication.symmetricKey.primaryKey, exclude ? null : key);
    assert.equal(one.eTag, device.etag);
    assert.equal(one.importMode, 'updateIfMatchETag');
    assert.equal(one.status, 'disabled');
    assert.equal(one.tags.site, 'lyon');
    assert.equal(one.properties.desired.level, 3);
    assert.ok(all.some((l) => l.id === b) && !all.some((l) => l.id === missing));
  }

  // What was exported is imported as it is.
  const again = await registry.importDevicesFromBlob(uri, uri);
  assert.equal((await finished(again.jobId)).failureReason, null);

  // One at a time, and cancelled.
  const many = Array.from({ length: 60_000 }, (_, i) => ({ id: `${a}-${i}` }));
  await write(client, 'devices.txt', many);
  const long = await registry.importDevicesFromBlob(uri, uri);
  for (const second of [() => registry.exportDevicesToBlob(uri, true), () => registry.importDevicesFromBlob(uri, uri)]) {
    const busy = await rejected(second());
    assert.equal(busy.response.statusCode, 403);
    assert.equal(busy.response.headers['iothub-errorcode'], 'JobQuotaExceeded');
  }
  await registry.cancelJob(long.jobId);
  assert.equal((await registry.getJob(long.jobId)).status, 'cancelled');
  const out = await poll('the hub to be free', async () => registry.exportDevicesToBlob(uri, true).catch(() => null));
  await finished(out.jobId);
  const left = (await lines(client, 'devices.txt')).filter((l) => l.id.startsWith(`${a}-`)).length;
  assert.ok(left < many.length, 'the cancelled import went on to its end');
  assert.equal((await registry.getJob(long.jobId)).status, 'cancelled');

  const { responseBody: jobs } = await registry.listJobs();
  assert.deepEqual(jobs.slice(0, 2).map((j) => j.jobId), [out.jobId, long.jobId]);
  assert.ok(jobs.some((j) => j.jobId === job.jobId));
});

test('import and export with the hub\'s own right', [], async () => {
  const { client } = await container();
  const id = unique('identity');
  await write(client, 'devices.txt', [{ id }]);
  const uri = `https://${host}/vauban-transfers`;
  const job = await registry.importDevicesFromBlobByIdentity(uri, uri);
  assert.equal(job.storageAuthenticationType, 'identityBased');
  await finished(job.jobId);
  await registry.get(id);
  const out = await registry.exportDevicesToBlobByIdentity(uri, true);
  await finished(out.jobId);
  assert.ok((await lines(client, 'devices.txt')).some((l) => l.id === id));
});

test('refusals', [], async () => {
  const { uri, client } = await container();
  const unknown = await rejected(registry.getJob('nobody'));
  assert.equal(unknown.response.statusCode, 404);
  assert.equal(unknown.response.headers['iothub-errorcode'], 'JobNotFound');
  assert.equal((await rejected(registry.cancelJob('nobody'))).response.statusCode, 404);
  for (const foreign of ['https://account.blob.core.windows.net/c?sig=x', 'https://169.254.169.254/c?sig=x', uri.split('?')[0]]) {
    const e = await rejected(registry.exportDevicesToBlob(foreign, true));
    assert.equal(e.response.statusCode, 400, foreign);
    assert.equal(e.response.headers['iothub-errorcode'], 'ArgumentInvalid');
  }
  const body = { type: 'export', outputBlobContainerUri: uri };
  const service = sign(host, owner.SharedAccessKey, 'service');
  assert.equal((await raw('POST', '/jobs/create?api-version=2021-04-12', { body, token: service })).status, 401);

  // A token that may not write, and a file that is not there, fail the job and say so.
  const reader = await container('r');
  const failing = [await registry.exportDevicesToBlob(reader.uri, true)];
  const ended = async (id) => poll('the job to fail', async () => {
    const j = await registry.getJob(id);
    assert.notEqual(j.status, 'completed');
    return j.status === 'failed' && j;
  });
  assert.match((await ended(failing[0].jobId)).failureReason, /403 AuthorizationPermissionMismatch/);
  await client.getBlobClient('devices.txt').deleteIfExists();
  const none = await registry.importDevicesFromBlob(uri, uri);
  assert.match((await ended(none.jobId)).failureReason, /devices.txt is not in the container/);
});

test('@azure/storage-blob lists and removes what lies in the container', [], async () => {
  const { client } = await container();
  const prefix = `${unique('list')}/`;
  for (const n of ['b', 'a', 'c & d']) {
    await write(client, prefix + n, [{ n }]);
  }
  const names = [];
  for await (const page of client.listBlobsFlat({ prefix }).byPage({ maxPageSize: 2 })) {
    assert.ok(page.segment.blobItems.length <= 2);
    names.push(...page.segment.blobItems.map((b) => b.name));
  }
  assert.deepEqual(names, ['a', 'b', 'c & d'].map((n) => prefix + n));
  assert.equal(await client.exists(), true);
  for (const n of names) {
    await client.deleteBlob(n);
  }
  assert.equal((await client.listBlobsFlat({ prefix }).next()).done, true);
});
