'use strict';

// File upload: azure-iot-device's uploadToBlob and its two halves, and @azure/storage-blob with the
// token it got, against the hub's own endpoint for blobs.

const crypto = require('node:crypto');
const { Readable } = require('node:stream');
const { Client } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Registry } = require('azure-iothub');
const { AnonymousCredential, BlockBlobClient, newPipeline } = require('@azure/storage-blob');

const { assert, cleanup, connection, host, raw, rejected, sign, test, unique } = require('./harness.js');

const registry = Registry.fromConnectionString(connection.hub.connectionString);

async function device() {
  const deviceId = unique('upload');
  const { responseBody } = await registry.create({ deviceId });
  const key = responseBody.authentication.symmetricKey.primaryKey;
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${key}`, Mqtt);
  cleanup(() => client.close());
  return { deviceId, key, client };
}

// blob is a storage client for what the hub granted, without retries: a refusal is to be seen.
function blob(grant) {
  const url = `https://${grant.hostName}/${grant.containerName}/${grant.blobName}${grant.sasToken}`;
  return new BlockBlobClient(url, newPipeline(new AnonymousCredential(), { retryOptions: { maxTries: 1 } }));
}

// notified takes notices of files until the one of blobName comes, and settles what it took.
async function notified(blobName) {
  for (;;) {
    const response = await raw('GET', '/messages/serviceBound/filenotifications?api-version=2021-04-12');
    assert.equal(response.status, 200, `no notice of ${blobName}: ${response.text}`);
    const token = response.headers.etag.slice(1, -1);
    const done = await raw('DELETE', `/messages/serviceBound/filenotifications/${token}?api-version=2021-04-12`);
    assert.equal(done.status, 204);
    const notice = response.json();
    if (notice.blobName === blobName) {
      return notice;
    }
  }
}

// stored reads a file as a service does.
const stored = (blobName) => raw('GET', `/vauban-uploads/${encodeURIComponent(blobName)}`);

for (const [name, size] of [['one block', 1000], ['several blocks of 4 MiB', 9 * 1024 * 1024 + 5]]) {
  test(`uploadToBlob: ${name}`, ['HD-79'], async () => {
    const { deviceId, client } = await device();
    const content = crypto.randomBytes(size).toString('base64');
    const stream = Readable.from([Buffer.from(content.slice(0, 100)), Buffer.from(content.slice(100))]);
    await client.uploadToBlob('logs/first day.txt', stream, content.length);
    const blobName = `${deviceId}/logs/first day.txt`;
    const notice = await notified(blobName);
    assert.deepEqual(Object.keys(notice), ['deviceId', 'blobUri', 'blobName', 'lastUpdatedTime', 'blobSizeInBytes', 'enqueuedTimeUtc']);
    assert.equal(notice.deviceId, deviceId);
    assert.equal(notice.blobSizeInBytes, content.length);
    assert.equal(notice.blobUri, `https://${host}/vauban-uploads/${encodeURI(blobName)}`);
    const response = await stored(blobName);
    assert.equal(response.status, 200);
    assert.equal(crypto.createHash('sha256').update(response.text).digest('hex'), crypto.createHash('sha256').update(content).digest('hex'));
  });
}

test('getBlobSharedAccessSignature and notifyBlobUploadStatus', [], async () => {
  const { deviceId, client } = await device();
  const grant = await client.getBlobSharedAccessSignature('a/b.txt');
  assert.equal(grant.hostName, host);
  assert.equal(grant.blobName, `${deviceId}/a/b.txt`);
  assert.match(grant.sasToken, /^\?sv=.*&sr=b&sig=.*&se=.*&sp=rw$/);
  const b = blob(grant);

  const put = await b.upload('hello, world', 12, {
    blobHTTPHeaders: { blobContentType: 'text/plain', blobCacheControl: 'no-store' }, metadata: { line: 'seven' },
  });
  assert.equal(put._response.status, 201);
  assert.ok(put.etag && put.lastModified && put.requestId && put.version && put.date);
  assert.deepEqual(Buffer.from(put.contentMD5), crypto.createHash('md5').update('hello, world').digest());

  const properties = await b.getProperties();
  assert.equal(properties.contentLength, 12);
  assert.equal(properties.contentType, 'text/plain');
  assert.equal(properties.cacheControl, 'no-store');
  assert.equal(properties.metadata.line, 'seven');
  assert.equal(properties.blobType, 'BlockBlob');
  assert.equal(properties.etag, put.etag);
  assert.equal((await b.downloadToBuffer()).toString(), 'hello, world');
  assert.equal((await b.downloadToBuffer(7, 3)).toString(), 'wor');
  assert.equal(await b.exists(), true);

  await client.notifyBlobUploadStatus(grant.correlationId, true, 200, 'done');
  await notified(grant.blobName);
  await rejected(client.notifyBlobUploadStatus(grant.correlationId, true, 200, 'done')); // it is over
});

test('blocks: staged, listed, and refused', [], async () => {
  const { client } = await device();
  const grant = await client.getBlobSharedAccessSignature('blocks.bin');
  const b = blob(grant);
  const id = (n) => Buffer.from(`block-${n}>?`).toString('base64');
  for (const [n, text] of [[1, 'one '], [0, 'zero ']]) {
    const md5 = crypto.createHash('md5').update(text).digest();
    const staged = await b.stageBlock(id(n), text, text.length, { transactionalContentMD5: md5 });
    assert.deepEqual(Buffer.from(staged.contentMD5), md5);
  }
  assert.equal(await b.exists(), false);
  const missing = await rejected(b.commitBlockList([id(0), id(7)]));
  assert.equal(missing.statusCode, 400);
  assert.equal(missing.details.errorCode, 'InvalidBlockList');
  await b.commitBlockList([id(0), id(1)]);
  await b.commitBlockList([id(0), id(1)]); // as after a lost answer
  assert.equal((await b.downloadToBuffer()).toString(), 'zero one ');

  const refused = await rejected(b.delete());
  assert.equal(refused.statusCode, 403);
  assert.equal(refused.details.errorCode, 'AuthorizationPermissionMismatch');
  const broken = await rejected(b.stageBlock(id(2), 'x', 1, { transactionalContentMD5: Buffer.alloc(16) }));
  assert.equal(broken.details.errorCode, 'Md5Mismatch');
  const foreign = await rejected(blob({ ...grant, blobName: `${grant.blobName}2` }).exists());
  assert.equal(foreign.statusCode, 403);

  await client.notifyBlobUploadStatus(grant.correlationId, false, 500, 'never mind');
});

test('limits: ten at once, and names that would be paths', [], async () => {
  const { deviceId, key, client } = await device();
  const first = await client.getBlobSharedAccessSignature('0');
  for (let i = 1; i < 10; i++) {
    await client.getBlobSharedAccessSignature(String(i));
  }
  await rejected(client.getBlobSharedAccessSignature('10'));
  const token = sign(`${host}/devices/${deviceId}`, key);
  const path = `/devices/${deviceId}/files`;
  const body = { blobName: '10' };
  const tooMany = await raw('POST', `${path}?api-version=2021-04-12`, { token, body });
  assert.equal(tooMany.status, 403);
  assert.equal(tooMany.headers['iothub-errorcode'], 'DeviceMaximumActiveFileUploadLimitExceeded');
  await client.notifyBlobUploadStatus(first.correlationId, false, 500, 'makes room');
  await client.getBlobSharedAccessSignature('10');

  for (const blobName of ['../x', 'a/../../x', '/x', 'a//b', 'x/', '.', 'a\\b', 'a\u0000b', 'x'.repeat(1024), '']) {
    const bad = await raw('POST', `${path}?api-version=2021-04-12`, { token, body: { blobName } });
    assert.equal(bad.status, 400, blobName);
    assert.equal(bad.headers['iothub-errorcode'], 'ArgumentInvalid');
  }
});
